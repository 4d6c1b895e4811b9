"""Targets: values by hand, checks with advice."""

import pytest
import torch

import clipattr
from clipattr.attribution import (
    Contrast,
    FunctionTarget,
    ImageSimilarity,
    LogOdds,
    ProbeLogit,
    Similarity,
    VocabularyContrast,
    ZeroShot,
    as_target,
)
from clipattr.errors import TargetError


@pytest.fixture(scope="module")
def embeddings(tiny_model):
    generator = torch.Generator().manual_seed(3)
    return torch.nn.functional.normalize(torch.randn(5, tiny_model.embed_dim, generator=generator), dim=1)


def test_a_string_means_similarity_and_its_value_is_the_cosine(tiny_model, embeddings):
    text = tiny_model.encode_text(["a kite"])[0]
    values = as_target("a kite").values(embeddings, tiny_model)
    torch.testing.assert_close(values[:, 0], torch.cosine_similarity(embeddings, text[None], dim=1))


def test_a_template_ensemble_averages_unit_embeddings_then_normalises(tiny_model):
    templates = ("a photo of a {}", "a drawing of a {}")
    each = torch.stack([tiny_model.encode_text([template.format("kite")])[0] for template in templates])
    expected = torch.nn.functional.normalize(each.mean(0), dim=0)
    weights, _ = Similarity("kite", templates=templates).linear(tiny_model)
    torch.testing.assert_close(weights[:, 0], expected)


def test_a_contrast_is_the_difference_of_two_similarities(tiny_model, embeddings):
    both = as_target(["kite", "bat"]).values(embeddings, tiny_model)
    contrast = Contrast("kite", "bat").values(embeddings, tiny_model)
    torch.testing.assert_close(contrast[:, 0], both[:, 0] - both[:, 1])


def test_one_side_of_a_contrast_may_stand_against_many(tiny_model):
    target = Contrast("kite", ["bat", "drake"])
    assert target.names == ["kite - bat", "kite - drake"] and target.subjects == ["kite", "kite"]
    assert target.linear(tiny_model)[0].shape == (tiny_model.embed_dim, 2)


def test_the_vocabulary_contrast_takes_the_mean_similarity_off(tiny_model, embeddings):
    words = ["kite", "bat", "dog"]
    sims = as_target(words).values(embeddings, tiny_model)
    values = VocabularyContrast("kite", words).values(embeddings, tiny_model)
    torch.testing.assert_close(values[:, 0], sims[:, 0] - sims.mean(1))
    ready = VocabularyContrast("kite", tiny_model.encode_text(words)).values(embeddings, tiny_model)
    torch.testing.assert_close(values, ready)


def test_zero_shot_logits_have_the_classifiers_softmax(tiny_model, embeddings):
    words = ["kite", "bat", "dog"]
    logits = tiny_model.logit_scale * as_target(words).values(embeddings, tiny_model)
    centred = ZeroShot(words).values(embeddings, tiny_model)
    torch.testing.assert_close(centred.softmax(1), logits.softmax(1))
    assert centred.sum(1).abs().max() < 1e-4


def test_log_odds_are_those_of_the_softmax(tiny_model, embeddings):
    words = ["kite", "bat", "dog"]
    p = (tiny_model.logit_scale * as_target(words).values(embeddings, tiny_model)).softmax(1)[:, 0]
    for among in (words, words[1:]):
        odds = LogOdds("kite", among).values(embeddings, tiny_model)[:, 0]
        torch.testing.assert_close(odds, p.log() - (1 - p).log(), atol=1e-4, rtol=1e-4)


def test_a_probe_logit_is_the_linear_map(tiny_model, embeddings):
    weights, bias = torch.randn(3, tiny_model.embed_dim), torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(
        ProbeLogit(weights, bias).values(embeddings, tiny_model), embeddings @ weights.T + bias
    )


def test_image_similarity_compares_with_the_other_pictures_embedding(tiny_model, embeddings):
    import numpy as np

    picture = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    other = tiny_model.encode_image(tiny_model.prepare(picture)[None])
    for target in (ImageSimilarity(picture), ImageSimilarity(other)):
        torch.testing.assert_close(target.values(embeddings, tiny_model), embeddings @ other.T)
    assert len(ImageSimilarity([picture, picture])) == 2


def test_targets_together_stand_side_by_side(tiny_model, embeddings):
    both = as_target(["kite", Contrast("kite", "bat")])
    assert both.is_linear and both.names == ["kite", "kite - bat"]
    mixed = as_target(["kite", LogOdds("kite", ["bat"])])
    assert not mixed.is_linear and mixed.unit == "mixed" and mixed.units == ["cosine", "log-odds"]
    torch.testing.assert_close(
        mixed.values(embeddings, tiny_model)[:, 0], both.values(embeddings, tiny_model)[:, 0]
    )


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda: Similarity([]), "empty list of prompts"),
        (lambda: Similarity(["kite", "  "]), "prompt 1 is blank"),
        (lambda: as_target(""), "prompt 0 is blank"),
        (lambda: Similarity(torch.zeros(2, 3, 4)), r"got \(2, 3, 4\)"),
        (lambda: Similarity(["a", "b"], names=["x"]), "2 prompts need as many names; got 1"),
        (lambda: Contrast("kite", "kite"), "both sides of the contrast are 'kite'"),
        (lambda: Contrast(["a", "b"], ["c", "d", "e"]), "got 2 and 3"),
        (lambda: LogOdds("kite", ["kite"]), "at least one other prompt"),
        (lambda: ZeroShot(["kite"]), "at least two classes"),
        (lambda: ProbeLogit(torch.full((2, 4), float("nan"))), "must be finite"),
        (
            lambda: ProbeLogit(torch.ones(2, 4), [1.0, 2.0, 3.0]),
            "2 rows of weights need as many biases, or one; got 3",
        ),
        (lambda: ImageSimilarity([]), "got no picture"),
        (lambda: as_target(3), "got int"),
        (lambda: FunctionTarget("kite"), "got str"),
    ],
)
def test_targets_that_mean_nothing_are_refused_with_advice(make, advice):
    with pytest.raises(TargetError, match=advice):
        make()


@pytest.mark.parametrize(
    ("target", "advice"),
    [
        (Similarity("kite " * 40), "would be cut off"),
        (Similarity("kite", templates=("a photo",)), "must contain {}"),
        (Similarity(torch.ones(7)), "have 7 numbers, those of this model 48"),
        (Similarity(torch.zeros(48)), "no direction"),
        (ProbeLogit(torch.ones(1, 7)), "7 weights per class"),
        (Contrast("Kite", "kite"), "same embedding"),
        (FunctionTarget(lambda e: e), r"must return shape \(5, 1\) for 5 embeddings; got \(5, 48\)"),
        (FunctionTarget(lambda e: 3.0), "got float"),
    ],
)
def test_targets_that_do_not_fit_the_model_are_refused_with_advice(tiny_model, embeddings, target, advice):
    with pytest.raises(TargetError, match=advice):
        target.values(embeddings, tiny_model)


def test_a_function_that_cuts_the_graph_is_refused(tiny_model, embeddings):
    with pytest.raises(TargetError, match="not differentiable"):
        FunctionTarget(lambda e: e.detach()[:, 0]).values(embeddings.clone().requires_grad_(), tiny_model)


def test_a_prompt_that_just_fits_the_tokenizer_is_accepted(tiny_model):
    Similarity(" ".join(["kite"] * (tiny_model.context_length - 2))).linear(tiny_model)
    with pytest.raises(clipattr.TargetError, match="more than the 16 tokens"):
        Similarity(" ".join(["kite"] * (tiny_model.context_length - 1))).linear(tiny_model)
