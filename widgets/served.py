"""The panels as a served page shows them: a study opened for others, read-only unless said otherwise.

Owns what the one cell of a served page does, its heading, and the address that leads to what is on the screen. Ignores
the server (`clipattr.cli.serve`). Start at `served`.
"""

import os
import warnings
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlencode

import ipywidgets as W

from clipattr_widgets.explorer import ExplorerPanel
from clipattr_widgets.text import markup

TEXTS = (
    "prompt",
    "against",
    "method",
)  # what an address may say, beside the picture, the latent and the panel
NUMBERS = ("picture", "latent")
MAX_TEXT = 400  # characters of a text in an address


def served(path: str, *, findings: str | None = None, write: bool = False) -> W.VBox:
    """All panels of a study, linked, below a heading.

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
    chosen = asked(os.environ.get("QUERY_STRING", ""))
    panel = chosen.pop("panel", "Explorer")
    made = ExplorerPanel(study, tabs=True, findings=found, read_only=not write, **chosen)
    tabs = made.tabs
    if tabs is not None and panel in tabs.buttons.options:
        tabs.buttons.value = panel

    def follow(_: Any = None) -> None:
        made.pulse.address = address_of(made)

    made.state.observe(follow, [*TEXTS, *NUMBERS])
    if tabs is not None:
        tabs.buttons.observe(follow, "value")
    return W.VBox([W.HTML(heading(made.state.table, write)), made])


def asked(query: str) -> dict[str, Any]:
    """What an address asks to be shown; what it says wrongly is left out.

    >>> asked("?token=x&picture=7&prompt=red+kite&latent=many")
    {'picture': 7, 'prompt': 'red kite'}
    """
    given = parse_qs(query.lstrip("?"), max_num_fields=40)
    chosen: dict[str, Any] = {}
    for name in (*NUMBERS, *TEXTS, "panel"):
        value = given.get(name, [""])[0][:MAX_TEXT]
        if name in NUMBERS:
            if value.isdecimal() and len(value) < 10:
                chosen[name] = int(value)
        elif value:
            chosen[name] = value
    from clipattr.attribution import METHODS

    if chosen.get("method") not in METHODS:
        chosen.pop("method", None)
    return chosen


def address_of(panel: ExplorerPanel) -> str:
    """The query that leads to what is on the screen."""
    state = panel.state
    said: Mapping[str, Any] = {name: getattr(state, name) for name in (*NUMBERS, *TEXTS)}
    kept = {name: value for name, value in said.items() if value not in ("", -1)}
    if panel.tabs is not None and panel.tabs.buttons.value != "Explorer":
        kept["panel"] = panel.tabs.buttons.value
    return urlencode(kept)


def heading(desk: Any, write: bool) -> str:
    """The study, its model, and what visitors may do, as the top of the page."""
    study = desk.study
    mode = "names, verdicts and notes are kept" if write else "read-only"
    facts = (
        f"{markup(desk.model_name, 60)} · {markup(desk.site, 40)} · {desk.n_latents:,} latents · "
        f"{desk.n_pictures:,} pictures · {mode} · the address leads to what is on the screen"
    )
    name = markup(study.path.name, 60)
    return f'<header class="clipattr-served"><h1>{name}</h1><p>{facts}</p></header>'
