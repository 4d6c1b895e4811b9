"""Codes of a whole store on disk: right, small, resumable, never mixed."""

import pytest
import torch

from clipattr.dictionaries import Relu, TopK
from clipattr.dictionaries.code_store import CodeStore, encode_store
from clipattr.errors import DictionaryError

ACTS = torch.randn(700, 16, generator=torch.Generator().manual_seed(0))


class Store:
    fingerprint = "0123"

    def __len__(self):
        return len(ACTS)

    def read(self, start, stop):
        return ACTS[start:stop]


def dictionary(kind=TopK, seed=1, **options):
    directions = torch.randn(2000, 16, generator=torch.Generator().manual_seed(seed))
    options = {"k": 64} if kind is TopK else {"encoder_bias": torch.full((2000,), -9.0)}
    return kind(decoder=directions, encoder=directions.clone(), **options)


@pytest.mark.parametrize("kind", [TopK, Relu])
def test_codes_come_back_from_disk_in_16_bits(kind, tmp_path):
    made = dictionary(kind)
    codes = encode_store(made, Store(), tmp_path, shard_rows=256, progress=False)
    assert codes.complete and len(codes) == 700
    expected = made.encode(ACTS[200:600]).to_dense()
    torch.testing.assert_close(codes.read(200, 600).to_dense(), expected, rtol=1e-3, atol=1e-3)
    if kind is TopK:
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 700 * (4 * 64 + 16)


def test_an_interrupted_encoding_ends_with_the_same_bytes(tmp_path):
    made = dictionary()
    whole = encode_store(made, Store(), tmp_path / "a", shard_rows=256, progress=False).checksums()
    part = encode_store(made, Store(), tmp_path / "b", shard_rows=256, progress=False)
    (tmp_path / "b" / "00001.safetensors").unlink()
    assert not part.complete
    with pytest.raises(DictionaryError, match="00001.safetensors is missing"):
        part.read(300, 400)
    assert encode_store(made, Store(), tmp_path / "b", shard_rows=256, progress=False).checksums() == whole


def test_codes_of_another_dictionary_are_not_mixed_in(tmp_path):
    encode_store(dictionary(), Store(), tmp_path, progress=False)
    with pytest.raises(DictionaryError, match="dictionary: .* there, .* asked"):
        encode_store(dictionary(seed=2), Store(), tmp_path, progress=False)
    with pytest.raises(DictionaryError, match="Rows 0 to 701"):
        CodeStore(tmp_path).read(0, 701)
    with pytest.raises(DictionaryError, match="holds no codes"):
        CodeStore(tmp_path / "nowhere")


def test_a_full_disk_leaves_whole_shards_only(tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"some of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clipattr.dictionaries.codes.save_file", full)
    with pytest.raises(DictionaryError, match="No space left on device.*free space and call again"):
        encode_store(dictionary(), Store(), tmp_path, progress=False)
    assert {file.name for file in tmp_path.iterdir()} == {".lock", "manifest.json"}
