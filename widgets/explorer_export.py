"""First view of the explorer, and its exports: a table and code.

Owns the first view, the columns of the table and the lines of code. Ignores widgets. Start at `code_of_view`.
"""

from typing import TYPE_CHECKING, Any

from clipattr.attribution import EXPLAINING
from clipattr_widgets.desk import Desk, target_code

if TYPE_CHECKING:
    from clipattr_widgets.explorer_state import ExplorerState

UPLOAD = -1  # the number of a picture from outside the study


def first_view(desk: Desk, findings: Any, chosen: dict[str, Any]) -> dict[str, Any]:
    """First view: the strongest finding, else a picture that is well explained."""
    if "picture" in chosen or "prompt" in chosen:
        return {"prompt": first_prompt(desk, int(chosen.get("picture", 0)))}
    for finding in sorted(findings or (), key=lambda f: -f.causal_effect.value):
        places = [place for name in finding.examples if (place := desk.place_of(name)) is not None]
        if places:
            first = {"picture": places[0], "prompt": finding.prompt}
            return first if "latent" in chosen else first | {"latent": int(finding.latents[0])}
    picture, word = desk.well_explained()
    return {"picture": picture, "prompt": word or first_prompt(desk, picture)}


def first_prompt(desk: Desk, picture: int) -> str:
    """The picture's label, else that of its strongest latent with a fitting one, else the first label of a latent."""
    inside = 0 <= picture < desk.n_pictures
    label = desk.study.images[picture].label if inside else None
    if label:
        return str(label).replace("_", " ")
    active: list[int] = []
    if inside:
        row = desk.study.codes.rows(picture).to_csr()
        active = row.indices[row.values.argsort(descending=True, stable=True)].tolist()
    for card in map(desk.card, active):
        if card.label and card.aligned:
            return card.label
    frame = desk.latents
    labels = frame["label"].dropna().tolist() if "label" in frame else []
    return str(labels[0]) if labels else ""


def frame_of_view(state: "ExplorerState") -> Any:
    """All active latents as a table: latent, name, label, activation, attribution (raw), alignment, factor."""
    import pandas as pd

    measured = state.measured
    fields = ["latent", "name", "label", "activation", "attribution", "alignment", "clarity", "factor"]
    if measured is None:
        return pd.DataFrame(columns=fields)
    cards = [state.table.card(int(j)) for j in measured.latents]
    rows = zip(cards, measured.activations, measured.attributions, strict=True)
    data = [
        (c.latent, c.name, c.label, a, r, c.alignment, c.clarity, state.scales.get(c.latent, 1.0))
        for c, a, r in rows
    ]
    return pd.DataFrame(data, columns=fields)


def code_of_view(state: "ExplorerState") -> str:
    """Python code that computes the view, with public functions only."""
    picture = state.upload_code if state.picture == UPLOAD else f"study.images[{state.picture}]"
    method = f", method={state.method or EXPLAINING!r}"
    lines = [
        *state.table.code_head(),
        f"picture = {picture}",
        f"target = {target_code(state.prompt, state.against)}",
        f"att = ca.attribute(study, picture, target{method})",
        f"att.top({state.n_rows})",
    ]
    if state.compare >= 0:
        lines.append(
            f"ca.attribute(study, study.images[{state.compare}], target{method}).top({state.n_rows})"
        )
    if state.scales:
        lines += [
            "",
            "from clipattr.attribution.compute import splices",
            "",
            "[(_, splice)] = splices(study, picture, target)",
            "amounts = splice.amounts.clone()",
            f"for latent, factor in {dict(sorted(state.scales.items()))!r}.items():",
            "    amounts[splice.indices == latent] *= factor",
            "after = float(splice.states(amounts[:, None]))",
        ]
    return "\n".join(lines)
