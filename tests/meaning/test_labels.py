"""Labels: hand-worked alignments, and every ranking finds what was put there."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from clipattr.dictionaries.codes import SparseCodes
from clipattr.errors import DataError
from clipattr.meaning.examples import Examples, quantile_examples
from clipattr.meaning.labels import (
    Labels,
    alignment,
    label_by_contrast,
    label_by_evidence,
    label_latents,
)
from clipattr.meaning.validation import chance_floor, validation_auc

WORDS, EMBED, LATENTS, PICTURES = 12, 48, 8, 400


@pytest.fixture(scope="module")
def world():
    """Latent j is active where factor j is present, and pictures lie near the sum of their factors' words.

    Word 11 fits every picture a little better than it should.
    """
    torch.manual_seed(0)
    text = F.normalize(torch.randn(WORDS, EMBED), dim=1)
    empty = F.normalize(torch.randn(EMBED), dim=0)
    strength = (0.4 + torch.rand(PICTURES, LATENTS)) * (torch.rand(PICTURES, LATENTS) < 0.15)
    pictures = F.normalize(
        strength @ text[:LATENTS] + 1.5 * text[11] + 0.15 * torch.randn(PICTURES, EMBED), dim=1
    )
    codes = SparseCodes.from_dense(strength)
    examples = Examples(LATENTS, 10)
    examples.update(codes)
    return text, empty, pictures, codes, examples


def test_alignment_is_the_gain_over_the_empty_prompt():
    mean, text = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    empty = torch.tensor([0.6, 0.8])
    torch.testing.assert_close(alignment(mean, text, empty), torch.tensor([[0.4, -0.6]]))
    assert alignment(torch.zeros(1, 2), text, empty).isnan().all()


def test_labels_equal_the_slow_formula(world):
    text, empty, pictures, _, examples = world
    labels = label_latents(examples, pictures.half(), text, empty)
    for latent in range(LATENTS):
        mean = pictures[examples.of(latent)].double().mean(0)
        cos = [float(mean @ t.double() / mean.norm() - mean @ empty.double() / mean.norm()) for t in text]
        order = np.argsort(cos)[::-1][:5]
        assert labels.word_top[latent].tolist() == order.tolist()
        np.testing.assert_allclose(labels.alignment_top[latent], np.sort(cos)[::-1][:5], atol=2e-3)
        assert labels.margin[latent] == pytest.approx(cos[order[0]] - cos[order[1]], abs=2e-3)


def test_words_that_fit_everything_win_alignment_but_not_the_other_rankings(world):
    text, empty, pictures, codes, examples = world
    middle = quantile_examples(codes, [(0.2, 0.5)], 10)[:, 0]
    evidence = label_by_evidence(examples, pictures, text, empty, scale=20.0, correction=1.0)
    contrast = label_by_contrast(examples, pictures, text, empty, middle=middle)
    assert 11 in label_latents(examples, pictures, text, empty).word_top[:, 0]
    assert evidence.word_top[:, 0].tolist() == list(range(LATENTS))
    assert contrast.word_top[:, 0].tolist() == list(range(LATENTS))
    assert (evidence.ranking, contrast.ranking) == ("evidence", "contrast")


def test_a_latent_without_examples_gets_no_word(world):
    text, empty, pictures, _, _ = world
    labels = label_latents(Examples(2, 3), pictures, text, empty)
    assert (labels.word_top == -1).all() and labels.alignment_top.isnan().all()
    assert not labels.aligned.any()


def test_random_pictures_rarely_reach_the_floor(world):
    text, empty, pictures, _, _ = world
    floor = chance_floor(pictures, text, empty, m=10)
    generator = torch.Generator().manual_seed(9)
    picks = torch.randint(PICTURES, (300, 10), generator=generator)
    best = alignment(pictures[picks].mean(1), text, empty).amax(1)
    assert (best > floor).float().mean() < 0.05
    assert (best > floor - 0.1).any()


def test_validation_auc_equals_scikit_learn(world):
    text, _, pictures, codes, examples = world
    rows = torch.arange(100, 400)
    word = torch.tensor([0, 1, 2, 3, 4, 5, 0, -1])
    auc, error = validation_auc(codes.rows(rows), rows, pictures, word, text)
    dense = codes.to_dense()[rows]
    for latent in range(7):
        wanted = roc_auc_score(dense[:, latent] > 0, (pictures[rows] @ text[word[latent]]).numpy())
        assert float(auc[latent]) == pytest.approx(wanted, abs=1e-6)
    assert auc[:6].min() > 0.75 > auc[6] and auc[7].isnan()
    assert 0 < error[0] < 0.1


def test_own_examples_are_left_out_where_nothing_was_held_back(world):
    text, _, pictures, codes, examples = world
    auc, _ = validation_auc(codes, torch.arange(400), pictures, torch.arange(8), text, exclude=examples)
    dense = codes.to_dense()
    left = np.setdiff1d(np.arange(400), examples.of(0))
    wanted = roc_auc_score(dense[left, 0] > 0, (pictures[left] @ text[0]).numpy())
    assert float(auc[0]) == pytest.approx(wanted, abs=1e-6)


def test_labels_survive_the_disk(world, tmp_path):
    text, empty, pictures, _, examples = world
    labels = label_latents(examples, pictures, text, empty, floor=0.25)
    labels.save(tmp_path / "l.safetensors")
    loaded = Labels.load(tmp_path / "l.safetensors")
    assert torch.equal(loaded.word_top, labels.word_top) and loaded.floor == 0.25
    assert torch.equal(loaded.aligned, labels.aligned)


def test_embeddings_of_two_evaluators_are_refused(world):
    _, empty, pictures, _, examples = world
    with pytest.raises(DataError, match="the same evaluator"):
        label_latents(examples, pictures, torch.zeros(3, 7), empty)
