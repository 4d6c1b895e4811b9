"""Parsers: whatever a file or an argument holds, the answer is a value or an error of the documented kinds."""

import pytest
from hypothesis import HealthCheck, given, settings

NAMES = [
    "vocabulary file", "vocabulary list", "picture table", "picture file", "picture source", "scenes", "tar",
    "findings", "model config", "dictionary config", "dictionary weights", "checkpoint", "codes", "store",
    "attribution", "attributions", "probe", "training checkpoint", "study", "prompt", "file name",
    "report", "command",
]  # fmt: skip


def test_the_list_of_parsers_is_whole(fuzz):
    assert list(fuzz.parsers()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_parser_answers_anything_with_a_value_or_a_documented_error(fuzz, tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    strategy, function = fuzz.parsers()[name]

    @settings(
        max_examples=40,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def case(value):
        fuzz.attempt(function, value, tmp_path)

    case()
