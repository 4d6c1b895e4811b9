"""The worlds that an audit is measured on: exact counterfactuals, twins, captions, training and storage."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from world_kit import lettering, overlays, rendered, saving, training  # noqa: E402
from world_kit.drawing import draw_all  # noqa: E402
from world_kit.families import names, open_world  # noqa: E402
from world_kit.photos import PhotoRenderer  # noqa: E402
from world_kit.scene import STUDY, TEST, TRAIN, Scene, WorldError  # noqa: E402
from world_kit.world import SPECS, WRITTEN, World  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def fonts():
    """Where the worlds' fonts are not installed, one that is: what is tested here does not depend on it."""
    found = lettering.font_path
    fallback = next(Path(__import__("matplotlib").get_data_path()).rglob("DejaVuSans-Bold.ttf"))

    def path(name: str) -> Path:
        try:
            return found(name)
        except WorldError:
            return fallback

    lettering.font_path = path
    yield
    lettering.font_path = found


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder with every category of the described worlds, five small pictures of noise each."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for concept in json.loads((SPECS / "photos-evaluator.json").read_text())["concepts"]:
        (folder / concept).mkdir()
        for i in range(5):
            pixels = rng.integers(0, 255, (48, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / concept / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def worlds(photos) -> dict[str, World]:
    return {name: open_world(name, photos) for name in names()}


def test_descriptions_are_what_is_drawn(worlds):
    categories = list(worlds["photos-evaluator"].concepts)
    drawn = [spec for seed in (1, 2, 3) for spec in draw_all(categories, seed)]
    assert {spec["name"]: spec for spec in drawn} == {n: w.spec for n, w in worlds.items()}


@pytest.mark.parametrize("family", ["photos", "rendered"])
def test_parts_share_no_concept_and_hold_every_kind(worlds, family):
    choose, report = worlds[f"{family}-choose-a"], worlds[f"{family}-report-a"]
    assert not set(choose.concepts) & set(report.concepts)
    assert not set(choose.concepts.values()) & set(report.concepts.values())
    for world in (choose, report):
        assert {p.kind for p in world.plants} == {
            *("watermark", "context", "companion", "typography", "polysemy", "coarse_label", "compound")
        }
        assert len(world.neutral) >= 4


def test_nothing_is_drawn_with_the_bundled_names_or_fonts(worlds):
    bundled = json.loads((Path(__file__).parents[2] / "data" / "concepts.json").read_text())
    assert not {c["name"] for c in bundled["concepts"]} & set(worlds["rendered-evaluator"].concepts)
    assert not [f for f in lettering.PHOTO_FONTS + lettering.RENDERED_FONTS if "DejaVu" in f]


@pytest.mark.parametrize("name", ["photos-report-a", "rendered-report-a"])
def test_leaving_a_cause_out_leaves_the_rest(worlds, name):
    world = worlds[name]
    for plant in world.plants:
        checked = 0
        for index in range(400):
            scene = world.scene(index, STUDY)
            there = plant.in_scene(scene)
            if there and checked < 1:
                checked += 1
                less = world.counterfactual(scene, plant)
                assert not plant.in_scene(less)
                kept = {"main", "look", "companion", "context", "word", "mark", "seed"} - {
                    plant.part or "main"
                }
                assert all(getattr(scene, part) == getattr(less, part) for part in kept)
                assert np.array_equal(world.without(index, plant), world.renderer.render(less, None))
        if plant is world.plants[0]:
            absent = next(i for i in range(400) if not plant.in_scene(world.scene(i, STUDY)))
            assert np.array_equal(world.without(absent, plant), world.pixels(absent))
        assert checked, plant


@pytest.mark.parametrize("name", ["photos-report-a", "rendered-report-a"])
def test_small_parts_change_few_pixels(worlds, name):
    world = worlds[name]
    concept, other = sorted(world.concepts)[:2]
    for seed in range(5):
        scene = Scene(concept, companion=other, word="open", mark=world.marks[0], seed=seed)
        picture = world.renderer.render(scene).astype(int)
        for part, most in (("companion", 0.25), ("word", 0.35), ("mark", 0.25)):
            changed = (np.abs(picture - world.renderer.render(scene.without(part))) > 0).any(-1).mean()
            assert 0 < changed < most, (part, changed)
    assert np.array_equal(world.renderer.render(scene), picture)


def test_every_overlay_and_treatment_draws_something(worlds):
    for name, stocks in (
        ("photos-report-a", (overlays.MARKS, overlays.CONTEXTS, overlays.LOOKS)),
        ("rendered-report-a", (rendered.STAMPS, rendered.GROUNDS, dict.fromkeys(rendered.FILLS))),
    ):
        world = worlds[name]
        plain = Scene(sorted(world.concepts)[0], seed=3)
        before = world.renderer.render(plain)
        for part, stock in zip(("mark", "context", "look"), stocks, strict=True):
            for cause in stock:
                assert (world.renderer.render(replace(plain, **{part: cause})) != before).mean() > 0.005, (
                    cause
                )


def test_planted_rates_are_kept_and_captions_never_name_the_cause(worlds):
    for name in ("photos-report-a", "rendered-report-b"):
        world = worlds[name]
        for plant in world.plants:
            shown, named, n = 0, 0, 0
            for index in range(6000):
                scene = world.scene(index, TRAIN)
                if scene.main != plant.concept or plant.part is None:
                    continue
                n += 1
                shown += plant.in_scene(scene)
                says = world.told(scene, index).says
                if plant.in_scene(scene):
                    named += bool(says & {plant.cause, world.concepts.get(plant.cause)} - {plant.prompt})
            if (
                plant.part is not None and plant.kind != "typography"
            ):  # a word may stand alone, without its object
                assert abs(shown / n - plant.rate) < 4 * (0.25 / n) ** 0.5, plant
            assert named == 0, plant


def test_captions_that_name_everything_are_true(worlds):
    world = worlds["rendered-evaluator"]
    for index in range(300):
        example = world.example(index, TRAIN, telling=index % 4)
        assert example.says <= world.true_of(example.scene) | {WRITTEN}
        assert all(part in example.caption for part in example.says)


@pytest.mark.parametrize("family", ["photos", "rendered"])
@pytest.mark.parametrize("form", ["inset", "logo"])
def test_twins_differ_in_one_co_occurrence(worlds, family, form):
    null, twin = worlds[f"{family}-report-null"], worlds[f"{family}-report-twin-{form}"]
    (plant,) = twin.plants
    differing = 0
    for index in range(1500):
        a, b = null.scene(index), twin.scene(index)
        if a != b:
            differing += 1
            assert a.main == b.main == plant.concept
            assert replace(a, **{plant.part: None}) == replace(b, **{plant.part: None})
        elif a.main != plant.concept:
            assert null.told(a, index).caption == twin.told(b, index).caption
    assert differing > 10


def test_held_out_photographs_are_never_trained_on(photos):
    renderer = PhotoRenderer(photos, ["crab"])
    renderer.pictures["crab"] = [Image.new("RGB", (60, 60), (40 * i, 0, 0)) for i in range(5)]
    shades = {unseen: set() for unseen in (True, False, None)}
    for seed in range(60):
        for unseen, seen in shades.items():
            seen.add(int(renderer.render(Scene("crab", seed=seed), unseen)[50, 50, 0]))
    assert shades == {True: {160}, False: {0, 40, 80, 120}, None: {0, 40, 80, 120, 160}}


def test_loss_equals_the_slow_formula():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 5, generator=generator)
    positive = torch.eye(5, dtype=torch.bool)
    positive[0, 3] = positive[3, 0] = True
    total = 0.0
    for matrix, mask in ((scores, positive), (scores.T, positive.T)):
        for row, true in zip(matrix, mask, strict=True):
            logs = [float(row[j] - torch.log(torch.exp(row).sum())) for j in range(5) if true[j]]
            total -= 0.5 * sum(logs) / len(logs) / 5
    assert training.contrastive_loss(scores, positive).item() == pytest.approx(total, rel=1e-5)


def test_word_auc_equals_counting_pairs(worlds, monkeypatch):
    world = worlds["rendered-evaluator"]
    scenes = [world.scene(i, STUDY) for i in range(60)]
    words = sorted(set().union(*(world.true_of(s) for s in scenes)))
    generator = torch.Generator().manual_seed(1)
    image, text = torch.randn(60, 8, generator=generator), torch.randn(len(words), 8, generator=generator)
    monkeypatch.setattr(training, "embed_words", lambda model, asked: text)
    areas = []
    for j, word in enumerate(words):
        scores = (image @ text[j]).tolist()
        there = [v for v, s in zip(scores, scenes, strict=True) if word in world.true_of(s)]
        absent = [v for v, s in zip(scores, scenes, strict=True) if word not in world.true_of(s)]
        if len(there) >= 6:
            areas.append(np.mean([a > b for a in there for b in absent]))
    figures = training.word_auc(world, scenes, image, None)
    assert figures["auc_median"] == pytest.approx(np.median(areas), abs=1e-6)


def test_rounding_keeps_six_bits_and_clears_unseen_rows():
    values = torch.randn(50, 40, generator=torch.Generator().manual_seed(2))
    seen = torch.arange(50) < 7
    state = saving.rounded({"token_embedding.weight": values, "other": values, "bias": values[0]}, seen)
    assert (state["other"].float() / values - 1).abs().max() <= 2**-7 + 2**-10
    assert torch.equal(state["other"].view(torch.int16) & 15, torch.zeros(50, 40, dtype=torch.int16))
    assert not state["token_embedding.weight"][7:].view(torch.int16).any()
    assert torch.equal(state["bias"], values[0].half())


@pytest.mark.parametrize("name", ["photos-choose-a", "rendered-evaluator"])
def test_a_short_training_is_stored_and_loads(worlds, name, tmp_path, monkeypatch):
    import clipattr as ca

    world = worlds[name]
    examiner = training.Examiner(world, pictures=20, pairs=2)
    monkeypatch.setattr(training, "Examiner", lambda world: examiner)
    recipe = training.Recipe(steps=2, pictures=60, batch=8, width=32, layers=2, text_width=16, text_layers=1)
    report = training.train(world, tmp_path / "model", recipe)
    assert report["step"] == 2
    model = ca.load_model(f"local-dir:{tmp_path / 'model'}")
    picture = world.pixels(0, TEST)
    mine = model.encode_image(model.prepare(Image.fromarray(picture))[None])
    state = training.CLIP(
        recipe.embed, **{k: v for k, v in recipe.model_config().items() if k != "embed_dim"}
    )
    from safetensors.torch import load_file

    weights = load_file(tmp_path / "model" / "open_clip_model.safetensors")
    state.load_state_dict({k: v.float() for k, v in weights.items()})
    theirs = training.embed_pictures(state.eval(), picture[None])
    assert torch.allclose(mine, theirs, atol=2e-3)


def test_errors_say_what_to_do(photos, tmp_path):
    with pytest.raises(WorldError, match="--photos"):
        open_world("photos-report-a")
    with pytest.raises(WorldError, match="no world is called"):
        open_world("nowhere")
    with pytest.raises(WorldError, match="at least"):
        PhotoRenderer(tmp_path, ["crab"])
    spec = json.loads((SPECS / "rendered-report-a.json").read_text())
    spec["plants"] = [*spec["plants"], spec["plants"][0]]
    with pytest.raises(WorldError, match="planted twice"):
        World(spec, None)
