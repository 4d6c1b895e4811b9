"""Starting a study: what callers give, read and checked, before it is built or found complete.

Owns `build_study` and the choice between pictures and vectors, a model and text embeddings, and the site where nobody
names one. Ignores how the stages compute (`build.py`). Start at `build_study`.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipattr.dictionaries import load_sae
from clipattr.errors import StudyError
from clipattr.execution.engine import Engine, Here
from clipattr.images.collection import Images
from clipattr.images.embeddings import open_embeddings
from clipattr.meaning.vocabulary import Vocabulary
from clipattr.models.loading import Model, load_model
from clipattr.models.modules import template_texts
from clipattr.models.places import default_site
from clipattr.models.textonly import TextEmbeddings
from clipattr.sites import Site
from clipattr.storage.paths import user_path
from clipattr.studies.belonging import folder_for
from clipattr.studies.build import build
from clipattr.studies.gathering import Request, store_at
from clipattr.studies.study import Study
from clipattr.studies.vectors import VectorInput, require_width, space_notes


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
    """Build a study, or what is missing of it, and open it.

    The work is done in a folder beside `path` and renamed when complete. After an interruption the same call goes on
    where it stopped and ends with the same bytes. If the finished study is there already, it is opened.

    Args:
        model: the audited model, anything `load_model` takes; None with `text_embeddings`.
        images: anything `Images.open` takes; None with `embeddings`.
        vocabulary: anything `Vocabulary.open` takes.
        evaluator: an independent CLIP that names examples. None takes the audited model, with a warning: what
            a model confuses it then also confuses when it names its own latents.
        site: where activations are read; by default the dictionary's own, else the class token after the last block
            where it is pooled and its effects have a closed form, else "image.embedding".
        dictionary: a `Dictionary`, or what `load_sae` takes: folder, file, published name. None trains a TopK SAE.
        n_latents, k: of the SAE to train; without both, settings are chosen on the activations (`choose_sae`).
        examples: kept per latent. templates: for words, each with "{}".
        holdout: share of pictures to hold out at random, besides those whose split is "holdout"; they are
            encoded, but take no part in training, examples and labels.
        training: further settings for `train_sae`, e.g. {"steps": 4000}.
        thumbnails: keep small copies; by default unless the pictures are rendered from scenes.
        overwrite: replace a different study at `path`; encodings that still fit are used again.
        engine: where to compute, e.g. `clipattr.Ray(workers=8)`; None: in this process. The bytes are the same for
            the same number of threads.
        store: folder that `collect_activations` has filled from the same pictures with the same model. What it holds
            is not encoded again: only the evaluator reads the pictures, and nobody does if the store was encoded with
            this evaluator.
        embeddings: in place of images, what the model's image tower made of them: `Embeddings`, or an array or path
            that it takes. The study is then built at "image.embedding". What needs pictures works where paths lead to
            them (`Study.sees`).
        evaluator_embeddings: the evaluator's embeddings of the same rows. Without them the evaluator encodes the
            pictures, which need paths.
        text_embeddings: with `embeddings` and no model: texts and their embeddings, as `TextEmbeddings.open` takes
            them. Only these texts can be asked for; they are the vocabulary unless another is given.

    Raises:
        StudyError: another study is at `path`, or the dictionary or the store belongs to another model, site or
            collection.
        DataError: pictures or vocabulary unusable.
    """
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
    """Where a study is built, in the spelling that all spellings of one place share.

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
    """What a study is built from: vectors or None, the audited model, and the pictures.

    Raises:
        StudyError: pictures and vectors, or a model and text embeddings, both or neither.
    """
    if (images is None) == (embeddings is None):
        raise StudyError(
            "A study is built from pictures (images=) or from their embeddings (embeddings=): give one."
        )
    if (model is None) == (text_embeddings is None):
        raise StudyError(
            "A study needs what embeds texts: a model, or text_embeddings= beside embeddings=. Give one of them."
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
