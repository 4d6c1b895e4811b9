"""The benchmark that fits confidences: what it counts, and that its fits are asked on worlds left out."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from confidence import fit_of_findings, fit_of_text, shares


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
    found = fit_of_text(everywhere)
    assert (
        found["text_families_worlds"] == 4
        and found["text_families_weight_elsewhere"] > 5
        and found["text_families_area"] > 0.95
    )
    assert found["text_families_brier"] < 0.1 < found["text_families_brier_of_base_rate"]
    assert found["text_families_area_beside"] == 0.5  # unknown everywhere
    reversed_in_one = [
        row(one["world"], one["elsewhere"], one["right"] != (one["world"] == "0")) for one in everywhere
    ]
    assert fit_of_text(reversed_in_one)["text_families_area"] < 0.8


def test_findings_are_fitted_on_how_much_more_frequent_the_cause_is_and_counted_by_it():
    rng = np.random.default_rng(1)
    rows = [
        {
            "world": f"{number % 4}",
            "instead": False,
            "left": 0.0,
            "more_frequent": value,
            "right": bool(value > 0.5),
        }
        for number, value in enumerate(rng.uniform(0.2, 0.9, 120).tolist())
    ]
    rows += [row | {"instead": True, "more_frequent": 0.0, "right": True} for row in rows[:20]]
    found = fit_of_findings(rows)
    assert (
        found["findings"] == 140
        and found["findings_weight_more_frequent"] > 3 < found["findings_weight_instead"]
    )
    assert found["findings_brier"] < found["findings_brier_of_base_rate"] / 2
    counts = [found[f"findings_more_frequent_from_{low}"] for low in ("0", "0.3", "0.5", "0.7")]
    assert sum(counts) == 120 and found["findings_instead_right"] == 1.0
    assert (
        found["findings_more_frequent_from_0.3_right"] == 0
        and found["findings_more_frequent_from_0.5_right"] == 1
    )
