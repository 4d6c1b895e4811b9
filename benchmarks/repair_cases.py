"""Test cases of repairs: the plants that an audit found, each with a balanced test set of its own.

A case is a learnt plant whose cause can occur beside any class, the finding that describes it best, and pictures of the
class and of others, half of them with the cause, that have no other use. Where the audit has no finding, latents that
fire for the cause replace it, as an analyst would name them; they are chosen on separate pictures. On CHOOSE worlds
methods and constants were chosen, REPORT worlds give the figures, and so do SECOND and THIRD ones, of other seeds.
Start at `cases_of`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baselines import NOTHING
from planted import learnt_plants
from torch import Tensor

import clipattr as ca
from clipattr.discovery.encoded import Encoded, encoded
from clipattr.discovery.findings import Finding
from clipattr_data.build import STUDIES
from clipattr_data.labelled import APART, balanced, write
from clipattr_data.truth import UNSEEN, Truth, judge
from clipattr_data.world import World

CHOOSE = ("picture-world", "picture-world-b", "photos-choose-a", "photos-choose-b", "rendered-choose-a")
REPORT = ("picture-world-c", "photos-report-a", "photos-report-b", "rendered-report-a", "rendered-report-b")
SECOND, THIRD = (
    tuple(
        f"{family}{seed}-{part}"
        for part in ("first-a", "first-b", "second-a", "second-b")
        for family in ("photos", "rendered")
    )
    for seed in (2, 3)
)
PROBED, FIRST_PROBED = (
    30,
    20_000,
)  # scenes a group that say which latents fire for a cause, and where they begin
NAMED, FALL, LEFT = (
    3,
    4.0,
    0.5,
)  # latents that stand for a cause at most, and their codes' fall in standard errors and what may be left
CHOSEN = 60  # scenes by which a finding is matched with its plant of a bundled world
OTHERS_LIKE = "others"  # prefix of the groups of other classes


@dataclass(frozen=True)
class Case:
    """One learnt plant and its test set.

    Attributes:
        world, kind, prompt, cause: of the plant. finding: None where the audit has none. latents: in its place; none
            where no latent fires for the cause.
        acts: (pictures, width) at the study's site. embeddings: (pictures, embed), unit length.
        labels, groups: one each picture.
    """

    world: str
    kind: str
    prompt: str
    cause: str
    finding: ca.Finding | None
    acts: Tensor
    embeddings: Tensor
    labels: list[str]
    groups: list[str]
    latents: tuple[int, ...] = ()

    @property
    def asked(self) -> ca.Finding | None:
        """The finding, or one made of the latents alone; None where there are neither."""
        if self.finding is not None or not self.latents:
            return self.finding
        known = self.kind if self.kind == "typography" else "unknown"  # an analyst recognises a written word
        return Finding(self.prompt, self.latents, None, known, 1.0, NOTHING, NOTHING, 0.0, 0.0, 0.0, 0.0)

    @property
    def there(self) -> np.ndarray:
        """(pictures,) bool, whether the cause is in the picture."""
        return np.array([" with " in group for group in self.groups])

    @property
    def other(self) -> np.ndarray:
        """(pictures,) bool, whether it is a picture of another class."""
        return np.array([group.startswith(OTHERS_LIKE) for group in self.groups])

    def encoded(self, study: ca.Study) -> Encoded:
        """The test set as repairs take it."""
        n = len(self.acts)
        codes = study.dictionary.encode(self.acts)
        return Encoded(
            study.images,
            None,  # placeholders: these pictures are not read
            self.acts,
            codes,
            self.embeddings,
            np.arange(n),
            n,
        )


def open_case_study(world: str, out: Path | None) -> tuple[ca.Study, list[str]]:
    """The study of a world, with labels, and the classes of its classifier."""
    if world in STUDIES:
        study = ca.open_study(world)
        return study, sorted({label for label in study.images.columns["label"] if label})
    from world_kit.studying import open_form

    if out is None:
        raise SystemExit(f"the world {world} is not bundled: give --out, the folder of its study.")
    study = open_form(out, world, "labels")
    return study, sorted({label for label in study.images.columns["label"] if label})


def cases_of(
    world: str, out: Path | None, photos: Path | None, n: int, store: Path | None = None
) -> list[Case]:
    """The cases of a world; kept in `store`, where they are read from the next time.

    Args:
        out, photos: folders of foreign worlds, as benchmarks/worlds.py takes them. n: pictures a group.
    """
    file = None if store is None else store / f"{world}-{n}.pt"
    if file is not None and file.exists():
        return list(torch.load(file, weights_only=False))
    made = _bundled(world, n) if world in STUDIES else _foreign(world, out, photos, n)
    made = _with_latents(made, world, out, photos)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(made, file)
    return made


def _with_latents(cases: Sequence[Case], name: str, out: Path | None, photos: Path | None) -> list[Case]:
    """The cases without a finding, with the latents that fire for their cause; the others as they are."""
    if all(case.finding is not None for case in cases):
        return list(cases)
    study, _ = open_case_study(name, out)
    made = []
    for case in cases:
        if case.finding is None:
            probed = (
                _bundled_pictures(study, World.open(STUDIES[name]), case)
                if name in STUDIES
                else _foreign_pictures(study, name, photos, case)
            )
            case = replace(case, latents=_firing(study.dictionary, *probed))
        made.append(case)
    return made


def _firing(dictionary: Any, acts: Tensor, there: np.ndarray) -> tuple[int, ...]:
    """The latents whose codes fall most significantly without the cause; pictures alternate with and without it."""
    codes = dictionary.encode(acts).to_dense()
    with_, without = codes[there], codes[~there]
    fall = with_ - without
    sure = fall.mean(0) / (fall.std(0) / len(fall) ** 0.5).clamp_min(1e-9)
    sure[without.sum(0) > LEFT * with_.sum(0)] = 0
    return tuple(int(j) for j in sure.topk(NAMED).indices if sure[j] >= FALL)


def _bundled_pictures(study: ca.Study, world: World, case: Case) -> tuple[Tensor, np.ndarray]:
    plant = next(p for p in world.plants if (p.prompt, p.cause) == (case.prompt, case.cause))
    with tempfile.TemporaryDirectory() as folder:
        rows = balanced(world, PROBED, [plant], first=UNSEEN + FIRST_PROBED)
        pictures = encoded(study, f"scenes:{write(rows, Path(folder) / 'balanced.jsonl')}")
    return pictures.acts, np.array([" with " in group for group in pictures.images.columns["group"]])


def _foreign_pictures(
    study: ca.Study, name: str, photos: Path | None, case: Case
) -> tuple[Tensor, np.ndarray]:
    from world_kit.families import open_world

    world = open_world(name, photos)
    plant = next(p for p in world.plants if (p.prompt, p.cause) == (case.prompt, case.cause))
    scenes, _, groups = _balanced(world, plant, PROBED, FIRST_PROBED)
    return _seen(study, world, scenes)[0], np.array([" with " in group for group in groups])


def _closest(verdicts: Sequence[tuple[ca.Finding, Any, float]]) -> dict[Any, ca.Finding]:
    """For each plant the finding whose latents lose most of their codes without the cause."""
    best: dict[Any, tuple[float, ca.Finding]] = {}
    for finding, plant, kept in verdicts:
        if plant is not None and kept < best.get(plant, (1.0, finding))[0]:
            best[plant] = kept, finding
    return {plant: finding for plant, (_, finding) in best.items()}


def _bundled(name: str, n: int) -> list[Case]:
    study, world = ca.open_study(name), World.open(STUDIES[name])
    learnt = [plant for plant in learnt_plants(study, world) if plant.kind in APART]
    findings = ca.audit(study, progress=False)
    wanted = [finding for finding in findings if finding.prompt in {plant.prompt for plant in learnt}]
    truth = Truth(study.model, study.dictionary, world, pictures=500)
    verdicts = judge(truth, wanted, learnt, CHOSEN)
    found = _closest([(f, v.plant, v.kept) for f, v in zip(wanted, verdicts, strict=True)])
    cases = []
    for plant in learnt:
        with tempfile.TemporaryDirectory() as folder:
            rows = balanced(world, n, [plant], first=UNSEEN)
            images = ca.Images.open(f"scenes:{write(rows, Path(folder) / 'balanced.jsonl')}")
            pictures = encoded(study, images)
        columns = pictures.images.columns
        seen = pictures.acts, pictures.embeddings
        cases.append(
            _case(name, plant, found.get(plant), seen, list(columns["label"]), list(columns["group"]))
        )
    return cases


def _case(
    name: str,
    plant: Any,
    finding: Any,
    seen: tuple[torch.Tensor, torch.Tensor],
    labels: list[str],
    groups: list[str],
) -> Case:
    """One plant's case; `seen` are activations and embeddings of its pictures."""
    return Case(name, plant.kind, plant.prompt, plant.cause, finding, *seen, labels, groups)


def _foreign(name: str, out: Path | None, photos: Path | None, n: int) -> list[Case]:
    from world_kit.auditing import learnt_of, truth_of
    from world_kit.families import open_world
    from world_kit.judging import Judge

    world = open_world(name, photos)
    study, _ = open_case_study(name, out)
    assert out is not None
    contents = json.loads((out / "pictures" / name / "contents.json").read_text(encoding="utf-8"))
    learnt = learnt_of(world, truth_of(world, out))
    apart = [plant for plant in learnt if plant.part is not None or plant.kind == "compound"]
    known = Judge(study, world, contents, apart)
    wanted = {plant.prompt for plant in apart}
    # The audit's verdicts on one prompt depend on no other prompt, but all of the world's are its classes.
    findings = [f for f in ca.audit(study, world.prompts, progress=False) if f.prompt in wanted]
    verdicts = [(f, known.match(f.prompt, f.latents)) for f in findings]
    found = _closest([(f, v.plant, v.kept) for f, v in verdicts if v is not None])
    cases = []
    for plant in apart:
        scenes, labels, groups = _balanced(world, plant, n)
        cases.append(_case(name, plant, found.get(plant), _seen(study, world, scenes), labels, groups))
    return cases


def _balanced(world: Any, plant: Any, n: int, later: int = 0) -> tuple[list[Any], list[str], list[str]]:
    """`n` scenes of each of four cells, the two of a class differing in the cause only. Other classes are of no plant.

    A constituent of a compound stands beside the main object. A context gives way to any other.
    """
    from world_kit.judging import UNSEEN as FIRST
    from world_kit.scene import TEST, Scene, draws

    scenes, labels, groups = [], [], []
    for number in range(FIRST + later, FIRST + later + n):
        rng = draws(world.seed, TEST, "balanced", plant.prompt, number)
        around = rng.choice([name for name in world.contexts if name != plant.cause])
        chance, seed = rng.random(), rng.getrandbits(60)
        context = around if plant.kind == "context" or chance < world.rates["context"] else None
        for main in (plant.concept, rng.choice(world.neutral)):
            who = plant.prompt if main == plant.concept else OTHERS_LIKE
            bare = Scene(main, context=context, seed=seed)
            for there in (True, False):
                part = plant.part or "companion"
                scenes.append(replace(bare, **{part: plant.cause}) if there else bare)
                labels.append(world.call(main))
                groups.append(f"{who} {'with' if there else 'without'} {plant.cause}")
    return scenes, labels, groups


def _seen(study: ca.Study, world: Any, scenes: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Activations and embeddings of scenes, from photographs never trained on."""
    from PIL import Image
    from world_kit.scene import TEST

    acts, embeddings = [], []
    for at in range(0, len(scenes), 100):
        drawn = [world.renderer.render(scene, world.unseen(TEST)) for scene in scenes[at : at + 100]]
        pixels = torch.stack([study.model.prepare(Image.fromarray(picture)) for picture in drawn])
        with torch.no_grad():
            some = ca.activations(study.model, pixels, study.site)
            embeddings.append(ca.continue_from(study.model, study.site, some).float().cpu())
        acts.append(some.float().cpu())
    return torch.cat(acts), torch.cat(embeddings)
