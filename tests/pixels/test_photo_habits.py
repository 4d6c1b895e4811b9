"""Habits of photographs are read from their pixels, and given to pictures that have none."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from photo_habits import HABITS, SEEN, small

SCENE = Image.fromarray(np.random.default_rng(0).integers(40, 215, (120, 160, 3), dtype=np.uint8))


def test_each_habit_is_seen_where_it_was_given_and_nowhere_else():
    expected = {
        "turned, black corners": {"turned"},
        "turned, white corners": {"turned"},
        "white background": {"on white"},
        "black frame": {"framed"},
    }
    for habit, (edit, control) in HABITS.items():
        seen = {name for name, has in SEEN.items() if has(small(edit(SCENE)))}
        assert seen == expected[habit], habit
        assert not any(has(small(control(SCENE))) for has in SEEN.values()), habit
    assert not any(has(small(SCENE)) for has in SEEN.values())


def test_a_turned_control_shows_the_same_picture_with_other_corners():
    black, mirrored = (np.asarray(edit(SCENE)).astype(int) for edit in HABITS["turned, black corners"])
    middle = (slice(30, 90), slice(45, 115))
    assert np.abs(black[middle] - mirrored[middle]).mean() < 2
    assert black[0, 0].max() == 0 and mirrored[0, 0].min() > 0
