"""How numbers and foreign text are put before people."""

import math

import pytest

from clipattr.discovery.findings import KINDS
from clipattr.display.plots import KIND_MARKS
from clipattr.display.wording import KIND_WORDS, percent, points, signed, span, visible


def test_marks_that_turn_text_round_are_shown_as_code_points():
    assert visible("a\u202eb\u2066c\x00") == "a⟨U+202E⟩b⟨U+2066⟩c⟨U+0000⟩"


def test_white_space_becomes_one_space_and_ordinary_scripts_stay():
    assert visible(" 凧\n\t עטלף  ") == "凧 עטלף"


def test_what_is_cut_is_counted():
    text = visible("x" * 10_000, 50)
    assert text == "x" * 50 + "… (10,000 characters)"
    assert visible("x" * 50, 50) == "x" * 50


def test_numbers_carry_their_sign_and_a_missing_one_is_a_dash():
    assert [signed(v) for v in (1.26, -1.26, 0.01, -0.01)] == ["+1.3", "−1.3", "0.0", "0.0"]
    assert [signed(None), points(math.nan), percent(math.inf)] == ["–", "–", "–"]
    assert points(0.123) == "+12.3" and span(-0.011, 0.2) == "−1.1 to 20.0"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_word_a_sentence_and_a_shape_of_its_own(kind):
    word, sentence = KIND_WORDS[kind]
    assert word and sentence
    assert list(KIND_MARKS.values()).count(KIND_MARKS[kind]) == 1
