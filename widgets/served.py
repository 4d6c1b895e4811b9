"""Panels on a served page: studies opened for visitors, read-only by default.

Owns what the one cell of a served page does, its heading, and the address that leads to what is on the screen. Ignores
the server (`clipattr.cli.serve`). Start at `served`.
"""

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import ipywidgets as W
import traitlets as T

from clipattr.display.wording import counted
from clipattr_widgets.changes import MAX_SCALE
from clipattr_widgets.explorer import ExplorerPanel
from clipattr_widgets.text import markup, shown

# Keys of an address, besides study, panel and changes.
TEXTS = ("prompt", "against", "method")
NUMBERS = ("picture", "latent", "compare", "finding")
MAX_TEXT = 400  # characters of a text in an address
MAX_CHANGES = 40  # latents that an address changes


def served(
    paths: Sequence[str],
    *,
    findings: Sequence[str] = (),
    write: bool = False,
    scratch: str | None = None,
    moved: Mapping[str, str] | None = None,
) -> W.VBox:
    """All panels of one or more studies, linked, below a heading.

    Args:
        paths: folders of the studies; the address says which is shown, else the first.
        findings: JSON of audits, the first of the first study, and so on.
        write: whether names, verdicts and notes are kept.
        scratch: a folder that all visitors share, for slow answers that are not kept in the studies.
        moved: where model, evaluator or images of the first study are now, as `open_study` takes them.
    """
    import clipattr
    from clipattr.discovery.findings import Findings

    warnings.simplefilter("ignore")  # a visitor cannot act on them
    first = dict(moved or {})
    studies = [clipattr.open_study(path, **(first if i == 0 else {})) for i, path in enumerate(paths)]
    audits = {i: Findings.from_json(file, studies[i]) for i, file in enumerate(findings)}
    chosen = asked(os.environ.get("QUERY_STRING", ""))
    names = [study.path.name for study in studies]
    place = names.index(wanted) if (wanted := chosen.pop("study", names[0])) in names else 0
    panel = chosen.pop("panel", "Explorer")
    if chosen.get("finding", -1) >= len(audits.get(place, ())):
        chosen.pop("finding", None)
    made = ExplorerPanel(studies, tabs=True, findings=audits, read_only=not write, desk=place, **chosen)
    state, tabs = made.state, made.tabs
    if scratch is not None and not write:
        for desk in state.desks:
            desk.scratch = Path(scratch)
    if tabs is not None and panel in tabs.buttons.options:
        tabs.buttons.value = panel
    head = W.HTML(heading(state.table, write))

    def follow(_: Any = None) -> None:
        made.pulse.address = address_of(made)

    def head_anew(_: Any) -> None:
        head.value = heading(state.table, write)

    state.observe(follow, [*TEXTS, *NUMBERS, "desk", "scales"])
    state.observe(head_anew, "desk")
    if tabs is not None:
        tabs.buttons.observe(follow, "value")
    if len(studies) < 2:
        return W.VBox([head, made])
    picker = W.Dropdown(
        options=[(shown(name, 60), i) for i, name in enumerate(names)], value=place, description="study",
        layout=W.Layout(width="auto", max_width="420px"), style={"description_width": "44px"},
    )  # fmt: skip
    T.link((state, "desk"), (picker, "value"))
    picker.add_class("clipattr-served")
    picker.add_class("clipattr-picker")
    return W.VBox([head, picker, made])


def asked(query: str) -> dict[str, Any]:
    """The view that an address requests; invalid parts are left out.

    >>> asked("?token=x&picture=7&prompt=red+kite&latent=many&changes=12x0,40x0.5")
    {'picture': 7, 'prompt': 'red kite', 'scales': {12: 0.0, 40: 0.5}}
    """
    given = parse_qs(query.lstrip("?"), max_num_fields=40)
    chosen: dict[str, Any] = {}
    for name in (*NUMBERS, *TEXTS, "panel", "study"):
        value = given.get(name, [""])[0][:MAX_TEXT]
        if name in NUMBERS:
            if value.isdecimal() and len(value) < 10:
                chosen[name] = int(value)
        elif value:
            chosen[name] = value
    if changes := changes_in(given.get("changes", [""])[0]):
        chosen["scales"] = changes
    from clipattr.attribution import METHODS

    if chosen.get("method") not in METHODS:
        chosen.pop("method", None)
    return chosen


def changes_in(text: str) -> dict[int, float]:
    """Factors by latent of `12x0,40x0.5`; whatever is no such pair is left out."""
    found = {}
    for pair in text.split(",")[:MAX_CHANGES]:
        latent, _, factor = pair.partition("x")
        try:
            value = float(factor)
        except ValueError:
            continue
        if latent.isdecimal() and len(latent) < 10 and math.isfinite(value) and 0 <= value <= MAX_SCALE:
            found[int(latent)] = value
    return found


def address_of(panel: ExplorerPanel) -> str:
    """The query of the current view."""
    state = panel.state
    said: Mapping[str, Any] = {name: getattr(state, name) for name in (*NUMBERS, *TEXTS)}
    kept = {name: value for name, value in said.items() if value not in ("", -1)}
    if len(state.desks) > 1:
        kept["study"] = state.table.study.path.name
    front = panel.tabs.buttons.value if panel.tabs is not None else "Explorer"
    if front != "Explorer":
        kept["panel"] = front
    if front != "Findings":
        kept.pop("finding", None)
    if state.scales:
        pairs = [f"{latent}x{factor:g}" for latent, factor in sorted(state.scales.items())]
        kept["changes"] = ",".join(pairs[:MAX_CHANGES])
    return urlencode(kept)


def heading(desk: Any, write: bool) -> str:
    """The study, its model, and what visitors may do, as the top of the page."""
    study = desk.study
    mode = "names, verdicts and notes are kept" if write else "read-only"
    facts = (
        f"{markup(desk.model_name, 60)} · {markup(desk.site, 40)} · {counted(desk.n_latents, 'latent')} · "
        f"{counted(desk.n_pictures, 'picture')} · {mode} · the address leads to what is on the screen"
    )
    name = markup(study.path.name, 60)
    return f'<header class="clipattr-served"><h1>{name}</h1><p>{facts}</p></header>'
