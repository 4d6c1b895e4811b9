"""The benchmark that fits the confidence of text: what it counts, and that its fit is asked on worlds left out."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from confidence import fitted, shares


def row(world, elsewhere, right, reason="HOLDS"):
    return {
        "world": world, "text": True, "reason": reason, "elsewhere": elsewhere, "beside": None, "inserted": 0.0,
        "ablation": 0.1, "right": right,
    }  # fmt: skip


def test_shares_of_right_families_by_the_threshold_that_they_miss():
    rows = [
        row("a", 0.1, True),
        row("a", 0.1, True, "WEAK"),
        row("a", 0.1, False, "WEAK"),
        row("b", 0.1, True, "ABSENT"),
    ]
    assert shares(rows) == pytest.approx(
        {
            "missed": 3, "missed_right": 2 / 3, "missed_absent": 1, "missed_absent_right": 1.0, "missed_weak": 2,
            "missed_weak_right": 0.5,
        }
    )  # fmt: skip


def test_what_holds_in_every_world_is_fitted_and_what_holds_in_one_is_not_believed():
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 0.8, 120)
    everywhere = [row(f"{i % 4}", float(v), bool(v > 0.4)) for i, v in enumerate(values)]
    found = fitted(everywhere)
    assert found["text_worlds"] == 4 and found["text_weight_elsewhere"] > 5 and found["text_area"] > 0.95
    assert found["text_brier"] < 0.1 < found["text_brier_of_base_rate"]
    assert found["text_area_beside"] == 0.5  # unknown everywhere
    reversed_in_one = [
        row(one["world"], one["elsewhere"], one["right"] != (one["world"] == "0")) for one in everywhere
    ]
    assert fitted(reversed_in_one)["text_area"] < 0.8
