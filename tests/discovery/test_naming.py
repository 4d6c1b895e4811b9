"""Names of families: a word names what rises and falls with it, over all pictures."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clipattr.dictionaries import SparseCodes
from clipattr.discovery.audit.naming import FEW, FOLLOWS, NEARLY, followed_words, named_families, standardised

PICTURES, WORDS, LATENTS, EMBED = 300, 7, 12, 16


@pytest.fixture
def study():
    """Seven orthogonal words; latent j < 7 fires where word j is seen, latents 7 to 10 at random, 11 never."""
    rng = np.random.default_rng(0)
    words = torch.linalg.qr(torch.from_numpy(rng.standard_normal((EMBED, WORDS))))[0].T.float()
    there = torch.from_numpy(rng.random((PICTURES, WORDS)) < 0.2).float()
    noise = 0.1 * torch.from_numpy(rng.standard_normal((PICTURES, EMBED))).float()
    pictures = torch.nn.functional.normalize(there @ words + noise, dim=-1)
    codes = torch.zeros(PICTURES, LATENTS)
    codes[:, :WORDS] = there * torch.from_numpy(rng.uniform(1, 2, (PICTURES, WORDS))).float()
    codes[:, 7:11] = torch.from_numpy((rng.random((PICTURES, 4)) < 0.1) * 1.0).float()
    counts = (codes > 0).sum(0)
    return SimpleNamespace(
        rows=np.arange(PICTURES),
        codes=SimpleNamespace(rows=lambda rows: SparseCodes.from_dense(codes[rows])),
        dense=codes,
        seen=lambda rows: pictures[rows],
        vocabulary_embeddings=words,
        vocabulary=SimpleNamespace(words=[f"word {i}" for i in range(WORDS)], groups=["things"] * WORDS),
        examples=SimpleNamespace(counts=counts, values=torch.rand(LATENTS, 5)),
        names={},
    )


@pytest.fixture(autouse=True)
def lengths(monkeypatch, study):
    study.vocabulary = type("Words", (SimpleNamespace,), {"__len__": lambda self: len(self.words)})(
        **vars(study.vocabulary)
    )
    # Grouping what no word fits is tested with the families themselves.
    monkeypatch.setattr(
        "clipattr.discovery.audit.naming.families", lambda study, latents: [[latent] for latent in latents]
    )


def test_the_correlation_is_numpys(study, monkeypatch):
    monkeypatch.setattr("clipattr.discovery.audit.naming.WORDS", 3)  # several blocks
    similar = standardised(study, study.rows, study.vocabulary_embeddings).numpy()
    best, word = followed_words(study, study.rows)
    for latent in range(11):
        slow = [np.corrcoef(study.dense[:, latent].numpy(), similar[:, w])[0, 1] for w in range(WORDS)]
        assert best[latent].item() == pytest.approx(max(slow), abs=1e-4)
        assert word[latent].item() == int(np.argmax(slow))


def test_latents_take_the_word_they_follow_and_others_none(study):
    found = {family.latents[0]: family.label for family in named_families(study) if family.label}
    assert {j: f"word {j}" for j in range(WORDS)}.items() <= found.items()
    nameless = {j for family in named_families(study) if family.label is None for j in family.latents}
    assert 11 not in nameless and len(nameless & {7, 8, 9, 10}) >= 3


def test_a_latent_active_on_too_few_pictures_has_no_word(study):
    quiet = study.dense.clone()
    quiet[torch.nonzero(quiet[:, 0])[FEW - 1 :, 0], 0] = 0
    study.codes.rows = lambda rows: SparseCodes.from_dense(quiet[rows])
    assert followed_words(study, study.rows)[0][0].item() == 0


def test_a_wanted_word_has_all_its_followers_even_where_another_word_follows_them_better(study):
    first, second = study.vocabulary_embeddings[:2]
    study.vocabulary_embeddings[1] = torch.nn.functional.normalize(first + 0.5 * (first - second), dim=0)
    words = [study.vocabulary.words[0], study.vocabulary.words[1]]
    correlation = {
        word: np.corrcoef(
            study.dense[:, 0].numpy(),
            standardised(study, study.rows, study.vocabulary_embeddings)[:, number].numpy(),
        )[0, 1]
        for number, word in enumerate(words)
    }
    better, other = sorted(words, key=lambda word: -correlation[word])
    assert correlation[other] > NEARLY * correlation[better] > FOLLOWS
    plain = {family.label: family.latents for family in named_families(study) if family.label}
    assert 0 in plain[better] and 0 not in plain.get(other, [])
    wanted = named_families(study, wanted=[words.index(other)])
    assert wanted[-1].label == other and 0 in wanted[-1].latents
    assert {family.label: family.latents for family in wanted[:-1] if family.label} == plain


def test_a_wanted_word_that_has_its_family_gets_no_second_one(study):
    plain = named_families(study)
    assert len(named_families(study, wanted=[4])) == len(plain)


def test_a_name_given_by_the_analyst_wins(study):
    study.names = {3: "my own"}
    labels = {tuple(family.latents): family.label for family in named_families(study)}
    assert labels[(3,)] == "my own"
