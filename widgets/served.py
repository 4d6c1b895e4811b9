"""The panels as a served page shows them: a study opened for others, read-only unless said otherwise.

Owns what the one cell of a served page does. Ignores the server (`clipattr.cli.serve`). Start at `served`.
"""

import warnings
from typing import Any

from clipattr_widgets.explorer import ExplorerPanel


def served(path: str, *, findings: str | None = None, write: bool = False) -> ExplorerPanel:
    """All panels of a study, linked.

    Args:
        path: the study's folder.
        findings: JSON of an audit, or None.
        write: whether names, verdicts and notes are kept.
    """
    import clipattr
    from clipattr.discovery.findings import Findings

    warnings.simplefilter("ignore")  # a visitor could do nothing about them
    study = clipattr.open_study(path)
    found = None if findings is None else Findings.from_json(findings, study)
    options: dict[str, Any] = {"findings": found, "read_only": not write}
    return ExplorerPanel(study, tabs=True, **options)
