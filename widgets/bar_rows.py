"""Rows of the bar list: one picture's score as a sum, drawn and read by screen readers.

Owns ordering, the rows for parts that are no single latent, the waterfall, and the wording of numbers. A cosine is
shown
× 100 and called points; other units as they are. Ignores where numbers come from. Start at `bar_rows`.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from clipattr.display.wording import kind_word
from clipattr_widgets.cards import Card
from clipattr_widgets.measured import Measured
from clipattr_widgets.text import plain, shown, signed

REST, BIAS, ERROR, TOTAL, TOGETHER = -2, -3, -4, -6, -7
NONE = 0.005  # a number below this is shown as 0.00

PARTS = (
    (TOGETHER, "several latents together", "together", "joint effect of the latents beyond the sum of the bars "
     "above: the method assigns it to no single latent"),
    (BIAS, "bias alone", "bias", "the score of an activation that consists of the dictionary's bias alone"),
    (ERROR, "error", "error", "change of that score by the error node, which no latent explains"),
)  # fmt: skip


def factor_of(unit: str) -> float:
    """Factor from raw numbers of this unit to displayed ones."""
    return 100.0 if unit == "cosine" else 1.0


def unit_name(unit: str) -> str:
    """The displayed name of the unit."""
    return {"cosine": "points", "rank only": "rank value"}.get(unit, unit)


def columns(unit: str, other: bool, *, prompt: str = "") -> dict[str, str]:
    """Headings of the bar list."""
    about = f"“{shown(prompt, 40)}”" if prompt else "the prompt"
    heads = {
        "value": unit_name(unit),
        "value_tip": "attribution: how much this row contributes to the score, signed"
        + ("; cosine × 100" if unit == "cosine" else ""),
        "activation": "active",
        "activation_tip": "activation: how strongly the latent is present in this picture",
        "fits": "fits prompt",
        "fits_tip": f"how well the latent's examples fit {about} by the independent evaluator; cosine × 100 above the "
        "empty prompt's. A large bar with a low number here is a surprise",
        "alignment": "fits label",
        "alignment_tip": "how well the latent's examples fit its own label by the independent evaluator; cosine × 100 "
        "above the empty prompt's",
    }
    if other:
        heads |= {"other": "other", "other_tip": "the same for the picture compared with"}
    return heads


def bar_rows(
    measured: Measured,
    card: Callable[[int], Card],
    *,
    n: int = 20,
    scales: Mapping[int, float] | None = None,
    kinds: Mapping[int, str] | None = None,
    other: Measured | None = None,
    waterfall: bool = False,
) -> list[dict[str, Any]]:
    """Rows for `BarList.show`.

    The n strongest latents (and every one that was changed), the sum of the rest, what several do together, bias and
    error; the last row is the score, which is their sum. Methods that only rank have rows for latents alone.

    Args:
        card: function from a latent to its `Card`.
        scales: factor by latent, for those that were changed.
        kinds: the kind of finding by latent, for badges.
        other: a second picture's attribution to the same target.
        waterfall: bars stacked end to end, from bias and error over the weakest latents up to the score.
    """
    scales, kinds = scales or {}, kinds or {}
    unit = factor_of(measured.unit)
    second = dict(zip(other.latents.tolist(), other.attributions.tolist(), strict=True)) if other else {}
    strengths = dict(zip(measured.latents.tolist(), measured.activations.tolist(), strict=True))
    values = dict(zip(measured.latents.tolist(), measured.attributions.tolist(), strict=True))
    fits = dict(zip(measured.latents.tolist(), measured.fits.tolist(), strict=True))
    if other:
        fits = dict(zip(other.latents.tolist(), other.fits.tolist(), strict=True)) | fits
    order = list(values)
    if other:
        joined = values | {j: 0.0 for j in second if j not in values}
        order = sorted(joined, key=lambda j: -max(abs(values.get(j, 0.0)), abs(second.get(j, 0.0))))
    kept = order[:n] + [j for j in order[n:] if j in scales]
    rows = []
    for j in kept:
        row = latent_row(
            card(j), values.get(j, math.nan) * unit, strengths.get(j, math.nan), scales.get(j, 1.0), kinds,
            fits=fits.get(j, math.nan), alone=measured.alone.get(j, math.nan) * unit,
        )  # fmt: skip
        rows.append(row | (_second(second.get(j, math.nan) * unit) if other else {}))
    rest = [j for j in order if j not in set(kept)]
    if rest:
        row = part_row(
            REST,
            f"{len(rest)} more latent{'s' * (len(rest) > 1)}",
            sum(values.get(j, 0.0) for j in rest) * unit,
        )
        rows.append(row | (_second(sum(second.get(j, 0.0) for j in rest) * unit) if other else {}))
    if measured.unit != measured.y_unit:
        return rows  # values that only rank have no sum
    for place, label, key, tip in PARTS:
        value = getattr(measured, key) * unit
        others = getattr(other, key) * unit if other else math.nan
        if place == TOGETHER and max(abs(value), abs(others) if other else 0.0) < NONE:
            continue
        if place == ERROR and not math.isfinite(value):
            continue  # one number with the bias
        if place == BIAS and not math.isfinite(measured.error):
            label, tip = "bias and error", "the score with every latent removed"
        row = part_row(place, label, value, tip)
        rows.append(row | (_second(others) if other else {}))
    total = {
        "id": TOTAL, "part": "total", "label": "score", "value": measured.y * unit, "text": signed(measured.y * unit),
        "scale": 1, "tip": "the sum of all rows above", "spoken": f"score, {signed(measured.y * unit)}",
    }  # fmt: skip
    if waterfall:
        return _stacked(rows, total)
    return [*rows, total | (_second(other.y * unit) if other else {})]


def latent_row(
    card: Card,
    value: float,
    activation: float,
    scale: float,
    kinds: Mapping[int, str],
    *,
    fits: float = math.nan,
    alone: float = math.nan,
) -> dict[str, Any]:
    """One latent's row; `fits` raw, `alone` (what taking out this latent alone changes) in the unit of `value`."""
    name, kind = shown(card.title), kinds.get(card.latent, "")
    label = shown(card.label) if card.label else "no label"
    own, prompt = plain(card.alignment * 100, 1), plain(fits * 100, 1)
    spoken = (
        f"{name}, {signed(value)}, activation {plain(activation)}, fits prompt {prompt}, fits its label {own}"
    )
    if scale != 1:
        spoken += ", switched off" if scale == 0 else f", scaled by {scale:g}"
    tip = f"latent {card.latent} · {label}"
    if math.isfinite(alone):
        tip += f" · ablated alone, the score falls by {signed(alone)}"
    mark = disagree(value, alone)
    if mark:
        tip += ": the attribution has the opposite sign. Other latents compensate, or act only together with this one"
        spoken += f", but ablated alone {signed(alone)}"
    if kind:
        tip += f" · finding: {shown(kind_word(kind), 24)}"
        spoken += f", finding {shown(kind_word(kind), 24)}"
    return {
        "id": card.latent,
        "part": "latent",
        "label": name,
        "value": value if math.isfinite(value) else 0.0,
        "text": signed(value),
        "activation": plain(activation),
        "fits": prompt,
        "alignment": own,
        "kind": shown(kind_word(kind), 24) if kind else "",
        "mark": "≠" if mark else "",
        "scale": scale,
        "tip": tip,
        "spoken": spoken,
    }


def disagree(said: float, truth: float) -> bool:
    """Whether two answers in points have different signs and neither is small."""
    return math.isfinite(truth) and said * truth < 0 and min(abs(said), abs(truth)) >= 0.5


def part_row(id: int, label: str, value: float, tip: str = "") -> dict[str, Any]:
    return {
        "id": id, "part": "part", "label": label, "value": value if math.isfinite(value) else 0.0,
        "text": signed(value), "scale": 1, "tip": tip, "spoken": f"{label}, {signed(value)}",
    }  # fmt: skip


def check_words(measured: Measured) -> str:
    """The check line: what all parts sum to, beside the score; "" for methods that only rank."""
    if measured.unit != measured.y_unit:
        return ""
    unit = factor_of(measured.unit)
    rest = [part for part in (measured.together, measured.bias, measured.error) if math.isfinite(part)]
    total = (float(measured.attributions.sum()) + sum(rest)) * unit
    if abs(total - measured.y * unit) < NONE:
        return f"the rows sum to the score, {signed(total).lstrip('+')}"
    return f"the rows sum to {signed(total)}, the score is {signed(measured.y * unit)}"


def _second(value: float) -> dict[str, Any]:
    return {"other": value if math.isfinite(value) else 0.0, "other_text": signed(value)}


def _stacked(rows: list[dict[str, Any]], total: dict[str, Any]) -> list[dict[str, Any]]:
    """Parts that are no latent first, then weak latents, the strongest last, so that the stack ends at the score."""
    at = 0.0
    constant = [row for row in rows if row["id"] in (BIAS, ERROR)]
    steps = constant + [row for row in rows[::-1] if row["id"] not in (BIAS, ERROR)]
    for row in steps:
        row["start"], at = at, at + row["value"]
    return [*steps, total | {"start": 0.0}]


def model_row(
    names: Sequence[str],
    place: int,
    label: str,
    values: Sequence[float | None],
    tip: str,
    inactive: Collection[int] = (),
) -> dict[str, Any]:
    """One line of a comparison; a model without a partner has no mark. A row of a single model is marked as such."""
    there = [i for i, value in enumerate(values) if value is not None]
    texts = [
        "–" if value is None else "inactive" if i in inactive else signed(value)
        for i, value in enumerate(values)
    ]
    own = f"{names[there[0]]} alone" if len(there) == 1 else ""
    spoken = f"{label}: " + ", ".join(f"{n} {t}" for n, t in zip(names, texts, strict=True))
    finite = [None if value is None or not np.isfinite(value) else float(value) for value in values]
    return {"id": place, "label": label, "values": finite, "texts": texts, "own": own, "tip": tip,
            "owner": there[0] if own else -1,
            "spoken": spoken + (f", {own}" if own else "")}  # fmt: skip
