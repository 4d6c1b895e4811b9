"""Starting a study: interpretation and checks of the arguments before the build.

Owns `build_study`, the choice between pictures and embeddings and between a model and text embeddings, and the default
site. Ignores how the stages compute (`build.py`). Start at `build_study`.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipattr.dictionaries import load_sae
from clipattr.dictionaries.choosing import check_training
from clipattr.errors import StudyError
from clipattr.execution.engine import Engine, Here
from clipattr.images.collection import Images
from clipattr.images.embeddings import open_embeddings
from clipattr.meaning.vocabulary import Vocabulary
from clipattr.models.loading import Model, load_model
from clipattr.models.modules import template_texts
from clipattr.models.places import default_site
from clipattr.models.surroundings import unaffected
from clipattr.models.textonly import TextEmbeddings
from clipattr.sites import Site
from clipattr.storage.paths import user_path
from clipattr.studies.belonging import folder_for
from clipattr.studies.build import build
from clipattr.studies.gathering import Request, store_at
from clipattr.studies.study import Study
from clipattr.studies.vectors import VectorInput, require_width, space_notes


@unaffected
def build_study(
    model: Any = None,
    images: Any = None,
    *,
    path: str | os.PathLike[str],
    vocabulary: Any = "general",
    evaluator: Any = None,
    site: str | Site | None = None,
    dictionary: Any = None,
    n_latents: int | None = None,
    k: int | None = None,
    examples: int = 20,
    templates: Any = ("{}",),
    holdout: float | None = None,
    training: Mapping[str, Any] | None = None,
    named: bool = True,
    batch: int = 64,
    workers: int | None = None,
    draft: bool = True,
    thumbnails: bool | None = None,
    overwrite: bool = False,
    progress: bool = True,
    seed: int = 0,
    engine: Engine | None = None,
    store: str | os.PathLike[str] | None = None,
    embeddings: Any = None,
    evaluator_embeddings: Any = None,
    text_embeddings: Any = None,
) -> Study:
    """Build a study, or its missing parts, and open it.

    The study is built in a folder next to `path`, which is renamed when complete. After an interruption the same call
    resumes where it stopped, and the result has the same bytes. A finished study at `path` is opened.

    Args:
        model: the audited model, anything `load_model` takes; None with `text_embeddings`.
        images: anything `Images.open` takes; None with `embeddings`.
        path: folder of the study.
        vocabulary: anything `Vocabulary.open` takes.
        evaluator: an independent CLIP for labels. None uses the audited model, with a warning: its labels then share
            the audited model's confusions.
        site: where activations are read. Default: the dictionary's own site, else the class token after the last block
            where it is pooled and its effects have a closed form, else "image.embedding".
        dictionary: a `Dictionary`, or anything `load_sae` takes: folder, file, published name. None makes one.
        n_latents, k: size of an SAE to train. Without both, and with an evaluator, the dictionary joins named
            directions and trained latents (`joined_dictionary`); without one it is trained alone (`choose_sae`).
        examples: examples per latent.
        templates: templates of words, each with "{}".
        holdout: share of pictures to hold out at random, in addition to those whose split is "holdout". Held-out
            pictures are encoded, but not used for training, examples and labels.
        training: further settings for `train_sae`, e.g. {"steps": 4000}.
        named: False leaves named directions out of a dictionary that is made here.
        seed: of training and random choices.
        batch: pictures per forward pass.
        workers: threads that read pictures; None chooses their number.
        draft: let JPEGs be decoded at a reduced size where the model needs no more pixels.
        progress: show a bar for each stage.
        thumbnails: store thumbnails; by default unless the pictures are rendered from scenes.
        overwrite: replace a different study at `path`; encodings that still fit are reused.
        engine: where to compute, e.g. `clipattr.Ray(workers=8)`; None: in this process. The bytes are equal for equal
            numbers of threads.
        store: folder that `collect_activations` has filled from the same pictures with the same model. Its activations
            are reused; with a store that was encoded with the same evaluator, no picture is read.
        embeddings: embeddings by the model's image tower in place of images: `Embeddings`, or an array or path that it
            takes. The study is then at "image.embedding". Functions that need pictures work where their paths exist
            (`Study.sees`).
        evaluator_embeddings: the evaluator's embeddings of the same rows. Without them the evaluator encodes the
            pictures, which need paths.
        text_embeddings: with `embeddings` and no model: texts and their embeddings, as `TextEmbeddings.open` takes
            them. Only these texts can be used as prompts; they are the vocabulary unless another is given.

    Returns:
        The opened `Study`.

    Raises:
        StudyError: another study is at `path`, or the dictionary or the store belongs to another model, site or
            collection.
        DataError: pictures or vocabulary cannot be used.

    >>> import tempfile
    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> small, size = study.images.select(range(64)), {"n_latents": 16, "k": 2, "training": {"steps": 5}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     args = {"path": f"{folder}/small", "vocabulary": ["kite", "dog"], "evaluator": study.evaluator}
    ...     built = ca.build_study(study.model, small, **args, **size)
    ...     built.latents.shape[0], built.codes.shape
    (16, (64, 16))
    """
    check_training(n_latents, k, training or {})
    if examples < 1 or batch < 1:
        raise StudyError(
            f"A study needs at least one example a latent and a batch of one; got {examples}, {batch}."
        )
    vectors, audited, pictures = _asked(model, images, embeddings, evaluator_embeddings, text_embeddings)
    judge = audited if evaluator is None else load_model(evaluator)
    folder = folder_for(path)
    parts = load_sae(dictionary) if isinstance(dictionary, (str, Path)) else dictionary
    where = _place(site or getattr(parts, "site", None), vectors, audited)
    if isinstance(audited, TextEmbeddings) and vocabulary == "general":
        vocabulary = audited.words
    words = Vocabulary.open(vocabulary)
    if vectors is not None:
        vectors = replace(vectors, notes=tuple(space_notes(vectors, pictures, audited, words.words)))
    request = Request(
        model=audited,
        evaluator=judge,
        images=pictures,
        vocabulary=words,
        site=where,
        dictionary=parts,
        settings={
            "n_latents": n_latents,
            "k": k,
            "examples": examples,
            "templates": sorted(template_texts(templates)),
            "training": dict(training or {}),
            "named": named,
            "batch": batch,
            "draft": draft,
            "thumbnails": pictures.source.kind != "scenes" if thumbnails is None else thumbnails,
            "seed": seed,
        },
        engine=engine or Here(),
        store=None if store is None else store_at(user_path(store), audited, pictures, where),
        vectors=vectors,
        workers=workers,
        progress=progress,
    )
    build(folder, request, holdout=holdout, overwrite=overwrite)
    return Study(folder, model=audited, evaluator=judge, images=pictures)


def _place(site: str | Site | None, vectors: VectorInput | None, model: Model) -> Site:
    """The study's site in its canonical spelling.

    Raises:
        StudyError: embeddings for a site inside the tower. SiteError: the model has no such site.
    """
    if vectors is None:
        return Site(site or default_site(model)).canonical(model)
    if site is not None and not Site(site).is_embedding:
        raise StudyError(
            f"Embeddings are activations at image.embedding; a study at {site} needs the pictures."
        )
    return Site("image.embedding")


def _asked(
    model: Any, images: Any, embeddings: Any, evaluator_embeddings: Any, text_embeddings: Any
) -> tuple[VectorInput | None, Model, Images]:
    """Vectors (or None), the audited model and the pictures of a study.

    Raises:
        StudyError: pictures and vectors, or a model and text embeddings, both or neither.
    """
    if (images is None) == (embeddings is None):
        raise StudyError(
            "A study is built from pictures (images=) or from their embeddings (embeddings=): give one."
        )
    if (model is None) == (text_embeddings is None):
        raise StudyError(
            "A study needs a model, or text_embeddings= with embeddings=, to embed texts. Give one of them."
        )
    if embeddings is None:
        if text_embeddings is not None or evaluator_embeddings is not None:
            raise StudyError(
                "text_embeddings= and evaluator_embeddings= go with embeddings=, not with pictures."
            )
        return None, load_model(model), Images.open(images)
    rows = open_embeddings(embeddings)
    other = None if evaluator_embeddings is None else open_embeddings(evaluator_embeddings, like=rows)
    audited = load_model(model) if text_embeddings is None else TextEmbeddings.open(text_embeddings)
    require_width(rows, audited)
    return VectorInput(rows, other), audited, rows.images
