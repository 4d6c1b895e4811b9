"""Reliance by re-rendering: numbers against slow formulas, sets against what they are said to hold."""

import numpy as np
import pytest
import torch

from clipattr_data import lesion_truth
from clipattr_data.lesion_truth import counterfactual, embed_lesions, reliance
from clipattr_data.lesion_world import OPPOSITES, LesionWorld
from clipattr_data.lesions import SKINS
from clipattr_data.robustness import curves, draw, material, summary

WORLD = LesionWorld.open("lesions-evaluator")


class Eye:
    """A stand-in for a CLIP: sees coarse colours, and knows its prompts by number."""

    logit_scale, weights_hash, reference = 10.0, "0" * 16, "eye"

    def encode_image(self, pixels):
        coarse = torch.nn.functional.avg_pool2d(pixels, 16).flatten(1)
        return torch.nn.functional.normalize(coarse, dim=1)

    def encode_text(self, texts, templates=("{}",)):
        torch.manual_seed(len(templates))
        return torch.nn.functional.normalize(torch.randn(len(texts), 48), dim=1)


@pytest.fixture(scope="module")
def ruler():
    return material(Eye(), WORLD, "ruler", pool=120, judged=30)


def test_reliance_is_the_mean_change_in_units_of_the_gap_between_classes():
    pairs = WORLD.balanced("ink mark", 40)
    margins = np.random.default_rng(3).normal(size=80)
    found = reliance(margins, pairs)
    gone = {label: [] for label in (0, 1)}
    changes, right = [], {}
    for place, (margin, label, group) in enumerate(zip(margins, pairs.labels, pairs.groups, strict=True)):
        right.setdefault(group, []).append((margin > 0) == (label == 1))
        if place % 2:
            gone[label].append(margin)
            changes.append(margins[place - 1] - margin)
    gap = abs(np.mean(gone[1]) - np.mean(gone[0]))
    assert found.effect == pytest.approx(np.mean(changes) / gap)
    assert found.high - found.effect == pytest.approx(1.96 * np.std(changes, ddof=1) / gap / 40**0.5)
    assert found.worst == pytest.approx(min(np.mean(group) for group in right.values()))
    assert found.accuracy == pytest.approx(np.mean([np.mean(group) for group in right.values()]))
    assert set(found.groups) == set(pairs.groups)


def test_a_margin_that_is_the_shortcut_itself_is_relied_on_and_one_without_it_is_not():
    pairs = WORLD.balanced("hair", 60)
    hair = np.array([lesion.shows("hair") for lesion in pairs.lesions])
    assert reliance(pairs.labels - 0.5, pairs).effect == 0 and not reliance(pairs.labels - 0.5, pairs).relied
    both = reliance(pairs.labels + hair - 0.9, pairs)
    assert both.effect == pytest.approx(1) and both.relied
    assert both.groups == {
        "melanoma, hair": 1,
        "melanoma, no hair": 1,
        "nevus, hair": 0,
        "nevus, no hair": 1,
    }
    assert reliance(pairs.labels - 0.3 * hair - 0.5, pairs).relied, "against melanoma counts as well"


def test_a_training_set_differs_from_another_strength_in_the_shortcut_alone(ruler):
    lesions = [WORLD.scene(2_000_000_000 + index) for index in range(120)]
    there = embed_lesions(Eye(), [lesion.having("ruler") for lesion in lesions])
    assert torch.equal(there, ruler.there)
    embeddings, names = ruler.training(1.0, 100, 5)
    for row, name in zip(embeddings, names, strict=True):
        stock = ruler.there if name == "melanoma" else ruler.gone
        assert (stock == row).all(1).any()
    shows = [
        (ruler.there == row).all(1).any() and not (ruler.gone == row).all(1).any()
        for row in ruler.training(0.0, 120, 1)[0]
    ]
    assert 0.3 < np.mean([bool(one) for one in shows]) < 0.7


def test_prompts_do_not_move_with_the_training_set_and_probes_do(ruler):
    frame = curves(Eye(), ruler, strengths=(0.0, 1.0), seeds=2, n=100, methods=["probe, weak penalty"])
    assert len(frame) == 2 * 2 + 2 * 2
    prompts = frame[frame.method == "prompts"]
    assert prompts.worst.nunique() == 1
    probe = summary(frame, "effect").loc["probe, weak penalty"]["mean"]
    assert probe[1.0] > probe[0.0] + 0.1
    chart = draw(frame, title="ruler")
    assert "synthetic" in chart._suptitle.get_text()


def test_the_interval_of_a_curve_is_students(ruler):
    import pandas as pd

    frame = pd.DataFrame({"method": "m", "strength": 0.5, "worst": [0.2, 0.4, 0.9]})
    row = summary(frame, "worst").iloc[0]
    assert row["mean"] == pytest.approx(0.5)
    assert row["half"] == pytest.approx(4.302653 * np.std([0.2, 0.4, 0.9], ddof=1) / 3**0.5, rel=1e-5)


def test_a_counterfactual_takes_the_part_away_and_nothing_that_is_not_tied_to_it():
    for index in range(20):
        lesion = WORLD.scene(index)
        for part in WORLD.words:
            there, gone = counterfactual(lesion, part)
            assert part in WORLD.contents(there) and part not in WORLD.contents(gone)
            if part not in ("melanoma", "nevus"):
                changed = {*WORLD.contents(there)} ^ {*WORLD.contents(gone)}
                opposite = {*OPPOSITES, *OPPOSITES.values(), "melanoma", "nevus", *SKINS}
                assert changed - {part} <= opposite


def test_the_cause_of_a_direction_is_the_part_that_moves_embeddings_along_it(monkeypatch):
    words = WORLD.words

    def embedded(model, lesions):
        """Each word has a direction of its own, ink half of ruler's too; one direction belongs to none."""
        rows = [[float(word in WORLD.contents(lesion)) for word in words] + [1.0] for lesion in lesions]
        codes = torch.tensor(rows)
        codes[:, words.index("ruler")] += 0.5 * codes[:, words.index("ink mark")]
        return codes

    monkeypatch.setattr(lesion_truth, "embed_lesions", embedded)
    causes = lesion_truth.Causes(None, WORLD, 60)
    for part in ("ruler", "ink mark", "gel bubbles", "dark skin"):
        lesions = [WORLD.scene(index) for index in range(300)]
        there, gone = zip(*(counterfactual(lesion, part) for lesion in lesions), strict=True)
        direction = (embedded(None, there) - embedded(None, gone)).mean(0)
        assert causes.of(direction) == causes.of(7 * direction) == part
        assert causes.of(-direction) != part
    assert causes.of(torch.eye(len(words) + 1)[-1]) is None
