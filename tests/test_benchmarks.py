"""Benchmarks are called alike: `make bench` runs each with `--quick`, and what they write has one layout."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
(LINE,) = re.findall(
    r"^BENCHMARKS = .*addprefix benchmarks/,([^)]*)\)", (ROOT / "Makefile").read_text("utf-8"), re.M
)
RUN = sorted(file for file in (ROOT / "benchmarks").glob("*.py") if file.name not in LINE.split())


@pytest.mark.parametrize("file", RUN, ids=lambda file: file.stem)
def test_a_benchmark_has_a_quick_form_and_writes_results(file):
    text = file.read_text("utf-8")
    assert '"--quick"' in text or "add_arguments" in text
    assert "write_results(" in text


@pytest.mark.parametrize(
    "file", sorted((ROOT / "benchmarks/results").glob("*.json")), ids=lambda file: file.stem
)
def test_results_say_what_was_measured_where(file):
    held = json.loads(file.read_text("utf-8"))
    assert {"machine", "versions", "commit", "figures", "rows"} <= set(held)
    assert held["figures"] and all(isinstance(value, int | float) for value in held["figures"].values())
