"""One finding, and the one list of its columns: table, CSV, JSON, report and panel are made from it.

Owns the fields of a finding and how each is named, explained and shown. Ignores lists of findings and their files
(`findings.py`). Start at `COLUMNS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from clipattr.display.wording import NO_LABEL, kind_word, percent, points
from clipattr.errors import DataError
from clipattr.statistics import Interval

KINDS = ("polysemy", "compound", "typography", "watermark", "context", "companion", "coarse_label", "unknown")
SCHEMA = 1  # of the findings JSON


@dataclass(frozen=True)
class Finding:
    """One unexpected reliance of one prompt on one family of latents.

    Attributes:
        prompt: the prompt whose score the finding is about.
        latents: the family, strongest first.
        label: what the family represents, according to the evaluator; None when no word fits.
        kind: one of `KINDS`.
        kind_probability: how sure the kind is, 0 to 1.
        reliance: mean single-latent exact ablation, summed over the family, in raw cosine of the prompt's contrast.
            Positive: the family raises the contrast.
        causal_effect: fall of the contrast when the whole family is ablated on held-back pictures, raw cosine; where
            the finding is `by_writing`, its rise when the prompt is written on held-back pictures of other objects.
        share: of the positive evidence for the prompt on the pictures concerned, 0 to 1.
        alignment: of the family with the prompt by the evaluator, raw cosine above the empty prompt's.
        clarity: how much the family's examples look alike to the evaluator, mean pairwise cosine.
        confidence: probability that removing the cause from pictures would confirm the finding, 0 to 1.
        examples: paths or ids of the family's top examples.
        evidence: named values that the finding is based on.

    >>> import clipattr as ca
    >>> from clipattr.statistics import Interval
    >>> effect = Interval(0.06, 0.04, 0.08)
    >>> finding = ca.Finding("rose", (3,), "tulip", "companion", 0.8, effect, effect, 0.3, 0.1, 0.6, 0.9)
    >>> finding.label, finding.causal_effect.low > 0
    ('tulip', True)
    """

    prompt: str
    latents: tuple[int, ...]
    label: str | None
    kind: str
    kind_probability: float
    reliance: Interval
    causal_effect: Interval
    share: float
    alignment: float
    clarity: float
    confidence: float
    examples: tuple[str, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def by_writing(self) -> bool:
        """Whether the finding was made and confirmed by text insertion, not by ablation of the family."""
        return self.evidence.get("reason") == "written"

    @property
    def by_pictures(self) -> bool:
        """Whether only pictures with and without the cause prove the effect: the interval of the ablation includes 0.

        The family's latents respond to the cause, but the score depends on it through other latents as well.
        """
        return not self.by_writing and not self.causal_effect.low > 0

    @property
    def doubts(self) -> tuple[str, ...]:
        """Doubts about `label`, one clause each, as table, CSV, JSON, report and panel show them.

        None where the finding is `by_writing`: its word was inserted, whatever else its latents respond to.
        """
        told = () if self.by_writing else self.evidence.get("doubts", ())
        return tuple(str(one) for one in told) if isinstance(told, list | tuple) else ()

    @property
    def shows_cause(self) -> bool:
        """Whether there are pictures to show for the cause, and some latent of the family is labelled as it."""
        return bool(self.evidence.get("cause_examples")) and bool(self.evidence.get("latents_named"))

    @property
    def pictured(self) -> tuple[str, ...]:
        """Ids of the pictures to show for the family.

        Where `shows_cause`, those on which the family is active and which clearly show the label to the evaluator; else
        the family's strongest pictures, which need not show the label.
        """
        named = self.evidence.get("cause_examples" if self.shows_cause else "strongest")
        return tuple(str(one) for one in named) if isinstance(named, list | tuple) else self.examples

    @property
    def measured_on(self) -> tuple[str, ...] | None:
        """Ids of measured pictures to show; where `shows_cause` those that clearly show it. None: none were named."""
        named, clear = self.evidence.get("prompt_examples"), self.evidence.get("clear")
        if not isinstance(named, list | tuple):
            return None
        return tuple(str(one) for one in (named[:clear] if self.shows_cause else named))

    def to_dict(self) -> dict[str, Any]:
        """One object of the findings JSON: the fields, and columns computed from them."""
        values = asdict(self)
        for name, column in _computed().items():
            value = column.value(self)
            values[name] = asdict(value) if isinstance(value, Interval) else value
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Finding:
        """Read one object of the findings JSON.

        Raises:
            DataError: a field is missing, unknown or of an unknown kind.
        """
        try:
            filled = {
                **{name: value for name, value in values.items() if name not in _computed()},
                "latents": tuple(int(j) for j in values["latents"]),
                "examples": tuple(str(e) for e in values.get("examples", ())),
                "reliance": Interval(**values["reliance"]),
                "causal_effect": Interval(**values["causal_effect"]),
            }
            finding = cls(**filled)
            finding._check()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(f"not a finding of schema {SCHEMA}: {error}; got {values!r:.200}") from error
        if finding.kind not in KINDS:
            raise DataError(f"a finding's kind is one of {', '.join(KINDS)}; got {finding.kind!r:.60}")
        return finding

    def _check(self) -> None:
        """TypeError or ValueError where a value is not what readers and reports rely on."""
        if not isinstance(self.prompt, str) or not isinstance(self.label, str | None):
            raise TypeError("prompt and label are texts")
        if not isinstance(self.kind, str) or not isinstance(self.evidence, Mapping):
            raise TypeError("kind is a text, evidence an object")
        spans = [bound for span in (self.reliance, self.causal_effect) for bound in asdict(span).values()]
        others = [self.kind_probability, self.share, self.alignment, self.clarity, self.confidence]
        for number in (*spans, *others):
            # NaN is what an audit writes where nothing could be measured.
            if isinstance(number, bool) or not isinstance(number, int | float) or abs(number) >= 1e9:
                raise ValueError(f"{number!r:.60} is not a number that an audit measures")


@dataclass(frozen=True)
class Column:
    """One column of a finding.

    Attributes:
        name: in tables, CSV, JSON and for sorting.
        label: heading in the report and the panel.
        value: its value for a finding: a text, a number, an `Interval`, a list, or None for no value.
        tip: explanation in the report and the panel.
        unit: "points" (raw cosine, shown × 100), "percent" (a share from 0 to 1), "" for texts and lists.
        shown: the value as people read it where that is not the value itself.
        listed: whether the report's table and the panel's list have it; others are shown with a single finding.
        table: name in tables and CSV if it is not `name`.
        bounds: names of the interval's bounds in tables and CSV; the interval is then drawn as well.
        evidence: key of `Finding.evidence` that holds the value in the JSON; else the JSON has `name`.
        optional: left out of tables in which no finding has a value.
    """

    name: str
    label: str
    value: Callable[[Finding], Any]
    tip: str = ""
    unit: str = ""
    shown: Callable[[Finding], str] | None = None
    listed: bool = False
    table: str = ""
    bounds: tuple[str, ...] = ()
    evidence: str = ""
    optional: bool = False

    @property
    def heading(self) -> str:
        """The label with its unit."""
        return f"{self.label}, points" if self.unit == "points" else self.label

    @property
    def headers(self) -> tuple[str, ...]:
        """Names of its columns in tables and CSV."""
        return (self.table or self.name, *self.bounds)

    def cells(self, finding: Finding) -> list[Any]:
        """Its values in tables and CSV, one for each of `headers`, rounded to what people read."""
        value = self.value(finding)
        numbers = (
            [value.value, value.low, value.high] if isinstance(value, Interval) else [value, value, value]
        )
        kept = numbers[: len(self.headers)]
        if not self.unit:
            return kept
        factor, digits = (100, 1) if self.unit == "points" else (1, 2)
        return [None if number is None else round(number * factor, digits) for number in kept]

    def text(self, finding: Finding) -> str:
        """Its value as report and panel show it, without an interval's bounds; "" without a value."""
        if self.shown is not None:
            return self.shown(finding)
        value = self.value(finding)
        if value is None or not self.unit:
            return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value or "")
        number = value.value if isinstance(value, Interval) else value
        return points(number) if self.unit == "points" else percent(number)

    def order(self, finding: Finding) -> Any:
        """Its value for sorting: a missing number comes first, texts are compared without case."""
        value = self.value(finding)
        number = value.value if isinstance(value, Interval) else value
        if self.unit:
            return number if number is not None and math.isfinite(number) else -math.inf
        return str(value or "").casefold()


def _in_pixels(finding: Finding, key: str) -> Any:
    """What verification in pixels says of a finding; None where it was not verified."""
    told = finding.evidence.get("pixels")
    return told.get(key) if isinstance(told, Mapping) else None


def _edited(finding: Finding, key: str) -> Interval | None:
    effect = _in_pixels(finding, key)
    return Interval(**effect) if isinstance(effect, Mapping) else None


COLUMNS: tuple[Column, ...] = (
    Column("prompt", "prompt", lambda f: f.prompt, listed=True),
    Column("label", "rests on", lambda f: f.label or NO_LABEL, "what the family represents to the evaluator; "
           "the name is doubted where the audit found evidence against it", listed=True, table="rests on"),
    Column("kind", "kind", lambda f: f.kind, shown=lambda f: kind_word(f.kind), listed=True),
    Column("kind_probability", "probability of the kind", lambda f: f.kind_probability, unit="percent"),
    Column("reliance", "reliance", lambda f: f.reliance, "mean effect of ablating the family's latents one at a time, "
           "added up", "points", listed=True),
    Column("causal_effect", "causal effect", lambda f: f.causal_effect, "fall of the prompt's contrast when the whole "
           "family is ablated on held-back pictures; for a finding about written words, its rise when the prompt is "
           "written on the pictures. The line is the 95\u00a0% interval", "points", listed=True,
           bounds=("effect_low", "effect_high")),
    Column("share", "share", lambda f: f.share, "the family's part of all positive evidence for the prompt on the "
           "pictures concerned", "percent", listed=True),
    Column("alignment", "alignment", lambda f: f.alignment, "similarity of the family's examples to the prompt by the "
           "evaluator, minus that to an empty prompt. Near or below zero: the examples do not show the prompt",
           "points", listed=True),
    Column("clarity", "clarity", lambda f: f.clarity, "how much the family's examples look alike: 100\u00a0% for equal "
           "ones, near 0\u00a0% for unrelated ones", "percent",
           shown=lambda f: "" if f.by_writing else percent(f.clarity)),
    Column("confidence", "confidence", lambda f: f.confidence, "probability that removing the cause from the pictures "
           "would confirm the finding", "percent", listed=True),
    Column("latents", "latents", lambda f: list(f.latents), "the family, strongest first"),
    Column("doubts", "doubts about the name", lambda f: "; ".join(f.doubts), evidence="doubts"),
    Column("in_pixels", "in pixels", lambda f: _in_pixels(f, "verdict"), evidence="pixels", optional=True),
    Column("removal", "removal", lambda f: _edited(f, "removal"), "fall of the score when the cause is edited out of "
           "the picture, minus the fall with a control edit", "points", evidence="pixels", optional=True),
    Column("transplant", "transplant", lambda f: _edited(f, "transplant"), "rise of the score when the cause is pasted "
           "into pictures without it, minus the rise with a control patch", "points", evidence="pixels", optional=True),
)  # fmt: skip


def columns(*, listed: bool) -> list[Column]:
    """The columns of the report's table and the panel's list, or those shown with a single finding only."""
    return [column for column in COLUMNS if column.listed is listed]


def _computed() -> dict[str, Column]:
    """Columns that the JSON holds beside the fields, by name."""
    own = {one.name for one in fields(Finding)}
    return {c.name: c for c in COLUMNS if c.name not in own and not c.evidence}
