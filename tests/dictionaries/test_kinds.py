"""Every kind splits activations as its formula says, and x = codes @ decoder + bias + error always holds."""

import os
import signal
import time

import numpy as np
import pytest
import torch

from clipattr.dictionaries import (
    KINDS,
    BatchTopK,
    Gated,
    JumpRelu,
    Matryoshka,
    Relu,
    TopK,
    kmeans,
    load_dictionary,
    neurons,
    pca,
    random_sae,
)
from clipattr.dictionaries.kernels import abreast, bag_sum, entry_dots, kth_largest, top_positive
from clipattr.errors import DictionaryError

N, WIDTH = 40, 12


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def core(**changes):
    return {
        "decoder": numbers(N, WIDTH, seed=1),
        "encoder": numbers(N, WIDTH, seed=2),
        "encoder_bias": 0.3 * numbers(N, seed=3),
        "bias": numbers(WIDTH, seed=4),
        "pre_bias": numbers(WIDTH, seed=5),
        **changes,
    }


def make(kind, **changes):
    parts = core(**changes)
    if kind == "topk":
        return TopK(k=4, **parts)
    if kind == "relu":
        return Relu(**parts)
    if kind == "gated":
        return Gated(mag_gain=numbers(N, seed=6).exp(), mag_bias=numbers(N, seed=7), **parts)
    if kind == "jumprelu":
        return JumpRelu(threshold=numbers(N, seed=8).abs(), **parts)
    if kind == "batchtopk":
        return BatchTopK(threshold=1.5, target_k=4, **parts)
    if kind == "matryoshka":
        return Matryoshka(threshold=1.5, target_k=4, prefixes=[10, N], **parts)
    return neurons(WIDTH, k=3)


def formula(kind, x):
    """Codes and reconstruction by numpy in float64, from the raw parts (decoder rows not of unit length)."""
    p = {name: tensor.double().numpy() for name, tensor in core().items()}
    pre = (x.double().numpy() - p["pre_bias"]) @ p["encoder"].T + p["encoder_bias"]
    if kind == "topk":
        cut = -np.sort(-pre, 1)[:, 3:4]
        z = np.maximum(pre, 0) * (pre >= cut)
    elif kind == "relu":
        z = np.maximum(pre, 0)
    elif kind == "gated":
        gain, shift = numbers(N, seed=6).exp().double().numpy(), numbers(N, seed=7).double().numpy()
        z = np.maximum(gain * pre + shift, 0) * (pre > 0)
    elif kind == "jumprelu":
        z = pre * (pre > numbers(N, seed=8).abs().double().numpy())
    else:
        z = pre * (pre > 1.5)
    return z * np.linalg.norm(p["decoder"], axis=1), z @ p["decoder"] + p["bias"]


TRAINED = ["topk", "relu", "gated", "jumprelu", "batchtopk", "matryoshka"]


@pytest.mark.parametrize("kind", TRAINED)
def test_codes_and_reconstruction_follow_the_formula_whatever_the_decoder_lengths(kind):
    made, x = make(kind), numbers(50, WIDTH, seed=9)
    codes = made.encode(x)
    expected_codes, expected_recon = formula(kind, x)
    torch.testing.assert_close(
        codes.to_dense().double(), torch.from_numpy(expected_codes), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        made.decode(codes).double(), torch.from_numpy(expected_recon), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(made.decoder.norm(dim=1), torch.ones(N))


@pytest.mark.parametrize("row_norm", [None, "layer_norm", "length"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_error_restores_the_activation_and_is_what_codes_leave(kind, row_norm):
    made = make(kind) if kind == "directions" else make(kind, row_norm=row_norm)
    x = 3 * numbers(20, WIDTH, seed=9) + 2
    codes = made.encode(x)
    torch.testing.assert_close(made.decode(codes) + made.error(x, codes), x, rtol=1e-4, atol=1e-4)
    if not (row_norm and kind != "directions"):
        by_hand = codes.to_dense() @ made.decoder + made.bias
        torch.testing.assert_close(made.decode(codes), by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_saved_and_opened_is_the_same_dictionary(kind, tmp_path):
    made = make(kind) if kind == "directions" else make(kind, softcap=2.0)
    made.site, made.model_hash, made.card = "image.-1.cls", "0123456789abcdef", {"fvu": 0.5}
    made.save(tmp_path)
    opened = load_dictionary(tmp_path)
    x = numbers(6, WIDTH, seed=9)
    assert torch.equal(opened.encode(x).to_dense(), made.encode(x).to_dense())
    assert (opened.hash, opened.site, opened.model_hash) == (made.hash, made.site, made.model_hash)
    assert opened.card == made.card and type(opened) is type(made)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("kind", TRAINED)
def test_a_rows_codes_do_not_depend_on_its_batch(kind):
    made, x = make(kind), numbers(200, WIDTH, seed=9)
    whole = made.encode(x).to_dense()
    for size in (1, 7, 64):
        parts = torch.cat([made.encode(part).to_dense() for part in x.split(size)])
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(made.encode(x[order]).to_dense(), whole[order], rtol=1e-5, atol=1e-5)


def test_row_normalised_dictionaries_do_not_care_about_scale_and_shift_of_a_row():
    made, x = make("topk", row_norm="layer_norm"), numbers(9, WIDTH, seed=9)
    factor, shift = numbers(9, 1, seed=10).exp(), numbers(9, 1, seed=11)
    moved = made.reconstruct(x * factor + shift)
    torch.testing.assert_close(moved, made.reconstruct(x) * factor + shift, rtol=1e-3, atol=1e-3)
    codes = made.encode(x)
    bare = type(codes)(codes.indices, codes.values, codes.n_latents)
    with pytest.raises(DictionaryError, match="mean and deviation"):
        made.decode(bare)


def test_row_statistics_travel_with_the_codes_so_decoding_twice_is_safe():
    made = make("topk", row_norm="layer_norm")
    first, second = numbers(5, WIDTH, seed=1) * 9, numbers(5, WIDTH, seed=2) - 4
    codes = made.encode(first)
    made.encode(second)
    torch.testing.assert_close(made.decode(codes), made.reconstruct(first))
    torch.testing.assert_close(made.decode(codes.rows([3, 1])), made.reconstruct(first)[[3, 1]])


def test_signed_topk_keeps_negative_codes_and_plain_topk_makes_them_zero():
    x = torch.tensor([[-1.0, -2.0, -3.0]])
    unit = torch.eye(3)
    assert TopK(k=2, signed=True, decoder=unit, encoder=unit).encode(x).to_dense().tolist() == [[-1, -2, 0]]
    assert TopK(k=2, decoder=unit, encoder=unit).encode(x).nnz == 0


def test_a_prefix_of_a_matryoshka_is_its_first_latents():
    made, x = make("matryoshka"), numbers(30, WIDTH, seed=9)
    part = made.prefix(17)
    assert part.prefixes == [10, 17]
    torch.testing.assert_close(part.encode(x).to_dense(), made.encode(x).to_dense()[:, :17])
    with pytest.raises(DictionaryError, match="1 to 40 latents; got 41"):
        made.prefix(41)


def test_soft_cap_bounds_codes_without_moving_small_ones():
    made, x = make("relu", softcap=0.5), numbers(30, WIDTH, seed=9) * 10
    codes = made.encode(x)
    assert (codes.values <= 0.5 * made.gain[codes.indices.long()] + 1e-6).all()
    free = make("relu").encode(x)
    expected = (
        0.5 * torch.tanh(free.values / made.gain[free.indices.long()] / 0.5) * made.gain[free.indices.long()]
    )
    torch.testing.assert_close(codes.values, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "k"), [(3000, 16), (1031, 64), (300, 32), (70, 70), (30, 5)])
def test_fast_topk_equals_a_sort(n, k, dtype):
    pre = (numbers(37, n) - 0.5).to(dtype)
    pre[3] = -1  # nothing positive
    pre[4, 5:] = 0
    pre[5] = 0.25  # all equal
    indices, values = top_positive(pre, k)
    assert torch.equal(values, pre.float().sort(descending=True).values[:, :k].clamp_min(0))
    kept = values > 0
    assert torch.equal(pre.float().gather(1, indices.long())[kept], values[kept])
    assert all(len(set(row[ok].tolist())) == int(ok.sum()) for row, ok in zip(indices, kept, strict=True))
    assert (indices[5] == torch.arange(k)).all() or n < 8 * k
    assert kth_largest(pre[6].float().clamp_min(0), k) == values[6, -1].item() or values[6, -1] == 0


def test_pieces_are_worked_on_side_by_side_in_order_and_torch_keeps_its_threads():
    x, before = numbers(50, 3), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        made = abreast(lambda piece: (piece.sum(1), torch.get_num_threads()), x.split(8), x.device)
        assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError):
            abreast(lambda piece: 1 / 0, x.split(8), x.device)
        torch.set_num_threads(1)
        alone = abreast(lambda piece: piece.sum(1), x.split(8), x.device)
    finally:
        torch.set_num_threads(before)
    assert [len(sums) for sums, _ in made] == [8, 8, 8, 8, 8, 8, 2]
    assert torch.equal(torch.cat([sums for sums, _ in made]), x.sum(1)) and torch.equal(
        torch.cat(alone), x.sum(1)
    )
    assert {threads for _, threads in made} == {1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_works_on_pieces_too():
    x = numbers(50, 3)
    abreast(lambda piece: piece.sum(1), x.split(8), x.device)
    child = os.fork()
    if child == 0:
        same = torch.equal(torch.cat(abreast(lambda piece: piece * 2, x.split(8), x.device)), x * 2)
        os._exit(0 if same else 1)
    for _ in range(200):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child waits for threads that it does not have")
    assert status == 0


def test_bags_and_dots_equal_their_definitions_with_empty_bags():
    table, bags = numbers(9, 5), numbers(4, 5, seed=1)
    which, weights = torch.tensor([8, 0, 0, 3, 2], dtype=torch.int32), numbers(5, seed=2)
    offsets, owner = (
        torch.tensor([0, 0, 3, 3, 5], dtype=torch.int32),
        torch.tensor([1, 1, 1, 3, 3], dtype=torch.int32),
    )
    expected = torch.zeros(4, 5).index_add(0, owner.long(), weights[:, None] * table[which.long()])
    torch.testing.assert_close(bag_sum(table, which, weights, offsets), expected)
    dots = entry_dots(bags, table, which, offsets, owner)
    torch.testing.assert_close(dots, (bags[owner.long()] * table[which.long()]).sum(1))


def data():
    return numbers(500, 6, seed=1) @ numbers(6, WIDTH, seed=2) + 0.1 * numbers(500, WIDTH, seed=3) + 4


def fvu(made, x):
    return float((x - made.reconstruct(x)).square().sum() / (x - x.mean(0)).square().sum())


def test_full_neurons_and_full_pca_are_exact():
    x = data()
    torch.testing.assert_close(neurons(WIDTH).reconstruct(x), x)
    torch.testing.assert_close(pca(x).reconstruct(x), x, rtol=1e-4, atol=1e-3)
    assert fvu(pca(x, 6), x) < 0.02


def test_controls_are_centred_scaled_and_repeatable():
    x = data()
    assert fvu(random_sae(x, 60, 5), x) < 1 and fvu(kmeans(x, 30), x) < 0.6
    for control in (lambda seed: random_sae(x, 60, 5, seed=seed), lambda seed: kmeans(x, 30, seed=seed)):
        assert control(1).hash == control(1).hash != control(2).hash
    assert random_sae(x, 60, 5).info["control"] == "random"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TopK(k=41, **core()), "between 1 and the 40 latents; got 41"),
        (
            lambda: make("relu", encoder=numbers(WIDTH, N)),
            r"'encoder' must have shape \(40, 12\).*got \(12, 40\)",
        ),
        (lambda: make("relu", bias=torch.full((WIDTH,), float("nan"))), "'bias' holds NaN"),
        (
            lambda: make("relu", encoder=numbers(N, WIDTH).to(torch.complex64)),
            "'encoder' .* got torch.complex64",
        ),
        (lambda: make("relu", decoder=torch.ones(N, WIDTH, dtype=torch.int8)), "'decoder' .* got torch.int8"),
        (
            lambda: make("topk").encode(torch.zeros(2, WIDTH, dtype=torch.int64)),
            "got torch.int64 in a Tensor",
        ),
        (lambda: make("topk").encode(np.zeros((2, WIDTH), np.float32)), "got float32 in a ndarray"),
        (lambda: BatchTopK(threshold=-1.0, target_k=4, **core()), "at least 0; got -1.0"),
        (
            lambda: Matryoshka(threshold=1.0, target_k=4, prefixes=[9, 3], **core()),
            r"increase .* got \[9, 3\]",
        ),
        (lambda: make("topk").encode(torch.zeros(2, 13)), r"\(batch, 12\); got \(2, 13\)"),
        (lambda: make("topk").encode(torch.tensor([[0.0] * 12, [float("inf")] * 12])), "first in row 1"),
        (
            lambda: make("topk").decode(neurons(3).encode(torch.ones(1, 3))),
            "have 3 latents, the dictionary has 40",
        ),
        (lambda: pca(data(), 13), "1 to 12 components; got n_latents=13"),
        (lambda: kmeans(data(), 501), "1 to 500 centres"),
    ],
)
def test_misfits_are_named(build, message):
    with pytest.raises(DictionaryError, match=message):
        build()


def test_edited_or_incomplete_folders_are_refused(tmp_path):
    make("topk").save(tmp_path)
    config = tmp_path / "config.json"
    original = config.read_text()
    config.write_text(original.replace('"k": 4', '"k": 5'))
    with pytest.raises(DictionaryError, match="do not belong together"):
        load_dictionary(tmp_path)
    config.write_text(original.replace('"schema": 1', '"schema": 99'))
    with pytest.raises(DictionaryError, match="newer than 1"):
        load_dictionary(config)
    (tmp_path / "sae.safetensors").write_bytes(b"short")
    config.write_text(original)
    with pytest.raises(DictionaryError, match="damaged"):
        load_dictionary(tmp_path)
    (tmp_path / "sae.safetensors").unlink()
    with pytest.raises(DictionaryError, match=r"sae\.safetensors missing"):
        load_dictionary(tmp_path)


def test_half_precision_encoding_stays_close():
    made, x = make("relu"), numbers(64, WIDTH, seed=9)
    exact, fast = made.encode(x).to_dense(), made.encode(x, precision="bfloat16").to_dense()
    assert (exact - fast).abs().max() < 0.02 * exact.max()
