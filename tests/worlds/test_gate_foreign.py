"""How the rows of the gate on foreign worlds are pooled."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from gate_foreign import foreign_figures  # noqa: E402


def row(kind, rises=(), findings=(), judged=True, **more):
    return {"sort": "foreign", "world": "photos2-first-a", "above": 3.0, "kind": kind, "rises": list(rises),
            "findings": list(findings), "judged": judged, **more}  # fmt: skip


def test_only_judged_prompts_with_a_new_plant_count_as_planted():
    rows = [
        row("context", ["moss"], new=True, named=True),
        row("context", [], ["moss"], new=True, named=False),
        row("watermark", new=True, named=False),
        row("context", ["moss"], new=False, named=True),
        row("context", ["moss"], judged=False, new=True, named=True),
        row(None, ["owl"], real=True),
        row(None),
    ]
    told = foreign_figures(rows, [3.0])
    assert told["foreign_planted_above_3_prompts"] == 3 and told["foreign_planted_above_3_red"] == 2 / 3
    assert told["foreign_planted_above_3_by_rises"] == told["foreign_planted_above_3_named_by_rises"] == 1 / 3
    assert told["foreign_learnt_above_3_prompts"] == 4
    assert told["foreign_unplanted_above_3_red"] == 0.5
    assert told["foreign_unplanted_above_3_by_rises_real_count"] == 1
    assert (
        told["foreign_planted_context_above_3_red"] == 1
        and told["foreign_planted_watermark_above_3_red"] == 0
    )


def test_a_model_against_itself_is_counted_by_comparison():
    rows = [
        {"sort": "foreign noise", "above": 3.0, "rises": [], "findings": found}
        for found in ([], [["a", "b"]])
    ]
    told = foreign_figures(rows, [3.0])
    assert told == {"foreign_noise_above_3_comparisons": 2, "foreign_noise_above_3_red": 1}
