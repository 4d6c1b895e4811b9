"""Verification: take a finding's cause out of pictures and put it into others, and measure the prompt's score.

An ablation of latents is a statement about the model. A verification is one about pictures: an edit that silences the
family is chosen on one third of the pictures in which it is strong, and measured on the others, always beside a control
edit of equal extent. Owns the choice of pictures and edits and the verdict. Start at `verify`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from clipattr.discovery.encoded import summed_codes
from clipattr.discovery.findings import Finding, Findings
from clipattr.discovery.pixels.edits import Cast, Edit, Region, Surroundings, border, largest, overlay_mask
from clipattr.discovery.pixels.measure import Measure
from clipattr.errors import SiteError, TargetError
from clipattr.statistics import Interval, t_interval

if TYPE_CHECKING:
    from clipattr.studies.study import Study

VERDICTS = ("confirmed", "contradicted", "untestable")
TOP = 20  # strongest pictures whose mean code says what "strong" is


@dataclass(frozen=True)
class PixelSettings:
    """What a verification does and asks for. Chosen on the picture world's variant b and the worlds called `choose`.

    Attributes:
        strong_pictures: pictures in which the family is strong; a third of them choose the edit.
        fewest: strong pictures below which nothing is tested.
        weak_pictures: pictures without the family that the cause is transplanted into.
        strong: fraction of the mean code of the strongest pictures above which a picture counts as strong.
        windows, window: places a side of the occlusion maps, and the side of a window as a fraction of the picture's.
        fractions: areas of the picture that are tried as the region of the cause.
        silenced: fraction of the family's codes that the edit must take away for the finding to be testable.
        selective: by how much more than its control it must take away.
        least_effect: change of the contrast over the control's, in spreads of the prompt's contrast over the study,
            that removal and transplant must reach together on average.
    """

    strong_pictures: int = 24
    fewest: int = 9
    weak_pictures: int = 16
    strong: float = 0.4
    windows: int = 6
    window: float = 0.34
    fractions: tuple[float, ...] = (0.06, 0.12, 0.22, 0.35, 0.5)
    silenced: float = 0.5
    selective: float = 0.25
    least_effect: float = 0.15

    @property
    def forwards(self) -> int:
        """Forward passes of one finding, at most."""
        edits = 2 * (len(self.fractions) + 6)
        finding = self.strong_pictures // 3
        measuring = self.strong_pictures - finding
        return (
            self.strong_pictures * (self.windows**2 + 1)
            + finding * (edits + 1)
            + 3 * measuring
            + 3 * self.weak_pictures
        )


@dataclass(frozen=True)
class PixelEvidence:
    """What editing pictures says of one finding. Effects are raw cosine of the prompt's contrast, over the control's.

    Attributes:
        verdict: one of `VERDICTS`; reason: why, in a sentence.
        edit: "region", "overlay", "border", "surroundings" or "colour"; area: fraction of the picture it changes.
        silenced: fraction of the family's codes it takes away on the measuring pictures; control: its control does.
        removal: fall of the contrast; transplant: rise of the contrast of pictures that had neither.
        wakes: family's mean code on transplanted pictures over that of the strong ones.
        spread: standard deviation of the prompt's contrast over the study, raw cosine.
        pictures: ids of the measuring pictures. forwards: pictures encoded.
    """

    verdict: str
    reason: str
    edit: str | None = None
    area: float = 0.0
    silenced: float = 0.0
    control: float = 0.0
    removal: Interval | None = None
    transplant: Interval | None = None
    wakes: float = 0.0
    spread: float = 0.0
    pictures: tuple[str, ...] = ()
    forwards: int = 0


def verify(
    study: Study,
    findings: Findings | Finding | Iterable[Finding],
    *,
    settings: PixelSettings | None = None,
    budget: int | None = None,
    progress: bool = True,
) -> Findings:
    """Test findings by editing pictures.

    Args:
        study: the one that the findings come from; its pictures must be readable.
        findings: of `audit`, some of them, or one.
        settings: what is done and asked for.
        budget: forward passes (pictures encoded) for all findings together; findings that no longer fit are left
            "untestable" with that reason. None: no limit. One finding takes at most `settings.forwards`.
        progress: show a bar.

    Returns:
        The findings in their order, each with `evidence["pixels"]`: the fields of `PixelEvidence` as plain values.

    Raises:
        SiteError: the study's site holds several tokens a picture. TargetError: nothing to verify, or findings of
        another dictionary.

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
    if not items:
        raise TargetError("There is nothing to verify: no finding was given.")
    if not study.site.is_single:
        raise SiteError(
            f"Verification reads one activation a picture; the study was built at {study.site}, which has several. "
            f"Build a study at image.{study.site.block}.cls or image.embedding."
        )
    for item in items:
        if not all(0 <= latent < study.dictionary.n_latents for latent in item.latents):
            raise TargetError(
                f"The finding about {item.prompt!r} names latents {list(item.latents)[:6]}; the study's dictionary has "
                f"{study.dictionary.n_latents}. Verify findings with the study that they were found in."
            )
    about = dict(findings.about) if isinstance(findings, Findings) else {}
    measure, made = Measure(study), []
    for item in tqdm(items, desc="verify", unit="finding", disable=not progress):
        if budget is not None and measure.forwards + settings.forwards > budget:
            evidence = PixelEvidence("untestable", f"the budget of {budget} forward passes is used up")
        else:
            evidence = examine(measure, item, settings)
        made.append(replace(item, evidence={**item.evidence, "pixels": _plain(evidence)}))
    checked = about | {"pixels": {"settings": asdict(settings), "forwards": measure.forwards}}
    return Findings(made, study, checked, getattr(findings, "verdicts", ()))


def examine(measure: Measure, finding: Finding, settings: PixelSettings) -> PixelEvidence:
    """All of one verification, on pictures of the study."""
    start = measure.forwards
    column = measure.column(finding.prompt)
    rows, weak_rows, spread = choose_pictures(measure, finding, column, settings)
    if len(rows) < settings.fewest or len(weak_rows) < settings.fewest:
        short = f"{len(rows)} pictures show the family and {len(weak_rows)} show neither it nor the prompt"
        return PixelEvidence("untestable", f"{short}; {settings.fewest} of each are needed", spread=spread)
    finding_rows, measuring_rows = rows[::3], [row for place, row in enumerate(rows) if place % 3]
    weak = measure.pixels(weak_rows)
    latents = list(finding.latents)

    def maps(pixels: Tensor) -> tuple[Tensor, Tensor]:
        return measure.maps(pixels, latents, column, windows=settings.windows, side=settings.window)

    strong = measure.pixels(finding_rows)
    builders = candidate_edits(strong, maps(strong), weak, settings)
    fired = measure.read(strong, latents, column)[0].sum()
    best: tuple[float, Any, float] | None = None
    for build in builders:
        edit = build(strong, None)
        without, control = (
            1 - float(measure.read(altered, latents, column)[0].sum() / fired)
            for altered in edit.remove(strong, weak)
        )
        # Of edits that silence the family alike, the smaller one says more about where the cause is.
        score = min(without, 0.8) - max(control, 0.0) - 0.25 * edit.area
        if best is None or score > best[0]:
            best = score, build, without - control
    assert best is not None
    pixels = measure.pixels(measuring_rows)
    edit = best[1](pixels, maps)
    return _measured(measure, finding, settings, edit, pixels, weak, column, spread, measuring_rows, start)


def _measured(
    measure: Measure,
    finding: Finding,
    settings: PixelSettings,
    edit: Edit,
    strong: Tensor,
    weak: Tensor,
    column: Tensor,
    spread: float,
    rows: Sequence[int],
    start: int,
) -> PixelEvidence:
    """Removal and transplant of one edit on pictures that did not choose it, and the verdict."""
    latents = list(finding.latents)
    codes, contrast = measure.read(strong, latents, column)
    gone, control = (measure.read(altered, latents, column) for altered in edit.remove(strong, weak))
    silenced, silenced_control = (1 - float(some[0].sum() / codes.sum()) for some in (gone, control))
    removal = t_interval(control[1] - gone[1])
    pasted, beside = (measure.read(altered, latents, column) for altered in edit.transplant(strong, weak))
    transplant = t_interval(pasted[1] - beside[1])
    verdict, reason = decide(settings, silenced, silenced_control, removal, transplant, spread)
    return PixelEvidence(
        verdict,
        reason,
        edit.name,
        round(edit.area, 4),
        silenced,
        silenced_control,
        removal,
        transplant,
        float(pasted[0].mean() / codes.mean()),
        spread,
        tuple(measure.study.images.ids[row] for row in rows),
        measure.forwards - start,
    )


def decide(
    settings: PixelSettings,
    silenced: float,
    control: float,
    removal: Interval,
    transplant: Interval,
    spread: float,
) -> tuple[str, str]:
    """The verdict and its reason.

    Confirmed: removal and transplant both lie above zero, or one clearly does and the other points the same way, and
    together they reach `least_effect` spreads. Contradicted: the edit silences the family, yet neither can reach it.
    """
    if silenced < settings.silenced or silenced - control < settings.selective:
        return "untestable", (
            f"no edit takes the cause out: the best silences {silenced:.0%} of the family, its control {control:.0%}"
        )
    least = settings.least_effect * spread
    mean = (removal.value + transplant.value) / 2
    sure = sum(effect.low > 0 for effect in (removal, transplant))
    if (
        mean >= least
        and sure
        and min(removal.value, transplant.value) > 0
        and (sure == 2 or mean >= 2 * least)
    ):
        return "confirmed", "the score falls without the cause and rises with it"
    if max(removal.high, transplant.high) < 2 * least or mean < least:
        return "contradicted", "the family falls silent without the cause, the score hardly moves"
    return "untestable", "the effects are too uncertain on so few pictures"


Builder = Callable[[Tensor, "Callable[[Tensor], tuple[Tensor, Tensor]] | None"], Edit]


def candidate_edits(
    strong: Tensor, maps: tuple[Tensor, Tensor], weak: Tensor, settings: PixelSettings
) -> list[Builder]:
    """Functions that make an edit for some pictures: (pixels, maps or None for the pictures given here) to `Edit`."""
    size = (strong.shape[2], strong.shape[3])

    def region(fraction: float) -> Builder:
        return lambda pixels, again: Region(largest((again(pixels) if again else maps)[0], fraction, size))

    def surroundings(fraction: float) -> Builder:
        # What stays is what the prompt owes to something else than the family: the thing itself, if it is there.
        def build(pixels: Tensor, again: Callable[[Tensor], tuple[Tensor, Tensor]] | None) -> Edit:
            family, prompt = (_scaled(some) for some in (again(pixels) if again else maps))
            return Surroundings(largest(prompt - family, fraction, size))

        return build

    def fixed(edit: Edit) -> Builder:
        return lambda pixels, again: edit

    made = [region(fraction) for fraction in settings.fractions]
    made += [surroundings(fraction) for fraction in (0.3, 0.5)]
    made += [fixed(Region(border(size, width), "border")) for width in (0.08, 0.14)]
    mask = overlay_mask(strong, weak)
    if mask is not None:
        made.append(fixed(Region(mask, "overlay")))
    made.append(fixed(Cast.between(strong, weak)))
    return made


def _scaled(maps: Tensor) -> Tensor:
    """Maps (pictures, rows, columns) in units of each one's largest absolute value."""
    return maps / maps.abs().amax((1, 2), keepdim=True).clamp_min(1e-9)


def choose_pictures(
    measure: Measure, finding: Finding, column: Tensor, settings: PixelSettings
) -> tuple[list[int], list[int], float]:
    """Rows in which the family is strong, the highest contrast first; rows that show neither; the contrast's spread.

    Nearly equal pictures count once, and pictures that cannot be looked at do not count.
    """
    study = measure.study
    codes = summed_codes(study.codes, list(finding.latents))
    usable = torch.from_numpy(~study.repeats & study.sees)
    level = float(torch.where(usable, codes, torch.zeros(())).sort(descending=True).values[:TOP].mean())
    contrast = measure.embeddings @ column.float().cpu()
    strong = torch.nonzero(usable & (codes >= settings.strong * level) & (codes > 0)).flatten()
    strong = strong[contrast[strong].argsort(dim=0, descending=True, stable=True)][: settings.strong_pictures]
    weak = torch.nonzero(usable & (codes <= 0.05 * level) & (contrast < contrast.median())).flatten()
    step = max(1, len(weak) // settings.weak_pictures)
    return strong.tolist(), weak[::step][: settings.weak_pictures].tolist(), float(contrast.std())


def _plain(evidence: PixelEvidence) -> dict[str, Any]:
    return asdict(evidence) | {"pictures": list(evidence.pictures)}
