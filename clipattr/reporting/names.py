"""Name checks: where the name of a finding's cause comes from, and how certain it is.

Owns the comparison of a family's label with the runner-up word and with the labels of the family's pictures. Doubts
that the audit states are those of the finding (`Finding.doubts`). Start at `name_check`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipattr.display.wording import points, span, visible

if TYPE_CHECKING:
    from clipattr.discovery.findings import Finding, Findings

# By the audit's reason: where the word of a finding comes from. {prompt} and {label} are filled in.
SOURCES = {
    "co-occurrence": "The word {label} comes from the evaluator, which sees it on pictures of {prompt} more often than "
    "on others",
    "latents that co-occur": "The word {label} comes from the evaluator, which sees it where these latents are active "
    "more often than where they are not",
    "part of the name": "The word {label} is a part of the prompt's own name",
    "written": "The audit wrote {prompt} on other pictures, so the cause needs no word from the evaluator",
}
MANY = 0.5  # least share of a family's pictures with one label for that label to count as another name


@dataclass(frozen=True)
class NameCheck:
    """Evidence for and against a label.

    Attributes:
        runner_up: second word for the family's strongest latent; None if unknown.
        lead: alignment of the label minus that of the runner-up, raw cosine; NaN if unknown.
        pictured: most frequent label of the family's pictures, None without labels; `count` of `pictures` have it.
        doubts: what the audit says against the label, a clause each; None if it did not say. Then a label of most of
            the pictures counts, which names the main object in them and not what stands beside it.
    """

    label: str | None
    runner_up: str | None
    lead: float
    pictured: str | None
    count: int
    pictures: int
    doubts: tuple[str, ...] | None = None

    @property
    def is_doubtful(self) -> bool:
        """Whether the audit doubts the label, or most of the family's pictures are labelled as something else."""
        return self._labelled_otherwise if self.doubts is None else bool(self.doubts)

    @property
    def _labelled_otherwise(self) -> bool:
        if self.label is None or self.pictured is None or not self.pictures:
            return False
        same = _plain(self.label) in _plain(self.pictured) or _plain(self.pictured) in _plain(self.label)
        return not same and self.count >= MANY * self.pictures

    def words(self) -> str:
        """The check in one line, as text; "" if nothing is known."""
        parts = [visible(doubt, 300) for doubt in self.doubts or ()]
        if self.pictured is not None:
            verb = "is" if self.count == 1 else "are"
            told = (
                f"{self.count} of its {self.pictures} pictures {verb} labelled {visible(self.pictured, 40)}"
            )
            if self._labelled_otherwise or self.count >= MANY * self.pictures:
                parts.append(told)
        if self.runner_up is not None:
            word = visible(self.runner_up, 40)
            if self.lead < 0:
                parts.append(f"its strongest latent fits {word} better, by {-self.lead * 100:.1f} points")
            else:
                parts.append(f"next best word: {word}, {self.lead * 100:.1f} points behind")
        told = "; ".join(parts)
        return f"the name may be wrong: {told}" if self.is_doubtful and told else told


def striking(findings: Findings, n: int = 3) -> list[Finding]:
    """The findings that a stranger understands at a glance: named, with pictures that agree, of different kinds first.

    Among equals the one of the largest causal effect comes first. Fewer than `n` if there are not so many.
    """
    clear = [f for f in findings if f.label is not None and _plain(f.label) != _plain(f.prompt)]
    clear = [f for f in clear if not name_check(findings.study, f).is_doubtful]
    clear.sort(key=lambda f: -f.causal_effect.value)
    chosen: list[Finding] = []
    for finding in clear:
        if finding.kind not in {f.kind for f in chosen} and finding.prompt not in {f.prompt for f in chosen}:
            chosen.append(finding)
    chosen += [f for f in clear if f not in chosen and f.prompt not in {g.prompt for g in chosen}]
    return chosen[:n]


def name_check(study: Any, finding: Finding) -> NameCheck:
    """Compare a finding's label with the runner-up word and with the labels of its pictures.

    Args:
        study: the finding's study; None, or a study without labels, leaves the corresponding fields unknown.
    """
    runner_up, lead = _runner_up(study, finding)
    pictured, count, pictures = None, 0, 0
    if study is not None:
        places = {name: i for i, name in enumerate(study.images.ids)}
        labels = study.images.columns["label"]
        borne = [labels[places[name]] for name in finding.examples if name in places]
        counts = Counter(label.replace("_", " ") for label in borne if label)
        pictures = len(borne)
        if counts:
            pictured, count = counts.most_common(1)[0]
    doubts = finding.doubts if "doubts" in finding.evidence else None
    return NameCheck(finding.label, runner_up, lead, pictured, count, pictures, doubts)


def word_source(finding: Finding) -> str:
    """Where the word of a finding comes from, as a sentence without its full stop; "" if the audit does not say.

    >>> from types import SimpleNamespace
    >>> word_source(SimpleNamespace(prompt="hot dog", label="dog", evidence={"reason": "part of the name"}))
    "The word “dog” is a part of the prompt's own name"
    """
    told = SOURCES.get(str(finding.evidence.get("reason")), "")
    if finding.label is None and finding.evidence.get("reason") != "written":
        return ""
    label, prompt = visible(finding.label or "", 60), visible(finding.prompt, 60)
    return told.format(label=f"“{label}”", prompt=f"“{prompt}”")


def proof_words(finding: Finding) -> str:
    """What proves a finding `by_pictures`, as text; "" for any other.

    >>> from types import SimpleNamespace
    >>> rise = {"value": 0.12, "low": 0.09, "high": 0.15}
    >>> weak = SimpleNamespace(by_pictures=True, prompt="fox", label="hay", evidence={"beside": rise})
    >>> proof_words(weak).split(". ")[1]
    'Pictures of “fox” that show “hay” score 12.0 points higher than its other pictures (9.0 to 15.0)'
    """
    if not finding.by_pictures:
        return ""
    cause, prompt = visible(finding.label or "the cause", 40), visible(finding.prompt, 40)
    said = "Ablating this family does not prove it."
    for name, which in (
        (
            "thing",
            f"Pictures that show “{cause}” without “{prompt}” score {{}} points higher than pictures of neither",
        ),
        (
            "beside",
            f"Pictures of “{prompt}” that show “{cause}” score {{}} points higher than its other pictures",
        ),
    ):
        effect = finding.evidence.get(name)
        effect = effect if isinstance(effect, Mapping) else {}
        if (effect.get("low") or 0) > 0:
            said += f" {which.format(points(effect['value']).lstrip('+'))} ({span(effect['low'], effect['high'])})."
    return f"{said} The family responds to the cause; the score depends on it through other latents as well."


def latent_words(finding: Finding) -> list[tuple[int, str]]:
    """(latent, its own label) for each latent of a finding's family; "" where no word fits or none was kept."""
    named = finding.evidence.get("latent_labels")
    labels = list(named) if isinstance(named, list | tuple) else []
    labels += [None] * (len(finding.latents) - len(labels))
    return [
        (int(j), "" if label is None else visible(label, 40))
        for j, label in zip(finding.latents, labels, strict=False)
    ]


def examples_words(finding: Finding) -> tuple[str, str]:
    """Heading of the pictures shown for a finding's family, and a sentence that counts those that show the cause."""
    label = visible(finding.label or "", 40)
    shown, strongest = finding.evidence.get("strongest_shown"), finding.evidence.get("strongest")
    if finding.by_writing:
        return "The strongest pictures of the family", ""
    if not label or not isinstance(shown, int) or not isinstance(strongest, list | tuple):
        return f"What {label or 'the family'} responds to: its strongest pictures", ""
    count = (
        f"The evaluator sees “{label}” in {shown} of the {len(strongest)} strongest pictures of the family"
    )
    if not finding.shows_cause:
        return "The strongest pictures of the family", count + "."
    rest = len(strongest) - shown
    count += (
        f"; the other {rest} are not shown here."
        if rest > 1
        else "; the other one is not shown here."
        if rest
        else "."
    )
    return f"Where the family is active and the evaluator sees “{label}”", count


def measured_words(finding: Finding) -> str:
    """Heading of the pictures that a finding was measured on."""
    prompt = visible(finding.prompt, 40)
    if "prompt_examples" not in finding.evidence:
        return f"Pictures labelled “{prompt}”"
    if finding.by_writing:
        return f"Pictures of “{prompt}” with writing"
    own = str(finding.evidence.get("concerns", "")).startswith("the prompt's own")
    whose = f"pictures of “{prompt}”" if own else "other pictures"
    clear = finding.shows_cause and finding.label is not None
    where = f" where the evaluator sees “{visible(finding.label, 40)}”" if clear else ""
    return f"Measured on {whose}{where}"


def _runner_up(study: Any, finding: Finding) -> tuple[str | None, float]:
    """The best word other than the label for the strongest latent, and the lead of the label."""
    held = getattr(study, "labels", None)
    if held is None or not finding.latents or finding.label is None:
        return None, float("nan")
    latent = int(finding.latents[0])
    words, values = held.word_top[latent].tolist(), held.alignment_top[latent].tolist()
    shown = study.vocabulary.display
    pairs = [(shown[word], value) for word, value in zip(words, values, strict=True) if word >= 0]
    own = [value for word, value in pairs if _plain(word) == _plain(finding.label)]
    others = [(word, value) for word, value in pairs if _plain(word) != _plain(finding.label)]
    if not own or not others:
        return None, float("nan")
    word, value = max(others, key=lambda pair: pair[1])
    return str(word), float(own[0] - value)


def _plain(word: str) -> str:
    return word.replace("_", " ").strip().strip("“”").casefold()
