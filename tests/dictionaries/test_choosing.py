"""Choosing settings without truth, and the named dictionary: by hand, against slow formulas, resumed, refused."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from clipattr.dictionaries import Recipe, TopK, choose_sae, named_dictionary, train_sae
from clipattr.dictionaries.choosing import (
    affordable,
    agreement,
    candidates,
    cost,
    default_schedule,
    score_without_truth,
)
from clipattr.dictionaries.named import soft_labels
from clipattr.errors import DictionaryError
from clipattr.studies.cards import make_card

WIDTH = 12


def planted(rows=480, factors=8, seed=0):
    """Activations of factors that are there or not, and which are there."""
    generator = torch.Generator().manual_seed(seed)
    there = (torch.rand(rows, factors, generator=generator) < 0.15).float()
    directions = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0][:factors]
    noise = 0.05 * torch.randn(rows, WIDTH, generator=generator)
    return (
        there * (1 + 0.2 * torch.rand(rows, factors, generator=generator)) @ directions + noise + 2,
        there,
        directions,
    )


def test_agreement_is_1_for_true_factors_and_low_for_presence_that_is_chance():
    acts, there, directions = planted()
    true = TopK(k=8, decoder=directions, encoder=directions, pre_bias=torch.full((WIDTH,), 2.0))
    assert agreement(true, acts) > 0.98
    generator = torch.Generator().manual_seed(1)
    wild = torch.nn.functional.normalize(torch.randn(40, WIDTH, generator=generator), dim=1)
    chance = TopK(k=1, decoder=wild, encoder=wild, pre_bias=acts.mean(0))
    assert agreement(chance, acts) < 0.8


def test_agreement_by_a_slow_formula():
    acts, _, directions = planted()
    made = TopK(k=2, decoder=directions, encoder=directions, pre_bias=acts.mean(0))
    codes = made.encode(acts).to_dense().double().numpy()
    x = acts.double().numpy() - acts.double().numpy().mean(0)
    even, odd = x[::2], x[1::2]
    second = even.T @ even / len(even)
    inverse = np.linalg.inv(second + 1e-2 * np.diag(second).mean() * np.eye(WIDTH))
    found = []
    for code in codes.T:
        there = code > np.sort(code)[-5:].mean() / 2
        here, held = there[::2].astype(float), there[1::2]
        if here.sum() < 5 or held.sum() < 5:
            continue
        scores = odd @ inverse @ even.T @ (here - here.mean()) / len(even)
        found.append(held[np.argsort(-scores)[: held.sum()]].mean())
    assert agreement(made, acts) == pytest.approx(np.mean(found), abs=1e-6)


def test_the_chosen_one_agrees_most_and_says_what_was_tried(tmp_path):
    acts, _, _ = planted()
    recipes = [Recipe(64, 8, dead_after=0), Recipe(10, 2, whiten=1.0, lr=5e-3), Recipe(16, 1)]
    options = {"recipes": recipes, "budget": 1e12, "steps": 60, "batch": 60, "progress": False}
    made = choose_sae(acts, **options)
    choice = made.info["choice"]
    figures = [one["score"] for one in choice["tried"]]
    again = score_without_truth(made, acts)
    fvu = (acts - made.reconstruct(acts)).square().sum() / (acts - acts.mean(0)).square().sum()
    assert again["score"] == pytest.approx(agreement(made, acts) * (1 - float(fvu)) ** 2, abs=1e-5)
    assert choice["chosen"] == int(np.argmax(figures)) and len(figures) == 3
    assert made.n_latents == recipes[choice["chosen"]].n_latents
    assert choice["why"].startswith("largest score of 3 candidates")
    alone = train_sae(acts, 10, 2, whiten=1.0, lr=5e-3, steps=60, batch=60, decay=0.3, progress=False)
    assert choice["chosen"] != 1 or alone.hash == made.hash

    class Stop(Exception):
        pass

    def stop(figures):
        if figures["step"] == 31:
            raise Stop

    with pytest.raises(Stop):
        choose_sae(acts, log=stop, checkpoint=tmp_path, checkpoint_every=10, **options)
    again = choose_sae(acts, checkpoint=tmp_path, checkpoint_every=10, **options)
    assert again.hash == made.hash and again.info["choice"] == choice


def test_train_sae_without_a_size_chooses_and_keeps_the_identity():
    acts, _, _ = planted()
    made = train_sae(acts, budget=1e12, steps=20, progress=False)
    codes = made.encode(acts)
    torch.testing.assert_close(made.decode(codes) + made.error(acts, codes), acts, atol=1e-5, rtol=1e-5)
    assert len(made.info["choice"]["tried"]) == len(candidates(WIDTH, len(acts)))
    card = make_card(made, acts, controls=False, keep=False)
    assert card.tried[-1].startswith("chosen: largest score of") and "FVU" in str(card)


def test_a_budget_leaves_out_the_last_candidates_and_never_the_first():
    recipes, schedule = candidates(192, 6000), default_schedule(6000)
    costs = [cost(recipe, schedule, 192) for recipe in recipes]
    assert affordable(recipes, schedule, 192, sum(costs)) == recipes
    assert affordable(recipes, schedule, 192, sum(costs[:2]) + 1) == recipes[:2]
    assert affordable(recipes, schedule, 192, 0) == recipes[:1]
    acts, _, _ = planted()
    made = choose_sae(acts, budget=0, steps=5, progress=False)
    assert len(made.info["choice"]["tried"]) == 1 and made.info["choice"]["left_out"]


def test_every_candidate_can_be_trained_for_any_size_of_data():
    for width, rows in ((2, 20), (8, 400), (192, 3600), (768, 1_000_000), (1280, 50)):
        for recipe in candidates(width, rows):
            assert 1 <= recipe.k <= recipe.n_latents <= max(16, rows // 7)
            assert recipe.options.get("first", 1) < recipe.n_latents


def test_half_a_setting_is_refused():
    acts, _, _ = planted()
    with pytest.raises(DictionaryError, match="kind cannot be given alone"):
        train_sae(acts, kind="topk")
    with pytest.raises(DictionaryError, match="budget"):
        train_sae(acts, 16, 2, budget=1e9)


def test_soft_labels_solve_the_penalised_decomposition():
    generator = torch.Generator().manual_seed(0)
    words, embeddings = torch.randn(6, 10, generator=generator), torch.randn(5, 10, generator=generator)
    found = soft_labels(embeddings, words, penalty=0.1, steps=3000).double()
    e = torch.nn.functional.normalize(embeddings - embeddings.mean(0), dim=1).double()
    w = torch.nn.functional.normalize(words - words.mean(0), dim=1).double()
    for row, code in zip(e, found, strict=True):
        cut = 0.1 * float((w @ row).max().clamp_min(0))
        # With c >= 0 the penalty is linear: complete the square and solve by non-negative least squares.
        root = np.linalg.cholesky((w @ w.T).numpy() + 1e-9 * np.eye(6)).T
        target = np.linalg.solve(root.T, (w @ row).numpy() - cut)
        np.testing.assert_allclose(code.numpy(), nnls(root, target)[0], atol=2e-3)


def test_a_named_dictionary_finds_the_words_and_keeps_the_identity():
    acts, there, directions = planted(rows=600)
    generator = torch.Generator().manual_seed(3)
    words = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0][:9]
    embeddings = there @ words[:8] + 0.02 * torch.randn(600, 16, generator=generator)
    names = [f"word {number}" for number in range(9)]
    made = named_dictionary(acts, embeddings, words, names)
    found = made.info["words"]
    assert set(found) >= set(names[:8])
    codes = made.encode(acts)
    torch.testing.assert_close(made.decode(codes) + made.error(acts, codes), acts, atol=1e-5, rtol=1e-5)
    dense = codes.to_dense()
    for factor in range(8):
        latent = found.index(names[factor])
        present = dense[:, latent] > 0
        hits = (present & (there[:, factor] > 0)).sum()
        assert 2 * hits / (present.sum() + there[:, factor].sum()) > 0.9
        assert torch.dot(made.decoder[latent], directions[factor]) > 0.9
    with pytest.raises(DictionaryError, match="one embedding per row"):
        named_dictionary(acts, embeddings[:5], words, names)
