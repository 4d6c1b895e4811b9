"""In which pictures a meaning is seen: bounds against a slow search, gaps and lookalikes by construction."""

import math

import numpy as np
import pytest
import torch

from clipattr.discovery.audit.presence import FEW, NEARLY, gap, least_error, shown, ways


def slow_bound(values, low, high):
    """Every cut of the sorted values, with numpy's own deviations."""
    ordered, best = np.sort(values), (math.inf, math.inf)
    for below in range(FEW, len(ordered) - FEW + 1):
        if ordered[below] <= low or ordered[below - 1] >= high:
            continue
        cut = min(max((ordered[below - 1] + ordered[below]) / 2, low), high)
        sides = ordered[:below], ordered[below:]
        error = sum(
            len(side) / len(ordered) * math.log(side.std() / (len(side) / len(ordered))) for side in sides
        )
        best = min(best, (error, cut))
    return best[1]


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_is_that_of_a_slow_search(seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(0, 0.2, 200), rng.normal(0.9, 0.1, rng.integers(10, 60))])
    fast = least_error(torch.from_numpy(np.sort(values))[None], 0.4, 0.9)
    assert fast.item() == pytest.approx(slow_bound(values, 0.4, 0.9), abs=1e-9)


def test_a_column_without_enough_pictures_has_no_bound():
    assert least_error(torch.linspace(0, 1, 2 * FEW - 1)[None], 0.2, 0.8).item() == math.inf
    assert least_error(torch.linspace(0, 0.1, 100)[None], 0.5, 0.8).item() == math.inf


def test_a_gap_is_found_and_a_slope_is_none():
    generator = torch.Generator().manual_seed(0)
    crowd = 0.1 * torch.randn(500, generator=generator, dtype=torch.float64)
    forms = torch.cat([torch.full((30,), 0.62), torch.full((30,), 0.95)]).double()
    forms = forms + 0.02 * torch.randn(60, generator=generator, dtype=torch.float64)
    slope = torch.rand(
        60, generator=generator, dtype=torch.float64
    ).sqrt()  # ever more pictures up to the best
    bounds = gap(torch.stack([torch.cat([crowd, forms]), torch.cat([crowd, 1 - slope])], 1))
    assert 0.5 <= bounds[0] < 0.58 and bounds[1] == NEARLY


def test_every_form_of_a_mark_is_shown_and_what_is_merely_alike_is_not():
    generator = torch.Generator().manual_seed(1)
    mark, thing = torch.eye(8)[0], torch.eye(8)[1]
    noise = 0.02 * torch.randn(400, 8, generator=generator)
    weights = torch.zeros(400, 2)
    weights[:30, 0], weights[30:60, 0] = 1.0, 0.62  # two forms of one mark
    weights[60:100, 1] = 1.0  # a concept, and what is more or less like it
    weights[100:200, 1] = torch.linspace(0.7, 0.2, 100)
    rest = (1 - weights.square().sum(1)).clamp_min(0).sqrt()
    pictures = weights @ torch.stack([mark, thing]) + rest[:, None] * torch.eye(8)[7] + noise
    pictures = torch.nn.functional.normalize(pictures, dim=1)
    seen = shown(pictures, torch.stack([mark, thing]))
    assert seen[:60, 0].all() and not seen[60:, 0].any()
    assert seen[60:100, 1].all() and not seen[100:, 1].any()


def test_the_way_goes_from_the_average_to_the_best():
    pictures = torch.nn.functional.normalize(
        torch.randn(300, 6, generator=torch.Generator().manual_seed(2)), dim=1
    )
    way = ways(pictures, torch.eye(6)[:2])
    similar = pictures[:, :2].double()
    best = similar.sort(0, descending=True).values[:20].mean(0)
    assert torch.allclose(way, (similar - similar.mean(0)) / (best - similar.mean(0)), atol=1e-6)


def test_no_meaning_is_shown_where_none_is_asked():
    assert shown(torch.eye(4), torch.zeros(0, 4)).shape == (4, 0)
