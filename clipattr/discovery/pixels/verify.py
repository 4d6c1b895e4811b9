"""Verification: take a finding's cause out of pictures and put it into others, and measure the prompt's score.

An ablation of latents is a statement about the model. A verification is one about pictures: an edit that silences the
family is chosen on one third of the pictures in which it is strong, and measured on the others, always beside a control
edit of equal extent. Owns the choice of pictures and edits and the verdict. Start at `verify`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clipattr.discovery.audit.run import placed
from clipattr.discovery.findings import Finding, Findings
from clipattr.discovery.opened import not_opened
from clipattr.discovery.pixels.candidates import candidate_edits, choose_pictures
from clipattr.discovery.pixels.edits import Edit
from clipattr.discovery.pixels.measure import Measure
from clipattr.discovery.pixels.settings import PixelSettings
from clipattr.display.progress import Progress
from clipattr.errors import DataError, SiteError, TargetError
from clipattr.execution.checkpoint import resumed
from clipattr.execution.engine import Engine, Here
from clipattr.models.surroundings import unaffected
from clipattr.statistics import Interval, t_interval

if TYPE_CHECKING:
    from clipattr.studies.study import Study

VERDICTS = ("confirmed", "contradicted", "untestable")
ENOUGH = 0.8  # fraction of the codes; edits that silence more are no better for it


@dataclass(frozen=True)
class PixelEvidence:
    """Result of editing pictures for one finding. Effects are raw cosine of the prompt's contrast, over the control's.

    Attributes:
        verdict: one of `VERDICTS`; reason: why, in a sentence.
        edit: name of the edit, "region", "overlay", "border", "text", "surroundings" or "colour", and its size where it
            has several. area: fraction of the picture it changes.
        silenced: fraction of the family's codes it takes away on the measuring pictures; control: its control does.
        removal: fall of the contrast; transplant: rise of the contrast of pictures that had neither. carried: the part
            of the removal that passes through the family's latents, by exact ablation; None where that is not known.
        wakes: family's mean code on transplanted pictures over that of the strong ones.
        spread: standard deviation of the prompt's contrast over the study, raw cosine.
        alone: whether pictures in which the evaluator sees the prompt itself were left out of both.
        pictures: ids of the measuring pictures. chosen_on: of those that chose the edit. others: of those that had
            neither family nor prompt. unopened: pictures that could not be opened any more; others took their place.
        forwards: pictures encoded. confidence_before: the finding's confidence without this evidence.
    """

    verdict: str
    reason: str
    edit: str | None = None
    area: float = 0.0
    silenced: float = 0.0
    control: float = 0.0
    removal: Interval | None = None
    transplant: Interval | None = None
    carried: Interval | None = None
    wakes: float = 0.0
    spread: float = 0.0
    alone: bool = False
    pictures: tuple[str, ...] = ()
    chosen_on: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    unopened: int = 0
    forwards: int = 0
    confidence_before: float = 0.0


@unaffected
def verify(
    study: Study,
    findings: Findings | Finding | Iterable[Finding],
    *,
    settings: PixelSettings | None = None,
    budget: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    engine: Engine | None = None,
    checkpoint: str | Path | None = None,
) -> Findings:
    """Test findings by editing pictures.

    Args:
        study: the one that the findings come from; its pictures must be readable.
        findings: of `audit`, some of them, or one.
        settings: what is done and asked for.
        budget: forward passes (pictures encoded) for all findings together; findings that no longer fit are left
            "untestable" with that reason. None: no limit. One finding takes at most `settings.forwards`.
        device: where the model runs; default where it is.
        progress: show a bar.
        engine: where findings are verified, e.g. `clipattr.Ray(workers=8)`. None: here. The verdicts are the same.
        checkpoint: folder that keeps what was found for each finding, so that the same call goes on after an
            interruption; it may be the audit's. None: nothing is kept.

    Returns:
        The findings in their order, each with `evidence["pixels"]`: the fields of `PixelEvidence` as plain values; its
        confidence takes the verdict in.

    Raises:
        SiteError: the study's site holds several tokens per picture. TargetError: nothing to verify, or findings of
        another dictionary. DataError: `settings.text` without the extra "ocr"; the checkpoint cannot be written, or
        another process uses it.

    Example:
        >>> import clipattr as ca
        >>> study = ca.open_study("picture-world")
        >>> findings = ca.audit(study, ["rose"], progress=False)
        >>> checked = ca.verify(study, findings, progress=False)
        >>> checked[0].evidence["pixels"]["verdict"]
        'confirmed'
    """
    settings = settings or PixelSettings()
    items = [findings] if isinstance(findings, Finding) else list(findings)
    _check(study, items)
    about = dict(findings.about) if isinstance(findings, Findings) else {}
    measure = Measure(study if device is None else placed(study, device))
    # Computed once, before the study is sent to other processes.
    measure.embeddings  # noqa: B018
    reads = _reads(measure, settings)
    told: list[dict[str, Any]] = []
    shared = [study.hash, asdict(settings), str(device)]
    with Progress(total=len(items), desc="verify", unit="finding", disable=not progress) as bar:
        most = (
            settings.forwards * len(items) if budget is None else min(budget, settings.forwards * len(items))
        )
        bar.set_postfix_str(f"at most {most:,} forward passes")
        while len(told) < len(items):
            left = None if budget is None else budget - sum(one["forwards"] for one in told)
            fits = len(items) if left is None else left // settings.forwards
            if not fits:
                break
            some = items[len(told) : len(told) + fits]
            for one in resumed(
                engine or Here(),
                _examined,
                (measure, settings),
                some,
                folder=checkpoint,
                keys=[[*shared, item.prompt, list(item.latents)] for item in some],
                pack=dict,
                unpack=_read,
            ):
                told.append(one)
                bar.update()
    unasked = PixelEvidence("untestable", f"the budget of {budget} forward passes is used up")
    told += [_plain(unasked)] * (len(items) - len(told))
    made = [_with(item, one, settings) for item, one in zip(items, told, strict=True)]
    spent: dict[str, Any] = {"settings": asdict(settings), "forwards": sum(one["forwards"] for one in told)}
    if settings.text:
        spent |= {"text_recall": measure.text_recall, "text_tried": reads}
    checked = about | {"pixels": spent}
    return Findings(made, study, checked, getattr(findings, "verdicts", ()))


def _check(study: Study, items: Sequence[Finding]) -> None:
    if not items:
        raise TargetError("There is nothing to verify: no finding was given. Give at least one.")
    if not study.site.is_single:
        raise SiteError(
            f"Verification reads one activation per picture; the study was built at {study.site}, which has several. "
            f"Build a study at image.{study.site.block}.cls or image.embedding."
        )
    for item in items:
        if not all(0 <= latent < study.dictionary.n_latents for latent in item.latents):
            raise TargetError(
                f"The finding about {item.prompt!r} names latents {list(item.latents)[:6]}; the study's dictionary has "
                f"{study.dictionary.n_latents}. Verify findings with the study that they were found in."
            )


def _with(finding: Finding, told: dict[str, Any], settings: PixelSettings) -> Finding:
    """The finding with its evidence in pixels, and its confidence given the verdict. An earlier verdict is replaced."""
    earlier: Any = finding.evidence.get("pixels") or {}
    before = float(earlier.get("confidence_before", finding.confidence))
    return replace(
        finding,
        evidence={**finding.evidence, "pixels": {**told, "confidence_before": before}},
        confidence=updated(before, told["verdict"], settings),
    )


def updated(confidence: float, verdict: str, settings: PixelSettings) -> float:
    """Confidence given a verdict: its odds times the ratio of the verdict's rates among true and false findings.

    >>> settings = PixelSettings(confirmed_odds=8.0, contradicted_odds=0.125)
    >>> [round(updated(0.5, verdict, settings), 2) for verdict in VERDICTS]
    [0.89, 0.11, 0.5]
    """
    times = {"confirmed": settings.confirmed_odds, "contradicted": settings.contradicted_odds}.get(
        verdict, 1.0
    )
    return times * confidence / (times * confidence + 1 - confidence)


def _reads(measure: Measure, settings: PixelSettings) -> bool:
    """Whether regions of text are asked for, and the detector finds text in pictures like these."""
    return settings.text and measure.text_recall >= settings.least_recall


def _examined(shared: tuple[Measure, PixelSettings], finding: Finding) -> dict[str, Any]:
    return _plain(examine(shared[0], finding, shared[1]))


def _read(values: Any) -> dict[str, Any]:
    """What a checkpoint kept of one finding; DataError if it is something else."""
    if not isinstance(values, dict) or set(values) != {one.name for one in fields(PixelEvidence)}:
        raise DataError(f"not what a verification says of one finding: {values!r:.200}")
    return values


def examine(measure: Measure, finding: Finding, settings: PixelSettings) -> PixelEvidence:
    """All of one verification, on pictures of the study."""
    start = measure.forwards
    measure.opener.gone.clear()
    column, latents = measure.column(finding.prompt), list(finding.latents)
    chosen = choose_pictures(measure, finding, column, settings)
    if min(chosen.strong, len(chosen.weak)) < settings.fewest:
        short = (
            f"{chosen.strong} pictures show the family and {len(chosen.weak)} show neither it nor the prompt"
        )
        reason, gone = f"{short}; {settings.fewest} of each are needed", measure.opener.gone
        if gone:
            reason += f"; {not_opened(gone)}"
        return PixelEvidence("untestable", reason, spread=chosen.spread, unopened=len(gone))
    strong, weak = measure.pixels(chosen.finding), measure.pixels(chosen.weak)
    found = measure.maps(strong, latents, column, windows=settings.windows, side=settings.window)
    edits = candidate_edits(strong, weak, settings, measure.text_masks if _reads(measure, settings) else None)
    fired = measure.read(strong, latents, column).codes.sum()

    def worth(name: str) -> float:
        edit = edits[name](strong, lambda _: found)
        without, control = (
            1 - float(measure.read(altered, latents, column).codes.sum() / fired)
            for altered in edit.remove(strong, weak)
        )
        # Of edits that silence the family alike, the smaller one says more about where the cause is.
        return min(without, ENOUGH) - max(control, 0.0) - settings.area * edit.area

    best = max(edits, key=worth)
    pixels = measure.pixels(chosen.measuring)

    def maps(some: Tensor) -> tuple[Tensor, Tensor]:
        return measure.maps(some, latents, column, windows=settings.windows, side=settings.window)

    measured = _measured(measure, latents, column, edits[best](pixels, maps), pixels, weak)
    verdict, reason = decide(settings, measured, chosen.spread)
    return PixelEvidence(
        verdict,
        reason,
        best,
        spread=chosen.spread,
        alone=chosen.alone,
        pictures=tuple(measure.study.images.ids[row] for row in chosen.measuring),
        chosen_on=tuple(measure.study.images.ids[row] for row in chosen.finding),
        others=tuple(measure.study.images.ids[row] for row in chosen.weak),
        unopened=len(measure.opener.gone),
        forwards=measure.forwards - start,
        **measured,
    )


def _measured(
    measure: Measure, latents: Sequence[int], column: Tensor, edit: Edit, strong: Tensor, weak: Tensor
) -> dict[str, Any]:
    """Removal and transplant of one edit on pictures that did not choose it."""
    whole = measure.read(strong, latents, column)
    gone, control = (measure.read(altered, latents, column) for altered in edit.remove(strong, weak))
    pasted, beside = (measure.read(altered, latents, column) for altered in edit.transplant(strong, weak))
    silenced, silenced_control = (1 - float(some.codes.sum() / whole.codes.sum()) for some in (gone, control))
    return {
        "area": round(edit.area, 4),
        "silenced": silenced,
        "control": silenced_control,
        "removal": t_interval(control.contrast - gone.contrast),
        "transplant": t_interval(by_source(pasted.contrast - beside.contrast, len(strong))),
        "carried": t_interval(control.carried - gone.carried),
        "wakes": float(pasted.codes.mean() / whole.codes.mean()),
    }


def by_source(values: Tensor, n: int) -> Tensor:
    """Means of values (pictures,) over the pictures that got their cause from one of `n` sources, taken in turn.

    >>> by_source(torch.tensor([1.0, 2.0, 3.0]), 2).tolist()
    [2.0, 2.0]
    """
    source = torch.arange(len(values)) % n
    total = torch.zeros(min(n, len(values))).index_add_(0, source, values.float())
    return total / source.bincount()


def decide(settings: PixelSettings, measured: Mapping[str, Any], spread: float) -> tuple[str, str]:
    """The verdict and its reason, from the effects of removal and transplant and their intervals.

    Confirmed: the interval of each lies above zero, and their mean reaches `least_effect` spreads. Contradicted: the
    edit silences the family, and the interval of the mean excludes an effect of `excluded` spreads.
    """
    silenced, control = measured["silenced"], measured["control"]
    removal, transplant = measured["removal"], measured["transplant"]
    if silenced < settings.silenced or silenced - control < settings.selective:
        return "untestable", (
            f"no edit removes the cause: the best removes {silenced:.0%} of the family's activation, its control "
            f"{control:.0%}"
        )
    mean = (removal.value + transplant.value) / 2
    half = math.hypot(removal.high - removal.value, transplant.high - transplant.value) / 2
    if min(removal.low, transplant.low) > 0 and mean >= settings.least_effect * spread:
        return "confirmed", "the score falls without the cause and rises with it"
    if mean + half < settings.excluded * spread:
        return "contradicted", "the family becomes inactive without the cause, but the score hardly changes"
    return "untestable", "the effects are too uncertain on so few pictures"


def _plain(evidence: PixelEvidence) -> dict[str, Any]:
    told = asdict(evidence)
    if evidence.carried is not None and math.isnan(evidence.carried.value):
        told["carried"] = None
    return told | {name: list(told[name]) for name in ("pictures", "chosen_on", "others")}
