"""Units of the pilot: the experiments' own functions on a few pictures of the collection, on both clocks.

Owns the measurements of one model: encoding, studies, training steps, audits, faithfulness, probes, edits of pictures.
What is drawn is in `pilot_worlds.py`. Of models with equal shapes one is measured, on a few of the collection's
pictures; costs that grow with pictures are measured on two numbers of them. Start at `piloted`.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clipattr.reproduction.inputs import FITTED_ON, FROZEN, control, evenly
from clipattr.reproduction.pilot import Line, Pilot, Rates
from clipattr.reproduction.pilot_worlds import lesions, scenes
from clipattr.reproduction.times import Spent

if TYPE_CHECKING:
    from clipattr.images.collection import Images
    from clipattr.models.loading import Model
    from clipattr.reproduction.run import Run
    from clipattr.studies.study import Study

LEAST, SHARE = (
    128,
    8,
)  # pictures of the larger pilot study: at least LEAST, and one in SHARE of the collection
USUAL, MOST = 256, 2048  # but at most USUAL, or up to MOST where encoding them takes no longer than ENCODING
ENCODING = 15.0  # seconds
SMALLER = 4  # ratio of the larger pilot study's pictures to the smaller one's
STEPS = (50, 150)  # training steps of the two pilot trainings
PROMPTS = 3  # audited in the pilot
MARKED = 26  # pictures encoded with and without marks; with four marks they fill a forward pass
FAITHFUL = (4, 12)  # pictures of the two measurements of faithfulness
MAPPED = 4  # pictures whose occlusion maps are made
INTERVALS = 5  # computed in the pilot
TESTED = 0.65  # share of the forward passes it may take that a tested finding takes; few families have all the pictures


def more_pictures(pictures: int, each: float = ENCODING) -> int:
    """Pictures of the larger pilot study, of a collection of so many and with seconds to encode each.

    >>> [more_pictures(n, 0.01) for n in (60, 360, 2000, 8000, 100_000)], more_pictures(100_000, 1.0)
    ([60, 128, 250, 1000, 1500], 256)
    """
    affordable = min(MOST, int(ENCODING / max(each, 1e-9)))
    return min(pictures, max(LEAST, min(pictures // SHARE, max(USUAL, affordable))))


def piloted(run: Run, names: Collection[str]) -> Pilot:
    """Measure what experiments of these names need, in a temporary folder."""
    inputs, begun = run.inputs, Spent.now()

    def load() -> None:
        loaded.extend([inputs.judge, *(inputs.model(variant) for variant in inputs.variants)])

    loaded: list[Model] = []
    loading = Spent.of(load)
    for model in loaded:
        model.encode_text(["a picture"])  # reads the tokenizer
    shapes: dict[Hashable, Rates] = {}
    models: dict[str, Rates] = {}
    words = Spent()
    sizes: tuple[int, ...] = ()
    with tempfile.TemporaryDirectory() as folder:
        for variant in inputs.variants:
            shape = shape_of(inputs.model(variant))
            if shape not in shapes:
                place = Path(folder) / str(len(shapes))
                place.mkdir()
                shapes[shape], first, sizes = measured(run, variant, place, names)
                words |= first
            models[variant] = shapes[shape]
    lesion, curves, repair = lesions(run) if "lesions" in names else (Spent(),) * 3
    return Pilot(
        models,
        shapes=len(shapes),
        loading=loading,
        words=words,
        lesion=lesion,
        curves=curves,
        repair=repair,
        figures=figures(),
        tables=tables(run) if "faithfulness" in names else Spent(),
        spent=Spent.now() - begun,
        sizes=sizes,
    )


def shape_of(model: Model) -> Hashable:
    """The same for models that cost the same: sizes of pictures and of all weights, and where these are."""
    clip = model.clip
    return (
        tuple(model.image_size),
        tuple((name, tuple(each.shape), str(each.dtype)) for name, each in clip.named_parameters()),
        str(model.device),
    )


def measured(
    run: Run, variant: str, folder: Path, names: Collection[str]
) -> tuple[Rates, Spent, tuple[int, int]]:
    """Rates of one model for experiments of these names; the embedding of the vocabulary; numbers of pictures."""
    pictures = run.inputs.images

    def asked(*some: str) -> bool:
        return not set(some).isdisjoint(names)

    def two(work: Callable[[Study], object]) -> Line:
        """What a function takes with the smaller and the larger study."""
        return line(*(Spent.of(partial(work, a)) & Spent.of(partial(work, b)) for a, b in twice))

    made = _Builder(run, variant, folder)
    list(pictures[:2].batches([run.inputs.model(variant), run.inputs.judge]))  # warms up
    least = pictures.select(_rows(run, more_pictures(len(pictures)) // SMALLER))
    encoded = [Spent.of(partial(made.encode, least))]
    larger = pictures.select(_rows(run, more_pictures(len(pictures), encoded[0].wall / len(least))))
    encoded.append(Spent.of(partial(made.encode, larger)))
    sizes = (len(least), len(larger))

    def line(few: Spent, more: Spent) -> Line:
        return Line.through(sizes[0], few, sizes[1], more)

    studies: list[Study] = []

    def build(some: Images) -> Spent:
        return Spent.of(lambda: studies.append(made.study(some)))

    # The first one embeds the vocabulary, which keeps it; each later size twice, since other jobs disturb.
    words, *built = [build(some) for some in (least, least, least, larger, larger)]
    twice = (studies[1:3], studies[3:5])
    study = twice[1][0]
    found = Rates(
        encode=line(*encoded), study=line(built[0] & built[1], built[2] & built[3]), step=_step(run, study)
    )
    if asked("counts", "null", "dictionaries", "seeds"):
        found = replace(found, **_audits(run, twice, line))
    if asked("variants", "seeds"):
        found = replace(found, matched=two(_matched))
    if asked("dictionaries"):
        found = replace(found, card=two(_card))
    if asked("faithfulness"):
        found = replace(found, faithfulness=_faithfulness(run, study))
    if asked("spurious"):
        marked, curves = _marks(run, variant, study)
        found = replace(found, marked=marked, curves=curves)
    if asked("truth"):
        found = replace(found, scenes=scenes(run, variant, study))
    if asked("pixels") and run.sizes.verified:
        opened, verified = _edits(study, run.inputs.prompts[0])
        found = replace(found, opened=Line(each=opened * (1 / sizes[1])), verified=verified)
    return found, words - built[0] | Spent(), sizes


@dataclass
class _Builder:
    """Encodes some pictures and builds studies of them as a run does, with random directions."""

    run: Run
    variant: str
    folder: Path
    number: int = 0

    def _store(self, some: Images) -> Path:
        return self.folder / f"{len(some)}.acts"

    def encode(self, some: Images) -> None:
        self.run.inputs.encode(self.variant, some, self._store(some))

    def study(self, some: Images) -> Study:
        """A study of encoded pictures: as costly as one with a dictionary that was trained already."""
        from clipattr.storage.activations import ActivationStore

        self.number += 1
        inputs = self.run.inputs
        store = self._store(some)
        opened = ActivationStore.open(store)
        acts = opened.read(0, min(len(opened), FITTED_ON)).float()
        dictionary = control(
            FROZEN, acts, self.run.sizes, 0, site=inputs.protocol.site,
            model_hash=inputs.model(self.variant).weights_hash,
        )  # fmt: skip
        path = self.folder / f"{self.number}.study"
        return inputs.build(self.variant, some, path, store, dictionary=dictionary)


def _rows(run: Run, n: int) -> np.ndarray:
    """At most n pictures: those of the prompts that the pilot audits fill half, as an audit judges no prompt without
    pictures; the others are evenly spread."""
    labels, each = run.inputs.images.columns["label"], max(n // 2 // PROMPTS, 1)
    own = [
        row
        for prompt in _prompts(run)
        for row in [row for row, label in enumerate(labels) if label == prompt][:each]
    ]
    own = sorted(set(own))
    others = np.setdiff1d(np.arange(len(labels)), own)
    return np.union1d(own, others[evenly(len(others), n - len(own))] if len(own) < n else []).astype(int)


def _prompts(run: Run) -> list[str]:
    return [run.inputs.prompts[place] for place in evenly(len(run.inputs.prompts), PROMPTS)]


def _step(run: Run, study: Study) -> Spent:
    """One step of the training that a run makes."""
    from clipattr.dictionaries import train_sae

    training, sizes = dict(run.inputs.protocol.training), run.sizes
    training.pop("epochs", None)
    acts = torch.from_numpy(np.asarray(study.activations, dtype=np.float32))

    def train(steps: int) -> None:
        train_sae(acts, sizes.n_latents, sizes.k, steps=steps, progress=False, **training)

    few, more = STEPS
    return Line.through(few, Spent.of(partial(train, few)), more, Spent.of(partial(train, more))).each


def _card(study: Study) -> None:
    from clipattr.studies.cards import study_card

    study_card(study, keep=False)


def _matched(study: Study) -> None:
    """Match the latents of two studies of the same pictures."""
    from clipattr.discovery.compare import compare
    from clipattr.discovery.findings import Findings

    nothing = Findings([], study, {}, [])
    compare({"a": study, "b": study}, findings=[nothing, nothing], progress=False)


def _audits(
    run: Run, twice: Sequence[Sequence[Study]], line: Callable[[Spent, Spent], Line]
) -> dict[str, Any]:
    """What the prompts of an audit share and what one takes, with and without forward passes, and on shuffled pictures.

    Args:
        twice: two studies of the smaller number of pictures, and two of the larger one.
    """
    from clipattr.discovery.audit.expectations import read_prompts
    from clipattr.discovery.audit.run import Ready, audit_prompt
    from clipattr.discovery.audit.settings import Settings
    from clipattr.reproduction.experiments.surprises import shuffled

    protocol, more = run.inputs.protocol, twice[1][0]
    settings = Settings(budget=run.sizes.budget if more.had.any() else 0)
    made: list[Ready] = []

    def prepare(study: Study) -> Spent:
        """What prompts share, and what an experiment counts beside its audit."""
        spent = Spent.of(lambda: made.append(Ready(study, settings)))
        return spent + Spent.of(lambda: (protocol.triage(study), protocol.outliers(study)))

    def each(ready: Ready, budget: int) -> Spent:
        """One prompt, the mean of several."""
        ready.base.settings = replace(settings, budget=budget)
        asked = read_prompts(_prompts(run), ready.base.study)
        return Spent.of(lambda: [audit_prompt(ready, prompt) for prompt in asked]) * (1 / len(asked))

    ready = line(*(prepare(a) & prepare(b) for a, b in twice))
    plain, prompt = made[2], each(made[2], 0) & each(made[3], 0)
    prepare(shuffled(more))
    found = {
        "ready": ready, "prompt": prompt, "null": each(made[4], 0) & each(made[4], 0),
        "audited_on": len(more.images),
    }  # fmt: skip
    if settings.budget < settings.inserted:
        return found
    insertion = plain.insertion
    words = insertion.controls[: settings.controls]
    shared = Spent.of(lambda: [insertion.shared(word, len(insertion.numbers)) for word in (None, *words)])
    return found | {"shared": shared, "passes": each(plain, settings.budget) - prompt | Spent()}


def _faithfulness(run: Run, study: Study) -> Line:
    """All methods and measures, of so many pictures and as many classes as a run takes."""
    from clipattr.attribution import Similarity
    from clipattr.attribution.faithfulness import faithfulness
    from clipattr.reproduction.experiments.faithful import METHODS

    sizes, some = run.sizes, study.images
    classes = Similarity(
        run.inputs.prompts[: sizes.faithful_prompts], templates=run.inputs.protocol.templates
    )
    names = [f"class {number % sizes.faithful_prompts}" for number in range(FAITHFUL[1])]

    def measure(n: int) -> None:
        faithfulness(study, some[:n], classes, methods=METHODS, classes=names[:n], masks=sizes.faithful_masks)

    few, more = (min(n, len(some)) for n in FAITHFUL)
    return Line.through(few, Spent.of(partial(measure, few)), more, Spent.of(partial(measure, more)))


def _marks(run: Run, variant: str, study: Study) -> tuple[Spent, Spent]:
    """One picture encoded without and with all marks; and the classifiers of one mark and one seed.

    They are fitted and judged on as many vectors as in the experiment: those of the pilot's pictures, with noise.
    """
    from clipattr.discovery.encoded import encoded
    from clipattr.errors import DataError
    from clipattr.reproduction.experiments.spurious import MARKS, classes_of, curves, embedded_with_marks

    try:
        names = classes_of(run)
    except DataError:
        return Spent(), Spent()
    model, some, made = run.inputs.model(variant), study.images[:MARKED], []
    embedded_with_marks(model, some[:2], MARKS.values())  # warms up
    marked = Spent.of(lambda: made.append(embedded_with_marks(model, some, MARKS.values())[0]))
    moved = (made[0][:, 1] - made[0][:, 0]).mean(0)
    labels = study.images.columns["label"]
    rows = [row for row, label in enumerate(labels) if label in names]
    vectors, generator = (
        encoded(study, rows=np.array(rows)).embeddings.float(),
        torch.Generator().manual_seed(0),
    )
    counts = Counter(run.inputs.images.columns["label"])
    there, sizes = sum(counts[name] for name in names), run.sizes

    def side(share: float, most: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        places = torch.arange(max(min(most, round(share * there)), len(names))) % len(rows)
        noise = torch.randn(len(places), vectors.shape[1], generator=generator) * vectors.std(0) / 10
        gone = torch.nn.functional.normalize(vectors[places] + noise, dim=1)
        with_mark = torch.nn.functional.normalize(gone + moved, dim=1)
        return gone, with_mark, np.array([labels[rows[place]] for place in places.tolist()])

    fitting = side(1 - sizes.holdout, sizes.spurious_pictures)
    judging = side(sizes.holdout, sizes.spurious_pictures // 2)
    if len(set(fitting[2])) < 2:
        return marked * (1 / len(some)), Spent()

    def fit() -> None:
        curves(model, names, fitting, judging, seeds=1)

    fit()  # imports what it needs
    return marked * (1 / len(some)), Spent.of(fit)


def _edits(study: Study, prompt: str) -> tuple[Spent, Spent]:
    """What all verifications of a study share; and one of them, by the maps of a few pictures, most of its passes."""
    from clipattr.discovery.pixels.measure import Measure
    from clipattr.discovery.pixels.settings import PixelSettings

    settings, made = PixelSettings(), []

    def open_() -> None:
        made.append(Measure(study))
        made[0].embeddings  # noqa: B018

    opened, measure = Spent.of(open_), made[0]
    latents = [int(study.latents["frequency"].to_numpy().argmax())]
    measure.forwards = 0
    pixels, column = (
        measure.pixels(measure.openable(range(len(study.images)), MAPPED)),
        measure.column(prompt),
    )
    spent = Spent.of(
        lambda: measure.maps(pixels, latents, column, windows=settings.windows, side=settings.window)
    )
    return opened, spent * (TESTED * settings.forwards / measure.forwards)


def tables(run: Run) -> Spent:
    """The intervals of the table of faithfulness, the longest one: each method and measure, for each class and all."""
    from clipattr.reproduction.experiments.faithful import AREAS, METHODS, OTHERS
    from clipattr.statistics import bootstrap

    sizes = run.sizes
    some = np.linspace(0.0, 1.0, max(sizes.faithful_pictures, 2))[:, None]
    each = Spent.of(lambda: [bootstrap(some) for _ in range(INTERVALS)]) * (1 / INTERVALS)
    count = len(METHODS) * len(AREAS + OTHERS) * (1 + sizes.faithful_prompts)
    return count * len(run.inputs.variants) * each


def figures() -> Line:
    """So many figures of a page."""
    from clipattr.reproduction.figures import estimates, svg
    from clipattr.statistics import Interval

    def draw() -> None:
        svg(estimates({"one": [(f"name {n}", Interval(0.1 * n, 0.0, 1.0)) for n in range(5)]}, "share"))

    first, second = Spent.of(draw), Spent.of(draw)
    return Line(first - second | Spent(), second)
