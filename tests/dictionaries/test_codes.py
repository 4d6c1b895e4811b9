"""Sparse codes: both layouts hold the values of the dense matrix."""

import pytest
import torch

from clipattr.dictionaries import SparseCodes
from clipattr.errors import DictionaryError


def random_dense(rows=7, n=20, share=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(rows, n, generator=generator)
    return dense * (torch.rand(rows, n, generator=generator) < share)


@pytest.fixture(params=["fixed", "csr"])
def both(request):
    dense = random_dense()
    dense[3] = 0
    codes = SparseCodes.from_dense(dense, k=20 if request.param == "fixed" else None)
    return codes, dense


def test_dense_and_back_is_the_identity(both):
    codes, dense = both
    assert torch.equal(codes.to_dense(), dense)
    assert torch.equal(codes.to_csr().to_dense(), dense)
    assert torch.equal(codes.to_fixed().to_dense(), dense)
    assert (codes.to_scipy().toarray() == dense.numpy()).all()


def test_shape_counts_and_nnz_agree_with_dense(both):
    codes, dense = both
    assert codes.shape == (7, 20) and len(codes) == 7
    assert codes.nnz == int((dense > 0).sum())
    assert torch.equal(codes.counts(), (dense > 0).sum(-1))


@pytest.mark.parametrize(
    "which", [slice(1, 4), slice(None, None, 2), [5, 0, 5], torch.tensor([6]), slice(4, 4)]
)
def test_rows_are_the_rows_of_the_dense_matrix(both, which):
    codes, dense = both
    assert torch.equal(codes.rows(which).to_dense(), dense[which])


def test_single_rows_count_from_both_ends(both):
    codes, dense = both
    assert torch.equal(codes[-1].to_dense(), dense[-1:])
    with pytest.raises(IndexError, match="Row 7 was asked for; these codes have 7 rows"):
        codes[7]


def test_joined_codes_keep_rows_in_order_whatever_their_layouts(both):
    codes, dense = both
    joined = SparseCodes.cat([codes, SparseCodes.from_dense(dense), codes])
    assert torch.equal(joined.to_dense(), dense.repeat(3, 1))
    with pytest.raises(DictionaryError, match=r"numbers of latents: 20, 21"):
        SparseCodes.cat([codes, SparseCodes.from_dense(torch.ones(1, 21))])


def test_keeping_and_dropping_latents_splits_the_codes(both):
    codes, dense = both
    kept, dropped = codes.for_latents([2, 5]), codes.for_latents([2, 5], keep=False)
    assert torch.equal(kept.to_dense() + dropped.to_dense(), dense)
    assert torch.equal(kept.to_dense()[:, [2, 5]], dense[:, [2, 5]])


def test_saved_codes_come_back_and_half_costs_four_bytes_an_entry(both, tmp_path):
    codes, dense = both
    codes.save(tmp_path / "codes.safetensors")
    assert torch.equal(SparseCodes.load(tmp_path / "codes.safetensors").to_dense(), dense)
    codes.save(tmp_path / "half.safetensors", half=True)
    assert torch.equal(SparseCodes.load(tmp_path / "half.safetensors").to_dense(), dense.half().float())
    many = SparseCodes(torch.zeros(1000, 64, dtype=torch.int32), torch.ones(1000, 64), 65536)
    many.save(tmp_path / "many.safetensors", half=True)
    assert (tmp_path / "many.safetensors").stat().st_size <= 1000 * (4 * 64 + 16)


def test_a_damaged_or_foreign_file_is_named(tmp_path):
    (tmp_path / "bad").write_bytes(b"nothing like it")
    with pytest.raises(DictionaryError, match="not a readable safetensors"):
        SparseCodes.load(tmp_path / "bad")
    with pytest.raises(DictionaryError, match="Cannot read codes"):
        SparseCodes.load(tmp_path / "missing")


def test_fixed_width_too_small_for_the_codes_is_refused(both):
    with pytest.raises(DictionaryError, match="do not fit k = 1"):
        both[0].to_fixed(1)
