"""Cards: quality figures of a dictionary, the same for every kind, compared with untrained controls.

Owns the card and its verdict; the figures are in `measures.py`. Ignores how the dictionary was trained. Start at
`study_card` for a study's dictionary, at `make_card` for activations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipattr.dictionaries import Dictionary, kmeans, neurons, pca, random_sae
from clipattr.dictionaries.choosing import told_choice
from clipattr.dictionaries.joined import told_joined
from clipattr.dictionaries.placing import place_of
from clipattr.dictionaries.stability import stability
from clipattr.errors import DataError, DictionaryError
from clipattr.sites import Site
from clipattr.storage.files import write_text
from clipattr.storage.paths import user_path
from clipattr.studies.measures import RARE, factor_scores, monosemanticity, reconstruction, spliced

# Whether larger is better, for each figure that the verdict compares.
HIGHER = {
    "explained_variance": True,
    "zero_shot_kept": True,
    "recovered_over_zero": True,
    "recovered_over_mean": True,
    "similarity_change": False,
    "monosemanticity": True,
    "factor_auc": True,
    "factor_f1": True,
}


@dataclass
class Card:
    """Quality figures of a dictionary and of its controls, as `make_card` returns them.

    Attributes:
        figures: {name: value}; shares are in [0, 1], cosines raw.
        controls: {control: figures}.
        verdict: one sentence per figure in which a control is as good or better; empty if there is none.
        tried: where settings were chosen automatically, one sentence per candidate.

    >>> import clipattr as ca
    >>> card = ca.Card(figures={"fvu": 0.2}, controls={"pca": {"fvu": 0.1}}, verdict=[])
    >>> card.to_frame().loc["fvu"].tolist()
    [0.2, 0.1]
    """

    figures: dict[str, float]
    controls: dict[str, dict[str, float]] = field(default_factory=dict)
    verdict: list[str] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON-compatible data, as stored in `Dictionary.card`."""
        return asdict(self)

    def to_frame(self) -> Any:
        """DataFrame with one row per figure and one column per dictionary."""
        import pandas as pd

        return pd.DataFrame({"dictionary": self.figures, **self.controls})

    def save(self, path: str | Path) -> None:
        """Write the card as JSON."""
        write_text(user_path(path), json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n")

    @staticmethod
    def open(path: str | Path) -> Card:
        """Read a card that `save` wrote.

        Raises:
            DictionaryError: another file.
        """
        try:
            return Card(**json.loads(user_path(path).read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError) as error:
            raise DictionaryError(f"{path} holds no card: {error}") from error

    def __str__(self) -> str:
        table = self.to_frame().to_string(float_format=lambda value: f"{value:.4f}")
        return "\n".join([table, *self.verdict, *self.tried])


def make_card(
    dictionary: Dictionary,
    acts: Tensor,
    *,
    model: Any = None,
    site: str | Site | None = None,
    context: Tensor | None = None,
    text: Tensor | None = None,
    labels: Tensor | Sequence[int] | None = None,
    evaluator_embeddings: Tensor | np.ndarray | None = None,
    factors: Tensor | np.ndarray | None = None,
    seeds: Sequence[Dictionary] = (),
    controls: bool | Mapping[str, Dictionary] = True,
    keep: bool = True,
) -> Card:
    """Measure the quality of a dictionary on activations that it was not trained on.

    Args:
        dictionary: any `Dictionary`.
        acts: (rows, width) activations at the dictionary's site.
        model: the `Model` of the activations, for figures of the spliced model.
        site: defaults to the dictionary's own.
        context: (rows, tokens, width), needed by `continue_from` at sites before the last block.
        text: (prompts, embed) unit-length prompt embeddings.
        labels: (rows,) index of each row's correct prompt in `text`, for zero-shot accuracy.
        evaluator_embeddings: (rows, embed) of an independent model, for monosemanticity.
        factors: (rows, factors) of 0 and 1, the true factors of each picture.
        seeds: dictionaries of the same shape from other seeds, for stability.
        controls: True for neurons, PCA, random and k-means directions with equally many active latents, False for
            none, or {name: dictionary}.
        keep: store the card in `dictionary.card`, which is saved with the dictionary.

    Returns:
        A `Card`; shares are in [0, 1], cosines raw.

    Raises:
        DictionaryError: fewer than 2 rows, arrays of different lengths, or labels without `text`.

    >>> import clipattr as ca
    >>> acts = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> card = ca.make_card(ca.neurons(8), acts, controls=False)
    >>> round(card.figures["fvu"], 3)  # neurons reconstruct activations exactly
    0.0
    """
    acts = torch.as_tensor(acts).float()
    if len(acts) < 2:
        raise DictionaryError(f"A card needs at least 2 rows of activations; got {len(acts)}.")
    companions = {
        "labels": labels,
        "evaluator_embeddings": evaluator_embeddings,
        "factors": factors,
        "context": context,
    }
    for name, value in companions.items():
        if value is not None and len(value) != len(acts):
            raise DictionaryError(
                f"{len(acts)} rows of activations need as many of {name}; got {len(value)}."
            )
    if labels is not None and text is None:
        raise DictionaryError(
            "labels are row numbers of text, which is missing: give text=, the prompts' embeddings."
        )

    def judged(one: Dictionary) -> dict[str, float]:
        figures = reconstruction(one, acts)
        codes = one.encode(acts, precision="auto")
        if model is not None:
            where = Site(place_of(one, site))
            figures |= spliced(one, acts, model, where, context=context, text=text, labels=labels)
        if evaluator_embeddings is not None:
            figures["monosemanticity"] = monosemanticity(codes, evaluator_embeddings)
        if factors is not None:
            auc, f1 = factor_scores(codes, factors)
            figures |= {
                "factor_auc": float(auc.max(0).values.mean()),
                "factor_f1": float(f1.max(0).values.mean()),
            }
        return figures

    card = Card(judged(dictionary), tried=[*told_choice(dictionary), *told_joined(dictionary)])
    if seeds:
        matches = [stability(dictionary, other) for other in seeds]
        card.figures["seed_stability"] = float(np.mean(matches))
    beside = (
        default_controls(dictionary, acts, card.figures["l0"]) if controls is True else dict(controls or {})
    )
    for name, control in beside.items():
        if control.site is None:
            control.site = dictionary.site
        card.controls[name] = judged(control)
    card.verdict = verdict(card)
    if keep:
        dictionary.card = card.to_dict()
    return card


def study_card(
    study: Any,
    dictionary: Dictionary | None = None,
    *,
    templates: Sequence[str] = ("{}",),
    seeds: Sequence[Dictionary] = (),
    keep: bool = True,
) -> Card:
    """Measure the quality of a dictionary on a study's held-out pictures, or on all pictures where none are held out.

    Figures of the spliced model need a site at the last block; zero-shot figures use the pictures' labels as classes;
    factor figures need rendered pictures. Controls are fitted on the pictures that are not held out.

    Args:
        study: a study with one vector per picture.
        dictionary: default the study's own.
        seeds, keep: see `make_card`.
        templates: templates of the zero-shot prompts.

    Returns:
        A `Card`; shares are in [0, 1], cosines raw.

    Raises:
        DictionaryError: a study with several tokens per picture; flatten its activations and call `make_card`.

    >>> import clipattr as ca
    >>> card = ca.study_card(ca.open_study("picture-world"), keep=False)
    >>> card.verdict != ""
    True
    """
    made = study.dictionary if dictionary is None else dictionary
    if np.ndim(study.activations) != 2:
        raise DictionaryError(
            f"{study.site} has several tokens per picture: flatten study.activations and call make_card()."
        )
    held = study.holdout_rows if len(study.holdout_rows) else study.rows
    acts = torch.from_numpy(np.asarray(study.activations[held], np.float32))
    fitting = torch.from_numpy(np.asarray(study.activations[study.rows], np.float32))
    extra: dict[str, Any] = {}
    if not study.site.needs_context(study.model):
        extra = {"model": study.model, "site": study.site}
        named = [study.images[int(row)].label for row in held]
        if all(named):
            classes = sorted(set(named))
            extra["text"] = study.model.encode_text(classes, tuple(templates)).float().cpu()
            extra["labels"] = [classes.index(name) for name in named]
    _, factors = scene_factors(study.images, held)
    l0 = float(made.encode(acts).counts().float().mean())
    return make_card(
        made,
        acts,
        evaluator_embeddings=np.asarray(study.evaluator_embeddings[held], np.float32),
        factors=factors,
        seeds=seeds,
        controls=default_controls(made, fitting, l0),
        keep=keep,
        **extra,
    )


def scene_factors(images: Any, rows: Sequence[int] | np.ndarray) -> tuple[list[str], np.ndarray | None]:
    """True factors of rendered pictures: their names, and (rows, factors) of 0 and 1.

    Factors present in fewer than 10 pictures, or absent in fewer than 10, are left out. An empty list and None where
    pictures are not rendered.
    """
    try:
        contents = [images[int(row)].scene.factors() for row in rows]
    except DataError:
        return [], None
    names = sorted(set().union(*contents))
    truth = np.array([[name in content for name in names] for content in contents], np.float32)
    counts = truth.sum(0)
    usual = (counts >= RARE) & (counts <= len(truth) - RARE)
    return [name for name, keep in zip(names, usual, strict=True) if keep], truth[
        :, usual
    ] if usual.any() else None


def default_controls(dictionary: Dictionary, acts: Tensor, l0: float) -> dict[str, Dictionary]:
    """Untrained dictionaries with equally many active latents, and where possible equally many latents."""
    width = dictionary.width
    k = max(1, min(round(l0), width))
    n_latents = max(dictionary.n_latents, k)
    centres = min(n_latents, max(k, len(acts) // 4), 2048)
    return {
        "neurons": neurons(width, k=k),
        "pca": pca(acts, k=k),
        "random": random_sae(acts, n_latents, k),
        "kmeans": kmeans(acts, max(centres, k), k),
    }


def verdict(card: Card) -> list[str]:
    """One sentence per figure in which a control is at least as good."""
    said = []
    for name, higher in HIGHER.items():
        own = card.figures.get(name, float("nan"))
        for control, figures in card.controls.items():
            other = figures.get(name, float("nan"))
            if other >= own if higher else other <= own:
                said.append(f"{name}: {control} does as well or better ({other:.4f} against {own:.4f}).")
    return said
