"""Plan: estimated time, disk, memory and network of a study on several machines like this one.

Owns a calibration of about ten seconds and the arithmetic from its rates to hours and bytes. Runs the functions of a
build on synthetic pictures and activations. Start at `plan_study`.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from clipattr.dictionaries.choosing import batch_of, candidates, default_schedule
from clipattr.dictionaries.joined import AT_ONCE, WORDS, trained_size
from clipattr.dictionaries.recipes import Schedule
from clipattr.display.wording import counted
from clipattr.errors import DataError, DictionaryError
from clipattr.models.places import default_site
from clipattr.sites import Site

if TYPE_CHECKING:
    import pandas as pd

    from clipattr.models.loading import Model

JPEG = 110_000  # bytes of a web picture of 500 x 375, for the network traffic of pictures on another machine
THUMBNAIL = 4_000  # bytes of a stored thumbnail
FORWARDS = 19  # forward passes an audit spends on a prompt, mean of six studies; `Settings.budget` allows 60
EVALUATED = 0.05  # share of them by the evaluator: occluded pictures in which the prompt falls most
SHARED = (
    324  # forward passes whose results all prompts share: pictures without text, and with eight other words
)
ASKING = (
    0.03,
    1.5e-6,
)  # seconds a prompt takes beside forward passes, and seconds for each picture, on one core
STATED_STEPS = 2000  # steps of a training of stated size; the default of `dictionaries.Schedule`
PRODUCTS = 3e10  # multiply-adds a second of a large float32 product on one core: pictures with words
SMALL_PRODUCTS = 1e10  # the same of small ones: the 64 words that fit a picture best, with each other
COMPETING = 64  # those words


@dataclass(frozen=True)
class Stage:
    """One stage of a study: seconds on one worker and on all, and bytes on disk, in memory and over the network."""

    name: str
    seconds: float
    spread: bool
    disk: float
    memory: float
    network: float


@dataclass(frozen=True)
class Plan:
    """What a study and its audit cost, stage by stage.

    Attributes:
        rates: what was measured, per second on one worker. assumptions: what was assumed, one sentence each.
    """

    pictures: int
    workers: int
    stages: tuple[Stage, ...]
    rates: dict[str, float]
    assumptions: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return sum(stage.seconds / (self.workers if stage.spread else 1) for stage in self.stages)

    @property
    def disk(self) -> float:
        """Peak bytes: shards and the arrays joined from them exist together until the study is finished."""
        return sum(stage.disk for stage in self.stages)

    @property
    def table(self) -> pd.DataFrame:
        """One row per stage: hours with all workers, and gigabytes."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "stage": stage.name,
                    "hours": stage.seconds / (self.workers if stage.spread else 1) / 3600,
                    "workers": self.workers if stage.spread else 1,
                    "disk_gb": stage.disk / 1e9,
                    "memory_gb": stage.memory / 1e9,
                    "network_gb": stage.network / 1e9,
                }
                for stage in self.stages
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-compatible data."""
        return {
            "pictures": self.pictures, "workers": self.workers,
            "hours": self.seconds / 3600, "disk_gb": self.disk / 1e9,
            "stages": self.table.to_dict("records"), "rates_per_second": self.rates,
            "assumptions": list(self.assumptions),
        }  # fmt: skip


def plan_study(
    model: Model,
    evaluator: Model | None = None,
    *,
    pictures: int,
    n_latents: int | None = None,
    k: int | None = None,
    examples: int = 20,
    vocabulary: Any = "general",
    words: int | None = None,
    steps: int | None = None,
    prompts: int | None = None,
    workers: int = 1,
    batch: int = 64,
    seconds: float = 10.0,
    site: str | Site | None = None,
) -> Plan:
    """Estimate the time, disk, memory and network of a study and its audit from a short calibration on this machine.

    Defaults are those of `build_study` and `audit`.

    Args:
        model: the audited `Model`.
        evaluator: the evaluator; None means the audited model.
        pictures: number of pictures.
        n_latents, k, steps: of the dictionary's training; without sizes those of a study's own dictionary.
        examples: examples per latent.
        vocabulary: anything `Vocabulary.open` takes. words: number of its words instead.
        prompts: number of audited prompts; by default every word.
        workers: machines or processes like this one, each with the number of threads that torch uses here.
        site: of the study, with one vector per picture; by default as in `build_study`.
        batch: pictures per forward pass.
        seconds: total duration of the six calibration measurements; each runs at least once.

    Returns:
        A `Plan`; `table` has hours and gigabytes per stage.

    Raises:
        DataError: a size below 1. DictionaryError: one of n_latents and k alone.

    >>> import clipattr as ca
    >>> plan = ca.plan_study(ca.load_model("picture-world-a"), pictures=1_000_000, n_latents=1024, k=8, seconds=0.5)
    >>> plan.disk > 1_000_000 * 192 * 2  # at least the float16 activations
    True
    """
    from clipattr.meaning.vocabulary import Vocabulary

    words = len(Vocabulary.open(vocabulary)) if words is None else words
    prompts = words if prompts is None else prompts
    site = Site(site or default_site(model))
    width = site.width(model)
    if min(pictures, examples, words, workers, batch, prompts) < 1:
        raise DataError(
            f"A plan needs at least 1 of each: got {pictures} pictures, {words} words, {prompts} prompts, {workers} "
            "workers."
        )
    named = 0 if evaluator is None else min(words, WORDS)
    n_latents, k, schedule, how = _training(width, pictures, n_latents, k, steps, named)
    judge = model if evaluator is None else evaluator
    embed = judge.embed_dim
    share = seconds / 6
    rates = {
        "decode": _decode_rate(model, share),
        "encode": _encode_rate(model, batch, share),
        "evaluate": _encode_rate(judge, batch, share),
        "alter": _alter_rate(model, share),
        **_dictionary_rates(width, embed, n_latents, k, examples, share),
        "disk_bytes": _disk_rate(),
    }
    entry = (2 if n_latents <= 2**16 else 4) + 2
    encoded = pictures * (2 * width + 2 * embed + 8 + THUMBNAIL)
    weights = sum(p.numel() * p.element_size() for m in (model, judge) for p in m.clip.parameters())
    dictionary = n_latents * width * 8
    sums = n_latents * (embed * 4 + examples * 16 + 24)
    # A training step costs about three products over all latents: forward, gradients, optimizer moments.
    trained = (schedule.steps or 0) * schedule.batch
    stages = (
        Stage(
            "decode and encode",
            # Decoding runs in threads, concurrently with encoding.
            pictures * max(1 / rates["decode"], 1 / rates["encode"] + 1 / rates["evaluate"]),
            True,
            encoded,
            weights + 4 * batch * 3 * 4 * max(model.image_size) ** 2,
            pictures * JPEG + encoded,
        ),
        Stage("join shards", 2 * encoded / rates["disk_bytes"], False, encoded, 2**24, encoded),
        Stage(
            "train the dictionary", 3 * trained / rates["codes"], False, 2 * dictionary, 4 * dictionary,
            trained * 2 * width,
        ),
        Stage(
            "codes", pictures / rates["codes"], True, pictures * k * entry, 2 * dictionary,
            pictures * (2 * width + k * entry),
        ),
        Stage(
            "examples", pictures / rates["examples"], True, n_latents * examples * 8, 2 * sums,
            pictures * (k * entry + 2 * embed) + -(-pictures // 2**18) * sums,
        ),
        Stage(
            "labels", n_latents * words * embed * 8 / 1e10, False, words * embed * 2 + n_latents * embed * 2,
            words * embed * 4 + n_latents * (embed * 12 + 400), 0.0,
        ),
        Stage(
            "audit",
            _audit_seconds(rates, prompts, pictures, words, embed),
            True, 0.0, weights + pictures * k * entry + words * embed * 4 + min(pictures * embed * 4, 2**29), 0.0,
        ),
    )  # fmt: skip
    assumptions = (
        how,
        f"site {site}; {counted(words, 'word')}; {counted(examples, 'example')} per latent"
        + ("; the model itself names latents" if evaluator is None else ""),
        f"audit of {counted(prompts, 'prompt')} with about {FORWARDS} forward passes each, one in "
        f"twenty by the evaluator",
        "pictures are JPEGs of 500 x 375 pixels; other disks, networks and pictures differ",
    )
    return Plan(pictures, workers, stages, rates, assumptions)


def _audit_seconds(rates: dict[str, float], prompts: int, pictures: int, words: int, embed: int) -> float:
    """Seconds of an audit on one worker: forward passes over altered pictures, the words of each picture, the rest."""
    forwards = prompts * FORWARDS
    audited = forwards * (1 - EVALUATED) + SHARED
    passes = audited / rates["encode"] + forwards * EVALUATED / rates["evaluate"]
    seen = pictures * embed * (words / PRODUCTS + COMPETING**2 / SMALL_PRODUCTS)
    return passes + (forwards + SHARED) / rates["alter"] + seen + prompts * (ASKING[0] + ASKING[1] * pictures)


def _training(
    width: int, pictures: int, n_latents: int | None, k: int | None, steps: int | None, named: int
) -> tuple[int, int, Schedule, str]:
    """Sizes and length of the training that a study's own dictionary takes, and the sentence about them.

    Args:
        named: latents for words; 0 where the study has no evaluator.
    """
    if (n_latents is None) != (k is None):
        raise DictionaryError(
            f"Give n_latents and k together, or neither to have them chosen; got n_latents={n_latents} and k={k}."
        )
    if n_latents is None and named:
        n_latents, k = trained_size(width, pictures)
        schedule, chosen = Schedule(STATED_STEPS, batch=batch_of(pictures)), f"{named:,} of them for words"
        n_latents, k = n_latents + named, k + min(AT_ONCE, named)
    elif n_latents is None or k is None:
        recipe, schedule = candidates(width, pictures)[0], default_schedule(pictures)
        n_latents, k, chosen = recipe.n_latents, recipe.k, "sizes as chosen by default"
    else:
        if min(n_latents, k) < 1 or k > n_latents:
            raise DataError(
                f"A plan needs at least 1 of each, and k at most n_latents: got {n_latents} latents, k={k}."
            )
        schedule, chosen = Schedule(steps=STATED_STEPS), "sizes as given"
        schedule = replace(schedule, batch=min(schedule.batch, pictures))
    schedule = replace(schedule, steps=steps or schedule.steps)
    how = (
        f"dictionary of {n_latents:,} latents, {k} active ({chosen}), {schedule.steps:,} training steps of "
        f"{schedule.batch:,} activations"
    )
    return n_latents, k, schedule, how


def _rate(work: Callable[[], int], seconds: float) -> float:
    """Items per second of a function that returns its number of items; the first call is a warm-up."""
    work()
    begun, done = time.perf_counter(), 0
    while done == 0 or time.perf_counter() - begun < seconds:
        done += work()
    return done / (time.perf_counter() - begun)


def _decode_rate(model: Model, seconds: float) -> float:
    """Pictures per second with as many threads as a study uses."""
    from clipattr.images.collection import Images
    from clipattr.images.decoding import difference_hash, thumbnail_bytes

    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    images = Images.open([_read(file.getvalue())])

    def prepare(_: Image.Image) -> int:
        picture = _read(file.getvalue(), 2 * max(model.image_size))
        model.prepare(picture)
        return len(thumbnail_bytes(picture)) + difference_hash(picture) % 2

    return _rate(lambda: len(list(images.stream(prepare, [0] * 16))), seconds)


def _alter_rate(model: Model, seconds: float) -> float:
    """Pictures per second that are copied, changed and prepared, one after the other."""
    side = 2 * max(model.image_size)
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)

    def work() -> int:
        changed = noise.copy()
        changed[: side // 2, : side // 2] = 0
        model.prepare(Image.fromarray(changed))
        return 1

    return _rate(work, seconds)


def _read(data: bytes, draft: int | None = None) -> Image.Image:
    from clipattr.images.decoding import read_picture

    return read_picture(data, draft=draft)


def _encode_rate(model: Model, batch: int, seconds: float) -> float:
    pixels = torch.zeros(batch, 3, *model.image_size)

    def work() -> int:
        with torch.no_grad():
            model.encode_image(pixels)
        return batch

    return _rate(work, seconds)


def _dictionary_rates(
    width: int, embed: int, n_latents: int, k: int, examples: int, seconds: float
) -> dict[str, float]:
    """Codes per second, and pictures per second in the pass over examples and sums."""
    from clipattr.dictionaries import SparseCodes, random_sae
    from clipattr.meaning.summary import collect

    generator = torch.Generator().manual_seed(0)
    acts = torch.randn(1024, width, generator=generator)
    dictionary = random_sae(acts, n_latents=n_latents, k=k)
    codes = SparseCodes.cat([dictionary.encode(acts)] * 8)
    embeddings = torch.nn.functional.normalize(
        torch.randn(len(codes), embed, generator=generator), dim=-1
    ).numpy()
    none = np.zeros(len(codes), dtype=bool)

    def coded() -> int:
        return len(dictionary.encode(acts))

    def kept() -> int:
        collect([(0, codes)], embeddings, n_latents, held_out=none, repeats=none, m=examples)
        return len(codes)

    return {"codes": _rate(coded, seconds), "examples": _rate(kept, seconds)}


def _disk_rate(size: int = 2**26) -> float:
    """Bytes per second written to the disk below the current folder, or to the temporary one."""
    place = Path.cwd() if os.access(Path.cwd(), os.W_OK) else None
    data = os.urandom(2**20)
    with tempfile.NamedTemporaryFile(dir=place) as file:
        begun = time.perf_counter()
        for _ in range(size // len(data)):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return size / (time.perf_counter() - begun)
