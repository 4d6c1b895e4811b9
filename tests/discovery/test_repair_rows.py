"""Rows: the joint choice for several repaired classes against counting and a general optimiser."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import clipattr as ca
from clipattr.discovery.repair.rows import (
    JOINT_LOSS,
    PATHS,
    RIDGE,
    STRENGTHS,
    joint_choice,
    likeliest_shifts,
)


def scores(rise, n=1200, classes=6):
    """Logits of a good classifier, and of classes 1 and 4 after changes that call them too often by `rise`."""
    generator = torch.Generator().manual_seed(1)
    truth = torch.arange(n) % classes
    logits = torch.randn(n, classes, generator=generator)
    logits[torch.arange(n), truth] += 2.5
    numbers = torch.tensor([1, 4])
    changed = logits[:, numbers] + 0.3 * torch.randn(n, 2, generator=generator) + rise
    return logits, changed, numbers, truth


def accuracy(logits, numbers, changed, truth):
    """Picture by picture, with the changed logits in their classes' places."""
    hits = 0
    for line, new, label in zip(logits.tolist(), changed.tolist(), truth.tolist(), strict=True):
        for number, value in zip(numbers.tolist(), new, strict=True):
            line[number] = value
        hits += int(np.argmax(line)) == label
    return hits / len(truth)


@pytest.mark.parametrize("rise", [0.0, 1.5, torch.tensor([3.0, -4.0])])
@pytest.mark.parametrize("middle", [False, True])
def test_the_joint_choice_is_the_least_change_that_counting_allows(rise, middle):
    logits, changed, numbers, truth = scores(rise)
    old = logits[:, numbers]
    noise = torch.randn(old.shape, generator=torch.Generator().manual_seed(2))
    stages = [changed, *([old + noise] if middle else []), old]
    found = joint_choice(logits, iter(stages), numbers, truth)
    least = accuracy(logits, numbers, old, truth) - JOINT_LOSS
    others = logits[:, torch.tensor([0, 2, 3, 5])].double().logsumexp(1)
    place = (truth[:, None] == numbers).double()

    def first():
        for stage, (row, softer) in enumerate(itertools.pairwise(stages)):
            for s in [*([1.0] if stage == 0 else []), *STRENGTHS]:
                new = softer + s * (row - softer)
                whole = likeliest_shifts(new.double(), others, place).float()
                for path in (0.0, *PATHS):
                    if accuracy(logits, numbers, new + path * whole, truth) >= least:
                        return stage, s, path * whole, new
        raise AssertionError

    stage, strength, shifts, new = first()
    assert found[:2] == (stage, strength)
    torch.testing.assert_close(found[2], shifts, atol=1e-4, rtol=0)
    assert accuracy(logits, numbers, new + found[2], truth) >= least


def test_the_likeliest_shifts_are_those_of_a_general_optimiser():
    logits, changed, numbers, truth = scores(torch.tensor([2.0, -1.0]))
    others = torch.tensor([0, 2, 3, 5])
    place = (truth[:, None] == numbers).double()
    found = likeliest_shifts(changed.double(), logits[:, others].double().logsumexp(1), place)

    def loss(b):
        whole = logits.double().clone()
        whole[:, numbers] = changed.double() + torch.tensor(b)
        # The truth among other classes counts as "none of the repaired": its own share does not depend on b.
        p = whole.softmax(1)
        none = 1 - p[:, numbers].sum(1)
        hit = torch.where(place.any(1), (p[:, numbers] * place).sum(1), none)
        return float(-hit.log().mean()) + RIDGE * float(np.square(b).sum())

    best = minimize(loss, np.zeros(2), tol=1e-12)
    np.testing.assert_allclose(found.numpy(), best.x, atol=1e-4)


def test_rows_that_cost_nothing_stay_as_they_are():
    logits, _, numbers, truth = scores(0.0)

    def stages():
        yield logits[:, numbers] + 0.01
        raise AssertionError("a softer method is not needed")

    stage, strength, shifts = joint_choice(logits, stages(), numbers, truth)
    assert (stage, strength) == (0, 1) and not shifts.any()


def test_rows_that_only_harm_are_given_up():
    logits, changed, numbers, truth = scores(0.0)
    stage, strength, shifts = joint_choice(logits, [-40 * changed, logits[:, numbers]], numbers, truth)
    assert stage == 0 and strength < 0.2
    assert strength > 0 or not shifts.any()


@pytest.fixture(scope="module")
def study():
    return ca.open_study("picture-world")


def test_several_repairs_keep_accuracy_and_one_is_as_it_was(study):
    prompts = ["palm", "camera"]
    labels = np.array(study.images.columns["label"])
    findings = []
    for prompt in prompts:
        rows = torch.from_numpy(np.flatnonzero(labels == prompt)[:40])
        findings.append(study.codes.rows(rows).to_dense().sum(0).topk(3).indices.tolist())
    # One list of latents for all prompts: what they read is taken from them.
    latents = sorted({j for some in findings for j in some})
    several = ca.repair(study, latents, prompts=prompts, how="erased")
    told = several.classifier().about["together"]
    assert list(told["shifts"]) == prompts and told["of"] == ["erased"] and told["to"] == ["none"]
    single = ca.repair(study, latents, prompts="palm", how="erased")
    assert single.classifier().about["together"] is None
    number, before = single.before.index("palm"), single.before
    rows = [given.weights[number] for given in (before, single.classifier(), several.classifier())]
    torch.testing.assert_close(rows[2], torch.lerp(*rows[:2], told["strength"]), atol=1e-4, rtol=1e-4)
    fitted = replace(before, about={"kind": "logistic"})
    probed = ca.repair(study, latents, prompts=prompts, classifier=fitted)
    assert probed.how == "project" and probed.classifier().about["together"] is None
