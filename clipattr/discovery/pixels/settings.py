"""Settings of a verification: every constant that decides, with its unit and reason. Start at `PixelSettings`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PixelSettings:
    """Settings and thresholds of a verification.

    Chosen on a few findings of worlds called `choose`; see docs/decisions/pixels.md.

    Attributes:
        strong_pictures: pictures in which the family is strong; a third of them choose the edit.
        fewest: strong pictures below which nothing is tested.
        weak_pictures: pictures without the family that the cause is transplanted into.
        strong: fraction of the mean code of the strongest pictures above which a picture counts as strong.
        windows, window: places a side of the occlusion maps, and the side of a window as a fraction of the picture's.
        fractions: areas of the picture that are tried as the region of the cause. kept: areas that stay where the
            surroundings are exchanged. borders: widths of frames, as fractions of the shorter side.
        text: whether regions of text are tried, by an OCR detector that needs the extra "ocr".
        least_recall: share of known words, written into the study's own pictures, that the detector must find for its
            regions to be tried.
        silenced: fraction of the family's codes that the edit must remove for the finding to be testable.
        selective: by how much more than its control it must take away.
        area: penalty of an edit that changes the whole picture, in fractions of silenced codes.
        least_effect: change of the contrast over the control's, in spreads of the prompt's contrast over the study,
            that removal and transplant must reach on average, each with an interval above zero. Any value from 0.15 to
            0.3 gives the same verdicts.
        confirmed_odds, contradicted_odds: how much likelier the verdict is for a true finding than for a false one; the
            factor of the odds of a finding's confidence.
        excluded: effect, in the same unit, that the interval must exclude before a finding is contradicted.

    >>> import clipattr as ca
    >>> ca.PixelSettings(fewest=4).fewest
    4
    """

    strong_pictures: int = 24
    fewest: int = 9
    weak_pictures: int = 16
    strong: float = 0.4
    windows: int = 5
    window: float = 0.36
    fractions: tuple[float, ...] = (0.06, 0.12, 0.22, 0.35, 0.5)
    kept: tuple[float, ...] = (0.3, 0.5)
    borders: tuple[float, ...] = (0.08, 0.14)
    text: bool = False
    least_recall: float = 0.7
    silenced: float = 0.5
    selective: float = 0.25
    area: float = 0.25
    least_effect: float = 0.15
    excluded: float = 0.4
    confirmed_odds: float = 12.0
    contradicted_odds: float = 0.1

    @property
    def forwards(self) -> int:
        """Forward passes of one finding, at most."""
        edits = len(self.fractions) + len(self.kept) + len(self.borders) + 2 + self.text  # overlay, colour
        finding = -(-self.strong_pictures // 3)
        measuring = self.strong_pictures - finding
        mapping = self.strong_pictures * (self.windows**2 + 1)
        return mapping + finding * (2 * edits + 1) + 3 * measuring + 2 * self.weak_pictures
