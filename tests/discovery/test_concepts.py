"""The sparse decomposition of pictures into words, and what co-occurs, against slow formulas."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.stats import hypergeom, t, ttest_ind

from clipattr.discovery.audit.candidates import over_represented
from clipattr.discovery.audit.concepts import Concepts
from clipattr.statistics import (
    difference_interval,
    false_discovery,
    paired_rate_difference,
    rate_difference,
    t_interval,
)


@pytest.fixture(scope="module")
def seen():
    generator = torch.Generator().manual_seed(0)
    words = torch.nn.functional.normalize(torch.randn(30, 12, generator=generator), dim=1)
    pictures = torch.nn.functional.normalize(torch.randn(40, 12, generator=generator), dim=1)
    return words, pictures


def test_weights_are_those_of_the_penalised_least_squares(seen):
    words, pictures = seen
    concepts = Concepts(words, pictures, sparsity=0.2, fits=5, stands=torch.arange(len(words)))
    weights, bar = concepts.decompose(pictures)
    atoms, centred = concepts.words.double().numpy(), concepts.centred(pictures).double().numpy()
    for row in (0, 7, 39):
        slow = minimize(
            lambda z, picture: 0.5 * ((picture - z @ atoms) ** 2).sum() + 0.2 * z.sum(),
            np.full(30, 0.1), args=(centred[row],), bounds=[(0, None)] * 30, method="L-BFGS-B",
            options={"maxiter": 5000, "ftol": 1e-14},
        )  # fmt: skip
        here = weights[[row]].toarray()[0]
        cost = 0.5 * ((centred[row] - here @ atoms) ** 2).sum() + 0.2 * here.sum()
        assert cost == pytest.approx(slow.fun, abs=2e-4)
        assert bar[row].item() == pytest.approx(np.sort(atoms @ centred[row])[-5], abs=1e-6)


def test_a_picture_is_decomposed_by_itself(seen):
    words, pictures = seen
    concepts = Concepts(words, pictures, 0.2, 5, torch.arange(len(words)))
    alone, _ = concepts.decompose(pictures[3:4])
    among, _ = concepts.decompose(pictures)
    np.testing.assert_allclose(alone.toarray()[0], among[[3]].toarray()[0], atol=1e-6)


def test_what_is_over_represented_is_what_counting_says():
    generator = np.random.default_rng(0)
    table = (generator.random((300, 25)) < 0.2).astype(np.float32)
    own = torch.zeros(300, dtype=torch.bool)
    own[:40] = True
    table[:30, 3] = 1
    columns, difference, chance = over_represented(csr_array(table), own, 0.2, 0.01, 5)
    raw = np.ones(25)
    for column in range(25):
        both, total = table[:40, column].sum(), table[:, column].sum()
        if both / 40 - (total - both) / 260 >= 0.2:
            raw[column] = hypergeom.sf(both - 1, 300, total, 40)
    assert columns.tolist() == [3]
    assert difference[0] == pytest.approx(table[:40, 3].mean() - table[40:, 3].mean())
    assert chance[0] == pytest.approx(false_discovery(raw)[3])


def test_intervals_are_student_s_and_welch_s():
    one, other = torch.randn(6, dtype=torch.float64) + 1, torch.randn(9, dtype=torch.float64) * 2
    low, high = t.interval(0.95, 5, one.mean().item(), one.std().item() / 6**0.5)
    assert (t_interval(one).low, t_interval(one).high) == pytest.approx((low, high))
    welch = ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    told = difference_interval(one, other)
    assert (told.low, told.high) == pytest.approx((welch.low, welch.high), rel=1e-6)
    assert t_interval(one[:1]).high == float("inf")


def test_the_interval_of_a_paired_rate_difference_is_that_of_agresti_and_min():
    # 20 pairs, 3 in favour of the first and 1 of the second; with half a pair more in each of four outcomes 3.5 and
    # 1.5 of 22, of which the difference is 2 / 22, its variance (5 / 22 - (2 / 22)²) / 22.
    told = paired_rate_difference(torch.tensor([1.0] * 3 + [-1.0] + [0.0] * 16))
    half = 1.96 * ((5 / 22 - (2 / 22) ** 2) / 22) ** 0.5
    assert told.value == pytest.approx(2 / 20)
    assert (told.low, told.high) == pytest.approx((2 / 22 - half, 2 / 22 + half), abs=1e-6)
    assert (
        paired_rate_difference(torch.ones(3)).high == 1.0
        and paired_rate_difference(torch.ones(0)).low == -np.inf
    )
    draws = torch.multinomial(
        torch.tensor([0.15, 0.6, 0.25]), 2000 * 30, True, generator=torch.Generator().manual_seed(0)
    )
    made = [paired_rate_difference(some) for some in (draws - 1).float().view(2000, 30)]
    assert 0.93 < np.mean([each.low < 0.1 < each.high for each in made]) < 0.99


def test_the_interval_of_a_rate_difference_is_newcombe_s():
    one, other = torch.tensor([1.0] * 56 + [0.0] * 14), torch.tensor([1.0] * 48 + [0.0] * 32)
    told = rate_difference(one, other)  # the first example of Newcombe's table II, method 10
    assert (told.value, told.low, told.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
