"""Gathering: the first stage of a build, from pictures to a study's arrays, with as few forward passes as possible.

Owns the source of activations and embeddings: an earlier study with the same encodings, a store, or a pass over the
pictures. Ignores how pictures are encoded (`encode.py`) and the later stages (`build.py`). Start at `gathered`.
"""

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipattr.dictionaries import Dictionary
from clipattr.errors import DataError, StudyError
from clipattr.execution.engine import Engine
from clipattr.images.collection import Images
from clipattr.meaning.vocabulary import Vocabulary
from clipattr.models.forward import other_facts
from clipattr.models.loading import Model
from clipattr.models.textonly import FILE as TEXTS
from clipattr.sites import Site
from clipattr.storage.activations import POOLED, ActivationStore
from clipattr.storage.shards import DamagedShard
from clipattr.studies.encode import Pass, fill
from clipattr.studies.folder import Workplace
from clipattr.studies.format import read_manifest, write_pictures
from clipattr.studies.join import join
from clipattr.studies.vectors import VectorInput, gather_vectors

SHARD = 128  # pictures per shard, so that little is lost by an interruption
MANY = 1000  # shards of a build; larger collections have larger ones, whose files are fewer
ENCODED = ("activations.npy", "evaluator.npy", "fingerprints.npy", "pictures.csv")
ENCODED_OPTIONAL = ("thumbnails.npy", "thumbnails.bin", "scenes.jsonl", TEXTS)


@dataclass(frozen=True)
class Request:
    """Arguments of `build_study` after checks. `store` is opened at the study's site; `vectors` are embeddings of
    `images` by the image tower."""

    model: Model
    evaluator: Model
    images: Images
    vocabulary: Vocabulary
    site: Site
    dictionary: Dictionary | None
    settings: dict[str, Any]
    engine: Engine
    store: ActivationStore | None = None
    vectors: VectorInput | None = None
    workers: int | None = None
    progress: bool = True

    @property
    def from_store(self) -> bool:
        """Whether the store also has the evaluator's embeddings, fingerprints and thumbnails."""
        about = {} if self.store is None else self.store.manifest.get("evaluator", {})
        same = (about.get("hash"), about.get("preprocess")) == (
            self.evaluator.weights_hash,
            self.evaluator.preprocess_id,
        )
        same = same and not other_facts(about.get("forward"), self.evaluator.facts)
        return same and (about["thumbnails"] or not self.settings["thumbnails"])


def shard_of(pictures: int, batch: int) -> int:
    """Pictures per shard of a build, no fewer than a micro-batch.

    >>> shard_of(1_000, 256), shard_of(1_000, 64) < shard_of(1_000_000, 64)
    (256, True)
    """
    return max(SHARD if pictures <= MANY * SHARD else 8 * SHARD, batch)


def store_at(path: Path, model: Model, images: Images, site: Site) -> ActivationStore:
    """A complete store of these pictures by this model, opened at a site.

    Raises:
        StudyError: a store of another model or other pictures, an unfinished one, or one without the site.
        DataError: no store at `path`.
    """
    store = ActivationStore.open(path)
    again = "Encode the pictures again (clipattr encode), or leave the store out."
    about = (store.model_hash, store.manifest["preprocess"])
    if about != (model.weights_hash, model.preprocess_id):
        raise StudyError(
            f"The store in {str(path)!r} was encoded with {store.manifest['model']!r}, weights {store.model_hash}; the "
            f"study is of {model.reference!r}, weights {model.weights_hash}. {again}"
        )
    if told := other_facts(store.manifest.get("forward"), model.facts):
        raise StudyError(
            f"The store in {str(path)!r} was encoded with {store.manifest['model']!r}, which has the weights of "
            f"{model.reference!r} and computes something else ({told}). {again}"
        )
    if store.manifest["fingerprint"] != images.fingerprint:
        raise StudyError(
            f"The store in {str(path)!r} holds other pictures than those given ({store.manifest['pictures']} there, "
            f"{len(images)} here; ids, labels, groups, splits and file sizes must be the same). {again}"
        )
    if not store.complete:
        raise StudyError(f"The store in {str(path)!r} is unfinished: run the same clipattr encode again.")
    for name in store.manifest["sites"]:
        if name == str(site):
            return store.at(name)
        if name != POOLED and site.is_same(name, model):
            return store.at(name)
    raise StudyError(
        f"The store in {str(path)!r} has {', '.join(store.manifest['sites'])}; the study's site is {site}. {again}"
    )


def gathered(
    place: Workplace, old: dict[str, Any] | None, plan: dict[str, Any], of: Request
) -> dict[str, Any]:
    """Write activations, evaluator embeddings, thumbnails and the list of pictures. Returns skipped ones and notes.

    Raises:
        SiteError: nothing at the site reaches the embedding.
    """
    of.site.require_reach(of.model)
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
        kept = _joined(work, of) if of.vectors is None else _copied(work, of.vectors, of)
        write_pictures(kept, work, folder)
        present = set(kept.ids)
        skipped = [list(pair) for pair in of.images.skipped if pair[0] not in present]
        about = {"skipped": skipped, "notes": kept.notes}
    files = [work / name for name in (*ENCODED, *ENCODED_OPTIONAL) if (work / name).exists()]
    return place.finish("encoding", [*files, *sorted((work / "pictures").glob("*"))], about)


def _copied(work: Path, vectors: VectorInput, of: Request) -> Images:
    """Arrays of a study from given embeddings."""
    kept = gather_vectors(vectors, of.images, of.model, of.evaluator, work, batch=of.settings["batch"])
    kept.notes += vectors.notes
    return kept


def _joined(work: Path, of: Request) -> Images:
    """Encode missing shards and join them; a damaged shard is encoded again, at most twice."""
    reader = of.model if of.store is None else None
    readers = [model for model in (reader, of.evaluator) if model is not None]
    side = 2 * max(side for model in readers for side in model.image_size) if of.settings["draft"] else None
    for attempt in range(3):
        kept = of.store if of.from_store else None
        if kept is None:
            kept = _workshop(work / "shards", reader, of)
            made = Pass(of.images, kept, reader, of.evaluator, of.workers, side, renewing=True)
            fill(made, engine=of.engine, progress=of.progress)
        try:
            return join(
                of.images,
                of.store or kept,
                kept,
                work,
                single=len(of.site.shape(of.model)) == 1,
                thumbnails=of.settings["thumbnails"],
            )
        except DamagedShard as error:
            if attempt == 2 or work not in error.record.parents:
                raise
            error.record.unlink()
            warnings.warn(f"{error} It is encoded again.", stacklevel=2)
    raise AssertionError("unreachable")


def _workshop(folder: Path, reader: Model | None, of: Request) -> ActivationStore:
    """The store of a build's shards; a damaged store or one of another request is replaced by an empty one."""

    def made() -> ActivationStore:
        return ActivationStore.create(
            folder,
            reader or of.evaluator,
            {} if reader is None else {str(of.site): of.site.shape(reader)},
            pictures=len(of.images),
            fingerprint=of.images.fingerprint,
            batch=of.settings["batch"],
            shard_pictures=shard_of(len(of.images), of.settings["batch"]),
            evaluator=of.evaluator,
            thumbnails=of.settings["thumbnails"],
            renew=True,
        )

    try:
        return made()
    except DataError:
        shutil.rmtree(folder, ignore_errors=True)
        return made()
