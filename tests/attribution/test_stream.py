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
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(stream(exact_model, pictures, "kite", folder, dictionary=directions)) == 4  # it is there
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(DataError, match="another call: targets differ"):
        stream(exact_model, pictures, "bat", folder, dictionary=directions)
    (folder / "attributions.json").unlink()
    with pytest.raises(DataError, match="no finished attributions"):
        Attributions(folder)


def test_a_flipped_bit_is_found_on_loading_and_mended_by_the_same_call(
    exact_model, directions, pictures, tmp_path
):
    how = {"dictionary": directions, "batch": 1, "shard": 1}
    stream(exact_model, pictures, "kite", tmp_path / "out", **how)
    shard = tmp_path / "out" / "attributions-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError, match="damaged"):
        list(Attributions(tmp_path / "out"))
    stream(exact_model, pictures, "kite", tmp_path / "out", **how)
    assert shard.read_bytes() == whole and len(list(Attributions(tmp_path / "out"))) == 4


@pytest.mark.parametrize("killed_at", (0, 1, 2))
def test_a_killed_stream_goes_on_and_ends_with_the_same_bytes(
    exact_model, directions, tmp_path, monkeypatch, killed_at
):
    images = torch.randn(11, 3, *exact_model.image_size, dtype=torch.float64)
    how = {"dictionary": directions, "batch": 2, "shard": 3}
    stream(exact_model, images, "kite", tmp_path / "whole", **how)
    plain, calls = Attribution.save, []

    def killed(self, path):
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        calls.append(path)
        plain(self, path)

    monkeypatch.setattr(Attribution, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        stream(exact_model, images, "kite", tmp_path / "out", **how)
    monkeypatch.setattr(Attribution, "save", lambda self, path: (calls.append(path), plain(self, path)))
    found = stream(exact_model, images, "kite", tmp_path / "out", **how)
    assert len(found) == 11 and len(calls) == len(set(calls)) == 3  # no shard is written twice
    assert [path.name for path in calls] == [f"attributions-{shard:05d}.safetensors" for shard in range(3)]
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "out").iterdir())
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_unfinished_stream_of_another_call_is_refused_with_what_differs(
    exact_model, directions, pictures, tmp_path
):
    folder = tmp_path / "out"
    stream(exact_model, pictures, "kite", folder, dictionary=directions)
    (folder / "attributions.json").rename(folder / "attributions.json.partial")
    with pytest.raises(DataError, match="another call: targets differ"):
        stream(exact_model, pictures, "bat", folder, dictionary=directions)
    assert (
        len(stream(exact_model, pictures, "kite", folder, dictionary=directions)) == 4
    )  # nothing was left to do


def test_pictures_that_cannot_be_read_do_not_shift_where_a_stream_goes_on(tiny_model, tmp_path, monkeypatch):
    import numpy as np
    from PIL import Image

    from clipattr.dictionaries import random_sae
    from clipattr.images.collection import Images

    (tmp_path / "pictures").mkdir()
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    for number in (1, 4):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(b"no picture")
    dictionary = random_sae(torch.randn(200, 64), 80, 6, site="image.-1.cls")
    how = {"dictionary": dictionary, "batch": 2, "shard": 2}
    whole = stream(tiny_model, Images.open(tmp_path / "pictures"), "kite", tmp_path / "whole", **how)
    plain, calls = Attribution.save, []

    def killed(self, path):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(path)
        plain(self, path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Attribution, "save", killed)
        stream(tiny_model, Images.open(tmp_path / "pictures"), "kite", tmp_path / "out", **how)
    found = stream(tiny_model, Images.open(tmp_path / "pictures"), "kite", tmp_path / "out", **how)
    pictures = [name for part in found for name in part.pictures]
    assert pictures == [name for part in whole for name in part.pictures]
    assert pictures == [f"{number}.png" for number in (0, 2, 3, 5, 6, 7, 8)]
