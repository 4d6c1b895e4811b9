"""Latents of a meaning that comes with a prompt: a small collection in which it is known which latent reads what."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from clipattr.discovery.apart import families_apart, meet, stands_for

N = 600
OWN, BESIDE, ALONE, TWIN = slice(0, 60), slice(0, 48), slice(100, 150), slice(200, 260)


def mask(*parts):
    there = torch.zeros(N, dtype=torch.bool)
    for part in parts:
        there[part] = True
    return there


def way(there, level=0.9, rest=0.0):
    return torch.where(there, level, rest).double()


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
    return meet(mask(OWN), lemon, banjo, way(lemon), way(banjo))


def test_company_is_met_beside_the_prompt():
    meeting = beside()
    assert meeting is not None and not meeting.instead


def test_a_latent_of_the_company_stands_for_it_and_one_of_the_prompt_does_not():
    pure = [(BESIDE, 5.0), (ALONE, 5.0)]
    own = [(OWN, 9.0), (TWIN, 9.0), (ALONE, 0.1)]
    quiet = [(slice(300, 310), 5.0)]
    both = [(BESIDE, 20.0), (slice(48, 60), 6.0), (ALONE, 1.0)]  # fires for the two together
    fits, clearer = stands_for(codes(pure, own, quiet, both), beside())
    assert fits.tolist() == [True, False, False, True]
    assert clearer[0] == pytest.approx(1.0)


def test_where_the_company_is_never_missing_other_pictures_decide():
    lemon, banjo = mask(OWN, ALONE), mask(OWN, TWIN)
    meeting = meet(mask(OWN), lemon, banjo, way(lemon), way(banjo))
    assert meeting is not None
    context = [(OWN, 8.0), (ALONE, 3.0)]
    prompt = [(OWN, 8.0), (ALONE, 1.0), (TWIN, 3.0)]
    assert stands_for(codes(context, prompt), meeting)[0].tolist() == [True, False]


def test_a_lookalike_is_no_company():
    tiger, lion = mask(OWN, ALONE), mask(OWN, ALONE)
    clearly_lion = torch.where(mask(OWN), 0.95, 0.0).double() + way(mask(ALONE), 0.6)
    clearly_tiger = way(mask(OWN), 0.8) + way(mask(ALONE), 0.95)
    assert meet(mask(OWN), tiger, lion, clearly_tiger, clearly_lion) is None


def test_a_lookalike_in_the_prompts_place_counts():
    lions, tigers = slice(0, 30), slice(30, 60)
    sees_tiger, sees_lion = mask(OWN, ALONE), mask(OWN)
    clearly_tiger = way(mask(tigers, ALONE), 0.95) + way(mask(lions), 0.8)
    clearly_lion = way(mask(lions), 0.95) + way(mask(tigers), 0.8) + way(mask(ALONE), 0.6)
    meeting = meet(mask(OWN), sees_tiger, sees_lion, clearly_tiger, clearly_lion)
    assert meeting is not None and meeting.instead
    tiger = [(tigers, 7.0), (ALONE, 7.0)]
    lion = [(lions, 7.0), (tigers, 1.0)]
    either = [(OWN, 7.0), (ALONE, 3.0)]
    assert stands_for(codes(tiger, lion, either), meeting)[0].tolist() == [True, False, True]


def test_a_latent_goes_to_the_meaning_it_responds_to_most_and_must_lift_the_prompt():
    lemon, shadow = beside(), mask(BESIDE, ALONE, slice(400, 500))
    other = meet(mask(OWN), shadow, mask(OWN, TWIN), way(shadow), way(mask(OWN, TWIN)))
    assert other is not None
    table = codes([(BESIDE, 5.0), (ALONE, 5.0)], [(BESIDE, 5.0), (ALONE, 5.0)], [(BESIDE, 5.0), (ALONE, 5.0)])
    share = torch.tensor([0.02, 0.06, -0.01])
    found = families_apart(table, 3, {7: lemon, 8: other}, {7: share, 8: share})
    assert [(family.word, family.latents) for family in found] == [(7, [1, 0])]
    assert found[0].prompt == 3 and found[0].carried == pytest.approx(0.08)


def test_latents_that_carry_next_to_nothing_are_left_out():
    table = codes([(BESIDE, 5.0), (ALONE, 5.0)], [(BESIDE, 5.0), (ALONE, 5.0)])
    found = families_apart(table, 0, {1: beside()}, {1: torch.tensor([1.0, 0.01])})
    assert found[0].latents == [0]
