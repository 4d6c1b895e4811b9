"""Top examples: the same for any order and any sharding, and equal to sorting everything."""

import numpy as np
import pytest
import torch

from clipattr.dictionaries.codes import SparseCodes
from clipattr.errors import DataError
from clipattr.meaning.examples import Examples, by_latent, quantile_examples, strongest_token


def random_codes(n=200, n_latents=30, k=6, seed=0, levels=5):
    """Fixed-k codes with few distinct values (so that ties happen) and some padding."""
    generator = np.random.default_rng(seed)
    indices = np.stack([generator.permutation(n_latents)[:k] for _ in range(n)])
    values = generator.integers(0, levels, (n, k)) / 4
    return SparseCodes(
        torch.tensor(indices, dtype=torch.int32), torch.tensor(values, dtype=torch.float32), n_latents
    )


def brute_force(codes, m):
    dense = codes.to_dense().numpy()
    indices, values = np.full((codes.n_latents, m), -1), np.zeros((codes.n_latents, m), dtype=np.float32)
    for latent in range(codes.n_latents):
        ranked = sorted((-dense[i, latent], i) for i in range(len(dense)) if dense[i, latent] > 0)[:m]
        for place, (value, index) in enumerate(ranked):
            indices[latent, place], values[latent, place] = index, -value
    return indices, values


def gathered(codes, shards, m=7):
    parts = []
    for rows in shards:
        part = Examples(codes.n_latents, m)
        part.update(codes.rows(torch.as_tensor(rows)), indices=rows)
        parts.append(part)
    first = parts[0]
    for part in parts[1:]:
        first.merge(part)
    return first


def test_top_examples_equal_sorting_everything():
    codes = random_codes()
    examples = Examples(codes.n_latents, 7)
    for start in range(0, 200, 13):
        examples.update(codes.rows(slice(start, start + 13)), first_index=start)
    indices, values = brute_force(codes, 7)
    assert np.array_equal(examples.indices.numpy(), indices)
    assert np.array_equal(examples.values.numpy(), values)


@pytest.mark.parametrize("seed", range(5))
def test_any_order_and_sharding_gives_identical_examples(seed):
    codes = random_codes(seed=seed)
    generator = np.random.default_rng(seed)
    order = generator.permutation(200)
    cuts = np.sort(generator.choice(np.arange(1, 200), 9, replace=False))
    indices, values = brute_force(codes, 7)
    mixed = gathered(codes, np.split(order, cuts))
    assert np.array_equal(mixed.indices.numpy(), indices) and np.array_equal(mixed.values.numpy(), values)


def test_csr_codes_give_the_same_examples_as_fixed_k():
    codes = random_codes()
    one, two = Examples(30, 5), Examples(30, 5)
    one.update(codes)
    two.update(codes.to_csr())
    assert torch.equal(one.indices, two.indices)


def test_a_silent_latent_has_no_examples_and_a_left_out_row_no_effect():
    codes = SparseCodes(
        torch.tensor([[0, 1], [0, 1]], dtype=torch.int32), torch.tensor([[2.0, 0.0], [1.0, 3.0]]), 3
    )
    examples = Examples(3, 2)
    examples.update(codes, indices=torch.tensor([5, -1]))
    assert examples.indices.tolist() == [[5, -1], [-1, -1], [-1, -1]]
    assert examples.of(0) == [5] and examples.counts.tolist() == [1, 0, 0]


def test_examples_by_another_value_are_ranked_by_it():
    codes = SparseCodes(torch.tensor([[0], [0]], dtype=torch.int32), torch.tensor([[2.0], [1.0]]), 1)
    examples = Examples(1, 1)
    examples.update(codes, values=torch.tensor([[0.1], [0.3]]))
    assert examples.of(0) == [1]


def test_saving_and_loading_is_the_identity(tmp_path):
    examples = Examples(30, 5)
    examples.update(random_codes())
    examples.save(tmp_path / "e.safetensors")
    loaded = Examples.load(tmp_path / "e.safetensors")
    assert torch.equal(loaded.indices, examples.indices) and torch.equal(loaded.values, examples.values)
    loaded.merge(Examples(30, 5))
    assert torch.equal(loaded.indices, examples.indices)


def test_mismatched_shapes_are_refused():
    examples = Examples(3, 2)
    with pytest.raises(DataError, match="of 3 latents; the codes have 30"):
        examples.update(random_codes())
    with pytest.raises(DataError, match="Cannot merge"):
        examples.merge(Examples(3, 4))
    with pytest.raises(DataError, match="one picture index per row"):
        Examples(30, 2).update(random_codes(), indices=torch.arange(3))
    with pytest.raises(DataError, match="at least one latent"):
        Examples(0)


@pytest.mark.parametrize("how", ["max", "mean"])
def test_pooling_over_tokens_equals_the_dense_way_and_keeps_the_token(how):
    codes = random_codes(n=60, n_latents=12, k=4)
    pooled, token = strongest_token(codes, 6, how=how)
    dense = codes.to_dense().reshape(10, 6, 12)
    wanted = dense.amax(1) if how == "max" else dense.mean(1)
    torch.testing.assert_close(pooled.to_dense(), wanted)
    rows = torch.repeat_interleave(torch.arange(10), pooled.offsets.diff())
    assert torch.equal(token, dense.argmax(1)[rows, pooled.indices.long()])
    examples = Examples(12, 3)
    examples.update(pooled, tokens=token)
    latent = int(pooled.indices[0])
    best = examples.of(latent)[0]
    assert examples.tokens[latent, 0] == dense[best, :, latent].argmax()
    with pytest.raises(DataError, match="whole number"):
        strongest_token(codes, 7)


def test_by_latent_lists_the_columns_of_the_matrix():
    codes = random_codes()
    offsets, pictures, values = by_latent(codes, rows=torch.arange(50, 150))
    dense = codes.to_dense()
    for latent in range(30):
        here = slice(int(offsets[latent]), int(offsets[latent + 1]))
        active = torch.nonzero(dense[50:150, latent]).flatten() + 50
        assert torch.equal(pictures[here], active)
        assert torch.equal(values[here], dense[active, latent])


def test_quantile_bands_are_disjoint_and_rise():
    codes = random_codes(n=400, levels=1000)
    bands = quantile_examples(codes, m=4)
    dense = codes.to_dense()
    for latent in range(30):
        means = [dense[bands[latent, band], latent].mean() for band in range(4)]
        assert means == sorted(means)
        assert len(set(bands[latent].flatten().tolist())) == 16
    with pytest.raises(DataError, match="0 <= low < high"):
        quantile_examples(codes, bands=[(0.5, 0.2)])
