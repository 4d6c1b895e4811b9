"""What makes a finding about a probe, and what a probe is made blind to: each against a slow formula."""

import math

import numpy as np
import pytest
import torch

import clipattr as ca
from clipattr.discovery.blindness import remover
from clipattr.discovery.probe_findings import FEW, comparison, split


def things(n=400):
    """Three classes; thing 0 moves the margin by 2 and often comes with 1, which moves it by 5; 2 does nothing."""
    rng = np.random.default_rng(3)
    classes = np.arange(n) % 3
    first = rng.random(n) < np.array([0.7, 0.2, 0.4])[classes]
    second = np.where(rng.random(n) < 0.3, first, rng.random(n) < 0.5)
    there = np.stack([first, second, rng.random(n) < 0.3], 1)
    margin = 10.0 * classes + there @ [2.0, 5.0, 0.0] + rng.normal(size=n) * (1 + first)
    return margin, classes, there


def test_a_comparison_is_least_squares_with_class_and_company_held_equal():
    margin, classes, there = things()
    found = comparison(*(torch.from_numpy(part) for part in (margin, classes, there)), 0)
    design = np.concatenate([there.astype(float), np.eye(3)[classes]], 1)
    slopes = np.linalg.lstsq(design, margin, rcond=None)[0]
    assert found.value == pytest.approx(slopes[0]) and abs(found.value - 2.0) < 0.5
    rest = margin - design @ slopes
    bread = np.linalg.inv(design.T @ design)
    meat = sum(r * r * np.outer(row, row) for r, row in zip(rest, design, strict=True))
    spread = (bread @ meat @ bread)[0, 0] * len(margin) / (len(margin) - design.shape[1])
    assert found.high - found.value == pytest.approx(1.96 * math.sqrt(spread))


def test_a_comparison_without_both_sides_knows_nothing():
    there = torch.zeros(20, 1, dtype=torch.bool)
    there[: FEW - 1] = True
    assert comparison(torch.randn(20), torch.zeros(20, dtype=torch.long), there, 0).low == -math.inf


def test_one_things_opposite_is_not_held_equal():
    margin, classes, there = (torch.from_numpy(part) for part in things())
    both = torch.cat([there, ~there[:, [0]]], 1)
    assert comparison(margin, classes, both, 0).value == pytest.approx(
        comparison(margin, classes, there, 0).value
    )


def test_two_heaps_are_told_apart_where_they_vary_least_within():
    values = torch.cat([torch.randn(70), 4 + torch.randn(30)])
    best = min(values.tolist(), key=lambda bound: _within(values.numpy(), bound))
    assert split(values).tolist() == [value > best for value in values.tolist()]
    assert not split(torch.ones(5)).any()


def _within(values, bound):
    heaps = [values[values <= bound], values[values > bound]]
    return sum(len(heap) * heap.var() for heap in heaps if len(heap))


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
