"""What comes with a prompt: counts by hand, chance by simulation."""

import numpy as np
import pytest
import torch

from clipattr.discovery.audit.cooccurrence import Company, company
from clipattr.statistics import false_discovery


def test_shares_and_chance_by_hand():
    # Ten pictures, the first four are the prompt's; the meaning is seen on three of these and on one other.
    seen = torch.tensor([1, 1, 1, 0, 1, 0, 0, 0, 0, 0], dtype=torch.bool)[:, None]
    found = company([seen], [torch.arange(4)])
    assert found.own.item() == pytest.approx(0.75) and found.elsewhere.item() == pytest.approx(1 / 6)
    # P(3 or 4 of the 4 seen among the prompt's 4) = (C(4,3)C(6,1) + 1) / C(10,4)
    assert found.rate.item() == pytest.approx((4 * 6 + 1) / 210)


def test_adjusted_values_are_benjamini_and_hochbergs():
    assert false_discovery(np.array([0.01, 0.04, 0.03, 0.5])) == pytest.approx(
        [0.04, 0.16 / 3, 0.16 / 3, 0.5]
    )


def test_chance_alone_is_hardly_ever_company():
    generator = torch.Generator().manual_seed(0)
    seen = torch.rand(2000, 40, generator=generator) < 0.1
    own = [torch.randperm(2000, generator=generator)[:50] for _ in range(50)]
    found = company(seen.split(7, dim=1), own)
    assert (found.rate < 0.01).sum() <= 1
    seen[own[3][:30], 5] = True
    assert company([seen], own).rate[5, 3] < 1e-6


def test_a_prompt_without_pictures_has_no_company():
    found = company([torch.ones(5, 2, dtype=torch.bool)], [torch.empty(0, dtype=torch.long)])
    assert found.own.isnan().all() and (found.rate == 1).all()


def test_company_needs_significance_and_a_difference():
    shares = torch.tensor([[0.9], [0.9], [0.3]])
    found = Company(shares, torch.full((3, 1), 0.1), torch.tensor([[1e-6], [0.2], [1e-6]]))
    assert found.of(0, 0.01, 0.3) == [0] and found.of(0, 0.01, 0.1) == [0, 2]
