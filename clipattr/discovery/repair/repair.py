"""Repair: remove unexpected reliances from a model or a classifier, with little effect on other predictions.

Owns the results: scores, a fixed classifier, a patched model. Methods for a classifier's rows are in `methods.py`,
directions in `directions.py`, figures before and after in `evaluation.py`. Start at `repair`.

    how="sharpened"  the concept's direction is taken out of the prompt's text embedding, and what is left is fitted
                   again on balanced pictures with the concept put in and taken out.
    how="project"  the direction is projected out of the prompt's text embedding (or the probe's row), and the bias is
                   refitted; with scope="model", out of the image embedding, for all prompts.
    how="erased", "latents", "combined", "refit", "measured"
                   other changes of the prompt's row, and one chosen on held-back pictures; see `methods.py`.
    how="ablate"   the family's latents are subtracted from the activation while pictures are encoded.

Default: "sharpened" for prompts, "project" for a probe's rows and for the whole model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipattr.attribution import ablate
from clipattr.discovery.encoded import Encoded, encoded, names_given
from clipattr.discovery.findings import Finding
from clipattr.discovery.probes.probe import Probe
from clipattr.discovery.repair.directions import (
    embeddings_without,
    factors_of,
    learning_pictures,
    own_pictures,
)
from clipattr.discovery.repair.evaluation import BeforeAfter, before_after
from clipattr.discovery.repair.methods import MEASURED, METHODS
from clipattr.discovery.repair.removals import Removal, removals_of
from clipattr.discovery.repair.rows import changed_rows
from clipattr.display.wording import counted
from clipattr.errors import StudyError, TargetError
from clipattr.storage.documents import write_json
from clipattr.storage.files import save_tensors

if TYPE_CHECKING:
    from clipattr.studies.study import Study

HOWS, SCOPES = (*METHODS, MEASURED, "ablate"), ("prompts", "model")
STRENGTH = 0.75  # fraction removed; in the picture world, 1 also removed evidence for the prompt itself


class Repair:
    """A repaired model or classifier, made by `repair`. The study and its model are not changed.

    Attributes:
        study, removals, how, scope: arguments of `repair`. before: the original classifier.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> ca.repair(study, [3], prompts="rose").prompts
    ['rose']
    """

    def __init__(
        self,
        study: Study,
        removals: Sequence[Removal],
        how: str,
        scope: str,
        before: Probe,
        after: Probe | None = None,
        projection: Tensor | None = None,
    ) -> None:
        self.study, self.removals, self.how = study, tuple(removals), how
        self.scope, self.before = scope, before
        self._after = after  # for scope="prompts", but for how="ablate"
        self._projection = (
            projection  # for how="project", scope="model": (embed, embed), multiplied from the right
        )

    @property
    def prompts(self) -> list[str]:
        """The prompts concerned, in order."""
        return list(dict.fromkeys(r.prompt for r in self.removals if r.prompt is not None))

    @property
    def latents(self) -> list[int]:
        """All latents that are removed."""
        return sorted({latent for removal in self.removals for latent in removal.latents})

    def __repr__(self) -> str:
        told = ", ".join(f"{r.prompt or 'every prompt'} ← {r.label or 'latents'}" for r in self.removals[:4])
        more = f" and {len(self.removals) - 4} more" if len(self.removals) > 4 else ""
        return f"<Repair: {self.about}: {told}{more}>"

    @property
    def about(self) -> str:
        """The change in one line."""
        if self.how != "ablate":
            where = (
                f"rows of the classifier for {counted(len(self.prompts), 'prompt')}, all others as they were"
                if self.scope == "prompts"
                else "every image embedding"
            )
            done = {
                "refit": "weights refitted in",
                "erased": "directions projected out of, and weights refitted in,",
                "sharpened": "directions projected out of, and weights refitted in,",
            }.get(self.how, "directions projected out of")
            if self.how == MEASURED and self._after is not None:
                taken = sorted(set(self._after.about["taken"].values()))
                done = f"{', '.join(taken)} (chosen on held-back pictures):"
            return f"{done} {where}"
        where = (
            f"as {counted(len(self.prompts), 'prompt')} {'sees' if len(self.prompts) == 1 else 'see'} the picture"
            if self.scope == "prompts"
            else "for every prompt"
        )
        return f"latents ablated at {self.study.site} {where}"

    def classifier(self) -> Probe:
        """The repaired classifier: class names, weights and biases for embeddings of `encode_image`.

        Raises:
            StudyError: latents are ablated at inference, which a classifier on embeddings cannot express.
        """
        if self.how == "ablate":
            raise StudyError(
                "ablating latents changes how a picture is encoded, which no classifier on embeddings can express. Use "
                "repair.scores(pixels), or repair(..., how='project')."
            )
        return self._after if self._after is not None else self.before

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Embeddings of the repaired model, (batch, embed), unit length.

        Args:
            pixels: (batch, 3, H, W) of `model.prepare`.

        Raises:
            StudyError: only some prompts are repaired, so there is no common embedding.
        """
        if self.scope == "prompts":
            raise StudyError(
                "this repair changes the scores of some prompts, not the embedding: use scores(pixels) or "
                "classifier(). repair(..., scope='model') changes the embedding for every prompt."
            )
        with self._ablated(self.latents) if self.how == "ablate" else nullcontext():
            embeddings = self.study.model.encode_image(pixels)
        return self._projected(embeddings)

    def scores(self, pixels: Tensor) -> Tensor:
        """Logits (batch, classes) of the repaired classifier for pixels (batch, 3, H, W), as `before.names`."""
        with torch.no_grad():
            if self.scope == "model":
                return self.before.logits(self.encode_image(pixels))
            plain = self.study.model.encode_image(pixels)
            if self._after is not None:
                return self._after.logits(plain)
            logits = self.before.logits(plain)
            for prompt in self.prompts:
                with self._ablated(self._latents_of(prompt)):
                    number = self.before.index(prompt)
                    logits[:, number] = self.before.logits(self.study.model.encode_image(pixels))[:, number]
            return logits

    def _latents_of(self, prompt: str) -> list[int]:
        return sorted({latent for r in self.removals if r.prompt == prompt for latent in r.latents})

    def _ablated(self, latents: Sequence[int]) -> Any:
        return ablate(self.study, latents)

    def _projected(self, embeddings: Tensor) -> Tensor:
        if self._projection is None:
            return embeddings
        return F.normalize(embeddings @ self._projection.to(embeddings), dim=-1)

    def logits(self, pictures: Encoded) -> Tensor:
        """`scores` of encoded pictures, (pictures, classes)."""
        if self.how != "ablate":
            return self.classifier().logits(self._projected(pictures.embeddings))
        if self.scope == "model":
            return self.before.logits(self._without(pictures, self.latents))
        logits = self.before.logits(pictures.embeddings)
        for prompt in self.prompts:
            number = self.before.index(prompt)
            logits[:, number] = self.before.logits(self._without(pictures, self._latents_of(prompt)))[
                :, number
            ]
        return logits

    def _without(self, pictures: Encoded, latents: Sequence[int]) -> Tensor:
        return embeddings_without(self.study, pictures, latents)

    def evaluate(
        self,
        images: Any = None,
        labels: Sequence[str | None] | None = None,
        groups: Sequence[str | None] | None = None,
    ) -> BeforeAfter:
        """Accuracy, worst group and side effects before and after.

        Args:
            images: anything `Images.open` takes, preferably pictures that were not used so far; default: the study's
                held-out pictures.
            labels: a class of the classifier for each picture, None to leave it out; default: the collection's.
            groups: one name per picture, e.g. "cow, desert"; the worst group is the one with the lowest accuracy.
                Default: the collection's column `group`; without groups the result has a note.

        Raises:
            DataError: there are no labels, a label is not a class, or the number of labels differs from that of
                pictures.
        """
        pictures = encoded(self.study, images)
        given = names_given(labels, pictures, "label")
        sorts = names_given(groups, pictures, "group")
        return before_after(
            self.before,
            self.before.logits(pictures.embeddings),
            self.logits(pictures),
            given,
            sorts,
            repaired=self.prompts,
            about=self.about,
            skipped=len(pictures.images.skipped),
        )

    def export(self, folder: str | Path) -> Path:
        """Write the repair to a folder.

        A projection for some prompts is written as a classifier (safetensors with class names, for embeddings of the
        unchanged model). A projection for the whole model is written as a patched model in open_clip's folder format,
        which `load_model("local-dir:…")` and open_clip read; its embeddings equal those of `encode_image`.

        Raises:
            StudyError: latents are ablated at inference, which neither weights nor a classifier can express; or the
                model has no linear map behind its image tower, or no known configuration.
        """
        place = Path(folder)
        if self.scope == "prompts":
            return self.classifier().save(place)
        if self.how == "ablate":
            raise StudyError(
                "ablating latents needs the dictionary while pictures are encoded, so that no weights can express it. "
                "Export repair(..., how='project', scope='model') instead."
            )
        return self._export_model(place)

    def _export_model(self, place: Path) -> Path:
        model = self.study.model
        if model.image_projection is None:
            raise StudyError(
                f"{model.reference} has no linear map behind its image tower to fold the repair into. Export "
                "repair(..., scope='prompts') instead."
            )
        config = _model_config(model.reference)
        state = {key: value.detach().cpu().clone() for key, value in model.clip.state_dict().items()}
        assert self._projection is not None
        weight = state["visual.proj"]
        state["visual.proj"] = (weight.double() @ self._projection.double()).to(weight.dtype)
        place.mkdir(parents=True, exist_ok=True)
        save_tensors(place / "open_clip_model.safetensors", state)
        written = {
            "model_cfg": config,
            "preprocess_cfg": json.loads(model.preprocess_id),
            "repair": {
                "of": model.reference, "weights": model.weights_hash, "what": self.about,
                "removed": [{"prompt": r.prompt, "latents": list(r.latents), "label": r.label} for r in self.removals],
            },
        }  # fmt: skip
        write_json(place / "open_clip_config.json", written, indent=2)
        return place


def repair(
    study: Study,
    findings: Finding | Iterable[Finding] | Iterable[int],
    *,
    how: str | None = None,
    scope: str = "prompts",
    prompts: str | Sequence[str] | None = None,
    classifier: Probe | Sequence[str] | None = None,
    strength: float = STRENGTH,
    on_prompt: Callable[[int, int], None] | None = None,
) -> Repair:
    """Remove unexpected reliances from a model or a classifier.

    All pictures labelled with a prompt count as its own, also those of another sense of its word. Several prompts are
    repaired together only while they cost at most one point of accuracy together (`classifier().about["together"]`).

    Args:
        study: source of the findings; directions are estimated from its pictures that are not held out.
        findings: all or some findings of `audit`, or one; or latents, with `prompts`.
        how: "sharpened", "erased", "project", "latents", "combined", "refit", "measured" (the first that is no worse
            than doing nothing on held-back pictures), or "ablate"; see the module's docstring. Default: "sharpened",
            which closes most of the gap of prompts; "project" for a `Probe` and for scope="model".
        scope: "prompts" (the findings' own) or "model" (every prompt; with "project" and "ablate").
        prompts: with latents, the prompts to repair; with findings, use only the findings of these prompts.
        classifier: the competing classes: names, or a `Probe`. Default: the pictures' labels, else the vocabulary,
            together with the findings' prompts.
        strength: of how="project", above 0 and up to 1: share of the direction that is removed.
        on_prompt: called before the first prompt and after each, with how many are done and how many there are; what it
            raises ends the repair.

    Returns:
        A `Repair`, which classifies pictures with the repaired classifier or model; nothing is changed in place.

    Raises:
        StudyError: findings of another model or dictionary. TargetError: there is nothing to repair, a prompt is not a
            class, or `how` or `scope` is unknown. SiteError: the study's site has several tokens per picture.

    Source: Belrose et al. 2023, arXiv:2306.03819 (erasure); Kirichenko et al. 2023, arXiv:2204.02937 (balanced refit).

    >>> import clipattr as ca
    >>> ca.repair(ca.open_study("picture-world"), [656], prompts="kite", classifier=["kite", "bat"]).prompts
    ['kite']
    """
    if how is None:
        how = "project" if scope == "model" or isinstance(classifier, Probe) else "sharpened"
    if how not in HOWS or scope not in SCOPES:
        raise TargetError(
            f"how is one of {', '.join(HOWS)} and scope one of {', '.join(SCOPES)}; got {how!r}, {scope!r}."
        )
    if scope == "model" and how not in ("project", "ablate"):
        raise TargetError(
            f"how={how!r} changes the rows of some prompts; scope='model' takes how='project' or how='ablate'."
        )
    if not 0 < strength <= 1:
        raise TargetError(f"the strength of a repair lies above 0 and up to 1; got {strength}.")
    removals = removals_of(study, findings, prompts, scope)
    before = _classifier(study, classifier, [r.prompt for r in removals if r.prompt is not None])
    for removal in removals:
        if removal.prompt is not None:
            before.index(removal.prompt)
    if how == "ablate":
        return Repair(study, removals, how, scope, before)
    pictures = learning_pictures(study)
    if scope == "model":
        return Repair(
            study, removals, how, scope, before, None, _whole(study, removals, pictures, before, strength)
        )
    after = changed_rows(study, removals, pictures, before, strength, how, on_prompt)
    return Repair(study, removals, how, scope, before, after)


def _classifier(study: Study, given: Probe | Sequence[str] | None, prompts: Sequence[str]) -> Probe:
    if isinstance(given, Probe):
        if given.model_hash not in (None, study.model.weights_hash):
            raise StudyError(
                f"the probe reads embeddings of the model with weights {given.model_hash}; the study is of "
                f"{study.model.reference}, weights {study.model.weights_hash}. Fit a probe on this model."
            )
        return given
    if given is None:
        labels = sorted({label for label in study.images.columns["label"] if label})
        given = labels or list(study.vocabulary.words)
    return Probe.of_prompts(study.model, list(dict.fromkeys([*given, *prompts])))


def _whole(
    study: Study, removals: Sequence[Removal], pictures: Encoded, before: Probe, strength: float
) -> Tensor:
    """Projection (embed, embed) that removes the concepts' directions from an embedding."""
    numbers, own = own_pictures(study, pictures, before.names)
    found = []
    for removal in removals:
        mine = (
            own[:, before.index(removal.prompt)]
            if removal.prompt is not None
            else torch.zeros(len(own)).bool()
        )
        found.append(factors_of(study, pictures, [removal], mine, numbers, before.names).directions[:, 0])
    d = torch.stack(found, 1).double()
    basis, size, _ = torch.linalg.svd(d, full_matrices=False)
    basis = basis[:, size > 1e-3 * size.max()]
    return (torch.eye(len(d), dtype=torch.float64) - strength * basis @ basis.T).float()


def _model_config(reference: str) -> dict[str, Any]:
    """The model_cfg from which open_clip builds this model."""
    import open_clip

    from clipattr.models.configs import CONFIG_NAME, LOCAL
    from clipattr.models.weights import bundled_models

    folder = bundled_models().get(reference)
    if reference.startswith(LOCAL):
        folder = Path(reference.removeprefix(LOCAL))
    if folder is not None:
        return json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))["model_cfg"]
    config = None if reference == "custom" else open_clip.get_model_config(reference.split(":")[0])
    if config is None:
        raise StudyError(
            f"the configuration of the model {reference!r} is not known: no folder for open_clip can be written. "
            "Use repair.encode_image, or export scope='prompts'."
        )
    return config
