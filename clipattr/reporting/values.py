"""Values on a report's page: foreign text, numbers, evidence and settings as escaped HTML.

Owns escaping and the names of known evidence. Ignores the page. Start at `text_html` and `evidence_html`.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from clipattr.display.wording import is_number, percent, points, span, visible

if TYPE_CHECKING:
    from clipattr.statistics import Interval

NAME_LENGTH = 90  # characters of a prompt or label in headings and tables; the rest unfolds
TEXT_LENGTH = 20_000  # characters of one foreign text on the page
# Evidence of audits: displayed name, unit, explanation. Unknown names are shown unchanged.
EVIDENCE: Mapping[str, tuple[str, str, str]] = {
    "reason": (
        "suspected because",
        "",
        "co-occurrence: the evaluator sees the cause on the prompt's pictures more often than on others; part of the "
        "name: the cause is part of the prompt's name; written: writing the prompt on pictures raises their score",
    ),
    "concerns": ("measured on", "", ""),
    "instead": (
        "in its place",
        "",
        "yes: the cause is another sense or look of the prompt, or covers it; no: it is beside the prompt's object",
    ),
    "named": (
        "word fits the latents",
        "percent",
        "rate of the word in pictures where the latents are active, minus the rate in others; 100\u00a0% where the "
        "word "
        "suggested the latents",
    ),
    "latents_named": ("latents of that name", "", "latents of the family whose own label is the word"),
    "clear": (
        "clear pictures",
        "",
        "measured pictures that clearly show the cause, according to the evaluator",
    ),
    "strata": (
        "by stratum",
        "",
        "effect of ablating the family on those pictures of each group on which it is active, and their fraction",
    ),
    "pictures": ("pictures measured", "", ""),
    "presence": ("presence", "percent", "share of the prompt's own pictures on which the family is active"),
    "presence_elsewhere": (
        "presence elsewhere",
        "percent",
        "share of other pictures on which the family is active",
    ),
    "seen": (
        "seen in them",
        "percent",
        "presence of the family's concept in the measured pictures, according to the evaluator; if it is low, the "
        "pictures score for other reasons",
    ),
    "together": (
        "beside the prompt's own",
        "percent",
        "share of the measured pictures in which the evaluator also sees the prompt",
    ),
    "elsewhere": (
        "effect elsewhere",
        "points",
        "fall of the score on pictures that show the family but are not of the prompt",
    ),
    "standing": (
        "standing",
        "percent",
        "score of pictures that show the family without the prompt, divided by that of the prompt's own pictures; near "
        "100\u00a0%: the family alone suffices",
    ),
    "separation": (
        "separation",
        "",
        "how well the family's activation predicts which pictures score high (area under the ROC curve; 0.5 is chance)",
    ),
    "focus": (
        "focus",
        "percent",
        "largest share of the family's activation that is lost when a fifth of the picture is hidden",
    ),
    "itself": (
        "answered by itself",
        "percent",
        "share of other pictures of the concept that the model classifies by the concept's own word",
    ),
    "remains": (
        "object remains",
        "percent",
        "evaluator's evidence of the prompt in its own pictures that show the concept, relative to those without",
    ),
    "edge": (
        "differs at the edge",
        "percent",
        "share of the picture's edge that looks different with the concept",
    ),
    "inside": (
        "differs inside",
        "percent",
        "share of the picture's inside that looks different with the concept",
    ),
    "shown": ("shown", "percent", "share of the prompt's own pictures that show the family's meaning"),
    "shown_elsewhere": (
        "shown elsewhere",
        "percent",
        "share of all other pictures that show the family's meaning",
    ),
    "beside": (
        "effect beside the prompt",
        "",
        "score of the prompt's own pictures that show the concept, minus that of its own pictures without it",
    ),
    "left_covered": (
        "left when occluded",
        "percent",
        "share of the family's activation that remains when the region that depicts its concept is occluded",
    ),
    "writing": (
        "writing",
        "points",
        "rise of the score when the prompt is written on other pictures, minus the rise with other words",
    ),
    "before_written": (
        "without the writing",
        "percent",
        "share of the family's activation that was present before the prompt was written",
    ),
    "ablated": (
        "ablated",
        "points",
        "fall of the score on the prompt's own pictures when the family is ablated",
    ),
    "difference": (
        "rate difference",
        "percent",
        "share of the prompt's own pictures that show the concept, minus the share of other pictures",
    ),
    "thing": (
        "effect of the concept",
        "points",
        "score of pictures that show the concept without the prompt, minus that of pictures with neither",
    ),
    "by_text": (
        "explained by text",
        "percent",
        "share of the concept's effect that the similarity of the two texts explains",
    ),
    "kept": ("activation kept", "percent", "share of the family's codes that remains without the cause"),
    "alone": (
        "activation alone",
        "percent",
        "the family's codes on the concept without the prompt, relative to pictures with both",
    ),
    "alike": (
        "likeness",
        "percent",
        "similarity of pictures of the prompt and of the concept to each other, relative to that within each",
    ),
    "diversity": (
        "largest answer",
        "percent",
        "largest share of one answer of the model among other pictures of the concept",
    ),
    "unit": ("prompt's contrast", "points", "score of the prompt's own pictures above that of the others"),
    "effect_in_units": ("effect in contrasts", "percent", "causal effect divided by the prompt's contrast"),
    "group": ("vocabulary group", "", ""),
    "rerender_effect": (
        "re-rendering",
        "points",
        "fall of the score when the picture is rendered without the cause: ground truth in the picture world",
    ),
}
# As pictures and sentences.
SHOWN_ELSEWHERE = {
    *(
        "prompt_examples",
        "pixels",
        "cause_examples",
        "strongest",
        "strongest_shown",
        "latent_labels",
        "doubts",
        "on_own",  # as in "concerns"
    ),
}
ABOUT = {
    "model": "model",
    "weights_hash": "weights",
    "model_hash": "weights",
    "evaluator": "evaluator",
    "site": "site",
    "dictionary": "dictionary",
    "dictionary_hash": "dictionary (hash)",
    "pictures": "pictures",
    "pictures_finding": "pictures for finding candidates",
    "pictures_measuring": "pictures for measuring effects",
    "families": "families of latents",
    "prompts_audited": "prompts audited",
    "vocabulary": "vocabulary",
    "study": "study",
    "settings": "settings",
}


def text_html(foreign: object, limit: int = TEXT_LENGTH) -> str:
    """Foreign text as escaped HTML, isolated from the text direction of its surroundings."""
    return f'<bdi dir="auto">{html.escape(visible(foreign, limit), quote=True)}</bdi>'


def name_html(foreign: object) -> str:
    """A prompt or label for a heading or table."""
    return text_html(foreign, NAME_LENGTH)


def evidence_rows(evidence: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """A finding's evidence as (name as text, value as HTML, explanation as text), without empty values."""
    rows = []
    for key, value in evidence.items():
        if key in SHOWN_ELSEWHERE:
            continue
        name, unit, why = EVIDENCE.get(key, (str(key).replace("_", " "), "", ""))
        if told := value_html(value, unit):
            rows.append((visible(name, NAME_LENGTH), told, why))
    return rows


def value_html(value: Any, unit: str = "") -> str:
    """A value of the evidence or the settings as HTML; "" if it is empty.

    An object with value, low and high is an interval in raw cosine, shown in points unless `unit` is given.
    """
    if value is None:
        return ""
    if isinstance(value, Mapping):
        if {"value", "low", "high"} <= set(value) and all(
            is_number(value[k]) for k in ("value", "low", "high")
        ):
            if unit in ("", "points"):
                return f"{points(value['value'])} points ({span(value['low'], value['high'])})"
            middle, low, high = (value_html(value[k], unit) for k in ("value", "low", "high"))
            return f"{middle} ({low} to {high})"
        pairs = [(key, value_html(item)) for key, item in value.items()]
        return ", ".join(f"{name_html(str(key).replace('_', ' '))} {told}" for key, told in pairs if told)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if is_number(value):
        if unit == "points":
            return f"{points(value)} points"
        if unit == "percent":
            return percent(value)
        return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        shown = [told for told in (value_html(item) for item in value[:12]) if told]
        return ", ".join(shown) + (f" and {len(value) - 12:,} more" if len(value) > 12 else "")
    return text_html(value)


def about_rows(about: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """The audited model, study and settings as (name, value as HTML), known entries first."""
    keys = [key for key in ABOUT if key in about] + [key for key in about if key not in ABOUT]
    rows = [
        (ABOUT.get(key, str(key).replace("_", " ")), _model_html(about[key]) or value_html(about[key]))
        for key in keys
    ]
    return [(what, Markup(told)) for what, told in rows if told]


def _model_html(told: Any) -> str:
    """A model as described in a study's manifest (reference, hash); "" for any other value."""
    if isinstance(told, Mapping) and {"reference", "hash"} <= set(told):
        return f"{name_html(told['reference'])}, weights {name_html(told['hash'])}"
    return ""


def effect_bar(effect: Interval, low: float, high: float) -> str:
    """The value as a bar from zero with its interval, on the scale of all rows; the numbers are in another column."""

    def at(value: float) -> float:
        inside = min(max(value, low), high) if value == value else 0.0
        return round(2 + 196 * (inside - low) / (high - low), 1)

    zero, value = at(0.0), at(effect.value)
    falls = ' class="effect falls"' if effect.value < 0 else ' class="effect"'
    return (
        f'<svg{falls} viewBox="0 0 200 20" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="bar" x="{min(zero, value)}" y="5" width="{abs(value - zero):.1f}" height="10"/>'
        f'<line class="line" x1="{at(effect.low)}" x2="{at(effect.high)}" y1="10" y2="10"/>'
        f'<rect class="dot" x="{value - 1.5:.1f}" y="4" width="3" height="12"/>'
        f'<line class="zero" x1="{zero}" x2="{zero}" y1="0" y2="20"/></svg>'
    )
