"""Attributions that are written while they are computed equal those that are kept."""

import pandas as pd
import pytest
import torch

from clipattr.attribution import Attribution, Attributions, attribute, stream
from clipattr.errors import DataError


def test_what_is_streamed_is_what_attribute_returns(exact_model, directions, pictures, tmp_path):
    folder = tmp_path / "out"
    found = stream(exact_model, pictures, "kite", folder, dictionary=directions, batch=1, shard=3)
    assert len(found) == 4 and [len(part) for part in found] == [3, 1]
    whole = attribute(exact_model, pictures, "kite", dictionary=directions, batch=1)
    joined = Attribution.cat(list(Attributions(folder)))
    pd.testing.assert_frame_equal(joined.to_frame(), whole.to_frame())
    assert torch.equal(joined.gap, whole.gap) and joined.pictures == whole.pictures


def test_results_leave_memory_when_their_shard_is_written(exact_model, directions, tmp_path, monkeypatch):
    import weakref

    alive, most = weakref.WeakSet(), [0]
    plain = Attribution.save

    def counted(self, path):
        alive.add(self.values)
        most[0] = max(most[0], len(alive))
        plain(self, path)

    monkeypatch.setattr(Attribution, "save", counted)
    images = torch.randn(24, 3, *exact_model.image_size, dtype=torch.float64)
    stream(exact_model, images, "kite", tmp_path / "out", dictionary=directions, batch=2, shard=2)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 12 and most[0] <= 2


def test_an_unfinished_folder_is_refused_and_a_finished_one_is_not_overwritten(
    exact_model, directions, pictures, tmp_path
):
    folder = tmp_path / "out"
    stream(exact_model, pictures, "kite", folder, dictionary=directions)
    with pytest.raises(DataError, match="already holds attributions"):
        stream(exact_model, pictures, "kite", folder, dictionary=directions)
    (folder / "attributions.json").unlink()
    with pytest.raises(DataError, match="no finished attributions"):
        Attributions(folder)
