"""Side: whether a finding is made by the picture, by the wording of the prompt, or by both.

Owns the wordings that are tried and what is measured of each: how much of the finding's effect is left, and how well
the wording still finds the prompt's own pictures. The audit's own evidence is not changed; `FindingSide.noted` writes
the result beside it. Start at `side`.

The effect of a finding on any text is linear in the text's embedding: it is the mean change of the picture's embedding
when the family is ablated (or when the prompt is inserted as text), times the text's contrast against the vocabulary.
So a wording costs one text, and no picture is encoded again. Effects of two wordings are compared in standard
deviations of each wording's own contrast, since wordings differ in how far they spread pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clipattr.discovery.audit.text_insertion import moved_by_writing
from clipattr.discovery.encoded import Encoded, summed_codes
from clipattr.discovery.findings import Finding
from clipattr.discovery.probes.probe import Probe
from clipattr.discovery.repair.directions import embeddings_without, learning_pictures, own_pictures
from clipattr.errors import StudyError, TargetError
from clipattr.statistics import auc

if TYPE_CHECKING:
    import pandas as pd

    from clipattr.studies.study import Study

TEMPLATES = ("a {}", "the {}", "a photo of a {}", "a picture of the {}")  # wordings that add no meaning
NEIGHBOURS = 3  # words nearest to the prompt's text, tried as glosses where the vocabulary has none
GONE = 0.5  # share of the effect that may be left for a wording to count as without the finding
CHANGED = 0.75  # share of the effect above which a wording leaves the finding as it is
MAX_AUC_LOSS = 0.01  # fall of the AUC of own pictures against others that a suggested wording may cost
LEAST_ACTIVE = 5  # pictures in which the family is active, for each half of the pictures


@dataclass(frozen=True)
class FindingSide:
    """On which side a finding is made, with what was measured.

    Attributes:
        prompt, label: the finding's. side: "text" if a wording leaves at most half of the effect and still finds the
            prompt's pictures; "image" if every wording leaves more than three quarters of it; else "both".
        effect: of the finding on the prompt as it is, raw cosine of its contrast against the vocabulary.
        wordings: one row each: `wording`, `gloss` (whether it adds meaning), `left` (share of the effect that is left),
            `auc` (how well it tells own pictures from others). The first is the prompt itself. Measured on the half of
            the pictures on which the suggestion was not chosen.
        suggestion: the wording that leaves least of the effect without finding own pictures worse, None if none helps.

    >>> import clipattr as ca
    >>> rows = ({"wording": "palm", "gloss": False, "left": 1.0, "auc": 0.9},
    ...         {"wording": "palm, a tree", "gloss": True, "left": 0.3, "auc": 0.9})
    >>> ca.FindingSide("palm", "hand", "text", 0.1, rows, "palm, a tree").left
    0.3
    """

    prompt: str
    label: str | None
    side: str
    effect: float
    wordings: tuple[dict[str, Any], ...]
    suggestion: str | None

    def table(self) -> pd.DataFrame:
        """The wordings as a table."""
        import pandas as pd

        return pd.DataFrame(list(self.wordings))

    @property
    def left(self) -> float:
        """Share of the effect that the suggestion leaves; 1 without a suggestion."""
        return next((row["left"] for row in self.wordings if row["wording"] == self.suggestion), 1.0)

    def noted(self, finding: Finding) -> Finding:
        """The finding with `evidence["side"]`: side, suggestion, and the share of the effect that it leaves."""
        told = {"side": self.side, "suggestion": self.suggestion, "left": self.left}
        return replace(finding, evidence={**finding.evidence, "side": told})

    def classifier(self, study: Study, names: Sequence[str]) -> Probe:
        """The zero-shot classifier of some classes with the suggested wording in the prompt's place.

        Raises:
            TargetError: nothing is suggested, or the prompt is not among the names.
        """
        if self.suggestion is None or self.prompt not in names:
            why = "no wording helps" if self.suggestion is None else f"{self.prompt!r} is no class"
            raise TargetError(
                f"there is no classifier with another wording: {why}. repair(...) works on the weights."
            )
        texts = {name: self.suggestion if name == self.prompt else name for name in names}
        return Probe.of_prompts(study.model, texts)


def side(study: Study, finding: Finding, *, glosses: Sequence[str] | None = None) -> FindingSide:
    """Say whether a finding is made by the picture, by the wording of the prompt, or by both.

    Args:
        study: where the finding was made.
        finding: of `audit`.
        glosses: meanings to add to the prompt, e.g. "a tropical tree". Default: the vocabulary's gloss and group of the
            word, else the words nearest to it in the model's own text space.

    Returns:
        A `FindingSide`: the side, all wordings with the share of the effect that each leaves (0 to 1), and one or no
        suggestion.

    Raises:
        StudyError: the family is active in too few pictures to measure an effect.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> found = ca.audit(study, ["palm"], progress=False)
    >>> ca.side(study, found[0], glosses=["a tropical tree"]).side in ("image", "text", "both")
    True
    """
    pictures = learning_pictures(study)
    texts, meant = wordings(study, finding.prompt, finding.label, glosses)
    everyone = torch.arange(len(pictures))
    chosen_on, measured_on = everyone[::2], everyone[1::2]
    change = _changes(study, pictures, finding)
    _, own = own_pictures(study, pictures, [finding.prompt])
    with torch.no_grad():
        rows = study.model.encode_text(texts).float().cpu()
    contrast = rows - _vocabulary_mean(study)
    first, second = (
        _measured(contrast, change, pictures.embeddings, own[:, 0], part, finding)
        for part in (chosen_on, measured_on)
    )
    suggested = _suggestion(first, meant)
    left, found = second["left"], second["auc"]
    table = tuple(
        {"wording": text, "gloss": gloss, "left": float(left[row]), "auc": float(found[row])}
        for row, (text, gloss) in enumerate(zip(texts, meant, strict=True))
    )
    which = "both"
    if suggested is not None and left[suggested] <= GONE and found[suggested] >= found[0] - MAX_AUC_LOSS:
        which = "text"
    elif (left[1:] > CHANGED).all():
        which = "image"
    helps = suggested is not None and left[suggested] < 1
    return FindingSide(
        finding.prompt, finding.label, which, float(second["effect"][0]), table,
        texts[suggested] if suggested is not None and helps else None,
    )  # fmt: skip


def wordings(
    study: Study, prompt: str, label: str | None, glosses: Sequence[str] | None = None
) -> tuple[list[str], list[bool]]:
    """The prompt itself, in templates, and with glosses; and which of these add meaning."""
    given = _glosses(study, prompt, label) if glosses is None else list(glosses)
    plain = [prompt, *(template.replace("{}", prompt) for template in TEMPLATES)]
    added = [text for gloss in given for text in (f"{prompt}, {gloss}", f"a photo of a {prompt}, {gloss}")]
    fits = [text for text in added if len(text.encode()) + 2 <= 4 * study.model.context_length]
    return [*plain, *fits], [False] * len(plain) + [True] * len(fits)


def _glosses(study: Study, prompt: str, label: str | None) -> list[str]:
    vocabulary = study.vocabulary
    known = [place for place, word in enumerate(vocabulary.words) if word.casefold() == prompt.casefold()]
    given = [vocabulary.glosses[place] for place in known] + [vocabulary.groups[place] for place in known]
    skipped = {prompt.casefold(), (label or "").casefold()}
    found = [gloss for gloss in given if gloss and gloss.casefold() not in skipped]
    if found:
        return list(dict.fromkeys(found))
    with torch.no_grad():
        rows = study.model.encode_text([prompt, *vocabulary.words]).float()
    order = (rows[1:] @ rows[0]).argsort(descending=True).tolist()
    names = [vocabulary.words[place] for place in order]
    return [name for name in names if name.casefold() not in skipped][:NEIGHBOURS]


def _vocabulary_mean(study: Study) -> Tensor:
    with torch.no_grad():
        return study.model.encode_text(study.vocabulary.prompts).float().mean(0).cpu()


def _changes(study: Study, pictures: Encoded, finding: Finding) -> Tensor:
    """(pictures, embed): what the family adds to each embedding, zero where it is not active; where text insertion has
    proved the finding, the mean change that inserting the prompt makes, the same for all."""
    if finding.by_writing:
        moved = moved_by_writing(study, pictures, finding.prompt, torch.ones(len(pictures), dtype=torch.bool))
        return moved.expand(len(pictures), -1)
    change = pictures.embeddings - embeddings_without(study, pictures, finding.latents)
    return change * (summed_codes(pictures.codes, list(finding.latents)) > 0)[:, None]


def _measured(
    contrast: Tensor, change: Tensor, embeddings: Tensor, own: Tensor, part: Tensor, finding: Finding
) -> dict[str, Tensor]:
    """Per wording its effect, the share of the prompt's that is left, and the AUC of own pictures against others."""
    moved = change[part]
    active = (moved != 0).any(1)
    if int(active.sum()) < LEAST_ACTIVE:
        raise StudyError(
            f"the family of the finding {finding.prompt!r} / {finding.label!r} is active in {int(active.sum())} of "
            f"{len(part)} pictures of the study; {LEAST_ACTIVE} are needed to measure an effect."
        )
    effect = moved[active].mean(0) @ contrast.T
    if float(effect[0]) <= 0:
        raise StudyError(
            f"the finding {finding.prompt!r} / {finding.label!r} has no effect on the pictures of this study (mean "
            f"{float(effect[0]):.4f}), so no wording can remove it."
        )
    scores, mine = embeddings[part] @ contrast.T, own[part].numpy()
    told = [auc(column.numpy(), mine) for column in scores.T]
    relative = effect / scores.std(0)
    return {"effect": effect, "left": relative / relative[0], "auc": torch.tensor(told)}


def _suggestion(measured: dict[str, Tensor], meant: Sequence[bool]) -> int | None:
    """The wording with the least of the effect among those that find own pictures as well as the prompt does."""
    good = measured["auc"] >= measured["auc"][0] - MAX_AUC_LOSS
    good[0] = False
    places = good.nonzero().flatten().tolist()
    if not places:
        return None
    return min(places, key=lambda place: (abs(float(measured["left"][place])), not meant[place]))
