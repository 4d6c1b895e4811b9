"""Plan: estimated time, disk, memory and network of a study on several machines like this one.

Owns the arithmetic from rates (`rates.py`, about ten seconds) to hours and bytes. Start at `plan_study`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clipattr.dictionaries.choosing import batch_of, candidates, default_schedule
from clipattr.dictionaries.joined import AT_ONCE, ROWS, WORDS, trained_size
from clipattr.dictionaries.recipes import Schedule
from clipattr.display.wording import counted
from clipattr.errors import DataError, DictionaryError
from clipattr.models.places import default_site
from clipattr.sites import Site
from clipattr.studies.rates import calibrated

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
        """Wall-clock seconds of all stages with all workers."""
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
        seconds: total duration of the calibration's measurements; each runs at least once.

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

    listed = Vocabulary.open(vocabulary).words if words is None else ()
    words = len(listed) if words is None else words
    prompts = words if prompts is None else prompts
    site = Site(site or default_site(model))
    width = site.width(model)
    if min(pictures, examples, words, workers, batch, prompts) < 1:
        raise DataError(
            f"A plan needs at least 1 of each: got {pictures} pictures, {words} words, {prompts} prompts, {workers} "
            "workers."
        )
    named = 0 if evaluator is None else min(words, WORDS)
    joined = named > 0 and n_latents is None
    n_latents, k, schedule, how = _training(width, pictures, n_latents, k, steps, named)
    judge = model if evaluator is None else evaluator
    embed = judge.embed_dim
    # Named latents are fitted, not trained.
    alone = (n_latents - named, k - min(AT_ONCE, named)) if joined else (n_latents, k)
    rates = calibrated(
        model, judge, width=width, n_latents=n_latents, k=k, trained=alone, examples=examples, rows=schedule.batch,
        words=(listed or [f"word {number}" for number in range(words)]) if joined else (), batch=batch,
        seconds=seconds,
    )  # fmt: skip
    entry = (2 if n_latents <= 2**16 else 4) + 2
    encoded = pictures * (2 * width + 2 * embed + 8 + THUMBNAIL)
    weights = sum(p.numel() * p.element_size() for m in (model, judge) for p in m.clip.parameters())
    dictionary = n_latents * width * 8
    sums = n_latents * (embed * 4 + examples * 16 + 24)
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
            "train the dictionary", trained / rates["train"] + (min(pictures, ROWS) / rates["read"] if joined else 0.0),
            False,
            2 * dictionary, 4 * dictionary,
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
            "labels", n_latents * words * embed * 8 / 1e10 + words / rates["judge_texts"], False,
            words * embed * 2 + n_latents * embed * 2,
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
    # The prompts' contrast is against all words.
    passes += (words + prompts) / rates["texts"] + prompts / rates["judge_texts"]
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
