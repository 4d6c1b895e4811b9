"""Building a study: the stages from pictures to a finished folder, each resumable.

Owns the order of stages, reuse after an interruption, and the final rename. Ignores how each stage computes. Start at
`build`.
"""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from clipattr.dictionaries import Dictionary, SparseCodes, load_dictionary
from clipattr.dictionaries.choosing import leaves_open, train_sized
from clipattr.dictionaries.joined import joined_dictionary
from clipattr.dictionaries.placing import require_place
from clipattr.display.wording import few
from clipattr.errors import DictionaryError, StudyError
from clipattr.execution.engine import Engine
from clipattr.images.collection import hold_out
from clipattr.meaning.examples import Examples, strongest_token
from clipattr.meaning.scores import Totals
from clipattr.meaning.summary import collect, merged, summarise
from clipattr.meaning.vocabulary import empty_prompt
from clipattr.models.forward import other_facts
from clipattr.models.loading import Model
from clipattr.sites import Site
from clipattr.storage.files import save_tensors, written
from clipattr.studies import gathering
from clipattr.studies.folder import ADVICE, Workplace, changed_files, locked
from clipattr.studies.format import (
    MANIFEST,
    SCHEMA,
    CodesWriter,
    code_blocks,
    of_pictures,
    read_codes,
    read_manifest,
    read_pictures,
    read_tokens,
    samples,
)
from clipattr.studies.gathering import Request
from clipattr.studies.join import repeated

CHOICE = 2  # version of the choice of dictionary settings; part of a study's plan
TRAINED_ALONE = 1  # the same without words
BLOCK = 1024  # pictures per block of codes
PART = 2**18  # pictures per part of examples and sums before merging; determines the order of float sums


def build(folder: Path, of: Request, *, holdout: float | None = None, overwrite: bool = False) -> None:
    """Build the study in `folder`, or verify that it is there; see `start.build_study`."""
    if of.evaluator.weights_hash == of.model.weights_hash:
        warnings.warn(
            f"The evaluator is the audited model itself ({of.model.reference}). It shares the model's confusions: a "
            "latent that mixes two concepts will look clear and well named to it. Give an independent CLIP.",
            stacklevel=3,
        )
    if of.dictionary is not None:
        _check_dictionary(of.dictionary, of.model, of.site)
    if holdout is not None:
        of = replace(of, images=hold_out(of.images, holdout, of.settings["seed"]))
    plan = _plan(of)
    if _existing(folder, plan, overwrite) == plan:
        if changed := changed_files(folder):
            raise StudyError(
                f"The finished study in {str(folder)!r} is damaged: {few(changed)} changed since it was built. "
                f"Take an undamaged copy, or delete {str(folder)!r} and build it again."
            )
        return
    try:
        with locked(folder):
            place = Workplace(folder)
            place.recover()
            old = _existing(folder, plan, overwrite)  # another job may have built it since
            if old != plan:
                place.open(plan)
                _build(place, old, plan, of)
    except (OSError, SafetensorError) as error:
        if isinstance(error, IsADirectoryError) and error.filename2 is not None:
            wrong = str(error.filename2)
            told = f"{wrong!r} should be a file and is a folder; delete {wrong!r}"
            raise StudyError(f"The study {str(folder)!r} could not be written: {told}. {ADVICE}") from error
        raise StudyError(f"The study {str(folder)!r} could not be written ({error}). {ADVICE}") from error


def _build(place: Workplace, old: dict[str, Any] | None, plan: dict[str, Any], of: Request) -> None:
    about = gathering.gathered(place, old, plan, of)
    pictures = read_pictures(place.path)
    fit = np.array([split != "holdout" for split in pictures.columns["split"]])
    if not fit.any():
        raise StudyError("Every picture is held out, so there are none for examples. Lower holdout.")
    dictionary = _dictionary(place, fit, of)
    _codes(place, dictionary, len(pictures), of.engine)
    summary = _meaning(place.path, dictionary, fit, of)
    roles = {
        role: {
            "reference": model.reference,
            "hash": model.weights_hash,
            "preprocess": model.preprocess_id,
            "forward": model.facts,
        }  # fmt: skip
        for role, model in (("model", of.model), ("evaluator", of.evaluator))
    }
    manifest = {
        "schema": SCHEMA,
        **roles,
        "site": str(of.site),
        "dictionary": {"hash": dictionary.hash, "kind": dictionary.kind, "width": dictionary.width},
        "vocabulary": {
            "hash": of.vocabulary.hash,
            "words": len(of.vocabulary),
            "notes": of.vocabulary.notes,
        },
        "images": {"source": of.images.source.kind, "notes": about["notes"]},
        "counts": {
            "pictures": len(pictures),
            "held_out": int((~fit).sum()),
            "skipped": len(about["skipped"]),
            "latents": dictionary.n_latents,
            **summary,
        },
        "tokens": _tokens(of.model, of.site),
        "skipped": about["skipped"],
        "micro_batch": of.settings["batch"],
        "seed": of.settings["seed"],
        "plan": plan,
    }
    place.publish(manifest)


def _tokens(model: Model, site: Site) -> dict[str, Any] | None:
    """Number of tokens per picture at the site, and the grid of patches; None for one token."""
    shape = site.shape(model)
    if len(shape) == 1:
        return None
    return {"count": shape[0], "grid": list(model.grid) if site.tokens == "patches" else None}


def _plan(of: Request) -> dict[str, Any]:
    """Everything that determines the result, in three parts; equal plans give equal bytes."""
    settings = of.settings
    if of.dictionary is None:
        parts: dict[str, Any] = {name: settings[name] for name in ("n_latents", "k", "training", "seed")}
        if leaves_open(settings["n_latents"], settings["k"], settings["training"]):
            parts["chosen"] = CHOICE if joins(of) else TRAINED_ALONE
            if joins(of):
                parts["words"] = [of.evaluator.weights_hash, of.vocabulary.hash, settings["templates"]]
    else:
        parts = {"hash": of.dictionary.hash}
    encoding = {
        "model": of.model.weights_hash,
        "evaluator": of.evaluator.weights_hash,
        "preprocess": [of.model.preprocess_id, of.evaluator.preprocess_id],
        "forward": [of.model.facts, of.evaluator.facts],
        "site": str(of.site),
        "images": of.images.fingerprint,
        "batch": settings["batch"],
        "shard": gathering.shard_of(len(of.images), settings["batch"]),
        "draft": settings["draft"],
        "thumbnails": settings["thumbnails"],
    }
    if of.store is not None:
        encoding["store"] = of.store.fingerprint
    if of.vectors is not None:
        encoding["vectors"] = of.vectors.fingerprint
    plan = {
        "encoding": encoding,
        "dictionary": parts,
        "meaning": {
            "vocabulary": of.vocabulary.hash,
            "templates": settings["templates"],
            "examples": settings["examples"],
            "seed": settings["seed"],
        },
    }
    return json.loads(json.dumps(plan))


def _existing(folder: Path, plan: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """The plan of the study at `folder`, None if the folder does not exist."""
    if not folder.exists():
        return None
    if not (folder / MANIFEST).exists():
        if not folder.is_dir() or any(folder.iterdir()):
            raise StudyError(f"{str(folder)!r} exists and is not a study. Choose another path, or remove it.")
        folder.rmdir()
        return None
    old = read_manifest(folder)["plan"]
    if "shard" in old.get("encoding", {}) and "shard" in plan.get("encoding", {}):
        # Shards decide where micro-batches begin and nothing else; those of other versions have other sizes.
        old = {**old, "encoding": {**old["encoding"], "shard": plan["encoding"]["shard"]}}
    if "encoding" in old:  # studies of earlier versions do not record it
        old = {**old, "encoding": {"forward": plan["encoding"]["forward"], **old["encoding"]}}
    if old != plan and not overwrite:
        differing = [
            (f"{part}.{name}: {old.get(part, {}).get(name)!r} there, {value!r} asked")
            + (" (other pictures, names, labels or splits)" if name == "images" else "")
            for part, values in plan.items()
            for name, value in values.items()
            if name != "forward" and old.get(part, {}).get(name) != value
        ]
        facts = (
            zip(old["encoding"]["forward"], plan["encoding"]["forward"], strict=True)
            if "encoding" in old
            else ()
        )
        differing += filter(None, [other_facts(there, here) for there, here in facts])
        raise StudyError(
            f"{str(folder)!r} holds another study ({'; '.join(differing) or 'other settings'}). Choose another path, "
            "or pass overwrite=True (--overwrite on the command line) to replace it."
        )
    return old


def _dictionary(place: Workplace, fit: np.ndarray, of: Request) -> Dictionary:
    target, given = place.path / "dictionary", of.dictionary
    if place.finished("dictionary") is not None:
        return load_dictionary(target)
    if given is None:
        given = _made(place, fit, of)
        given.info["forward"] = of.model.facts
    given.save(target)
    place.finish("dictionary", sorted(target.iterdir()))
    # Reading the file back gives a resumed build and this one the same numbers.
    return load_dictionary(target)


def joins(of: Request) -> bool:
    """Whether a study's own dictionary gets named latents: it has an evaluator and one vector per picture, no sizes."""
    settings = of.settings
    return (
        settings["named"]
        and "budget" not in settings["training"]
        and leaves_open(settings["n_latents"], settings["k"], settings["training"])
        and of.evaluator.weights_hash != of.model.weights_hash
        and len(of.vocabulary) > 0
        and len(of.site.shape(of.model)) == 1
    )


def _made(place: Workplace, fit: np.ndarray, of: Request) -> Dictionary:
    """The study's own dictionary: joined where it can be, else trained alone."""
    settings, acts = of.settings, samples(place.path, fit)
    job = {
        "seed": settings["seed"],
        "checkpoint": place.path / "training",
        "progress": of.progress,
        "site": str(of.site),
        "model_hash": of.model.weights_hash,
    }
    if joins(of):
        words = of.vocabulary.embed(of.evaluator, settings["templates"], cache=place.path / "words")
        seen = np.load(place.path / "evaluator.npy", mmap_mode="r")
        return joined_dictionary(
            acts, of_pictures(seen, fit), words, of.vocabulary.words, **job, **settings["training"]
        )
    return train_sized(acts, settings["n_latents"], settings["k"], settings["training"], **job)


def _codes(place: Workplace, dictionary: Dictionary, n_pictures: int, engine: Engine) -> None:
    if place.finished("codes") is not None:
        return
    writer = CodesWriter(place.path, n_pictures, dictionary.n_latents)
    shared = (place.path, dictionary, BLOCK)
    for codes, tokens in engine.map(encode_block, shared, range(0, n_pictures, BLOCK)):
        writer.add(codes, tokens)
    place.finish("codes", writer.close())


def encode_block(shared: tuple[Path, Dictionary, int], start: int) -> tuple[SparseCodes, torch.Tensor | None]:
    """Codes of the block of pictures that begins at `start`.

    At a site of several tokens: each latent's largest value per picture, and the token of every entry.
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
    """Examples and sums of the part of pictures that begins at `start`."""
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


def _meaning(work: Path, dictionary: Dictionary, fit: np.ndarray, of: Request) -> dict[str, Any]:
    """Examples, labels and scores. Returns counts for the manifest."""
    settings, vocabulary, evaluator, engine = of.settings, of.vocabulary, of.evaluator, of.engine
    n_latents, n_pictures = dictionary.n_latents, len(fit)
    repeats = repeated(work)
    with written(work / "repeats.npy") as partial, partial.open("wb") as file:
        np.save(file, repeats)
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
    if told := other_facts(dictionary.info.get("forward"), model.facts):
        raise StudyError(
            f"The dictionary was trained on a model with the weights of {model.reference!r} that computes something "
            f"else ({told}). Use that model, or leave the dictionary out."
        )
    require_place(dictionary, model, site)
    if dictionary.width != site.width(model):
        raise DictionaryError(
            f"The dictionary takes activations of width {dictionary.width}; {site} of {model.reference!r} has "
            f"{site.width(model)}."
        )
