"""Building a study: the stages from pictures to a finished folder, each resumable.

Owns the order of work, what is used again after an interruption, and the final rename. Ignores how each stage
computes. Start at `build`.
"""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from clipattr.dictionaries import Dictionary, SparseCodes, load_dictionary, train_sae
from clipattr.dictionaries.choosing import leaves_open
from clipattr.dictionaries.placing import require_place
from clipattr.errors import DictionaryError, StudyError
from clipattr.execution.engine import Engine, Here
from clipattr.images.collection import Images, hold_out
from clipattr.meaning.examples import Examples, strongest_token
from clipattr.meaning.scores import Totals
from clipattr.meaning.summary import collect, merged, summarise
from clipattr.meaning.vocabulary import Vocabulary, empty_prompt
from clipattr.models.loading import Model
from clipattr.sites import Site
from clipattr.studies.encode import DamagedShard, encode, gather, repeated
from clipattr.studies.folder import ADVICE, Workplace, changed_files, locked
from clipattr.studies.format import (
    MANIFEST,
    SCHEMA,
    CodesWriter,
    code_blocks,
    read_codes,
    read_manifest,
    read_pictures,
    read_tokens,
    samples,
    save_tensors,
    write_pictures,
)

SHARD = 1024  # pictures
CHOICE = 1  # version of how settings of a dictionary are chosen; part of a study's plan
BLOCK = 1024  # pictures whose codes are computed at a time
PART = (
    2**18
)  # pictures whose examples and sums are gathered before they are merged; part of how floats are summed
ENCODED = ("activations.npy", "evaluator.npy", "fingerprints.npy", "pictures.csv")
ENCODED_OPTIONAL = ("thumbnails.npy", "thumbnails.bin", "scenes.jsonl")


def build(
    folder: Path,
    model: Model,
    evaluator: Model,
    images: Images,
    vocabulary: Vocabulary,
    *,
    site: Site,
    dictionary: Dictionary | None,
    settings: dict[str, Any],
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
    engine: Engine | None = None,
) -> None:
    """Make sure that the finished study lies in `folder`; see `study.build_study`."""
    if evaluator.weights_hash == model.weights_hash:
        warnings.warn(
            f"The evaluator is the audited model itself ({model.reference}). It shares the model's confusions: a "
            "latent that mixes two things will look clear and well named to it. Give an independent CLIP.",
            stacklevel=3,
        )
    if dictionary is not None:
        _check_dictionary(dictionary, model, site)
    if settings["holdout"] is not None:
        images = hold_out(images, settings["holdout"], settings["seed"])
    plan = _plan(model, evaluator, images, vocabulary, site, dictionary, settings)
    if _existing(folder, plan, overwrite) == plan:
        if changed := changed_files(folder):
            raise StudyError(
                f"The finished study in {str(folder)!r} is damaged: {', '.join(changed)} changed since it was built. "
                f"Take an undamaged copy, or delete {str(folder)!r} and build it again."
            )
        return
    engine = engine or Here()
    try:
        with locked(folder):
            place = Workplace(folder)
            place.recover()
            old = _existing(folder, plan, overwrite)  # another job may have built it since
            if old != plan:
                place.open(plan)
                made = (model, evaluator, images, vocabulary, site, dictionary, settings)
                _build(place, old, plan, *made, workers, engine, progress)
    except (OSError, SafetensorError) as error:
        if isinstance(error, IsADirectoryError) and error.filename2 is not None:
            wrong = str(error.filename2)
            told = f"{wrong!r} should be a file and is a folder; delete {wrong!r}"
            raise StudyError(f"The study {str(folder)!r} could not be written: {told}. {ADVICE}") from error
        raise StudyError(f"The study {str(folder)!r} could not be written ({error}). {ADVICE}") from error


def _build(
    place: Workplace,
    old: dict[str, Any] | None,
    plan: dict[str, Any],
    model: Model,
    evaluator: Model,
    images: Images,
    vocabulary: Vocabulary,
    site: Site,
    dictionary: Dictionary | None,
    settings: dict[str, Any],
    workers: int | None,
    engine: Engine,
    progress: bool,
) -> None:
    work = place.path
    about = _encoded(place, old, plan, images, model, evaluator, site, settings, workers, engine, progress)
    skipped, notes = about["skipped"], about["notes"]
    pictures = read_pictures(work)
    fit = np.array([split != "holdout" for split in pictures.columns["split"]])
    if not fit.any():
        raise StudyError("Every picture is held out; nothing is left to take examples from.")
    dictionary = _dictionary(place, dictionary, fit, model, site, settings, progress)
    _codes(place, dictionary, len(pictures), engine)
    summary = _meaning(work, dictionary, vocabulary, evaluator, fit, settings, engine)
    manifest = {
        "schema": SCHEMA,
        "model": {
            "reference": model.reference,
            "hash": model.weights_hash,
            "preprocess": model.preprocess_id,
        },
        "evaluator": {
            "reference": evaluator.reference,
            "hash": evaluator.weights_hash,
            "preprocess": evaluator.preprocess_id,
        },
        "site": str(site),
        "dictionary": {"hash": dictionary.hash, "kind": dictionary.kind, "width": dictionary.width},
        "vocabulary": {"hash": vocabulary.hash, "words": len(vocabulary), "notes": vocabulary.notes},
        "images": {"source": images.source.kind, "notes": notes},
        "counts": {
            "pictures": len(pictures),
            "held_out": int((~fit).sum()),
            "skipped": len(skipped),
            "latents": dictionary.n_latents,
            **summary,
        },
        "tokens": _tokens(model, site),
        "skipped": skipped,
        "micro_batch": settings["batch"],
        "seed": settings["seed"],
        "plan": plan,
    }
    place.publish(manifest)


def _tokens(model: Model, site: Site) -> dict[str, Any] | None:
    """How many tokens a picture has at the site, and their grid if they are patches; None for one token."""
    shape = site.shape(model)
    if len(shape) == 1:
        return None
    return {"count": shape[0], "grid": list(model.grid) if site.tokens == "patches" else None}


def _plan(
    model: Model,
    evaluator: Model,
    images: Images,
    vocabulary: Vocabulary,
    site: Site,
    dictionary: Dictionary | None,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """What determines the result, in three parts; equal plans give equal bytes."""
    if dictionary is None:
        parts: dict[str, Any] = {name: settings[name] for name in ("n_latents", "k", "training", "seed")}
        if _chosen(settings):
            parts["chosen"] = CHOICE
    else:
        parts = {"hash": dictionary.hash}
    plan = {
        "encoding": {
            "model": model.weights_hash,
            "evaluator": evaluator.weights_hash,
            "preprocess": [model.preprocess_id, evaluator.preprocess_id],
            "site": str(site),
            "images": images.fingerprint,
            "batch": settings["batch"],
            "shard": SHARD,
            "draft": settings["draft"],
            "thumbnails": settings["thumbnails"],
        },
        "dictionary": parts,
        "meaning": {
            "vocabulary": vocabulary.hash,
            "templates": settings["templates"],
            "examples": settings["examples"],
            "seed": settings["seed"],
        },
    }
    return json.loads(json.dumps(plan))


def _existing(folder: Path, plan: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """The plan of the study that is at `folder`, None if nothing is there."""
    if not folder.exists():
        return None
    if not (folder / MANIFEST).exists():
        if not folder.is_dir() or any(folder.iterdir()):
            raise StudyError(f"{str(folder)!r} exists and is not a study. Choose another path, or remove it.")
        folder.rmdir()
        return None
    old = read_manifest(folder)["plan"]
    if old != plan and not overwrite:
        differing = [
            (f"{part}.{name}: {old.get(part, {}).get(name)!r} there, {value!r} asked")
            + (" (other pictures, names, labels or splits)" if name == "images" else "")
            for part, values in plan.items()
            for name, value in values.items()
            if old.get(part, {}).get(name) != value
        ]
        raise StudyError(
            f"{str(folder)!r} holds another study ({'; '.join(differing) or 'other settings'}). Choose another path, "
            "or pass overwrite=True (--overwrite on the command line) to replace it."
        )
    return old


def _encoded(
    place: Workplace,
    old: dict[str, Any] | None,
    plan: dict[str, Any],
    images: Images,
    model: Model,
    evaluator: Model,
    site: Site,
    settings: dict[str, Any],
    workers: int | None,
    engine: Engine,
    progress: bool,
) -> dict[str, Any]:
    """Activations, evaluator embeddings, thumbnails and the list of pictures. Returns skipped ones and notes."""
    done = place.finished("encoding")
    if done is not None:
        return done
    work, folder = place.path, place.folder
    if old is not None and old["encoding"] == plan["encoding"]:
        for name in (*ENCODED, *ENCODED_OPTIONAL):
            if (folder / name).exists():
                shutil.copy2(folder / name, work / name)
        if (folder / "pictures").exists():
            shutil.copytree(folder / "pictures", work / "pictures", dirs_exist_ok=True)
        manifest = read_manifest(folder)
        about = {"skipped": manifest["skipped"], "notes": manifest["images"]["notes"]}
    else:
        kept = _gathered(work, images, model, evaluator, site, settings, workers, engine, progress)
        write_pictures(kept, work, folder)
        present = set(kept.ids)
        skipped = [list(pair) for pair in images.skipped if pair[0] not in present]
        about = {"skipped": skipped, "notes": kept.notes}
    files = [work / name for name in (*ENCODED, *ENCODED_OPTIONAL) if (work / name).exists()]
    return place.finish("encoding", [*files, *sorted((work / "pictures").glob("*"))], about)


def _gathered(
    work: Path,
    images: Images,
    model: Model,
    evaluator: Model,
    site: Site,
    settings: dict[str, Any],
    workers: int | None,
    engine: Engine,
    progress: bool,
) -> Images:
    """Encodes until every shard is what was written: a damaged one is made again, at most twice."""
    for attempt in range(3):
        encode(
            images,
            model,
            evaluator,
            site,
            work / "shards",
            batch=settings["batch"],
            shard=SHARD,
            workers=workers,
            draft=settings["draft"],
            thumbnails=settings["thumbnails"],
            progress=progress,
            engine=engine,
        )
        try:
            return gather(images, work / "shards", work, shard=SHARD)
        except DamagedShard as error:
            if attempt == 2:
                raise
            warnings.warn(f"{error} It is encoded again.", stacklevel=2)
    raise AssertionError("unreachable")


def _dictionary(
    place: Workplace,
    given: Dictionary | None,
    fit: np.ndarray,
    model: Model,
    site: Site,
    settings: dict[str, Any],
    progress: bool,
) -> Dictionary:
    target = place.path / "dictionary"
    if place.finished("dictionary") is not None:
        return load_dictionary(target)
    if given is None:
        acts = samples(place.path, fit)
        count, width = acts.shape
        about: dict[str, Any] = {
            "seed": settings["seed"],
            "checkpoint": place.path / "training",
            "progress": progress,
            "site": str(site),
            "model_hash": model.weights_hash,
        }
        if _chosen(settings):
            given = train_sae(acts, **about, **settings["training"])
        else:
            n_latents = settings["n_latents"] or _size(width, count)
            k = settings["k"] or max(1, min(64, width // 12, n_latents // 8))
            options = {"batch": max(1, min(1024, max(32, count // 8), count)), **settings["training"]}
            given = train_sae(acts, n_latents=n_latents, k=k, **about, **options)
    given.save(target)
    place.finish("dictionary", sorted(target.iterdir()))
    # Read back, so that a resumed build and this one use the same numbers.
    return load_dictionary(target)


def _chosen(settings: dict[str, Any]) -> bool:
    """Whether the dictionary's settings are chosen on the activations: nothing is said of its size or kind."""
    return settings["n_latents"] is None and settings["k"] is None and leaves_open(settings["training"])


def _size(width: int, samples: int) -> int:
    """How many latents to train where k alone is given: 8 per dimension, at most a quarter of the samples."""
    return max(16, min(30_000, 8 * width, samples // 4))


def _codes(place: Workplace, dictionary: Dictionary, n_pictures: int, engine: Engine) -> None:
    if place.finished("codes") is not None:
        return
    writer = CodesWriter(place.path, n_pictures, dictionary.n_latents)
    shared = (place.path, dictionary, BLOCK)
    for codes, tokens in engine.map(encode_block, shared, range(0, n_pictures, BLOCK)):
        writer.add(codes, tokens)
    place.finish("codes", writer.close())


def encode_block(shared: tuple[Path, Dictionary, int], start: int) -> tuple[SparseCodes, torch.Tensor | None]:
    """Codes of the pictures from `start` on, as many as make a block.

    At a site of several tokens: each latent's largest value in a picture, and the token of every stored entry.
    """
    work, dictionary, block = shared
    acts = np.load(work / "activations.npy", mmap_mode="c")[start : start + block]
    if acts.ndim == 2:
        return dictionary.encode(torch.from_numpy(acts.astype(np.float32))), None
    tokens = acts.shape[1]
    step = max(1, BLOCK // tokens)
    parts = [
        strongest_token(
            dictionary.encode(torch.from_numpy(acts[first : first + step].astype(np.float32)).flatten(0, 1)),
            tokens,
        )
        for first in range(0, len(acts), step)
    ]
    return SparseCodes.cat([codes for codes, _ in parts]), torch.cat([token for _, token in parts])


def collect_part(shared: tuple[Any, ...], start: int) -> tuple[Examples, Totals]:
    """Examples and sums of the pictures from `start` on, as many as make a part."""
    work, n_latents, held_out, repeats, m, part = shared
    stop = min(start + part, len(held_out))
    blocks = code_blocks(work, n_latents, range(start, stop))
    embeddings = np.load(work / "evaluator.npy", mmap_mode="c")
    return collect(
        blocks,
        embeddings,
        n_latents,
        held_out=held_out,
        repeats=repeats,
        m=m,
        tokens_of=lambda first, behind: read_tokens(work, first, behind),
    )


def _meaning(
    work: Path,
    dictionary: Dictionary,
    vocabulary: Vocabulary,
    evaluator: Model,
    fit: np.ndarray,
    settings: dict[str, Any],
    engine: Engine,
) -> dict[str, Any]:
    """Examples, labels and scores. Returns counts for the manifest."""
    n_latents, n_pictures = dictionary.n_latents, len(fit)
    repeats = repeated(work)
    np.save(work / "repeats.npy", repeats)
    vocabulary.save(work / "vocabulary.csv")
    words = vocabulary.embed(evaluator, settings["templates"], cache=work / "words").half()
    empty = empty_prompt(evaluator, settings["templates"]).half()
    save_tensors(work / "vocabulary.safetensors", {"words": words, "empty": empty})
    shared = (work, n_latents, ~fit, repeats, settings["examples"], PART)
    examples, totals = merged(engine.map(collect_part, shared, range(0, n_pictures, PART)))
    summary = summarise(
        examples,
        totals,
        lambda rows: read_codes(work, n_latents, rows),
        work / "evaluator.npy",
        words.float(),
        empty.float(),
        dictionary.decoder,
        held_out=~fit,
        seed=settings["seed"],
        engine=engine,
    )
    summary.examples.save(work / "examples.safetensors")
    summary.labels.save(work / "labels.safetensors")
    save_tensors(work / "scores.safetensors", summary.scores)
    return {
        "live": int((summary.examples.counts > 0).sum()),
        "aligned": int(summary.labels.aligned.sum()),
        "near_duplicates": int(repeats.sum()),
        "auc_on": "all pictures but the latent's own examples" if fit.all() else "held-out pictures",
    }


def _check_dictionary(dictionary: Dictionary, model: Model, site: Site) -> None:
    if dictionary.model_hash is not None and dictionary.model_hash != model.weights_hash:
        raise StudyError(
            f"The dictionary was trained on the model with weights {dictionary.model_hash}; this study is of "
            f"{model.reference!r}, weights {model.weights_hash}. Use that model, or leave the dictionary out."
        )
    require_place(dictionary, model, site)
    if dictionary.width != model.image_width:
        raise DictionaryError(
            f"The dictionary takes activations of width {dictionary.width}; {model.reference!r} has "
            f"{model.image_width}."
        )
