"""Captions of latents, searches, heat maps and methods in panels.

Owns wording and its HTML. Ignores layout. Start at `card_html`.
"""

from collections.abc import Iterable
from typing import Any

from clipattr_widgets.text import markup, plain


def method_options() -> list[tuple[str, str]]:
    """The method picker: the default, methods in the score's unit, then those that only rank, controls last."""
    from clipattr import METHODS
    from clipattr.attribution import EXPLAINING

    said = [(f"default: {EXPLAINING.replace('_', ' ')}", "")]
    order = sorted(METHODS.values(), key=lambda m: (m.control, not m.in_unit, not m.adds_up))
    for method in order:
        name = method.name.replace("_", " ")
        kind = "" if method.in_unit else "ranks"
        if method.control or method.adds_up:
            kind = "control" if method.control else "adds up"
        said.append((f"{name} ({kind})" if kind else name, method.name))
    return said


def facts_div(facts: Iterable[tuple[str, str, str]], before: str = "") -> str:
    """Facts in one line, each a name, a number and its explanation; `before` them HTML."""
    spans = "".join(f'<span title="{tip}">{name} <b>{value}</b></span>' for name, value, tip in facts)
    return f'<div class="clipattr-facts clipattr-note">{before}{spans}</div>'


def facts_html(active: int | None, check: str, note: str) -> str:
    """What stands below the bars: latents active (None: nothing was measured), what the rows sum to, remarks, keys."""
    facts = [] if active is None else [f"<b>{active}</b> latents active"]
    if check:
        facts.append(f'<span class="clipattr-check">{markup(check, 100)}</span>')
    if note:
        facts.append(markup(note, 300))
    facts.append("↑ ↓ move · Enter choose · A on/off · + − scale · U undo · Y redo")
    spans = "".join(f"<span>{fact}</span>" for fact in facts)
    return f'<div class="clipattr-facts clipattr-note">{spans}</div>'


def heat_scale(heat: Any) -> str:
    """Meaning of the end of a heat map's colour scale."""
    if heat is None or not heat.common:
        return "strongest place of each picture"
    return f"largest activation, {plain(heat.largest)}"


def found_html(words: str) -> str:
    """Which hit of how many a search shows."""
    return f'<span class="clipattr-note" role="status">{markup(words, 40)}</span>' if words else ""


def note_html(text: str, limit: int) -> str:
    """A remark in small print."""
    return f'<div class="clipattr-note">{markup(text, limit)}</div>'


def score_html(cells: Iterable[tuple[str, str]]) -> str:
    """Names and numbers (as HTML) side by side, the numbers large."""
    spans = "".join(f"<span><span>{name}</span><b>{value}</b></span>" for name, value in cells)
    return f'<div class="clipattr-score" role="status" aria-live="polite">{spans}</div>'


def card_html(card: Any, *, here: bool = True) -> str:
    """A latent's name and numbers in one line; `here` False: the current picture does not activate it."""
    facts = [
        ("fits its label", plain(card.alignment * 100, 1), "cosine of its examples with its label, above the empty "
         "prompt's, by the evaluator, × 100"),
        ("clarity", plain(card.clarity), "how much its examples look alike: mean cosine of pairs, by the evaluator"),
        ("active in", f"{plain(card.frequency * 100, 1)} %", "share of the study's pictures"),
    ]  # fmt: skip
    label = ""
    if card.label and card.label != card.name:
        label = f"<span>label {markup(card.label, 40)}</span>"
    if not card.aligned:
        label += "<span>no word of the vocabulary fits it well</span>"
    if not here:
        label = "<span><b>not active in this picture</b></span>" + label
    number = "" if card.name.startswith("latent ") else f"latent {card.latent}"
    return (
        f'<h3 class="clipattr-title">{markup(card.name, 60)} '
        f'<small class="clipattr-note">{number}</small></h3>'
        f"{facts_div(facts, label)}"
    )
