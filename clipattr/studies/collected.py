"""Collected: queries over all pictures of a study.

Owns scores of all pictures, the rank of one score among them, mean attributions of a prompt over the pictures that show
it, and the pictures with the largest attribution to a latent. Uses the study's stored activations, so no picture is
decoded or encoded; at sites before the last block, whose activations do not determine the embedding, queries raise
`SiteError`. Uses only attributes of a study. Start at `Collected.rests_on`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from clipattr.errors import DataError, SiteError

CHUNK = 2048
OWN = 100  # pictures over which a prompt's attributions are averaged
USERS = 48  # pictures of a latent over which attributions of prompts are averaged
MAX_TEXTS = 400  # prompts whose attribution to a latent is computed
KEEP_EMBEDDINGS = 200_000  # pictures up to which image embeddings stay in memory


@dataclass(frozen=True, eq=False)
class Reliances:
    """Mean attributions of a prompt to latents over some pictures, largest first.

    Attributes:
        latents: (m,) numbers of the latents.
        means: (m,) mean attribution over the pictures, raw.
        present: (m,) share of the pictures in which the latent is active.
        rows: the pictures. chosen_by: how they were chosen.
        values: attribution of each picture to each latent, scipy CSR (pictures, n_latents).
    """

    latents: np.ndarray
    means: np.ndarray
    present: np.ndarray
    rows: np.ndarray
    chosen_by: str
    values: Any
    unit: str


@dataclass(frozen=True)
class Standing:
    """A score in comparison with other pictures and other prompts.

    Attributes:
        below: share of the study's other pictures with a lower score. pictures: number of these pictures.
        label, label_mean: the picture's label and the mean score of pictures with this label; "" and NaN without one.
        rank, prompts: rank of the prompt among itself and the study's label words for this picture (1 is the highest),
            and their number; 0 and 0 without labels.
    """

    below: float
    pictures: int
    label: str
    label_mean: float
    rank: int
    prompts: int


class Collected:
    """Queries over all stored pictures of one study.

    >>> import clipattr as ca
    >>> collected = Collected(ca.open_study("picture-world"))
    >>> scores = collected.scores(ca.Similarity("guitar"))
    >>> scores.shape == (len(collected.study.images),)
    True
    """

    def __init__(self, study: Any) -> None:
        self.study = study
        self.n_latents = int(study.dictionary.n_latents)
        self.n_pictures = len(study.images)

    # pictures

    @cached_property
    def labels(self) -> list[str]:
        """Each picture's label as words, "" where it has none."""
        return [(label or "").replace("_", " ") for label in self.study.images.columns["label"]]

    def chosen_for(self, prompt: str, limit: int = OWN) -> tuple[np.ndarray, str]:
        """Pictures that show a prompt, and how they were chosen: by label, else by the evaluator.

        The audited model's own score is not used, as selection by it would inflate the measured score.
        """
        wanted = prompt.strip().casefold()
        rows = np.array([i for i, label in enumerate(self.labels) if label and label.casefold() == wanted])
        if len(rows):
            if len(rows) > limit:
                rows = rows[np.linspace(0, len(rows) - 1, limit).round().astype(int)]
            return rows, f"labelled “{prompt.strip()}”"
        scores = self.evaluator_scores(prompt)
        return np.argsort(-scores, kind="stable")[:limit], "closest to the prompt by the evaluator"

    def evaluator_scores(self, prompt: str) -> np.ndarray:
        """Cosine of every picture with a text by the evaluator, (pictures,)."""
        text = self.study.evaluator.encode_text([prompt])[0].float().cpu().numpy()
        stored = self.study.evaluator_embeddings
        parts = [np.asarray(stored[i : i + CHUNK], np.float32) @ text for i in range(0, len(stored), CHUNK)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def scores(self, target: Any) -> np.ndarray:
        """The target of every picture, (pictures,), raw."""
        return self._read(target, lambda values: values[:, 0].float(), np.zeros(0))

    def highest(self, target: Any) -> np.ndarray:
        """(pictures,) the number of the target that is highest on each picture."""
        return self._read(target, lambda values: values.argmax(1), np.zeros(0, np.int64))

    def _read(self, target: Any, read: Callable[[Any], Any], none: np.ndarray) -> np.ndarray:
        """What is read off the targets of every picture; `none` without pictures."""
        import torch

        with torch.no_grad():
            parts = [read(target.values(e, self.study.model)).cpu().numpy() for e in self._embeddings()]
        return np.concatenate(parts) if parts else none

    def _embeddings(self) -> Any:
        if self.n_pictures <= KEEP_EMBEDDINGS:
            return self._kept_embeddings
        return self._make_embeddings()

    @cached_property
    def _kept_embeddings(self) -> list[Any]:
        return list(self._make_embeddings())

    def _make_embeddings(self) -> Any:
        import torch

        from clipattr.sites import continue_from

        self.check_site()
        for start in range(0, self.n_pictures, CHUNK):
            with torch.no_grad():
                rows = np.arange(start, min(start + CHUNK, self.n_pictures))
                yield continue_from(self.study.model, self.study.site, self._acts(rows))

    def _acts(self, rows: np.ndarray) -> Any:
        import torch

        model = self.study.model
        stored = torch.from_numpy(np.asarray(self.study.activations[rows], np.float32))
        return stored.to(model.device, model.dtype)

    def check_site(self) -> None:
        """Raise SiteError where the stored activations do not determine the embedding."""
        from clipattr.sites import Site

        site, model = Site(str(self.study.site)), self.study.model
        if not site.is_single or site.needs_context(model):
            raise SiteError(
                "Questions about all pictures are answered from stored activations of the last block; this study is "
                f"at {site}. Ask about single pictures, or build a study at image.-1.cls."
            )

    def standing(self, score: float, target: Any, embedding: Any, *, picture: int | None = None) -> Standing:
        """Rank of a picture's score among other pictures, and of its prompt among the study's label words.

        Args:
            score: the target of one picture, raw.
            target: the target of which `score` is the value.
            embedding: the picture's embedding, (embed,), unit length.
            picture: its row in the study, if it is one of the study's pictures.
        """
        scores = self.scores(target)
        others = np.ones(len(scores), bool)
        label, mean = "", float("nan")
        labels = self.study.images.columns["label"]
        if picture is not None:
            others[picture] = False
            label = self.labels[picture]
        same = [i for i, word in enumerate(labels) if word == labels[picture]] if label else []
        if same:
            mean = float(scores[same].mean())
        below = float((scores[others] < score).mean()) if others.any() else float("nan")
        rank = prompts = 0
        if self.label_words and target.unit == "cosine" and len(target.names) == 1:
            import torch

            with torch.no_grad():
                scored = (self._label_rows.to(embedding) @ embedding).tolist()
            words = zip(self.label_words, scored, strict=True)
            rivals = [rival for word, rival in words if word != target.names[0]]
            prompts, rank = len(rivals) + 1, 1 + sum(rival > score + 1e-6 for rival in rivals)
        return Standing(below, int(others.sum()), label, mean, rank, prompts)

    @cached_property
    def label_words(self) -> list[str]:
        """The distinct labels of pictures as prompts, at most `MAX_TEXTS`."""
        return list(dict.fromkeys(label for label in self.labels if label))[:MAX_TEXTS]

    @cached_property
    def _label_rows(self) -> Any:
        return self.study.model.encode_text(self.label_words)

    def splice(self, rows: np.ndarray, target: Any, latent: int | None = None) -> Any:
        """The `Splice` of some pictures, from stored activations and codes; of one latent's codes alone if given."""
        import torch

        from clipattr.attribution.splice import Splice

        self.check_site()
        study = self.study
        codes = study.codes.rows(torch.from_numpy(np.asarray(rows, np.int64)))
        if latent is not None:
            codes = codes.for_latents([latent]).to_fixed()
        return Splice(study.model, study.dictionary, study.site, self._acts(rows), target, codes=codes)

    # latents

    def rests_on(self, prompt: str, target: Any, rows: np.ndarray | None = None) -> Reliances:
        """Mean attributions of a target over the pictures that show a prompt (or over `rows`), largest first."""
        from scipy.sparse import csr_array

        from clipattr.attribution.methods import find_method

        chosen_by = "the pictures asked for"
        if rows is None:
            rows, chosen_by = self.chosen_for(prompt)
        if not len(rows):
            raise DataError(
                "The study has no pictures, so there is nothing to answer. Build it of at least one."
            )
        splice = self.splice(rows, target)
        found = find_method(None, splice)(splice)[..., 0].cpu().numpy().astype(np.float64)
        active = (splice.amounts != 0).cpu().numpy()
        places = splice.indices.cpu().numpy()
        at = np.nonzero(active)
        shape = (len(rows), self.n_latents)
        values = csr_array((found[at], (at[0], places[at])), shape=shape)
        means = np.asarray(values.sum(axis=0)).ravel() / len(rows)
        present = np.bincount(places[at], minlength=self.n_latents) / len(rows)
        latents = np.flatnonzero(present)
        latents = latents[np.argsort(-np.abs(means[latents]), kind="stable")]
        return Reliances(latents, means[latents], present[latents], rows, chosen_by, values, target.unit)

    def active_rows(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """Pictures (m,) in which a latent is active, and its activations (m,), largest first."""
        offsets, pictures, values = self._by_latent
        span = slice(int(offsets[latent]), int(offsets[latent + 1]))
        order = np.argsort(-values[span], kind="stable")
        return pictures[span][order], values[span][order]

    @cached_property
    def _by_latent(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from clipattr.meaning.examples import by_latent

        offsets, pictures, values = by_latent(self.study.codes)
        return offsets.numpy(), pictures.numpy(), values.float().numpy()

    def bands(self, latent: int, per_band: int) -> tuple[np.ndarray, np.ndarray]:
        """Pictures (m,) and activations (m,): evenly spaced from each quartile of a latent's active pictures."""
        rows, values = self.active_rows(latent)
        places: list[int] = []
        for quarter in range(4):
            start, end = round(len(rows) * quarter / 4), round(len(rows) * (quarter + 1) / 4)
            if end > start:
                spaced = np.linspace(start, end - 1, min(per_band, end - start)).round().astype(int)
                places += np.unique(spaced).tolist()
        return rows[places], values[places]

    def coactive(self, latent: int, n: int = 8) -> list[tuple[int, float, float]]:
        """Latents that co-occur with one: (latent, share of its pictures, that share minus the share elsewhere)."""
        rows, _ = self.active_rows(latent)
        others = self.n_pictures - len(rows)
        if not len(rows) or not others:
            return []
        offsets, pictures, _ = self._by_latent
        mine = np.zeros(self.n_pictures, bool)
        mine[rows] = True
        owner = np.repeat(np.arange(self.n_latents), np.diff(offsets))
        together = np.bincount(owner[mine[pictures]], minlength=self.n_latents)
        elsewhere = np.diff(offsets) - together
        difference = together / len(rows) - elsewhere / others
        difference[latent] = -np.inf
        best = np.argsort(-difference, kind="stable")[:n]
        return [
            (int(j), float(together[j] / len(rows)), float(difference[j])) for j in best if difference[j] > 0
        ]

    def by_use(self, latent: int, target: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Pictures (m,) with the largest attribution of a target to a latent, and the attributions (m,), raw."""
        rows, _ = self.active_rows(latent)
        rows = rows[: 4 * OWN]
        if not len(rows):
            return rows, np.zeros(0)
        used = self._carried(latent, rows, target)[:, 0]
        order = np.argsort(-used, kind="stable")[:n]
        return rows[order], used[order]

    def with_and_without(
        self, latents: Sequence[int], rows: np.ndarray, target: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """A target of some pictures without and with ablation of a family of latents; (rows,) each, raw."""
        if not len(rows):
            return np.zeros(0), np.zeros(0)
        import torch

        splice = self.splice(rows, target)
        family = torch.isin(splice.indices, torch.as_tensor([int(j) for j in latents]).to(splice.indices))
        after = splice.states((splice.amounts * ~family)[:, None])[:, 0, 0]
        return tuple(part.float().cpu().numpy().astype(np.float64) for part in (splice.y[:, 0], after))

    def users(self, latent: int, n: int = 12) -> list[tuple[str, float]]:
        """Prompts with the largest mean attribution to a latent over its top pictures, and the attributions (raw).

        Attributed is each prompt's contrast with the mean over all prompts, so that a latent that raises all prompts
        equally has attribution 0.
        """
        rows, _ = self.active_rows(latent)
        rows = rows[:USERS]
        if not len(rows) or not self.texts:
            return []
        mean = self._carried(latent, rows, self._contrasts).mean(0)
        order = np.argsort(-mean, kind="stable")[:n]
        return [(self.texts[i], float(mean[i])) for i in order]

    def _carried(self, latent: int, rows: np.ndarray, target: Any) -> np.ndarray:
        """Exact ablation of one latent, (rows, targets)."""
        from clipattr.attribution.methods import find_method

        splice = self.splice(rows, target, latent)
        return find_method(None, splice)(splice).sum(1).cpu().numpy().astype(np.float64)

    @cached_property
    def texts(self) -> list[str]:
        """Distinct prompts: labels of pictures, then labels of latents."""
        frame = self.study.latents
        words = frame.loc[frame["aligned"], "label"].dropna().tolist() if "aligned" in frame else []
        return list(dict.fromkeys([*self.label_words, *words]))[:MAX_TEXTS]

    @cached_property
    def _contrasts(self) -> Any:
        from clipattr.attribution import Similarity, VocabularyContrast

        rows = self.study.model.encode_text(self.texts)
        return VocabularyContrast(rows, rows) if len(rows) > 1 else Similarity(rows)

    def nearest(self, latent: int, n: int = 6) -> list[tuple[int, float]]:
        """Latents with the largest cosine of directions, and the cosines."""
        import torch

        decoder = torch.as_tensor(self.study.dictionary.decoder)
        cosine = decoder @ decoder[latent]
        cosine[latent] = -2
        values, latents = cosine.topk(min(n, self.n_latents - 1))
        return list(zip(latents.tolist(), values.tolist(), strict=True))

    def words(self, latent: int) -> list[tuple[str, float]]:
        """The best words for a latent, and their alignments (raw)."""
        labels = self.study.labels
        shown = self.study.vocabulary.display
        pairs = zip(labels.word_top[latent].tolist(), labels.alignment_top[latent].tolist(), strict=True)
        return [(shown[word], value) for word, value in pairs if word >= 0]
