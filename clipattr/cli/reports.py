"""Reports: what `audit` adds on request: strata, JUnit XML, SARIF and the statement.

Owns their options and where they are written. The formats are in `reporting/`. Start at `write_reports`.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from clipattr.cli.arguments import argument
from clipattr.cli.terminal import write
from clipattr.storage.paths import user_path

if TYPE_CHECKING:
    from clipattr.discovery.findings import Findings
    from clipattr.discovery.gate import Gate

REPORTS = (
    argument("--strata", action="store_true", help="add effect and rate by the pictures' groups, e.g. institutions"),
    argument("--junit", metavar="OUT", help="write JUnit XML, one test case per prompt"),
    argument("--sarif", metavar="OUT", help="write SARIF, one result per finding"),
    argument("--statement", metavar="OUT", help="write a statement of two pages (HTML, to be printed)"),
    argument("--signed-by", metavar="NAME", action="append", help="a line to sign on the statement; may be repeated"),
)  # fmt: skip


def stratified(arguments: argparse.Namespace, findings: Findings) -> Findings:
    """The findings with their strata if `--strata` asks for them."""
    if not arguments.strata or not len(findings):
        return findings
    from clipattr.discovery.strata import with_strata

    return with_strata(findings)


def write_reports(arguments: argparse.Namespace, findings: Findings, decided: Gate | None) -> None:
    """Write the files that were asked for."""
    from clipattr.reporting.continuous import junit, sarif
    from clipattr.reporting.pull_request import markdown
    from clipattr.reporting.statement import write_statement

    if arguments.markdown and decided is not None:
        write(markdown(decided), arguments.markdown)
    if arguments.junit:
        write(junit(findings, decided), arguments.junit)
    if arguments.sarif:
        file, lines = arguments.prompts, list[str]()
        if file:
            # Paths in a repository: relative to the current folder where that is possible.
            path = user_path(file)
            lines = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
            file = os.path.relpath(path) if path.is_file() else file
        write(sarif(findings, decided, file=file, lines=lines), arguments.sarif)
    if arguments.statement:
        write_statement(findings, arguments.statement, decided=decided, people=arguments.signed_by or ())
