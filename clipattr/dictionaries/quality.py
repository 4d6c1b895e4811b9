"""Quality: does a loaded dictionary do on your images what its card promises?

Owns the measurement on a few hundred images, the comparison with the promise, and the search for the likely cause of a
disagreement (another layer, other tokens, another normalisation, another model). Start at `check_sae`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clipattr.dictionaries.readings import readings, unexplained
from clipattr.dictionaries.sae import Dictionary
from clipattr.errors import DictionaryError

if TYPE_CHECKING:
    import pandas

PICTURES = 256  # images read by default: the error of FVU is then about 0.01
ROWS = 4096  # activations measured at most; at sites with many tokens, a random part of each image's tokens
SEARCH_ROWS = 512  # activations on which alternatives are compared
SPLICED = 64  # images whose output is computed with the reconstruction in place
# A promise is measured on the publisher's images, mostly ImageNet; other images are reconstructed less well. A wrong
# layer, token set or normalisation leaves several times as much. See docs/decisions/published-dictionaries.md.
MOST_FVU_RATIO = 2.5  # measured FVU over promised FVU
MOST_FVU_EXCESS = 0.10  # FVU that may be left in any case, for promises near 0
MOST_L0_RATIO = 3.0  # of measured and promised L0, either way
BETTER = 0.7  # an alternative that leaves less than this share of the FVU points to a misreading
SMALL_FVU = 0.05  # below this FVU, alternatives are not compared


@dataclass
class SaeCheck:
    """Measured and published figures of a dictionary, and whether they agree; see `check_sae`.

    Attributes:
        figures: fvu (share of variance unexplained), explained_variance (1 - fvu), l0 (active latents per token),
            cosine (mean, of activation and reconstruction), spliced_cosine (mean, of the model's embedding and the one
            with the reconstruction in place; missing where the site has none), unseen (share of latents that are never
            active on these images; most are rare, so it is no estimate of dead latents).
        promise: the same figures as published; `alive` there counts a much larger set of images.
        alternatives: FVU of other readings and sites on a part of the activations, by name; "as loaded" first.
        reasons: why the dictionary is refused, most likely cause first; empty if it agrees.
        pictures, rows: number of measured images and activations.
        site, model: of the measurement.

    >>> from clipattr import SaeCheck
    >>> check = SaeCheck({"fvu": 0.9}, {"fvu": 0.1}, {}, ["FVU 0.90, published 0.10"], 64, 64, "image.-1.cls", "m")
    >>> check.agrees
    False
    """

    figures: dict[str, float]
    promise: dict[str, float]
    alternatives: dict[str, float]
    reasons: list[str]
    pictures: int
    rows: int
    site: str
    model: str
    notes: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether there is no reason to refuse the dictionary."""
        return not self.reasons

    def to_frame(self) -> pandas.DataFrame:
        """One row per figure: measured and promised (NaN where nothing is promised)."""
        import pandas

        names = [*self.figures, *(name for name in self.promise if name not in self.figures)]
        return pandas.DataFrame(
            {
                "measured": [self.figures.get(name, math.nan) for name in names],
                "promised": [self.promise.get(name, math.nan) for name in names],
            },
            index=names,
        )

    def raise_if_wrong(self) -> None:
        """Raise DictionaryError with the figures and the reasons, unless the check agrees."""
        if self.reasons:
            raise DictionaryError(
                f"The dictionary does not reach its published figures on these images:\n{self}\nIf your images differ "
                "from the publisher's, read check_sae(...) and load without images=."
            )

    def __str__(self) -> str:
        table = self.to_frame().to_string(float_format=lambda value: f"{value:.4g}", na_rep="")
        head = f"{self.pictures} images, {self.rows:,} activations at {self.site} of {self.model}"
        verdict = [
            "agrees with its promise" if self.promise else "nothing is promised; no figure is implausible"
        ]
        return "\n".join([head, table, *self.notes, *([f"- {reason}" for reason in self.reasons] or verdict)])


def check_sae(
    dictionary: Dictionary,
    model: Any,
    images: Any,
    *,
    promise: dict[str, float] | None = None,
    pictures: int = PICTURES,
    batch: int = 32,
) -> SaeCheck:
    """Measure a dictionary on images and compare it with what its publisher promises.

    Args:
        dictionary: one with a site. A transcoder is judged by how well it predicts its output site.
        model: the `Model` it belongs to, or anything `load_model` takes.
        images: anything `Images.open` takes; the images are taken evenly from the whole.
        promise: published figures, see `SaeCheck`; default those that the registry or the dictionary's own card has.
        pictures: images to read at most. batch: images per forward pass.

    Returns:
        The measurement. If it agrees, `dictionary.model_hash` is set to this model where it was unknown.

    Raises:
        DictionaryError: a dictionary without a site, or of another width than the site.
        SiteError: the model has no such site. DataError: no readable images.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> check = ca.check_sae(study.dictionary, study.model, study.images, pictures=64)
    >>> check.agrees, check.site
    (True, 'image.-1.cls')
    """
    from clipattr.images.collection import Images
    from clipattr.models.loading import load_model
    from clipattr.sites import Site

    if dictionary.site is None:
        raise DictionaryError(
            "The dictionary does not state its site: set dictionary.site, e.g. 'image.-1.cls'."
        )
    model, opened = load_model(model), Images.open(images)
    site, source = Site(dictionary.site), Site(dictionary.input_site or dictionary.site)
    widths = (source.shape(model)[-1], site.shape(model)[-1])
    if widths != (dictionary.input_width, dictionary.width):
        raise DictionaryError(
            f"The dictionary is for activations of width {dictionary.input_width}, {source} of {model.reference} has "
            f"{widths[0]}: it belongs to another model or site."
        )
    promised = dict(_promise_of(dictionary) if promise is None else promise)
    chosen = opened[:: max(len(opened) // pictures, 1)][:pictures]
    measured = _Measured(dictionary, model, site, source)
    for _, (pixels,) in chosen.batches([model], batch):
        measured.add(pixels.to(model.device, model.dtype))
    figures = measured.figures()
    alternatives = measured.alternatives() if figures["fvu"] > SMALL_FVU else {"as loaded": figures["fvu"]}
    check = SaeCheck(
        figures, promised, alternatives, _reasons(dictionary, model, figures, promised, alternatives),
        measured.pictures, measured.rows, str(site), model.reference,
    )  # fmt: skip
    if check.agrees and dictionary.model_hash is None:
        dictionary.model_hash = model.weights_hash
    return check


def _promise_of(dictionary: Dictionary) -> dict[str, float]:
    """Published figures, else those of the dictionary's own card."""
    if dictionary.info.get("promise"):
        return dictionary.info["promise"]
    card = (dictionary.card or {}).get("figures") or {}
    return {name: card[name] for name in ("explained_variance", "l0") if isinstance(card.get(name), float)}


class _Measured:
    """Sums over batches: reconstruction, codes, spliced outputs, and a sample of rows at every comparable site."""

    def __init__(self, dictionary: Dictionary, model: Any, site: Any, source: Any) -> None:
        self.dictionary, self.model, self.site, self.source = dictionary, model, site, source
        self.pictures = self.rows = 0
        self._generator = torch.Generator().manual_seed(0)
        self._acts: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._cosines: list[Tensor] = []
        self._elsewhere: dict[str, list[Tensor]] = {}
        self._per_picture = max(1, ROWS // PICTURES)
        self._others = [] if dictionary.is_transcoder else self._comparable()

    def _comparable(self) -> list[Any]:
        """Sites of the same width: the same tokens at other blocks, other tokens at the same block."""
        from clipattr.sites import Site

        site, blocks = self.site, self.model.image_blocks
        own = site.index(self.model)
        stream = "" if not site.is_inside else f"{site.stream}."
        tokens = ("cls", "patches") if self.model.image_tower.has_class_token else ("patches",)
        written = [f"image.{block}.{stream}{site.tokens}" for block in range(blocks) if block != own]
        written += [f"image.{own}.{stream}{other}" for other in tokens if other != site.tokens]
        if site.is_inside:
            written.append(f"image.{own}.{site.tokens}")
        return [Site(text) for text in written]

    def add(self, pixels: Tensor) -> None:
        """Read one batch of prepared images."""
        from clipattr.sites import capture

        wanted = dict.fromkeys([self.source, self.site, *self._others])
        with torch.no_grad(), capture(self.model, *wanted) as held:
            embedded = self.model.encode_image(pixels)
        acts, outputs = held[self.source], held[self.site]
        if self.pictures < SPLICED:
            self._splice(pixels, acts, outputs, embedded)
        self.pictures += len(pixels)
        tokens = 1 if acts.ndim == 2 else acts.shape[1]
        keep = torch.randperm(tokens, generator=self._generator)[: self._per_picture]
        self._acts.append(_some(acts, keep))
        self._outputs.append(_some(outputs, keep))
        for site in self._others:
            other = held[site]
            spread = torch.arange(min(2, 1 if other.ndim == 2 else other.shape[1]))
            self._elsewhere.setdefault(str(site), []).append(_some(other, spread))

    def _splice(self, pixels: Tensor, acts: Tensor, outputs: Tensor, embedded: Tensor) -> None:
        from clipattr.sites import replace

        if not self.site.reaches_embedding(self.model):
            return
        recon = self.dictionary.reconstruct(acts.reshape(-1, acts.shape[-1]).float()).view(outputs.shape)
        with torch.no_grad(), replace(self.model, self.site, recon.to(outputs)):
            again = self.model.encode_image(pixels)
        self._cosines.append(torch.cosine_similarity(embedded.float(), again.float(), dim=-1).cpu())

    def figures(self) -> dict[str, float]:
        """Everything measured, over all batches."""
        acts, outputs = torch.cat(self._acts), torch.cat(self._outputs)
        self.rows = len(acts)
        codes = self.dictionary.encode(acts, precision="auto")
        share = unexplained(self.dictionary, acts, outputs)
        recon = self.dictionary.reconstruct(acts)
        active = codes.indices.reshape(-1)[codes.values.reshape(-1) != 0].unique()
        found = {
            "fvu": share,
            "explained_variance": 1 - share,
            "l0": float(codes.counts().float().mean()),
            "cosine": float(torch.cosine_similarity(outputs, recon, dim=-1).mean()),
            "unseen": 1 - len(active) / self.dictionary.n_latents,
        }
        if self._cosines:
            found["spliced_cosine"] = float(torch.cat(self._cosines).mean())
        return found

    def alternatives(self) -> dict[str, float]:
        """FVU of other readings at the site, and of the dictionary as loaded at other sites."""
        order = torch.randperm(self.rows, generator=torch.Generator().manual_seed(0))[:SEARCH_ROWS]
        acts, outputs = torch.cat(self._acts)[order], torch.cat(self._outputs)[order]
        found = {
            name: unexplained(reading, acts, outputs) for name, reading in readings(self.dictionary).items()
        }
        unit = torch.nn.functional.normalize(acts, dim=-1)
        if not self.dictionary.is_transcoder and self.dictionary.row_norm is None:
            found["on activations of unit length"] = unexplained(self.dictionary, unit)
        for site, parts in self._elsewhere.items():
            other = torch.cat(parts)
            order = torch.randperm(len(other), generator=torch.Generator().manual_seed(0))[:SEARCH_ROWS]
            if float((other[order] - other[order].mean(0)).abs().max()) > 0:
                found[f"at {site}"] = unexplained(self.dictionary, other[order])
        return found


def _some(acts: Tensor, tokens: Tensor) -> Tensor:
    """Rows of some tokens, (rows, width) float32 on the CPU."""
    acts = acts if acts.ndim == 2 else acts[:, tokens.to(acts.device)]
    return acts.reshape(-1, acts.shape[-1]).float().cpu()


def _reasons(
    dictionary: Dictionary,
    model: Any,
    figures: dict[str, float],
    promise: dict[str, float],
    alternatives: dict[str, float],
) -> list[str]:
    """Reasons to refuse the dictionary, and the likely cause."""
    facts = []
    fvu = figures["fvu"]
    if not fvu <= 1:
        facts.append(f"it leaves {fvu:.3g} times the variance unexplained, worse than predicting the mean")
    if "explained_variance" in promise:
        told = 1 - promise["explained_variance"]
        most = max(MOST_FVU_RATIO * told, told + MOST_FVU_EXCESS)
        if fvu > most:
            facts.append(
                f"{fvu:.1%} of the variance is unexplained; {told:.1%} is promised, and at most {most:.1%} is accepted"
            )
    if promise.get("l0"):
        ratio = figures["l0"] / promise["l0"]
        if not 1 / MOST_L0_RATIO <= ratio <= MOST_L0_RATIO:
            facts.append(
                f"{figures['l0']:.1f} latents are active per token; {promise['l0']:.1f} are promised"
            )
    own = alternatives["as loaded"]
    best = min(alternatives, key=lambda name: alternatives[name])
    misread = best != "as loaded" and alternatives[best] < BETTER * own
    if misread and not facts:
        facts.append(f"read as it is, it leaves {own:.1%} of the variance unexplained")
    if not facts:
        return []
    causes = []
    if misread:
        what = "its site" if best.startswith("at ") else "its normalisation or pre-bias"
        causes.append(f"most likely {what}: {best} it leaves {alternatives[best]:.1%}")
    named = dictionary.info.get("model")
    if named is not None and named != model.reference:
        causes.append(f"its card names the model {named}, this is {model.reference}")
    if not causes:
        causes.append(
            "no other block, token set or normalisation of this model fits better: the model's weights, its input "
            "preprocessing, or the file may be others, or your images are unlike those it was trained on"
        )
    return [*causes, *facts]
