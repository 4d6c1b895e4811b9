"""Plan: what a reproduction will cost, estimated from a short calibration on this machine.

Owns the calibration, the sum over experiments, and the assumptions behind it. Each experiment states its own cost
(`Experiment.seconds`). Start at `planned`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clipattr.reproduction.experiment import Experiment
from clipattr.reproduction.inputs import evenly

if TYPE_CHECKING:
    import pandas as pd

    from clipattr.reproduction.run import Run

CALIBRATION = 2.0  # seconds for the rates of a study's stages
SAMPLE = 32  # pictures that are encoded to measure the rate
SOME_PROMPTS = 3  # prompts audited on a bundled study to measure the rate


@dataclass(frozen=True)
class Rates:
    """Seconds on this machine.

    Attributes:
        picture: reading, preparing and encoding one picture with the first model. forward: one forward pass of it.
        study: building a study with its dictionary. study_again: the same from stored activations.
        audit: one prompt without forward passes. faithfulness: one picture and class, all methods and measures.
        probe: fitting one probe. lesion: drawing and embedding one lesion. lesion_probes: all probes of one draw.
        verified: forward passes that editing pictures may take per finding.
    """

    picture: float
    forward: float
    study: float
    study_again: float
    audit: float
    faithfulness: float
    probe: float
    lesion: float
    lesion_probes: float
    verified: float


@dataclass(frozen=True)
class ReproductionPlan:
    """Estimated seconds per experiment. rows: experiment, units, seconds, assumes. assumptions: of the calibration."""

    rows: tuple[tuple[str, int, float, str], ...]
    assumptions: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of everything, on one machine like this."""
        return sum(row[2] for row in self.rows)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per experiment."""
        import pandas as pd

        return pd.DataFrame(list(self.rows), columns=["experiment", "units", "seconds", "assumes"])

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "seconds": self.seconds,
            "experiments": self.frame.to_dict("records"),
            "assumptions": list(self.assumptions),
        }


def planned(run: Run, experiments: Sequence[Experiment]) -> ReproductionPlan:
    """Measure the rates, and add up what the experiments ask for."""
    rates, assumptions = calibrated(run)
    rows = []
    for experiment in experiments:
        units = len(_units(run, experiment))
        rows.append(
            (
                experiment.name,
                units,
                units * experiment.seconds(run, rates) if units else 0.0,
                experiment.assumes,
            )
        )
    return ReproductionPlan(tuple(rows), tuple(assumptions))


def _units(run: Run, experiment: Experiment) -> Sequence[str]:
    return experiment.units(run)


def _seconds(work: Callable[[], object], times: int = 1) -> float:
    begun = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - begun) / times


def calibrated(run: Run) -> tuple[Rates, list[str]]:
    """Rates of this machine with the first model, and what they rest on."""
    from clipattr.discovery.pixels.settings import PixelSettings
    from clipattr.studies.plan import plan_study

    inputs, sizes = run.inputs, run.sizes
    model, judge, pictures = inputs.model(inputs.variants[0]), inputs.judge, len(inputs.images)
    some = inputs.images.select(evenly(pictures, SAMPLE))
    list(some[:2].batches([model, judge]))  # warms up

    def encode(models: list[Any]) -> None:
        for _, pixels in some.batches(models):
            with torch.no_grad():
                for each, batch in zip(models, pixels, strict=True):
                    each.encode_image(batch)

    both, one = (
        _seconds(lambda: encode([model, judge])) / len(some),
        _seconds(lambda: encode([model])) / len(some),
    )
    noise = torch.rand(8, 3, *model.image_size, device=model.device)

    def forward() -> None:
        with torch.no_grad():
            model.encode_image(noise)

    forward()
    pass_ = _seconds(forward, 3) / 8
    steps = max(1, round(sizes.epochs * pictures / 4096))
    parts = plan_study(
        model, judge, pictures=pictures, n_latents=sizes.n_latents, k=sizes.k, examples=sizes.examples,
        words=len(inputs.vocabulary), steps=steps, seconds=CALIBRATION, site=inputs.protocol.site,
    )  # fmt: skip
    again = sum(stage.seconds for stage in parts.stages if stage.name != "decode and encode")
    rates = Rates(
        picture=one,
        forward=pass_,
        study=pictures * both + again,
        study_again=again,
        audit=_audit_rate(pictures),
        faithfulness=_faithfulness_rate(run),
        probe=_probe_rate(run),
        lesion=0.0 if inputs.lesions is None else _lesion_rate(),
        lesion_probes=40 * _probe_rate(run),
        verified=PixelSettings().forwards,
    )
    return rates, [
        f"one machine like this one, {torch.get_num_threads()} threads, and nothing measured before",
        f"{SAMPLE} of the pictures were read and encoded to measure {one * 1000:.0f} ms per picture (model alone) and "
        f"{both * 1000:.0f} ms (with the evaluator); all models cost what {inputs.variants[0]} costs",
        f"the closed-form audit of a prompt was timed on the bundled study and scaled by the number of pictures: "
        f"{rates.audit:.2f} s",
        f"the dictionary is trained on {steps} × 4,096 activations at the measured rate",
    ]


def _audit_rate(pictures: int) -> float:
    """Seconds of one prompt without forward passes, from a bundled study; it grows with the number of pictures."""
    from clipattr.discovery.audit.run import audit
    from clipattr.studies.study import open_study

    study = open_study("picture-world-b")
    prompts = sorted({label for label in study.images.columns["label"] if label})
    few = _seconds(lambda: audit(study, prompts[:1], budget=0, progress=False))
    more = _seconds(lambda: audit(study, prompts[: 1 + SOME_PROMPTS], budget=0, progress=False))
    return max(more - few, 1e-3) / SOME_PROMPTS * pictures / len(study.images)


def _faithfulness_rate(run: Run) -> float:
    """Seconds per picture and class of all methods and measures, on random directions."""
    from clipattr.attribution import Similarity
    from clipattr.attribution.faithfulness import faithfulness
    from clipattr.dictionaries import random_sae
    from clipattr.reproduction.experiments.faithful import METHODS
    from clipattr.sites import activations

    inputs, sizes = run.inputs, run.sizes
    model, site = inputs.model(inputs.variants[0]), inputs.protocol.site
    some = inputs.images.select(evenly(len(inputs.images), 24))
    pixels = torch.cat([batch for _, (batch,) in some.batches([model])])
    acts = activations(model, pixels, site)
    spread = acts[torch.from_numpy(np.arange(64) % len(acts))].cpu().float()
    dictionary = random_sae(spread, sizes.n_latents, sizes.k, site=site, model_hash=model.weights_hash)
    prompts = inputs.prompts[: min(2, len(inputs.prompts))]

    def measure(n: int) -> float:
        return _seconds(
            lambda: faithfulness(
                model, some[:n], Similarity(prompts), methods=METHODS, dictionary=dictionary, site=site,
                classes=["one"] * n, masks=sizes.faithful_masks,
            )
        )  # fmt: skip

    few, more = measure(len(some) // 3), measure(len(some))
    # What does not grow with the pictures cancels.
    return max(more - few, 0.01 * more) / (len(some) - len(some) // 3) / len(prompts)


def _probe_rate(run: Run) -> float:
    """Seconds of fitting one probe on as many vectors as asked."""
    from clipattr.discovery.probes.fitting import fit_probe

    sizes = run.sizes
    n, embed = max(60, min(sizes.spurious_pictures, 4000)), run.inputs.model(run.inputs.variants[0]).embed_dim
    vectors = torch.nn.functional.normalize(
        torch.randn(n, embed, generator=torch.Generator().manual_seed(0)), dim=1
    )
    labels = [str(number % max(2, sizes.spurious_classes)) for number in range(n)]
    return _seconds(lambda: fit_probe(vectors, labels, strength=10.0, calibrate=False, folds=2))


def _lesion_rate() -> float:
    """Seconds of drawing and embedding one synthetic lesion."""
    from clipattr.models.loading import load_model
    from clipattr_data.lesion_truth import embed_lesions
    from clipattr_data.lesion_world import LesionWorld
    from clipattr_data.world import TRAIN

    model, world = load_model("lesions"), LesionWorld.open("lesions-evaluator")
    lesions = [world.scene(index, TRAIN) for index in range(24)]
    return _seconds(lambda: embed_lesions(model, lesions)) / len(lesions)
