"""Repair: take unexpected reliances out of a model or of a classifier, and keep what else it can do.

Owns the choice of what is changed and what leaves it: scores, a fixed classifier, a patched model. Directions are
found in `directions.py`, the numbers before and after in `evaluation.py`. Start at `repair`.

Two ways, each for the prompts concerned or for the whole model:

    how="project"  the factor's direction is taken out of the prompt's text embedding (or the probe's row), whose bias
                   is set anew; with scope="model" out of the image embedding, so that no prompt sees it.
    how="ablate"   the family's latents are taken out of the activation while pictures are encoded, exactly.

The default changes the prompts concerned and nothing else, by projection. A family carries evidence for the thing
itself too: a prompt that loses all of it no longer finds its own pictures, which ablation does nothing about.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
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
from clipattr.discovery.repair.erasure import freed, spread_within
from clipattr.discovery.repair.evaluation import BeforeAfter, before_after
from clipattr.discovery.repair.removals import Removal, removals_of
from clipattr.errors import StudyError, TargetError
from clipattr.storage.documents import write_json
from clipattr.storage.files import save_tensors

if TYPE_CHECKING:
    from clipattr.studies.study import Study

HOWS, SCOPES = ("project", "ablate"), ("prompts", "model")
STRENGTH = 0.75  # measured on the picture world: a whole removal takes a part of the thing along


class Repair:
    """A repaired model or classifier. Made by `repair`; nothing of the study or its model is changed.

    Attributes:
        study, removals, how, scope: what was asked for. before: the classifier as it was.
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
        self.study, self.removals, self.how, self.scope, self.before = (
            study,
            tuple(removals),
            how,
            scope,
            before,
        )
        self._after = after  # project, prompts
        self._projection = (
            projection  # project, model: (embed, embed), to multiply embeddings by from the right
        )

    @property
    def prompts(self) -> list[str]:
        """The prompts whose scores the findings speak of, in order."""
        return list(dict.fromkeys(r.prompt for r in self.removals if r.prompt is not None))

    @property
    def latents(self) -> list[int]:
        """All latents concerned."""
        return sorted({latent for removal in self.removals for latent in removal.latents})

    def __repr__(self) -> str:
        told = ", ".join(f"{r.prompt or 'every prompt'} ← {r.label or 'latents'}" for r in self.removals[:4])
        more = f" and {len(self.removals) - 4} more" if len(self.removals) > 4 else ""
        return f"<Repair: {self.about}: {told}{more}>"

    @property
    def about(self) -> str:
        """What is changed, in one line."""
        if self.how == "project":
            where = (
                f"rows of the classifier for {len(self.prompts)} prompt(s), all others as they were"
                if self.scope == "prompts"
                else "every image embedding"
            )
            return f"directions projected out of {where}"
        where = (
            f"as {len(self.prompts)} prompt(s) see the picture"
            if self.scope == "prompts"
            else "for every prompt"
        )
        return f"latents ablated at {self.study.site} {where}"

    def classifier(self) -> Probe:
        """The fixed classifier: class names, weights and biases on image embeddings as `encode_image` gives them.

        Raises:
            StudyError: the repair is not one of classifier rows (latents ablated at inference).
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
            StudyError: only some prompts are repaired, so that there is no one embedding.
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
        """Logits of the repaired classifier, (batch, classes) in the order of `before.names`."""
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
        """`scores` of pictures that are encoded already, (pictures, classes)."""
        if self.how == "project":
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
            images: anything `Images.open` takes, best pictures that took no part so far; default the
                study's held-out ones.
            labels: a class of the classifier for each picture, None to leave it out; default the collection's.
            groups: one name a picture, e.g. "cow, desert": the accuracy in each is taken, and the lowest is the worst
                group's. Default the collection's column `group`; without any the result says so.

        Raises:
            DataError: no labels, labels that are no classes, or another number of them than pictures.
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
        """Write the repair for use elsewhere.

        A projection for some prompts becomes a fixed classifier (safetensors with class names, for embeddings of the
        unchanged model). A projection of the whole model becomes a patched model in open_clip's own folder format:
        `load_model("local-dir:…")` and open_clip read it, and its embeddings are exactly `encode_image`'s here.

        Raises:
            StudyError: latents ablated at inference, which neither weights nor a classifier can express; or a model
                whose configuration is not known.
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
    how: str = "project",
    scope: str = "prompts",
    prompts: str | Sequence[str] | None = None,
    classifier: Probe | Sequence[str] | None = None,
    strength: float = STRENGTH,
) -> Repair:
    """Take unexpected reliances out.

    Pictures labelled with a prompt are its own, whatever they show: where the other sense of a word bears its label,
    repairing the word can only keep both.

    Args:
        study: where the findings come from; directions are learnt from its pictures that are not held out.
        findings: what `audit` found, a part of it, or one; or latents, with `prompts`.
        how: "project" (default) or "ablate"; scope: "prompts" (default: only the findings' own prompts change) or
            "model" (every prompt sees the change). See the head of this module.
        prompts: for latents, whose scores are to be freed of them; for findings, only those of these prompts count.
        classifier: the classes that compete: names, or a `Probe`. Default: the pictures' labels, else the vocabulary,
            and the findings' prompts.
        strength: of a projection, 1 takes the direction out, 0 leaves it.

    Raises:
        StudyError: findings of another model or dictionary. TargetError: nothing to repair, prompts that are no
            classes, or an unknown `how` or `scope`. SiteError: a study at a site with several tokens a picture.
    """
    if how not in HOWS or scope not in SCOPES:
        raise TargetError(
            f"how is one of {', '.join(HOWS)} and scope one of {', '.join(SCOPES)}; got {how!r}, {scope!r}."
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
    return Repair(study, removals, how, scope, before, _freed(study, removals, pictures, before, strength))


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


def _freed(
    study: Study, removals: Sequence[Removal], pictures: Encoded, before: Probe, strength: float
) -> Probe:
    numbers, own = own_pictures(study, pictures, before.names)
    covariance = spread_within(pictures.embeddings, numbers)
    weights, bias = before.weights.clone(), before.bias.clone()
    for prompt in dict.fromkeys(removal.prompt for removal in removals):
        assert prompt is not None
        number = before.index(prompt)
        some = [removal for removal in removals if removal.prompt == prompt]
        factors = factors_of(study, pictures, some, own[:, number], numbers, before.names)
        weights[number], bias[number] = freed(
            before.weights,
            before.bias,
            number,
            pictures.embeddings,
            own[:, number],
            factors,
            covariance,
            strength=strength,
        )
    about = {
        "kind": "repair", "how": "project", "strength": strength, "of": dict(before.about),
        "what": "the factors' directions are projected out of the rows of these classes, whose biases are set anew; "
        "all other rows are as they were",
        "removed": [{"class": r.prompt, "latents": list(r.latents), "label": r.label} for r in removals],
    }  # fmt: skip
    return Probe(before.names, weights, bias, study.model.weights_hash, about)


def _whole(
    study: Study, removals: Sequence[Removal], pictures: Encoded, before: Probe, strength: float
) -> Tensor:
    """(embed, embed): what takes all the factors' directions out of an embedding that it is multiplied by."""
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
    """The model_cfg that open_clip builds this model from."""
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
