"""Surprise: which reliances nobody would expect, of which kind, with causal evidence. Start at `audit`."""

from typing import TYPE_CHECKING, Any

from clipattr.discovery.audit import Settings, audit
from clipattr.discovery.blindness import directions_of
from clipattr.discovery.compare import Comparison, compare
from clipattr.discovery.expectations import Prompt
from clipattr.discovery.findings import KINDS, Finding, Findings, Interval
from clipattr.discovery.fitting import SparseProbe, fit_probe, fit_sparse_probe
from clipattr.discovery.probe_audit import ProbeAudit, audit_probe
from clipattr.discovery.probes import Probe
from clipattr.discovery.repair import Repair, repair

if TYPE_CHECKING:
    from clipattr.study import Study

__all__ = [
    "KINDS",
    "Comparison",
    "Finding",
    "Findings",
    "Interval",
    "Probe",
    "ProbeAudit",
    "Prompt",
    "Repair",
    "Settings",
    "SparseProbe",
    "audit",
    "audit_probe",
    "compare",
    "directions_of",
    "explore",
    "fit_probe",
    "fit_sparse_probe",
    "repair",
]


def explore(study: "Study", **options: Any) -> Any:
    """Open the panels on a study, inline in a notebook; see `clipattr_widgets.explore`.

    The one bridge from the computing rooms to the panels, imported when it is crossed.
    """
    from clipattr_widgets import explore as open_panels

    return open_panels(study, **options)
