"""A test that is given up early: the stated error holds in simulation, and nothing is found that would not be."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clipattr.discovery.audit.stopping import even_chance, hopeless, looks_of
from clipattr.statistics import t_interval

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


def test_the_bar_is_the_quantile_of_prompts_whose_final_test_has_an_even_chance():
    random = np.random.default_rng(0)
    values = random.standard_normal((40_000, 36))
    # The mean at which the lower bound over all 36 reaches 0 in every second case, found by bisection.
    bound = values.mean(1) - 2.030108 * values.std(1, ddof=1) / 6
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if (bound + middle >= 0).mean() < 0.5 else (low, middle)
    some = values[:, :8] + low
    statistic = some.mean(1) / some.std(1, ddof=1) * math.sqrt(8)
    for error in (0.0125, 0.1):
        given_up = (statistic < even_chance(8, 36, error)).mean()
        assert given_up == pytest.approx(error, abs=5 * math.sqrt(error / 40_000) + 0.1 * error)


def test_hopeless_asks_of_the_mean_over_the_least_rise():
    values = torch.tensor([0.3, 0.1, 0.2, 0.4, 0.0, 0.2, 0.1, 0.3])
    statistic = float((values.mean() - 0.25) / values.std() * math.sqrt(8))
    for error in (0.001, 0.05, 0.4):
        assert hopeless(values, 0.25, 36, error) is (statistic < even_chance(8, 36, error))
    assert hopeless(values, 5.0, 36, 0.001) and not hopeless(values, -5.0, 36, 0.4)
    same = torch.full((8,), 0.2)
    assert hopeless(same, 0.3, 36, 0.05) and not hopeless(same, 0.1, 36, 0.05)
    assert looks_of(8, 36) == [8, 16] and looks_of(8, 16) == [8] and looks_of(12, 12) == []


@pytest.mark.parametrize("form", ["normal", "heavy tails", "skewed up", "skewed down"])
def test_stopping_costs_no_more_than_stated_and_adds_no_finding(form):
    from stopping import drawn, simulated, tested

    row = simulated(form, 4_000, 0.05)
    assert row["lost"] <= 0.02 and row["given_up"] <= (0.1 if form == "skewed up" else 0.055)
    assert row["false"] <= row["false_fixed"] + 1e-12 and row["false_fixed"] <= 0.025
    assert row["pictures"] < 34
    # The simulation gives up where the audit does.
    rises = drawn(form, 40, np.random.default_rng(1)) + 0.1
    for (one, spent), rise in zip(zip(*tested(rises, 0.05), strict=True), rises, strict=True):
        values = torch.from_numpy(rise)
        ends = [n for n in (8, 16) if any(hopeless(values[:n, k], 0.0, 36, 0.0125) for k in (0, 1))]
        assert spent == (ends or [36])[0]
        assert one == all(t_interval(values[:, k]).low >= 0 for k in (0, 1))
