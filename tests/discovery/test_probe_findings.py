"""What makes a finding about a probe, and what a probe is made blind to: each against a slow formula."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import clipattr as ca
from clipattr.discovery.encoded import encoded
from clipattr.discovery.probes.findings import _distinct, _Reliance
from clipattr.discovery.probes.matching import FEW, change, comparison, enough, same
from clipattr.discovery.probes.mediators import Mediators
from clipattr.discovery.probes.null_space import remover
from clipattr.discovery.probes.presence import candidate_words, upper_component
from clipattr.statistics import Interval, simultaneous
from clipattr_data.lesion_world import LesionWorld
from clipattr_data.robustness import material


def concepts_and_margins(n=400):
    """Three classes; concept 0 moves the margin by 2 and often comes with 1, which moves it by 5; 2 does nothing."""
    rng = np.random.default_rng(3)
    classes = np.arange(n) % 3
    first = rng.random(n) < np.array([0.7, 0.2, 0.4])[classes]
    second = np.where(rng.random(n) < 0.3, first, rng.random(n) < 0.5)
    there = np.stack([first, second, rng.random(n) < 0.3], 1)
    margin = 10.0 * classes + there @ [2.0, 5.0, 0.0] + rng.normal(size=n) * (1 + first)
    return tuple(torch.from_numpy(part) for part in (margin, classes, there.astype(float)))


def test_a_comparison_is_least_squares_with_class_and_co_occurrence_held_equal():
    margin, classes, there = concepts_and_margins()
    found = comparison(margin, classes, there[:, 0], there)
    design = np.concatenate([there.numpy(), np.eye(3)[classes.numpy()]], 1)
    slopes = np.linalg.lstsq(design, margin.numpy(), rcond=None)[0]
    assert found.value == pytest.approx(slopes[0]) and abs(found.value - 2.0) < 0.5
    rest = margin.numpy() - design @ slopes
    bread = np.linalg.inv(design.T @ design)
    meat = sum(r * r * np.outer(row, row) for r, row in zip(rest, design, strict=True))
    spread = (bread @ meat @ bread)[0, 0] * len(margin) / (len(margin) - design.shape[1])
    assert found.high - found.value == pytest.approx(1.96 * math.sqrt(spread))


def test_a_change_is_the_same_slope_for_any_quantity():
    margin, classes, there = concepts_and_margins()
    slope = change(classes, there[:, 0], there) @ torch.stack([margin, 3 * margin + 10.0 * classes], 1)
    value = comparison(margin, classes, there[:, 0], there).value
    assert slope.tolist() == pytest.approx([value, 3 * value])


def test_a_comparison_without_both_sides_knows_nothing():
    own = torch.zeros(20)
    own[: FEW - 1] = 1
    assert not enough(own) and not enough(1 - own)
    assert comparison(torch.randn(20), torch.zeros(20, dtype=torch.long), own, own[:, None]).low == -math.inf


def test_the_opposite_of_a_concept_is_not_held_equal():
    margin, classes, there = concepts_and_margins()
    both = torch.cat([there, 1 - there[:, [0]]], 1)
    alone = comparison(margin, classes, there[:, 0], there)
    assert comparison(margin, classes, there[:, 0], both).value == pytest.approx(alone.value)
    assert not same(there[:, 0], 1 - there[:, 0], classes) and not same(there[:, 0], there[:, 2], classes)
    assert same(there[:, 0], (there[:, 0] + 0.1 * there[:, 2]), classes)


def test_an_interval_that_many_hold_at_once_is_students_table_of_bonferroni():
    wide = simultaneous(Interval(1.0, 0.02, 1.98), 100)
    assert wide.value - wide.low == pytest.approx(0.5 * 3.4808, rel=1e-4)  # the normal's 0.99975 quantile
    assert simultaneous(Interval(1.0, 0.02, 1.98), 1).low == pytest.approx(0.02, abs=1e-4)


@pytest.mark.parametrize(("share", "apart"), [(0.3, 3.0), (0.5, 2.5), (0.06, 5.0)])
def test_presence_is_the_posterior_of_a_mixture_of_two_normals(share, apart):
    generator = torch.Generator().manual_seed(2)
    above = torch.rand(4000, generator=generator) < share
    values = 0.1 + 0.02 * (torch.randn(4000, generator=generator) * (1 + above) + apart * above)
    sure = upper_component(torch.stack([values, torch.full_like(values, 0.3)], 1))
    x = (values.double() - 0.1) / 0.02
    true = share * torch.exp(-((x - apart) ** 2) / 8) / 2
    true = true / (true + (1 - share) * torch.exp(-(x**2) / 2))
    true[x < x[true.argmin()]] = true.min()  # a wide component would claim the lowest values too
    assert float((sure[:, 0] - true).abs().mean()) < 0.03
    assert (sure[:, 0][values.argsort()].diff() >= 0).all()
    assert not sure[:, 1].any(), "what never varies shows nothing"


def test_words_of_classes_are_not_looked_for():
    study = SimpleNamespace(vocabulary=SimpleNamespace(words=["ruler", "Melanoma", "hair"]))
    assert candidate_words(study, ["melanoma", "nevus"]) == [0, 2]


def test_a_mediator_rises_with_the_concept_and_raises_the_class():
    """Against least squares latent by latent, in the bundled lesion study."""
    study = ca.open_study("lesions")
    words = candidate_words(study, ["melanoma", "nevus"])
    weights = study.model.encode_text(["melanoma", "nevus"]).float().T
    weights = weights - weights.flip(1)
    mediators = Mediators(study, words, ca.attribution.ClosedFormTail(study.model, study.dictionary, weights))
    word = [study.vocabulary.words[n] for n in words].index("vignette")
    codes = mediators.pictures.codes.to_dense().double()
    slopes = change(mediators.classes, mediators.shown[:, word], mediators.shown) @ codes
    found = mediators.of(word, 0)
    assert found and (slopes[found] > 0).all() and (mediators._lift[found, 0] > 0).all()
    assert not set(found) & set(mediators.of(word, 1)), "what lifts one of two classes lowers the other"
    weight = change(mediators.classes, mediators.shown[:, word], mediators.shown)
    for latent in found[:3]:
        spread = (weight.square() * (codes[:, latent] - codes[:, latent].mean()).square()).sum().sqrt()
        assert slopes[latent] / spread == pytest.approx(mediators._rises[word][latent])
        # One of 512 latents by chance.
        assert slopes[latent] / spread >= mediators.rise == pytest.approx(2.8856, abs=1e-3)
    shown = mediators.examples(word, found, 12)
    assert len(shown) == 12 and all(study.images[row].scene.shows("vignette") for row in shown)


def test_what_pictures_do_not_distinguish_is_reported_once_and_a_word_comes_first():
    _, truth, there = concepts_and_margins()

    def reliance(label, word, shown, value):
        some = SimpleNamespace(label=label, word=word, shown=shown)
        compared = Interval(value, 0, 1)
        return _Reliance(some, 0, (1,), 0.0, compared, Interval(0, 0, 0))

    kept = [reliance("hair", 0, there[:, 0], 0.3), reliance("fur", 1, there[:, 0], 0.5)]
    kept += [reliance(None, None, there[:, 0], 0.9), reliance("ruler", 2, there[:, 2], 0.2)]
    told = _distinct(kept, truth)
    assert [(one.candidate.label, one.indistinct) for one in told] == [("fur", ("hair",)), ("ruler", ())]


def test_a_blind_probe_is_the_one_fitted_without_the_direction():
    generator = torch.Generator().manual_seed(5)
    x = torch.nn.functional.normalize(torch.randn(300, 12, generator=generator), dim=1)
    labels = ["a" if value > 0 else "b" for value in (x[:, 0] + 3 * x[:, 1]).tolist()]
    directions = torch.zeros(12, 3)
    directions[1, 0] = directions[1, 1] = 2.0  # twice the same
    directions[4, 2] = 1.0
    blind = ca.fit_probe(x, labels, strength=100.0, calibrate=False, blind_to=directions)
    less = x.clone()
    less[:, [1, 4]] = 0
    byhand = ca.fit_probe(less, labels, strength=100.0, calibrate=False)
    assert torch.allclose(blind.weights, byhand.weights, atol=1e-3)
    assert blind.weights[:, [1, 4]].abs().max() < 1e-6
    assert torch.allclose(x.double() @ remover(directions), less.double())
    with pytest.raises(ca.DataError, match="directions of embeddings"):
        ca.fit_probe(x, labels, blind_to=torch.zeros(3, 12))


def test_a_shortcut_that_a_probe_took_is_found_by_name_as_far_as_drawing_again_says_and_blinded():
    study = ca.open_study("lesions")
    shown = np.array([study.images[int(row)].scene.shows("coloured patch") for row in study.rows])
    ill = np.array([study.images[int(row)].label == "melanoma" for row in study.rows])
    pictures = encoded(study, rows=study.rows[shown == ill])  # every melanoma has a patch, no nevus has
    labels = pictures.images.columns["label"]
    probe = ca.fit_probe(pictures.embeddings, labels, strength=10.0, calibrate=False)
    drawn = material(study.model, LesionWorld.open("lesions-evaluator"), "coloured patch", pool=2, judged=60)
    found = ca.audit_probe(study, probe=probe).findings()[0]
    assert (found.prompt, found.label) == ("melanoma", "coloured patch")
    compared, true = found.evidence["compared"], drawn.judge(probe)
    assert true.relied and compared["value"] == pytest.approx(true.effect, rel=0.2)
    assert found.evidence["ablated"]["low"] > 0 and 0 < found.share < 1
    blind = ca.fit_probe(
        pictures.embeddings,
        labels,
        strength=10.0,
        calibrate=False,
        blind_to=ca.directions_of(study, found),
    )
    assert abs(drawn.judge(blind).effect) < 0.1 < drawn.judge(blind).worst - true.worst
