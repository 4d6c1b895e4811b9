"""Rows of the bar list: one picture's attribution as what is drawn and read out.

Owns ordering, the rest row, the bias and error rows, the waterfall, and the wording of numbers. A cosine is shown
× 100 and called points; other units as they are. Ignores where numbers come from. Start at `bar_rows`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from clipattr.display.wording import kind_word
from clipattr_widgets.desk import Card, Measured
from clipattr_widgets.text import plain, shown, signed

REST, BIAS, ERROR, START, TOTAL = -2, -3, -4, -5, -6


def factor_of(unit: str) -> float:
    """What raw numbers of this unit are multiplied by to be shown."""
    return 100.0 if unit == "cosine" else 1.0


def unit_name(unit: str) -> str:
    """The unit as people read it."""
    return {"cosine": "points", "rank only": "rank value"}.get(unit, unit)


def columns(unit: str, other: bool) -> dict[str, str]:
    """Headings of the bar list."""
    heads = {
        "value": unit_name(unit),
        "value_tip": "attribution: how much of the score this latent carries, signed"
        + ("; cosine × 100" if unit == "cosine" else ""),
        "activation": "active",
        "activation_tip": "activation: how strongly the latent is present in this picture",
        "alignment": "aligned",
        "alignment_tip": "how well the latent's examples fit its label by the independent evaluator; cosine × 100 "
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

    The n strongest latents (and every one that was changed), then the sum of the rest, then bias and error.

    Args:
        card: what is known of a latent.
        scales: factor by latent, for those that were changed.
        kinds: the kind of finding by latent, for badges.
        other: a second picture's attribution to the same target.
        waterfall: bars stacked end to end from the rest of the parts up to the score; only where parts add up.
    """
    scales, kinds = scales or {}, kinds or {}
    unit = factor_of(measured.unit)
    second = dict(zip(other.latents.tolist(), other.attributions.tolist(), strict=True)) if other else {}
    strengths = dict(zip(measured.latents.tolist(), measured.activations.tolist(), strict=True))
    values = dict(zip(measured.latents.tolist(), measured.attributions.tolist(), strict=True))
    order = list(values)
    if other:
        joined = values | {j: 0.0 for j in second if j not in values}
        order = sorted(joined, key=lambda j: -max(abs(values.get(j, 0.0)), abs(second.get(j, 0.0))))
    kept = order[:n] + [j for j in order[n:] if j in scales]
    rows = []
    for j in kept:
        rows.append(
            latent_row(card(j), values.get(j, 0.0) * unit, strengths.get(j, 0.0), scales.get(j, 1.0), kinds)
        )
        if other:
            rows[-1] |= _second(second.get(j, 0.0) * unit)
    rest = [j for j in order if j not in set(kept)]
    if rest:
        row = part_row(
            REST,
            f"{len(rest)} more latent{'s' * (len(rest) > 1)}",
            sum(values.get(j, 0.0) for j in rest) * unit,
        )
        rows.append(row | (_second(sum(second.get(j, 0.0) for j in rest) * unit) if other else {}))
    if waterfall and measured.adds_up:
        return _stacked(rows, measured.y * unit)
    if measured.unit != measured.y_unit:
        return rows  # values that only rank; bias and error have no such value
    for place, label, key, tip in (
        (BIAS, "bias", "bias", "what the dictionary's constant part carries"),
        (ERROR, "error", "error", "what the dictionary does not explain of this activation"),
    ):
        row = part_row(place, label, getattr(measured, key) * unit, tip)
        rows.append(row | (_second(getattr(other, key) * unit) if other else {}))
    return rows


def latent_row(
    card: Card, value: float, activation: float, scale: float, kinds: Mapping[int, str]
) -> dict[str, Any]:
    name, kind = shown(card.name), kinds.get(card.latent, "")
    label = shown(card.label) if card.label else "no label"
    aligned = plain(card.alignment * 100, 1)
    spoken = f"{name}, {signed(value)}, activation {activation:.2f}, alignment {aligned}"
    if scale != 1:
        spoken += ", switched off" if scale == 0 else f", scaled by {scale:g}"
    return {
        "id": card.latent,
        "part": "latent",
        "label": name,
        "value": value,
        "text": signed(value),
        "activation": plain(activation),
        "alignment": aligned,
        "kind": shown(kind_word(kind), 24) if kind else "",
        "scale": scale,
        "tip": f"latent {card.latent} · {label}"
        + (f" · finding: {shown(kind_word(kind), 24)}" if kind else ""),
        "spoken": spoken + (f", finding {shown(kind_word(kind), 24)}" if kind else ""),
    }


def part_row(id: int, label: str, value: float, tip: str = "") -> dict[str, Any]:
    return {
        "id": id, "part": "part", "label": label, "value": value if math.isfinite(value) else 0.0,
        "text": signed(value), "scale": 1, "tip": tip, "spoken": f"{label}, {signed(value)}",
    }  # fmt: skip


def _second(value: float) -> dict[str, Any]:
    return {"other": value if math.isfinite(value) else 0.0, "other_text": signed(value)}


def _stacked(rows: list[dict[str, Any]], total: float) -> list[dict[str, Any]]:
    """What is no latent first, weak latents next, the strongest last: the eye ends where the score is."""
    base = total - sum(row["value"] for row in rows)
    steps = [part_row(START, "bias and error", base, "the score with every latent taken out"), *rows[::-1]]
    at = 0.0
    for row in steps:
        row["start"], at = at, at + row["value"]
    end = {"id": TOTAL, "part": "total", "label": "score", "value": total, "text": signed(total), "scale": 1,
           "start": 0.0, "tip": "", "spoken": f"score, {signed(total)}"}  # fmt: skip
    return [*steps, end]
