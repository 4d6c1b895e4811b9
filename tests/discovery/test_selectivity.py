"""Latents of a meaning that comes with a prompt: a small collection in which it is known which latent reads what."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from clipattr.discovery.audit.mediators import meetings_of
from clipattr.discovery.audit.selectivity import (
    Standing,
    families_apart,
    greater,
    lost_without,
    mean_strength,
    stands_for,
)
from clipattr.discovery.audit.subject import Side

N = 600
OWN, BESIDE, ALONE, TWIN = slice(0, 60), slice(0, 48), slice(100, 150), slice(200, 260)


def mask(*parts):
    there = torch.zeros(N, dtype=torch.bool)
    for part in parts:
        there[part] = True
    return there


def meet(own, meaning, prompt, missing=None, part=False):
    """How they meet, in the order of what is asked first."""
    side = Side(own, prompt, prompt, torch.zeros(N))
    return meetings_of(side, meaning, meaning, part, (~meaning).double() if missing is None else missing)


def codes(*columns):
    """Latents, each a list of (pictures, strength)."""
    dense = np.zeros((N, len(columns)), dtype=np.float32)
    for number, parts in enumerate(columns):
        for part, strength in parts:
            dense[part, number] = strength
    return csr_array(dense)


def beside():
    """A lemon lies beside most banjos, and elsewhere alone; other banjos are seen that are not the prompt's own."""
    lemon, banjo = mask(BESIDE, ALONE), mask(OWN, TWIN)
    (meeting,) = meet(mask(OWN), lemon, banjo)
    return meeting


def test_what_co_occurs_is_met_beside_the_prompt():
    meeting = beside()
    assert meeting is not None and not meeting.instead


def test_a_latent_of_what_co_occurs_stands_for_it_and_one_of_the_prompt_does_not():
    pure = [(BESIDE, 5.0), (ALONE, 5.0)]
    own = [(OWN, 9.0), (TWIN, 9.0), (ALONE, 0.1)]
    quiet = [(slice(300, 310), 5.0)]
    both = [(BESIDE, 20.0), (slice(48, 60), 6.0), (ALONE, 1.0)]  # fires for the two together
    some = stands_for(codes(pure, own, quiet, both), beside())
    assert some.fits.tolist() == [True, False, False, True]
    assert some.purely.tolist() == [True, False, False, False]
    assert some.clearer[0] == pytest.approx(1.0)


def test_a_picture_in_which_what_co_occurs_was_overlooked_says_little_of_what_is_without_it():
    lemon, banjo = mask(BESIDE, ALONE), mask(OWN, TWIN)
    overlooked, missing = slice(56, 60), slice(48, 56)
    surely = (~lemon).double()
    surely[overlooked] = 0.1
    latent = [(BESIDE, 8.0), (overlooked, 8.0), (missing, 3.0), (ALONE, 4.0)]
    strength = mean_strength(codes(latent), mask(OWN) * surely, few=1)
    assert strength[0] == pytest.approx((8 * 3.0 + 4 * 0.1 * 8.0) / 8.4)
    assert np.isnan(mean_strength(codes(latent), mask(OWN) * surely / 9, few=1))
    for without, fits in ((None, False), (surely, True)):
        (meeting,) = meet(mask(OWN), lemon, banjo, without)
        assert stands_for(codes(latent), meeting).fits[0] == fits


def test_where_what_co_occurs_is_never_missing_other_pictures_decide():
    lemon, banjo = mask(OWN, ALONE), mask(OWN, TWIN)
    (meeting,) = meet(mask(OWN), lemon, banjo)
    context = [(OWN, 8.0), (ALONE, 3.0)]
    prompt = [(OWN, 8.0), (ALONE, 1.0), (TWIN, 3.0)]
    assert stands_for(codes(context, prompt), meeting).fits.tolist() == [True, False]


def test_a_lookalike_is_no_candidate():
    tiger = lion = mask(OWN, ALONE)  # the evaluator sees both wherever one is
    assert meet(mask(OWN), tiger, lion) == []


def test_another_look_stands_in_the_prompts_place():
    lions, tigers = slice(0, 30), slice(30, 60)
    meeting = meet(mask(OWN), mask(tigers, ALONE), mask(lions))[0]
    assert meeting.instead
    tiger = [(tigers, 7.0), (ALONE, 7.0)]
    lion = [(lions, 7.0), (tigers, 1.0)]
    either = [(OWN, 7.0), (ALONE, 3.0)]
    assert stands_for(codes(tiger, lion, either), meeting).fits.tolist() == [True, False, True]


def test_a_part_of_the_name_stands_in_its_place_wherever_it_is():
    (meeting,) = meet(mask(OWN), mask(ALONE), mask(OWN), part=True)
    assert meeting.instead and meeting.is_own[ALONE].all()


def test_a_latent_goes_to_the_meaning_it_responds_to_most_and_must_lift_the_prompt():
    lemon, shadow = beside(), mask(BESIDE, ALONE, slice(400, 500))
    (other,) = meet(mask(OWN), shadow, mask(OWN, TWIN))
    table = codes([(BESIDE, 5.0), (ALONE, 5.0)], [(BESIDE, 5.0), (ALONE, 5.0)], [(BESIDE, 5.0), (ALONE, 5.0)])
    share = torch.tensor([0.02, 0.06, -0.01])
    standing = {7: stands_for(table, lemon), 8: stands_for(table, other)}
    found = families_apart(3, standing, {7: share, 8: share}, enough=1.0)
    assert [(family.word, family.latents) for family in found] == [(7, [1, 0])]
    assert found[0].prompt == 3 and found[0].carried == pytest.approx(0.08)


def test_latents_that_carry_next_to_nothing_are_left_out():
    table = codes([(BESIDE, 5.0), (ALONE, 5.0)], [(BESIDE, 5.0), (ALONE, 5.0)])
    found = families_apart(0, {1: stands_for(table, beside())}, {1: torch.tensor([1.0, 0.01])}, enough=9.0)
    assert found[0].latents == [0]


def test_a_latent_for_both_together_stands_for_what_co_occurs_if_its_loss_without_is_no_chance():
    together = [(BESIDE, 20.0), (slice(48, 60), 6.0)]  # silent for lemons alone and for banjos elsewhere
    some = stands_for(codes(together), beside())
    assert some.fits.tolist() == [True] and some.clearer[0] > 0


def test_a_loss_on_two_pictures_or_by_chance_is_none():
    steady = np.random.default_rng(0).uniform(5, 9, 60)
    dense = np.zeros((N, 2), dtype=np.float32)
    dense[:60, 0], dense[:48, 1] = steady, 9.0
    both = np.array([True, True])
    assert lost_without(csr_array(dense), mask(BESIDE), mask(slice(48, 60)), both).tolist() == [False, True]
    assert not lost_without(csr_array(dense), mask(BESIDE), mask(slice(48, 50)), both).any()
    assert not lost_without(csr_array(dense), mask(BESIDE), mask(slice(48, 60)), ~both).any()


def test_latents_that_purely_stand_for_a_meaning_are_its_family_if_they_carry_enough():
    some = Standing(np.array([True, True]), np.array([0.9, 0.8]), np.array([True, False]))
    share = {5: torch.tensor([0.03, 0.1])}
    assert families_apart(0, {5: some}, share, enough=0.02)[0].latents == [0]
    assert families_apart(0, {5: some}, share, enough=0.05)[0].latents == [1, 0]


def test_ranks_of_entries_that_are_not_zero_give_mann_and_whitney_s_test():
    from scipy.stats import mannwhitneyu

    random = np.random.default_rng(0)
    one, other = (
        (random.random((n, 60)) * (random.random((n, 60)) < share)).round(1)
        for n, share in ((30, 0.4), (12, 0.2))
    )
    one[:, :6] *= -1  # negative entries rank below the zeros
    one[:, 6], other[:, 6] = 0, 0
    slow = mannwhitneyu(one, other, alternative="greater", method="asymptotic").pvalue
    np.testing.assert_allclose(greater(csr_array(one), csr_array(other)), slow, atol=1e-12)
    assert 0 < (slow < 0.05).sum() < 60


def test_the_mean_over_most_pictures_is_computed_from_the_sums_over_all():
    random = np.random.default_rng(0)
    dense = (random.random((40, 9)) * (random.random((40, 9)) < 0.3)).astype(np.float32)
    pictures = torch.arange(40) >= 8
    dense[8:, 0] = 0  # fires on the others alone: exactly nothing is left
    table = csr_array(dense)
    sums = dense.sum(0, dtype=np.float64), (dense != 0).sum(0)
    found = mean_strength(table, pictures, sums=sums)
    np.testing.assert_allclose(found, dense[8:].astype(np.float64).mean(0), atol=1e-12)
    assert found[0] == 0 < dense[:8, 0].sum()
