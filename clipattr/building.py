"""Building a study: the stages from pictures to a finished folder, each resumable.

Owns the order of work, what is used again after an interruption, and the final rename. Ignores how each stage
computes. Start at `build`.
"""

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipattr.dictionaries import Dictionary, load_dictionary, train_sae
from clipattr.encoding import duplicates, encode, gather
from clipattr.errors import DictionaryError, StudyError
from clipattr.images import Images, hold_out
from clipattr.meaning.summary import summarise
from clipattr.meaning.vocabulary import Vocabulary, empty_prompt
from clipattr.models import Model
from clipattr.sites import Site
from clipattr.study_files import (
    MANIFEST,
    SCHEMA,
    CodesWriter,
    all_files,
    code_blocks,
    read_codes,
    read_manifest,
    read_pictures,
    save_tensors,
    write_json,
    write_pictures,
)

SHARD = 1024  # pictures
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
    old = _existing(folder, plan, overwrite)
    if old == plan:
        return
    work = folder.with_name(folder.name + ".building")
    _open_workplace(work, plan)
    skipped = _encoded(work, folder, old, plan, images, model, evaluator, site, settings, workers, progress)
    pictures = read_pictures(work)
    fit = np.array([split != "holdout" for split in pictures.columns["split"]])
    if not fit.any():
        raise StudyError("Every picture is held out; nothing is left to take examples from.")
    dictionary = _dictionary(work, dictionary, fit, model, site, settings, progress)
    _codes(work, dictionary, len(pictures))
    summary = _meaning(work, dictionary, vocabulary, evaluator, fit, settings)
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
        "images": {"source": images.source.kind, "notes": images.notes},
        "counts": {
            "pictures": len(pictures),
            "held_out": int((~fit).sum()),
            "skipped": len(skipped),
            "latents": dictionary.n_latents,
            **summary,
        },
        "skipped": skipped,
        "micro_batch": settings["batch"],
        "seed": settings["seed"],
        "plan": plan,
    }
    _finish(work, folder, manifest)


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
            f"{part}.{name}: {old.get(part, {}).get(name)!r} there, {value!r} asked"
            for part, values in plan.items()
            for name, value in values.items()
            if old.get(part, {}).get(name) != value
        ]
        raise StudyError(
            f"{str(folder)!r} holds another study ({'; '.join(differing) or 'other settings'}). Choose another path, "
            "or pass overwrite=True to replace it."
        )
    return old


def _open_workplace(work: Path, plan: dict[str, Any]) -> None:
    """Keep of an interrupted build what the same plan would compute again, and drop the rest."""
    known: dict[str, Any] = {}
    if (work / "plan.json").exists():
        known = json.loads((work / "plan.json").read_text("utf-8"))
    elif work.exists() and any(work.iterdir()):
        raise StudyError(
            f"{str(work)!r} is in the way, and no interrupted build. Remove it, or choose another path."
        )
    if known and {**known["encoding"], "images": ""} != {**plan["encoding"], "images": ""}:
        shutil.rmtree(work)
    elif known and known["encoding"] != plan["encoding"]:
        # Pictures came, went or changed: shards whose pictures are the same are still good.
        for path in work.iterdir():
            if path.is_dir() and path.name != "shards":
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink()
    elif known and known["dictionary"] != plan["dictionary"]:
        for name in ("dictionary", "training"):
            shutil.rmtree(work / name, ignore_errors=True)
        for file in work.glob("codes*"):
            file.unlink()
    work.mkdir(parents=True, exist_ok=True)
    write_json(work / "plan.json", plan)


def _encoded(
    work: Path,
    folder: Path,
    old: dict[str, Any] | None,
    plan: dict[str, Any],
    images: Images,
    model: Model,
    evaluator: Model,
    site: Site,
    settings: dict[str, Any],
    workers: int | None,
    progress: bool,
) -> list[list[str]]:
    """Activations, evaluator embeddings, thumbnails and the list of pictures. Returns the skipped ones."""
    done = work / "encoded.json"
    if done.exists():
        return json.loads(done.read_text("utf-8"))
    if old is not None and old["encoding"] == plan["encoding"]:
        for name in (*ENCODED, *ENCODED_OPTIONAL):
            if (folder / name).exists():
                shutil.copy2(folder / name, work / name)
        if (folder / "pictures").exists():
            shutil.copytree(folder / "pictures", work / "pictures", dirs_exist_ok=True)
        skipped = read_manifest(folder)["skipped"]
    else:
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
        )
        kept = gather(images, work / "shards", work, shard=SHARD)
        write_pictures(kept, work, folder)
        present = set(kept.ids)
        skipped = [list(pair) for pair in images.skipped if pair[0] not in present]
    write_json(done, skipped)
    return skipped


class _Rows:
    """Some rows of a memory map, read when asked for."""

    ndim = 2

    def __init__(self, array: np.ndarray, rows: np.ndarray) -> None:
        self.array, self.rows = array, rows
        self.shape = (len(rows), array.shape[1])

    def __getitem__(self, which: np.ndarray) -> np.ndarray:
        return self.array[self.rows[which]]


def _dictionary(
    work: Path,
    given: Dictionary | None,
    fit: np.ndarray,
    model: Model,
    site: Site,
    settings: dict[str, Any],
    progress: bool,
) -> Dictionary:
    target = work / "dictionary"
    if (target / "config.json").exists():
        return load_dictionary(target)
    if given is None:
        acts = np.load(work / "activations.npy", mmap_mode="c")
        rows = np.flatnonzero(fit)
        n_latents = settings["n_latents"] or _size(acts.shape[1], len(rows))
        k = settings["k"] or max(1, min(64, acts.shape[1] // 12, n_latents // 8))
        options = {"batch": max(1, min(1024, max(32, len(rows) // 8), len(rows))), **settings["training"]}
        given = train_sae(
            acts if fit.all() else _Rows(acts, rows),
            n_latents=n_latents,
            k=k,
            seed=settings["seed"],
            checkpoint=work / "training",
            progress=progress,
            site=str(site),
            model_hash=model.weights_hash,
            **options,
        )
    given.save(target)
    # Read back, so that a resumed build and this one use the same numbers.
    return load_dictionary(target)


def _size(width: int, pictures: int) -> int:
    """How many latents to train by default: 8 per dimension, but not more than a quarter of the pictures."""
    return max(16, min(30_000, 8 * width, pictures // 4))


def _codes(work: Path, dictionary: Dictionary, n_pictures: int) -> None:
    if any(work.glob("codes*.npy")) or (work / "codes.safetensors").exists():
        complete = (work / "codes.safetensors").exists() or len(list(work.glob("codes-*.npy"))) == 2
        if complete:
            return
    acts = np.load(work / "activations.npy", mmap_mode="c")
    writer = CodesWriter(work, n_pictures, dictionary.n_latents)
    for start in range(0, n_pictures, 1024):
        writer.add(dictionary.encode(torch.from_numpy(acts[start : start + 1024].astype(np.float32))))
    writer.close()


def _meaning(
    work: Path,
    dictionary: Dictionary,
    vocabulary: Vocabulary,
    evaluator: Model,
    fit: np.ndarray,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Examples, labels and scores. Returns counts for the manifest."""
    n_latents, n_pictures = dictionary.n_latents, len(fit)
    embeddings = np.load(work / "evaluator.npy", mmap_mode="c")
    first = duplicates(np.load(work / "fingerprints.npy"), embeddings)
    repeats = first != np.arange(n_pictures)
    np.save(work / "repeats.npy", repeats)
    vocabulary.save(work / "vocabulary.csv")
    words = vocabulary.embed(evaluator, settings["templates"], cache=work / "words").half()
    empty = empty_prompt(evaluator, settings["templates"]).half()
    save_tensors(work / "vocabulary.safetensors", {"words": words, "empty": empty})
    summary = summarise(
        lambda: code_blocks(work, n_latents, n_pictures),
        lambda rows: read_codes(work, n_latents, rows),
        embeddings,
        words.float(),
        empty.float(),
        dictionary.decoder,
        held_out=~fit,
        repeats=repeats,
        m=settings["examples"],
        seed=settings["seed"],
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


def _finish(work: Path, folder: Path, manifest: dict[str, Any]) -> None:
    """Remove what only the build needed, write the manifest, and put the folder in its place."""
    for name in ("shards", "training", "words"):
        shutil.rmtree(work / name, ignore_errors=True)
    for file in [*work.glob("*.part"), *work.glob("*.partial")]:
        file.unlink()
    (work / "encoded.json").unlink(missing_ok=True)
    (work / "plan.json").unlink(missing_ok=True)
    if (folder / "names.json").exists():
        shutil.copy2(folder / "names.json", work / "names.json")
    manifest["files"] = all_files(work)
    write_json(work / MANIFEST, manifest)
    # safetensors makes its files readable by their owner alone; a study is for whoever may read its manifest.
    mode = (work / MANIFEST).stat().st_mode
    for name in manifest["files"]:
        (work / name).chmod(mode)
    if folder.exists():
        aside = folder.with_name(folder.name + ".old")
        os.replace(folder, aside)
        os.replace(work, folder)
        shutil.rmtree(aside)
    else:
        os.replace(work, folder)


def _check_dictionary(dictionary: Dictionary, model: Model, site: Site) -> None:
    if dictionary.model_hash is not None and dictionary.model_hash != model.weights_hash:
        raise StudyError(
            f"The dictionary was trained on the model with weights {dictionary.model_hash}; this study is of "
            f"{model.reference!r}, weights {model.weights_hash}. Use that model, or leave the dictionary out."
        )
    if dictionary.site is not None and Site(dictionary.site).index(model) != site.index(model):
        raise StudyError(f"The dictionary was trained at {dictionary.site}; the study's site is {site}.")
    if dictionary.width != model.image_width:
        raise DictionaryError(
            f"The dictionary takes activations of width {dictionary.width}; {model.reference!r} has "
            f"{model.image_width}."
        )
