"""Name checks: how certain the name of a finding's cause is.

Owns the comparison of a family's label with the runner-up word and with the labels of the family's pictures. Ignores
how labels are chosen. Start at `name_check`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipattr.display.wording import visible

if TYPE_CHECKING:
    from clipattr.discovery.findings import Finding, Findings

MANY = 0.5  # least share of a family's pictures with one label for that label to count as another name


@dataclass(frozen=True)
class NameCheck:
    """Evidence for and against a label.

    Attributes:
        runner_up: second word for the family's strongest latent; None if unknown.
        lead: alignment of the label minus that of the runner-up, raw cosine; NaN if unknown.
        pictured: most frequent label of the family's pictures, None without labels; `count` of `pictures` have it.
    """

    label: str | None
    runner_up: str | None
    lead: float
    pictured: str | None
    count: int
    pictures: int

    @property
    def is_doubtful(self) -> bool:
        """Whether most of the family's pictures are labelled as something else."""
        if self.label is None or self.pictured is None or not self.pictures:
            return False
        same = _plain(self.label) in _plain(self.pictured) or _plain(self.pictured) in _plain(self.label)
        return not same and self.count >= MANY * self.pictures

    def words(self) -> str:
        """The check in one line, as text; "" if nothing is known."""
        parts = []
        if self.pictured is not None:
            verb = "is" if self.count == 1 else "are"
            told = (
                f"{self.count} of its {self.pictures} pictures {verb} labelled {visible(self.pictured, 40)}"
            )
            if self.is_doubtful:
                parts.append(f"the name may be wrong: {told}")
            elif self.count >= MANY * self.pictures:
                parts.append(told)
        if self.runner_up is not None:
            parts.append(
                f"next best word: {visible(self.runner_up, 40)}, {self.lead * 100:.1f} points behind"
            )
        return "; ".join(parts)


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
    return NameCheck(finding.label, runner_up, lead, pictured, count, pictures)


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
