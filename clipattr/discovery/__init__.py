"""Surprise: which reliances nobody would expect, of which kind, with causal evidence. Start at `audit`."""

from typing import TYPE_CHECKING, Any

from clipattr.discovery.audit import Settings, audit
from clipattr.discovery.expectations import Prompt
from clipattr.discovery.findings import KINDS, Finding, Findings, Interval

if TYPE_CHECKING:
    from clipattr.study import Study

__all__ = ["KINDS", "Finding", "Findings", "Interval", "Prompt", "Settings", "audit", "explore"]


def explore(study: "Study", **options: Any) -> Any:
    """Open the panels on a study, inline in a notebook; see `clipattr_widgets.explore`.

    The one bridge from the computing rooms to the panels, imported when it is crossed.
    """
    from clipattr_widgets import explore as open_panels

    return open_panels(study, **options)
