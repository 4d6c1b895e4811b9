"""Nested TopK and whitening against slow formulas; several recipes in one pass; the folded identity."""

import pytest
import torch

from clipattr.dictionaries import NestedTopK, Recipe, load_dictionary, train_sae, train_saes
from clipattr.dictionaries.batches import Rows
from clipattr.dictionaries.nested import NestedObjective
from clipattr.dictionaries.whitening import covariance, whitening_of
from clipattr.errors import DictionaryError

WIDTH = 12


def stretched(rows=640, seed=0):
    """Activations whose directions differ in variance by up to a thousand, away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.relu(torch.randn(rows, 30, generator=generator) - 1)
    acts = codes @ torch.randn(30, WIDTH, generator=generator) * torch.logspace(0, -1.5, WIDTH) + 5
    return acts + 0.01 * torch.randn(rows, WIDTH, generator=generator)


def test_whitening_by_hand():
    """Variances 3 and 1, ridge 1 x their mean 2: strengths 5^-1/2 and 3^-1/2, scaled to mean square length 1."""
    maps = whitening_of(torch.diag(torch.tensor([3.0, 1.0])), 1.0)
    scale = (3 / 5 + 1 / 3) ** -0.5
    expected = torch.diag(torch.tensor([5**-0.5 * scale, 3**-0.5 * scale]))
    torch.testing.assert_close(maps.forward, expected)
    torch.testing.assert_close(maps.forward @ maps.back, torch.eye(2))


def test_covariance_is_that_of_all_rows_in_float64():
    acts = stretched()
    mean, scale = acts.mean(0), 2.5
    z = ((acts - mean) / scale).double()
    found = covariance(Rows(acts), 160, 0, mean, scale)
    torch.testing.assert_close(found, z.T @ z / len(z), atol=1e-6, rtol=1e-5)


def test_a_tiny_ridge_gives_equal_variances_and_a_large_one_changes_nothing():
    acts = stretched()
    z = acts - acts.mean(0)
    z = z / z.square().sum(1).mean().sqrt()
    moment = z.T.double() @ z.double() / len(z)
    white = z @ whitening_of(moment, 1e-7).forward
    torch.testing.assert_close(white.T @ white / len(z), torch.eye(WIDTH) / WIDTH, atol=2e-3, rtol=0)
    torch.testing.assert_close(z @ whitening_of(moment, 1e7).forward, z, atol=1e-4, rtol=1e-4)
    with pytest.raises(DictionaryError, match="ridge above 0"):
        whitening_of(moment, 0.0)


@pytest.mark.parametrize("kind", ["topk", "nested", "batchtopk", "jumprelu", "gated", "relu", "matryoshka"])
def test_folded_weights_give_in_raw_coordinates_what_training_saw(kind):
    """codes and reconstructions of the exported dictionary = those of the run on whitened rows, mapped back."""
    acts = stretched()
    made = train_sae(
        acts, 40, 4, kind=kind, whiten=0.5, steps=30, batch=128, precision="float32", progress=False
    )
    plain = train_sae(
        whitened := whitened_rows(acts, 0.5), 40, 4, kind=kind, steps=30, batch=128, precision="float32",
        center=False, progress=False,
    )  # fmt: skip
    codes, there = made.encode(acts), plain.encode(whitened)
    same = (codes.to_dense() > 0) == (there.to_dense() > 0)
    assert same.float().mean() > 0.995
    torch.testing.assert_close(made.decode(codes) + made.error(acts, codes), acts, atol=1e-5, rtol=1e-5)
    lengths = torch.linalg.vector_norm(made.decoder, dim=1)
    torch.testing.assert_close(lengths, torch.ones(40), atol=1e-4, rtol=0)
    mapped = unwhitened(acts, plain.reconstruct(whitened), 0.5)
    torch.testing.assert_close(made.reconstruct(acts), mapped, atol=0.05, rtol=0.05)


def maps_of(acts, ridge):
    centred = acts - acts.mean(0)
    scale = centred.square().sum(1).mean().sqrt()
    return whitening_of((centred / scale).T.double() @ (centred / scale).double() / len(acts), ridge), scale


def whitened_rows(acts, ridge):
    maps, scale = maps_of(acts, ridge)
    return (acts - acts.mean(0)) / scale @ maps.forward


def unwhitened(acts, rows, ridge):
    maps, scale = maps_of(acts, ridge)
    return rows @ maps.back * scale + acts.mean(0)


def test_levels_choose_their_own_largest():
    pre = torch.tensor([[0.1, 0.9, 0.5, 3.0, -1.0, 2.0], [-0.3, -0.2, 7.0, -5.0, -4.0, -6.0]])
    unit = torch.eye(6)
    made = NestedTopK(sizes=[2, 4], active=[1, 2], decoder=unit, encoder=unit)
    assert made.encode(pre).to_dense().tolist() == [
        [0.0, pytest.approx(0.9), 0.0, 3.0, 0.0, 2.0],
        [0.0, 0.0, 7.0, 0.0, 0.0, 0.0],
    ]
    assert made.k == 3


def test_nested_dictionaries_are_saved_and_refuse_levels_that_do_not_fit(tmp_path):
    made = train_sae(stretched(), 32, 4, kind="nested", first=8, steps=5, progress=False)
    made.save(tmp_path)
    assert load_dictionary(tmp_path).hash == made.hash
    assert made.settings() == {"sizes": [8, 24], "active": [2, 2]}
    for wrong in ({"first": 40}, {"first": 4, "first_k": 5}, {"first_k": 4}, {"first_weight": 1.0}):
        with pytest.raises(DictionaryError):
            NestedObjective(32, 4, **wrong)


RECIPES = [
    Recipe(24, 3, dead_after=128),
    Recipe(48, 4, kind="nested", whiten=1.0, dead_after=128),
    Recipe(24, 3, whiten=1.0, lr=1e-3),
    Recipe(16, 2, kind="batchtopk", center=False, whiten=0.1),
]


def test_recipes_of_one_pass_equal_each_alone_bit_by_bit():
    acts = stretched()
    together = train_saes(acts, RECIPES, seeds=(0, 1), steps=12, batch=128, progress=False)
    alone = [
        train_saes(acts, recipe, seeds=(seed,), steps=12, batch=128, progress=False)[0]
        for recipe in RECIPES
        for seed in (0, 1)
    ]
    assert [made.hash for made in together] == [made.hash for made in alone]
    assert len({made.hash for made in together}) == len(together)


class Stop(Exception):
    pass


def test_an_interrupted_pass_of_several_recipes_ends_with_the_same_bits(tmp_path):
    acts = stretched()
    whole = train_saes(acts, RECIPES, steps=14, batch=128, progress=False)

    def stop(figures):
        if figures["step"] == 9:
            raise Stop

    options = {"steps": 14, "batch": 128, "progress": False, "checkpoint": tmp_path, "checkpoint_every": 2}
    with pytest.raises(Stop):
        train_saes(acts, RECIPES, log=stop, **options)
    assert [made.hash for made in train_saes(acts, RECIPES, **options)] == [made.hash for made in whole]
    with pytest.raises(DictionaryError, match="another run"):
        train_saes(acts, RECIPES[:2], **options)


def test_wrong_sizes_and_recipes_are_refused():
    with pytest.raises(DictionaryError, match="n_latents and k together"):
        train_sae(stretched(), n_latents=8)
    with pytest.raises(DictionaryError, match="in the recipes themselves"):
        train_saes(stretched(), RECIPES, kind="topk")
    with pytest.raises(DictionaryError, match="Give recipes"):
        train_saes(stretched(), n_latents=3)
