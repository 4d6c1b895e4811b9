"""The map of latents: who looks alike lies together."""

import numpy as np
import pytest
import torch

from clipattr.meaning.layout import layout


def clusters(per_group=40, groups=4, width=16):
    """Rows of a few groups, each around its own axis, of any length."""
    rng = np.random.default_rng(1)
    of = np.repeat(np.arange(groups), per_group)
    rows = np.eye(width)[of] + 0.05 * rng.normal(size=(len(of), width))
    return torch.from_numpy(rows * rng.uniform(0.2, 5, (len(of), 1))), of


def alike(places, of):
    """Share of points whose nearest other point is of their own group."""
    far = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(far, np.inf)
    return (of[far.argmin(1)] == of).mean()


def test_rows_of_one_group_lie_together_also_when_most_are_no_landmarks():
    vectors, of = clusters()
    assert alike(layout(vectors), of) > 0.95
    few = layout(vectors, landmarks=40)
    assert alike(few, of) > 0.95
    np.testing.assert_array_equal(few, layout(vectors, landmarks=40))


def test_rows_without_a_direction_have_no_place_and_few_rows_still_have_one():
    vectors = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    places = layout(vectors)
    assert np.isnan(places[0]).all() and np.isfinite(places[1:]).all()
    assert np.isnan(layout(torch.zeros(3, 2))).all()
    assert layout(torch.ones(1, 4)).shape == (1, 2)


def test_rounds_are_told_and_can_end_the_layout():
    vectors, told = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), []
    layout(vectors, on_round=lambda *at: told.append(at))
    assert told == [(done, 4) for done in range(5)]

    def stop(done, of):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        layout(vectors, on_round=stop)
