"""Pilot: every step of a reproduction on a few of its pictures, timed, from which the plan is calculated.

Owns the measurement of rates with the first model. Steps whose cost grows with the pictures are timed on two numbers of
them, so that fixed costs are separated from costs that grow. Start at `piloted`.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from clipattr.reproduction.inputs import SYNTHETIC, evenly
from clipattr.reproduction.pilot_worlds import lesion_seconds, scene_seconds
from clipattr.reproduction.times import seconds_of
from clipattr.statistics import Interval

if TYPE_CHECKING:
    from clipattr.images.collection import Images
    from clipattr.reproduction.run import Run
    from clipattr.studies.study import Study

FEW, MORE = 64, 256  # pictures of the two pilot studies; a large collection allows more than MORE
MOST = 2048  # pictures of the larger one at most, and a quarter of the collection
ENCODING = 15.0  # seconds that encoding them may take
STEPS = (50, 200)  # training steps of the two pilot trainings
PROMPTS = 3  # audited in the pilot
FINDINGS = 0.25  # a prompt; the audits of bundled worlds and photographs have 0.1 to 0.5
NOTHING = Interval(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Line:
    """Seconds of a step as a line over a number of items.

    >>> Line.through(10, 3.0, 20, 5.0)(40)
    9.0
    """

    fixed: float
    each: float

    @classmethod
    def through(cls, n: int, seconds: float, more: int, then: float) -> Line:
        """The line through two measurements; never falling and never below zero, and always through the second one.

        >>> Line.through(10, 3.0, 20, 2.0)(40), Line.through(10, 1.0, 20, 4.0)(40)
        (2.0, 8.0)
        """
        each = max(then - seconds, 0.0) / max(more - n, 1)
        fixed = then - each * more
        return cls(fixed, each) if fixed >= 0 else cls(0.0, then / more)

    def __call__(self, n: float) -> float:
        return self.fixed + self.each * n


@dataclass(frozen=True)
class Rates:
    """Seconds on this machine with the first model.

    Attributes:
        encode: pictures by both models into a store. marked: one picture read, and encoded without and with each mark.
        words: the evaluator's embeddings of the vocabulary, once. study: a study of so many stored pictures without
            training. step: one training step. card: the quality card of a study of so many pictures.
        audit: one prompt over so many pictures without forward passes. prompt: one prompt more. null: both on shuffled
            pictures. tests: the forward passes of so many prompts. matched: the latents of two studies matched.
        faithfulness: one picture and class, all methods and measures. probe: fitting one probe.
        verified: one finding tested by editing pictures.
        lesion: drawing and embedding one synthetic lesion. probes: all probes of one shortcut and seed, and an audit of
            one. scene: drawing and embedding one scene of the first model's world. 0 where there are none.
    """

    encode: Line
    marked: float
    words: float
    study: Line
    step: float
    card: Line
    audit: Line
    prompt: Line
    null: tuple[Line, Line]
    tests: Line
    matched: Line
    faithfulness: float
    probe: float
    verified: float
    lesion: float
    probes: float
    scene: float

    def trained(self, run: Run) -> float:
        """Seconds of a study from stored activations, with the training of its dictionary."""
        sizes, rows = run.sizes, sum(side != "holdout" for side in run.inputs.images.columns["split"])
        rows = max(round(rows * (1 - sizes.holdout)) if rows == len(run.inputs.images) else rows, 1)
        batch = min(int(run.inputs.protocol.training["batch"]), rows)
        return self.study(len(run.inputs.images)) + sizes.epochs * rows / batch * self.step

    def audited(self, run: Run, *, budget: bool) -> float:
        """Seconds of an audit of all prompts."""
        prompts, pictures = len(run.inputs.prompts), len(run.inputs.images)
        tests = self.tests(prompts) if budget and run.sizes.budget else 0.0
        return self.audit(pictures) + (prompts - 1) * self.prompt(pictures) + tests

    def shuffled(self, run: Run) -> float:
        """Seconds of an audit of all prompts where nothing can be found, which costs less."""
        one, more = self.null
        pictures = len(run.inputs.images)
        return one(pictures) + (len(run.inputs.prompts) - 1) * more(pictures)

    def findings(self, run: Run) -> float:
        """Findings of one model that a plan counts with."""
        return max(1.0, FINDINGS * len(run.inputs.prompts))


def piloted(run: Run) -> Rates:
    """Measure the rates, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        return _piloted(run, Path(folder))


def _piloted(run: Run, folder: Path) -> Rates:
    from clipattr.reproduction.experiments.surprises import shuffled
    from clipattr.studies.encode import collect_activations

    inputs = run.inputs
    model, judge, pictures = inputs.model(inputs.variants[0]), inputs.judge, inputs.images
    samples = [pictures.select(_rows(run, FEW))]
    list(samples[0][:2].batches([model, judge]))  # warms up

    def encode(some: Images) -> None:
        place = folder / f"{len(some)}.acts"
        collect_activations(model, some, inputs.protocol.site, place, evaluator=judge, progress=False)

    encoded = [seconds_of(partial(encode, samples[0]))]
    samples.append(pictures.select(_rows(run, more_pictures(len(pictures), encoded[0] / len(samples[0])))))
    encoded.append(seconds_of(partial(encode, samples[1])))
    studies: list[Study] = []

    def build(some: Images) -> None:
        studies.append(_study(run, some, folder, len(studies)))

    # The first one embeds the vocabulary, which keeps it.
    first, *built = [seconds_of(partial(build, some)) for some in (samples[0], *samples)]
    few, more = studies[1:]
    sizes = [len(some) for some in samples]
    audits = [_audit_seconds(run, study, 0) for study in (few, more)]
    nothing = [_audit_seconds(run, shuffled(study), 0) for study in (few, more)]
    lesion, probes = lesion_seconds(run) if inputs.lesions == SYNTHETIC else (0.0, 0.0)
    return Rates(
        encode=Line.through(sizes[0], encoded[0], sizes[1], encoded[1]),
        marked=_marked_seconds(run, samples[0]),
        words=max(first - built[0], 0.0),
        study=Line.through(sizes[0], built[0], sizes[1], built[1]),
        step=_step_seconds(run, more),
        card=Line.through(sizes[0], _card_seconds(few), sizes[1], _card_seconds(more)),
        audit=_line(sizes, audits, 0),
        prompt=_line(sizes, audits, 1),
        null=(_line(sizes, nothing, 0), _line(sizes, nothing, 1)),
        tests=_tests_seconds(run, more, *audits[1]) if run.sizes.budget else Line(0.0, 0.0),
        matched=Line.through(sizes[0], _matched_seconds(few), sizes[1], _matched_seconds(more)),
        faithfulness=_faithfulness_seconds(run, more),
        probe=_probe_seconds(run, more),
        verified=_verified_seconds(more, inputs.prompts[0]) if run.sizes.verified else 0.0,
        lesion=lesion,
        probes=probes,
        scene=scene_seconds(run),
    )


def _line(sizes: list[int], seconds: list[tuple[float, float]], part: int) -> Line:
    return Line.through(sizes[0], seconds[0][part], sizes[1], seconds[1][part])


def more_pictures(pictures: int, each: float) -> int:
    """Pictures of the larger pilot study, of a collection of so many and with seconds to encode each.

    >>> more_pictures(300, 0.01), more_pictures(2000, 0.01), more_pictures(100_000, 0.01), more_pictures(100_000, 1.0)
    (256, 500, 1500, 256)
    """
    return max(MORE, min(MOST, pictures // 4, int(ENCODING / max(each, 1e-9))))


def _rows(run: Run, n: int) -> np.ndarray:
    """At most n pictures: those of the prompts that the pilot audits fill half, as an audit judges no prompt without
    pictures; the others are evenly spread."""
    labels, each = run.inputs.images.columns["label"], max(n // 2 // (1 + PROMPTS), 1)
    own = [
        row
        for prompt in run.inputs.prompts[: 1 + PROMPTS]
        for row in [row for row, label in enumerate(labels) if label == prompt][:each]
    ]
    return np.union1d(own, evenly(len(labels), max(n - len(own), 1))).astype(int)


def _study(run: Run, some: Images, folder: Path, number: int) -> Study:
    """A study with frozen directions of the asked size: as costly as a trained one without the training."""
    from clipattr.dictionaries import random_sae
    from clipattr.storage.activations import ActivationStore
    from clipattr.studies.start import build_study

    inputs, sizes = run.inputs, run.sizes
    model, store = inputs.model(inputs.variants[0]), folder / f"{len(some)}.acts"
    opened = ActivationStore.open(store)
    acts = opened.read(0, len(opened)).float()
    dictionary = random_sae(
        acts, sizes.n_latents, sizes.k, site=inputs.protocol.site, model_hash=model.weights_hash
    )
    settings = inputs.protocol.settings(
        n_latents=None,
        k=None,
        training=None,
        examples=sizes.examples,
        evaluator=inputs.judge,
        vocabulary=inputs.vocabulary,
    )
    own = any(split == "holdout" for split in some.columns["split"])
    return build_study(
        model, some, path=folder / f"{number}.study", dictionary=dictionary, store=store, progress=False,
        holdout=None if own else sizes.holdout, **settings,
    )  # fmt: skip


def _marked_seconds(run: Run, some: Images) -> float:
    from clipattr.reproduction.experiments.spurious import MARKS, embedded_with_marks

    model = run.inputs.model(run.inputs.variants[0])
    embedded_with_marks(model, some[:2], MARKS.values())  # warms up
    return seconds_of(lambda: embedded_with_marks(model, some, MARKS.values())) / len(some)


def _step_seconds(run: Run, study: Study) -> float:
    from clipattr.dictionaries import train_sae

    training, sizes = dict(run.inputs.protocol.training), run.sizes
    training.pop("epochs", None)
    acts = torch.from_numpy(np.asarray(study.activations, dtype=np.float32))

    def train(steps: int) -> None:
        train_sae(acts, sizes.n_latents, sizes.k, steps=steps, progress=False, **training)

    times = [seconds_of(partial(train, steps)) for steps in STEPS]
    return Line.through(STEPS[0], times[0], STEPS[1], times[1]).each


def _card_seconds(study: Study) -> float:
    from clipattr.studies.cards import study_card

    return seconds_of(lambda: study_card(study, keep=False))


def _audit_seconds(run: Run, study: Study, budget: int) -> tuple[float, float]:
    """Seconds of one prompt, and of each one more."""
    from clipattr.discovery.audit.run import audit
    from clipattr.discovery.audit.settings import Settings

    prompts = run.inputs.prompts[: 1 + PROMPTS]

    def measure(some: list[str]) -> float:
        return seconds_of(lambda: audit(study, some, settings=Settings(budget=budget), progress=False))

    one, all_ = measure(prompts[:1]), measure(prompts)
    return one, max(all_ - one, 0.0) / max(len(prompts) - 1, 1)


def _tests_seconds(run: Run, study: Study, one: float, each: float) -> Line:
    """Seconds of the forward passes over prompts; `one`, `each`: of the audit without them."""
    first, more = _audit_seconds(run, study, run.sizes.budget)
    tests = max(more - each, 0.0)
    return Line(max(first - one - tests, 0.0), tests)


def _matched_seconds(study: Study) -> float:
    """Seconds of matching the latents of two studies of the same pictures."""
    from clipattr.discovery.compare import compare
    from clipattr.discovery.findings import Findings

    nothing = Findings([], study, {}, [])
    return seconds_of(lambda: compare({"a": study, "b": study}, findings=[nothing, nothing], progress=False))


def _faithfulness_seconds(run: Run, study: Study) -> float:
    """Seconds per picture and class of all methods and measures."""
    from clipattr.attribution import Similarity
    from clipattr.attribution.faithfulness import faithfulness
    from clipattr.reproduction.experiments.faithful import METHODS

    prompts, some = run.inputs.prompts[: run.sizes.faithful_prompts], study.images

    def measure(n: int) -> float:
        return seconds_of(
            lambda: faithfulness(
                study, some[:n], Similarity(prompts), methods=METHODS, classes=["one"] * n,
                masks=run.sizes.faithful_masks,
            )
        )  # fmt: skip

    few, more = min(8, len(some)), min(32, len(some))
    measure(2)  # warms up
    line = Line.through(few, measure(few), more, measure(more))
    return line.each / len(prompts)


def _probe_seconds(run: Run, study: Study) -> float:
    """Seconds of fitting one probe on as many vectors as asked: those of the pilot's pictures, repeated with noise."""
    from clipattr.discovery.encoded import encoded
    from clipattr.discovery.probes.fitting import fit_probe

    sizes, vectors = run.sizes, encoded(study, rows=study.rows).embeddings.float()
    generator = torch.Generator().manual_seed(0)
    # The classes are the pictures' own, so that they are as hard to separate as in the experiment.
    labels = [str(label) for label in study.images.select(study.rows).columns["label"]]
    classes = [label for label, _ in Counter(labels).most_common(max(2, sizes.spurious_classes))]
    counts = Counter(label for label in run.inputs.images.columns["label"] if label)
    largest = sum(count for _, count in counts.most_common(sizes.spurious_classes))
    n = max(60, min(sizes.spurious_pictures, round(largest * (1 - sizes.holdout))))
    there = torch.tensor([row for row, label in enumerate(labels) if label in classes])
    rows = there[torch.arange(n) % len(there)]
    noise = torch.randn(n, vectors.shape[1], generator=generator) * vectors.std(0) / 10
    unit = torch.nn.functional.normalize(vectors[rows] + noise, dim=1)
    own = [labels[row] for row in rows.tolist()]
    if len(set(own)) < 2:
        own = [str(row % 2) for row in range(n)]

    def fit() -> None:
        fit_probe(unit, own, strength=10.0, calibrate=False, folds=2)

    fit()  # imports what it needs
    return seconds_of(fit)


def _verified_seconds(study: Study, prompt: str) -> float:
    """Seconds of testing one finding, with the latent that is active most often in place of a found one."""
    from clipattr.discovery.findings import Finding, Findings
    from clipattr.discovery.pixels.verify import verify

    latent = int(study.latents["frequency"].to_numpy().argmax())
    made = Finding(prompt, (latent,), None, "unknown", 0.0, NOTHING, NOTHING, 0.0, 0.0, 0.0, 0.0)
    return seconds_of(lambda: verify(study, Findings([made], study, {}, []), progress=False))
