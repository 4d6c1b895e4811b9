"""Browsing: the pictures and latents of a study in an order, filtered, and their thumbnails as they lie on disk.

Owns the orders (`PICTURE_ORDERS`, `LATENT_ORDERS`), the filters, and the bytes of thumbnails. Scores come from
`studies.collected`. Start at `Browser.pictures`.
"""

import io
from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np
from PIL import Image

from clipattr.display.wording import few
from clipattr.errors import ClipattrError, DataError
from clipattr.images.sources import SceneSource
from clipattr.studies.collected import CHUNK, Collected
from clipattr.studies.format import thumbnail_bytes

# What pictures are ordered by, and what it says.
PICTURE_ORDERS = {
    "number": "the order of the study",
    "score": "the model's score for the prompt",
    "latent": "activation of one latent",
    "error": "share of the activation's variance that the dictionary does not explain",
    "surprise": "how much higher the picture ranks by the audited model than by the evaluator, for the prompt",
}
LATENT_ORDERS = {
    "triage": "worth a look: active, clear and well named",
    "number": "the order of the dictionary",
    "frequency": "share of the pictures in which it is active",
    "alignment": "how well its examples fit its label",
    "clarity": "how much its examples look alike",
    "reliance": "mean attribution for the prompt, over the pictures that show it",
    "surprise": "reliance of the prompt on what does not fit it",
}
ANSWERS = ("own label", "another label")  # whether a picture's highest label word is its own
NAMED = ("named", "no word fits", "silent")
LARGEST_SIDE = 1024  # px; a stored thumbnail beyond this is not handed to a browser
JPEG_QUALITY = 82
MADE = 16_384  # thumbnails that are kept in memory where the folder holds none, some 2 KB each
SAMPLE = 2000  # pictures from which the usual error is estimated: enough for a share of 1 in 100
USUAL = 0.99  # share of the study's pictures below the usual error


class Browser:
    """Pictures and latents of one study, for browsing.

    >>> import clipattr as ca
    >>> browser = Browser(Collected(ca.open_study("picture-world")))
    >>> rows, scores = browser.pictures("score", prompt="guitar", label="guitar")
    >>> bool((scores[:-1] >= scores[1:]).all())
    True
    """

    def __init__(self, collected: Collected) -> None:
        self.collected, self.study = collected, collected.study
        self._kept: dict[tuple[str, str], np.ndarray] = {}
        self._made = lru_cache(MADE)(self._make)

    # pictures

    def pictures(
        self,
        by: str = "number",
        *,
        prompt: str = "",
        latent: int = -1,
        falling: bool = True,
        search: str = "",
        ids: Sequence[str] | None = None,
        **filters: str,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows (m,) of the pictures that pass all filters, in order, and what they are ordered by (m,), raw.

        Args:
            by: a key of `PICTURE_ORDERS`. prompt, latent: what "score", "surprise" and "latent" ask about.
            falling: largest first; equal values keep the study's order. "number" always rises.
            search: text that the id or label holds. ids: only these pictures.
            filters: `label`, `group`, `split`: equal to the column; `answer`: one of `ANSWERS`. "" passes all.

        Raises:
            DataError: an unknown order or filter, or a question without its prompt or latent.
            SiteError: the study's stored activations do not give scores.
        """
        if by not in PICTURE_ORDERS:
            raise DataError(f"Pictures are ordered by {', '.join(PICTURE_ORDERS)}; got {by!r:.60}.")
        if unknown := set(filters) - {"label", "group", "split", "answer"}:
            raise DataError(
                f"Pictures are filtered by label, group, split, answer; got {few(sorted(unknown))}."
            )
        values = self.picture_values(by, prompt=prompt, latent=latent)
        keep = np.ones(len(values), bool)
        images = self.study.images
        for column in ("label", "group", "split"):
            if wanted := filters.get(column):
                keep &= np.array([value == wanted for value in images.columns[column]], bool)
        if answer := filters.get("answer"):
            if answer not in ANSWERS:
                raise DataError(f"answer is one of {', '.join(ANSWERS)}; got {answer!r:.60}")
            keep &= self.answers == ANSWERS.index(answer)
        if text := search.strip().casefold():
            keep &= np.array(
                [text in name.casefold() or text in label.casefold()
                 for name, label in zip(images.ids, self.collected.labels, strict=True)], bool,
            )  # fmt: skip
        if ids is not None:
            wanted_ids = set(ids)
            keep &= np.array([name in wanted_ids for name in images.ids], bool)
        return _ordered(np.flatnonzero(keep), values, falling and by != "number")

    def picture_values(self, by: str, *, prompt: str = "", latent: int = -1) -> np.ndarray:
        """(pictures,) sort key of every picture; see `PICTURE_ORDERS`."""
        collected = self.collected
        if by in ("score", "surprise") and not prompt.strip():
            raise DataError(f"Ordering by {by} needs a prompt.")
        if by == "number":
            return np.arange(collected.n_pictures, dtype=np.float64)
        if by == "latent":
            if not 0 <= latent < collected.n_latents:
                raise DataError(f"Latents are numbered 0 to {collected.n_latents - 1}; got {latent}.")
            values = np.zeros(collected.n_pictures)
            rows, active = collected.active_rows(latent)
            values[rows] = active
            return values
        key = (by, prompt.strip())
        if key not in self._kept:
            made = {"score": self._scores, "error": lambda _: self.errors, "surprise": self._surprises}[by](
                key[1]
            )
            self._kept[key] = made
            while len(self._kept) > 8:
                self._kept.pop(next(iter(self._kept)))
        return self._kept[key]

    def _scores(self, prompt: str) -> np.ndarray:
        from clipattr.attribution.targets import Similarity

        return self.collected.scores(Similarity(prompt)).astype(np.float64)

    def _surprises(self, prompt: str) -> np.ndarray:
        """Rank by the model minus rank by the evaluator, as shares of all pictures: -1 to 1."""
        model = self.picture_values("score", prompt=prompt)
        return _ranks(model) - _ranks(self.collected.evaluator_scores(prompt))

    @cached_property
    def errors(self) -> np.ndarray:
        """(pictures,) squared error of the reconstruction over the squared distance from the mean activation."""
        count = len(self._stored)
        parts = [self._errors_of(np.arange(a, min(a + CHUNK, count))) for a in range(0, count, CHUNK)]
        return np.concatenate(parts) if parts else np.zeros(0)

    @cached_property
    def usual_error(self) -> float:
        """99th percentile of `errors`, over at most `SAMPLE` pictures of the study."""
        count = len(self._stored)
        if not count:
            return float("nan")
        rows = np.arange(count)[:: -(-count // SAMPLE)]
        return float(np.quantile(self._errors_of(rows), USUAL))

    def error_of(self, acts: np.ndarray, recon: np.ndarray) -> float:
        """As `errors`, for one picture from anywhere: its activation and reconstruction, (width,)."""
        return float(_unexplained(acts[None], recon[None], self._mean)[0])

    @property
    def _stored(self) -> np.ndarray:
        stored = self.study.activations
        if np.ndim(stored) != 2:
            raise DataError(
                f"Reconstruction errors need one activation per picture; {self.study.site} has several tokens."
            )
        return stored

    @cached_property
    def _mean(self) -> np.ndarray:
        """(width,) mean activation."""
        stored = self._stored
        sums = [np.asarray(stored[a : a + CHUNK], np.float64).sum(0) for a in range(0, len(stored), CHUNK)]
        return np.sum(sums, axis=0) / max(len(stored), 1)

    def _errors_of(self, rows: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            recon = self.study.dictionary.decode(self.study.codes.rows(torch.as_tensor(rows)))
        acts = np.asarray(self._stored[rows], np.float64)
        return _unexplained(acts, recon.detach().cpu().double().numpy(), self._mean)

    @cached_property
    def answers(self) -> np.ndarray:
        """(pictures,) place in `ANSWERS`; -1 for pictures without a label, or whose label is not a label word."""
        from clipattr.attribution.targets import Similarity

        words = self.collected.label_words
        if not words:
            raise DataError(
                "No picture has a label, so right answers cannot be distinguished from wrong ones. Give labels to the "
                "study's pictures."
            )
        best = self.collected.highest(Similarity(words))
        places = {word: i for i, word in enumerate(words)}
        own = np.array([places.get(label, -1) for label in self.collected.labels])
        return np.where(own < 0, -1, (best != own).astype(int))

    def values_of(self, column: str) -> list[str]:
        """The different values of a column (`label`, `group`, `split`), sorted."""
        return sorted({str(value) for value in self.study.images.columns[column] if value})

    # latents

    def latents(
        self, by: str = "triage", *, prompt: str = "", falling: bool = True, search: str = "", named: str = ""
    ) -> tuple[np.ndarray, np.ndarray]:
        """Latents (m,) that pass all filters, in order, and what they are ordered by (m,); cosines raw.

        Args:
            by: a key of `LATENT_ORDERS`. prompt: what "reliance" and "surprise" ask about.
            search: text that the name or label holds, or a number. named: one of `NAMED`; "" passes all.

        Raises:
            DataError: an unknown order or filter, or a question without its prompt.
        """
        if by not in LATENT_ORDERS:
            raise DataError(f"Latents are ordered by {', '.join(LATENT_ORDERS)}; got {by!r:.60}.")
        if named and named not in NAMED:
            raise DataError(f"named is one of {', '.join(NAMED)}; got {named!r:.60}.")
        frame = self.study.latents
        values = self.latent_values(by, prompt=prompt)
        keep = np.ones(len(frame), bool)
        if named:
            silent = np.asarray(frame["frequency"], np.float64) <= 0
            aligned = np.asarray(frame["aligned"], bool) if "aligned" in frame else ~silent
            keep &= {"named": aligned & ~silent, "no word fits": ~aligned & ~silent, "silent": silent}[named]
        if text := search.strip().casefold():
            own = self.study.names
            labels = [label if isinstance(label, str) else "" for label in frame["label"]]
            keep &= np.array(
                [text in label.casefold() or text in own.get(j, "").casefold() or text == str(j)
                 for j, label in enumerate(labels)], bool,
            )  # fmt: skip
        return _ordered(np.flatnonzero(keep), values, falling and by != "number")

    def latent_values(self, by: str, *, prompt: str = "") -> np.ndarray:
        """(n_latents,) sort key of every latent; see `LATENT_ORDERS`. NaN where it is not known."""
        frame = self.study.latents
        if by == "number":
            return np.arange(len(frame), dtype=np.float64)
        if by not in ("reliance", "surprise"):
            return np.asarray(frame[by], np.float64) if by in frame else np.full(len(frame), np.nan)
        if not prompt.strip():
            raise DataError(f"Ordering by {by} needs a prompt.")
        from clipattr.attribution.targets import Similarity

        target = Similarity(prompt.strip())
        found = self.collected.rests_on(prompt, target)
        reliance = np.zeros(len(frame))
        reliance[found.latents] = found.means
        if by == "reliance":
            return reliance
        from clipattr.attribution.compute import align_with

        align = align_with(self.study, target)
        if align is None:
            raise DataError(
                "Surprise compares model and evaluator, and this study has no evaluator. Choose another order."
            )
        return surprise(reliance, np.asarray(align(list(range(len(frame))), 0), np.float64))

    # thumbnails

    def thumbnail(self, row: int) -> bytes:
        """A picture's thumbnail as JPEG or PNG, as it lies in the study's folder; b"" where there is none."""
        try:
            if self._ends is None:
                return self._made(row)
            data = thumbnail_bytes(self.study.path, int(self._ends[row]), int(self._ends[row + 1]))
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:  # reads the header only
                return data if max(picture.size) <= LARGEST_SIDE else b""
        except (ClipattrError, OSError, ValueError):
            return b""

    def _make(self, row: int) -> bytes:
        """A thumbnail that does not lie in the study's folder: a rendered picture is rendered again."""
        buffer = io.BytesIO()
        self.study.thumbnail(row).convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue()

    @property
    def has_thumbnails(self) -> bool:
        """Whether every thumbnail can be had within milliseconds: it lies in the study's folder, or is rendered."""
        return self._ends is not None or isinstance(self.study.images.source, SceneSource)

    @cached_property
    def _ends(self) -> np.ndarray | None:
        file = self.study.path / "thumbnails.npy"
        return np.load(file, mmap_mode="r", allow_pickle=False) if file.exists() else None


def _unexplained(acts: np.ndarray, recon: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(m,) squared error over squared distance from the mean, of activations (m, width)."""
    away = np.square(acts - mean).sum(1)
    return np.square(acts - recon).sum(1) / np.where(away > 0, away, 1.0)


def surprise(reliance: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """Reliance minus the reliance that the fit to the prompt predicts: the fit, scaled to the range of reliance.

    Args:
        reliance, fit: (n,), raw; NaN counts as unknown. A fit below 0 counts as none.

    >>> surprise(np.array([0.2, 0.2]), np.array([0.1, 0.0])).tolist()
    [0.0, 0.2]
    """
    return reliance - np.maximum(fit, 0) * scale(reliance, fit)


def scale(reliance: np.ndarray, fit: np.ndarray) -> float:
    """The largest |reliance| over the largest |fit|, where both are known; 0 where they never are."""
    both = np.isfinite(reliance) & np.isfinite(fit)
    if not both.any():
        return 0.0
    return float(np.abs(reliance[both]).max() / (np.abs(fit[both]).max() or 1.0))


def _ordered(kept: np.ndarray, values: np.ndarray, falling: bool) -> tuple[np.ndarray, np.ndarray]:
    """Kept places by value, unknown ones last; equal values keep their order."""
    mine = values[kept]
    keys = np.where(np.isfinite(mine), -mine if falling else mine, np.inf)
    order = np.argsort(keys, kind="stable")
    return kept[order], mine[order]


def _ranks(values: np.ndarray) -> np.ndarray:
    """Share of the other values that are smaller, equal ones counted half."""
    if len(values) < 2:
        return np.zeros(len(values))
    rising = np.sort(values)
    below, up_to = np.searchsorted(rising, values, "left"), np.searchsorted(rising, values, "right")
    return (below + up_to - 1) / 2 / (len(values) - 1)
