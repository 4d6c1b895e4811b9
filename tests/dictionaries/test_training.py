"""Training from active entries only equals dense training, step by step, and survives interruption."""

import itertools
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from clipattr.dictionaries import OBJECTIVES, load_dictionary, train_sae, train_saes
from clipattr.dictionaries.objective import Entries
from clipattr.dictionaries.trainer import BETAS, Revival, Run
from clipattr.errors import DictionaryError

KINDS = sorted(OBJECTIVES)
N, WIDTH, K, BATCH = 96, 24, 5, 64


def sparse_data(rows=4000, width=WIDTH, factors=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(factors, width, generator=generator), dim=1)
    codes = torch.relu(torch.randn(rows, factors, generator=generator) - 1.6)
    noise = 0.05 * torch.randn(rows, width, generator=generator)
    return codes @ directions + noise + 0.5 * torch.randn(width, generator=generator)


def normalised(x):
    x = x - x.mean(0)
    return x / x.square().sum(1).mean().sqrt()


class Recording(Run):
    """Keeps the gradients of a step instead of following them."""

    def _adam(self, name, gradient, lr, rows=slice(None)):
        self.gradients.setdefault(name, torch.zeros_like(self.parameters[name]))[rows] = gradient

    def step(self, x, lr=0.0):
        self.gradients = {}
        return super().step(x, lr)


def prepared(kind, seed=0):
    """A run away from its start, with nonzero biases everywhere and some latents that count as dead."""
    objective = OBJECTIVES[kind](N, K, 0.01)  # a given sparsity, so that nothing is steered
    run = Recording(
        objective, WIDTH, seed=seed, precision="float32", revival=Revival(dead_after=100, k=4, share=0.5)
    )
    x = normalised(sparse_data())[:BATCH]
    run.calibrate(x)
    generator = torch.Generator().manual_seed(seed + 1)
    for name, scale in (("encoder", 0.1), ("encoder_bias", 0.03), ("bias", 0.3)):
        run.parameters[name] += scale * torch.randn(run.parameters[name].shape, generator=generator)
    for tensor in run.own.values():
        tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
    run.tokens_since_active[::3] = 1000
    return run, x


def dense_loss(kind, run, x, p):
    """The same loss over dense codes, for autograd: slow, plain, float64."""
    state = run.objective.state
    pre = x @ p["encoder"].T + p["encoder_bias"]
    extra = 0.0
    if kind == "topk":
        keep = torch.zeros_like(pre).scatter_(1, pre.topk(K).indices, 1.0)
        codes = torch.relu(pre) * keep
    elif kind in ("batchtopk", "matryoshka"):
        cut = torch.relu(pre).flatten().topk(K * len(x)).values.min()
        codes = torch.relu(pre) * (pre >= cut)
    elif kind == "nested":
        (small, _), (few, rest) = run.objective.sizes, run.objective.active
        places = [pre[:, :small].topk(few).indices, pre[:, small:].topk(rest).indices + small]
        codes = torch.relu(pre) * torch.zeros_like(pre).scatter_(1, torch.cat(places, 1), 1.0)
    elif kind == "relu":
        codes = torch.relu(pre)
        extra = state["sparsity"] * codes.sum() / len(x)
    elif kind == "gated":
        codes = torch.relu(p["log_mag_gain"].exp() * pre + p["mag_bias"]) * (pre > 0)
        gates = torch.relu(pre)
        by_gates = gates @ p["decoder"].detach() + p["bias"].detach()
        extra = state["sparsity"] * gates.sum() / len(x) + (by_gates - x).square().sum() / len(x)
    else:
        codes = Jump.apply(pre, p["log_threshold"].exp(), state["bandwidth"])
        active = Step.apply(pre.detach(), p["log_threshold"].exp(), state["bandwidth"])
        extra = state["sparsity"] * active.sum() / len(x)
    sizes = {"matryoshka": lambda: run.objective.prefixes, "nested": lambda: [run.objective.sizes[0], N]}
    sizes = sizes.get(kind, lambda: [N])()
    weight = run.objective.first_weight if kind == "nested" else 0
    shares = [weight, 1 - weight] if kind == "nested" else [1 / len(sizes)] * len(sizes)
    recons = [codes[:, :size] @ p["decoder"][:size] + p["bias"] for size in sizes]
    losses = [(recon - x).square().sum() / len(x) for recon in recons]
    loss = sum(share * one for share, one in zip(shares, losses, strict=True))

    rows, dead = len(x) // 2, torch.arange(0, N, 3)
    leftover = (x - recons[-1]).detach()[:rows]
    dead_pre = torch.relu((x[:rows] @ p["encoder"].T + p["encoder_bias"])[:, dead])
    kept = torch.zeros_like(dead_pre).scatter_(1, dead_pre.topk(4).indices, 1.0)
    guess = (dead_pre * kept) @ p["decoder"][dead]
    aux = run.revival.weight * (guess - leftover).square().sum() / rows
    return loss, loss + extra + aux


class Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pre, threshold, bandwidth):
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx, grad):
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < ctx.bandwidth / 2) & (pre > 0)
        return grad * (pre > threshold), (-threshold / ctx.bandwidth * near * grad).sum(0), None


class Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pre, threshold, bandwidth):
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx, grad):
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < ctx.bandwidth / 2) & (pre > 0)
        return None, -(near * grad / ctx.bandwidth).sum(0), None


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_gradients_equal_those_of_dense_autograd_in_float64(kind):
    run, x = prepared(kind)
    doubles = {name: p.double().requires_grad_() for name, p in run.parameters.items()}
    loss, total = dense_loss(kind, run, x.double(), doubles)
    total.backward()
    figures = run.step(x)
    assert figures["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert set(run.gradients) == set(doubles)
    for name, p in doubles.items():
        expected = p.grad
        if name == "decoder":  # lengths are held at 1, so only the turning part counts
            rows = p.detach()
            expected = expected - (expected * rows).sum(1, keepdim=True) * rows
        scale = expected.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(run.gradients[name].double(), expected, rtol=1e-4, atol=1e-5 * scale)


def test_revival_moves_dead_encoders_and_leaves_the_decoder_bias_alone():
    run, x = prepared("topk")
    run.step(x)
    with_revival = run.gradients
    alone, _ = prepared("topk")
    alone.revival = None
    alone.step(x)
    dead = torch.arange(0, N, 3)
    silent = dead[(alone.gradients["encoder"][dead] == 0).all(1)]
    assert len(silent) > 0
    assert (with_revival["encoder"][silent].abs().sum(1) > 0).any()
    living = torch.tensor([j for j in range(N) if j % 3])
    for name in ("encoder", "decoder"):
        assert torch.equal(with_revival[name][living], alone.gradients[name][living])
    assert torch.equal(with_revival["bias"], alone.gradients["bias"])


def test_two_hundred_steps_follow_dense_adam_within_1e_4():
    x = normalised(sparse_data(8000))
    run = Run(OBJECTIVES["topk"](N, K), WIDTH, precision="float32")
    p = {name: t.clone().requires_grad_() for name, t in run.parameters.items()}
    adam = torch.optim.Adam(p.values(), lr=2e-3, betas=BETAS)
    for number, batch in enumerate(itertools.islice(itertools.cycle(x.split(200)), 200)):
        figures = run.step(batch, 2e-3)
        pre = batch @ p["encoder"].T + p["encoder_bias"]
        codes = torch.zeros_like(pre).scatter(1, pre.topk(K).indices, torch.relu(pre.topk(K).values))
        loss = (codes @ p["decoder"] + p["bias"] - batch).square().sum() / len(batch)
        adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            rows = p["decoder"]
            rows.grad -= (rows.grad * rows).sum(1, keepdim=True) * rows
            adam.step()
            rows /= rows.norm(dim=1, keepdim=True)
        assert figures["loss"] == pytest.approx(loss.item(), abs=1e-4), number
    assert figures["loss"] < 0.5


def options(**changes):
    return {
        "n_latents": N,
        "k": K,
        "steps": 40,
        "batch": 128,
        "progress": False,
        "dead_after": 500,
        **changes,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_folded_dictionary_reconstructs_what_training_saw(kind):
    data = sparse_data() * 7 + 30
    seen = {}
    made = train_sae(data, kind=kind, log=seen.update, **options(steps=150, lr=1e-3, precision="float32"))
    assert made.kind == kind
    share = (data - made.reconstruct(data)).square().sum() / (data - data.mean(0)).square().sum()
    # The folded dictionary on all data, beside the last loss on the centred and scaled data. (Matryoshka's loss
    # includes the shorter prefixes, Gated's and the threshold kinds' are still moving after so few steps.)
    if kind in ("topk", "relu"):
        assert share.item() == pytest.approx(seen["loss"], rel=0.2)
    assert share < 0.8
    spread = (data - data.mean(0)).square().sum(1).mean().sqrt()
    assert made.info["gamma"] == pytest.approx((data.mean(0).norm() / spread).item(), rel=0.05)


def test_scale_of_the_data_only_scales_codes_and_biases():
    data = sparse_data()
    small = train_sae(data, **options(precision="float32"))
    large = train_sae(data * 64, **options(precision="float32"))
    a, b = small.encode(data), large.encode(data * 64)
    assert (a.indices == b.indices).float().mean() > 0.99
    torch.testing.assert_close(
        small.reconstruct(data) * 64, large.reconstruct(data * 64), rtol=1e-2, atol=1e-1
    )


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_trained_together_equal_seeds_trained_alone_bit_by_bit(kind):
    data = sparse_data(1000)
    together = train_saes(data, kind=kind, seeds=(3, 4), **options(steps=12))
    alone = [train_sae(data, kind=kind, seed=seed, **options(steps=12)) for seed in (3, 4)]
    assert [made.hash for made in together] == [made.hash for made in alone]
    assert alone[0].hash != alone[1].hash


class Stop(Exception):
    pass


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [2, 7])
def test_interrupted_training_ends_with_the_same_bits(kind, at, tmp_path):
    data = sparse_data(1000)  # 7 batches an epoch, so that resuming falls into other epochs too
    shares = []
    # One batch without a firing counts as death, so that revival is at work when the interruption comes.
    settings = options(steps=20, n_latents=300, dead_after=128)
    whole = train_sae(data, kind=kind, log=lambda figures: shares.append(figures["dead"]), **settings)
    assert 0 < max(shares[: at * 2]) < 1

    def stop(figures):
        if figures["step"] == at * 2 + 1:
            raise Stop

    settings |= {"checkpoint": tmp_path, "checkpoint_every": 2}
    with pytest.raises(Stop):
        train_sae(data, kind=kind, log=stop, **settings)
    resumed = train_sae(data, kind=kind, **settings)
    assert resumed.hash == whole.hash
    assert resumed.info["fvu"] == whole.info["fvu"]


def test_ties_at_the_cut_of_a_batch_do_not_add_latents():
    objective = OBJECTIVES["batchtopk"](10, 2)
    pre = torch.tensor([3.0, 1, 1, 1, 2, 1, 1])
    kept = objective.settle(Entries.of_counts(torch.arange(7), pre, torch.tensor([4, 3])))
    assert kept.pre.tolist() == [3, 1, 1, 2] and kept.offsets.tolist() == [0, 3, 4]


KILLED = """
import os, sys, torch
from clipattr.dictionaries import train_sae
data = torch.randn(2000, 24, generator=torch.Generator().manual_seed(0))
def log(figures):
    if figures["step"] == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
made = train_sae(data, n_latents=96, k=5, steps=30, batch=128, dead_after=500, progress=False,
                 checkpoint=sys.argv[1] or None, checkpoint_every=4, log=log)
print(made.hash)
"""


def test_a_killed_process_resumes_to_the_same_bits(tmp_path):
    def run(folder, kill_at):
        return subprocess.run(
            [sys.executable, "-c", KILLED, str(folder), str(kill_at)],
            capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    assert run(tmp_path, 18).returncode == -signal.SIGKILL
    resumed = run(tmp_path, -1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = torch.randn(2000, 24, generator=torch.Generator().manual_seed(0))
        whole = train_sae(data, n_latents=96, k=5, steps=30, batch=128, dead_after=500, progress=False)
    finally:
        torch.set_num_threads(threads)
    assert resumed.stdout.split() == [whole.hash], resumed.stderr


def test_a_checkpoint_of_other_settings_is_refused_with_the_differences(tmp_path):
    data = sparse_data(1000)
    train_sae(data, **options(steps=4, checkpoint=tmp_path))
    with pytest.raises(DictionaryError, match="k: 5 there, 6 now"):
        train_sae(data, **options(steps=4, checkpoint=tmp_path, k=6))
    (tmp_path / "training.safetensors").write_bytes(b"cut")
    with pytest.raises(DictionaryError, match="damaged"):
        train_sae(data, **options(steps=4, checkpoint=tmp_path))


def test_logging_and_encoding_between_steps_change_nothing():
    data = sparse_data(1000)
    plain = train_sae(data, **options(steps=15))
    noisy = train_sae(data, log=lambda figures: (torch.randn(3), json.dumps(figures)), **options(steps=15))
    assert plain.hash == noisy.hash


def test_training_stops_early_once_nothing_improves():
    steps = []
    data = sparse_data(500)
    made = train_sae(
        data, patience=5, log=lambda f: steps.append(f["step"]), **options(steps=3000, lr=1e-9, warmup=1)
    )
    assert len(steps) < 3000 and made.info["steps_done"] == len(steps)


def test_saved_dictionaries_train_to_what_was_saved(tmp_path):
    made = train_sae(sparse_data(1000), **options(steps=5))
    made.save(tmp_path)
    assert load_dictionary(tmp_path).hash == made.hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 97}, "between 1 and the 96 latents; got 97"),
        ({"kind": "topq"}, "'topq' cannot be trained; known kinds: .*topk"),
        ({"steps": 3, "epochs": 2}, "steps or epochs, not both"),
        ({"lr": 1e30}, "loss became|NaN or infinite"),
    ],
)
def test_impossible_settings_are_named(change, message):
    with pytest.raises(DictionaryError, match=message):
        train_sae(sparse_data(500), **options(**change))


def test_unusable_activations_are_named():
    data = sparse_data(500)
    data[17, 3] = float("nan")
    with pytest.raises(DictionaryError, match="NaN or infinite"):
        train_sae(data, **options())
    with pytest.raises(DictionaryError, match="are equal"):
        train_sae(torch.ones(500, WIDTH), **options())
    with pytest.raises(DictionaryError, match=r"\(rows, width\)"):
        train_sae(torch.ones(5, 5, 5), **options())
    for wrong, name in (
        (data.to(torch.complex64), "complex64"),
        (torch.ones(500, WIDTH, dtype=torch.int64), "int64"),
        (np.full((500, WIDTH), "1.0"), "<U3"),
    ):
        with pytest.raises(DictionaryError, match=f"real floating point numbers; got .*{name}"):
            train_sae(wrong, **options())


def test_the_same_numbers_in_another_floating_dtype_train_to_the_same_weights():
    data = sparse_data(500).half()
    made = [train_sae(acts, **options()).hash for acts in (data, data.float(), data.double())]
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"k": "4"}, "k is a whole number of at least 1; got '4'"),
        ({"n_latents": 16.5}, "n_latents is a whole number"),
        ({"seed": None}, "seed is a whole number of at least 0; got None"),
        ({"steps": 0}, "steps is a whole number"),
        ({"steps": None, "epochs": -1}, "epochs is a number above 0"),
        ({"step": 5}, "Training does not know step"),
        ({"device": "cuda:77"}, "Nothing can be trained on cuda:77 here"),
    ],
)
def test_settings_of_another_type_are_named(settings, told):
    with pytest.raises(DictionaryError, match=told):
        train_sae(torch.randn(64, 8), **{"n_latents": 16, "k": 2, "steps": 2, "progress": False, **settings})


def test_activations_that_still_require_gradients_are_trained_on():
    acts = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    one, other = (train_sae(a, 16, 2, steps=3, progress=False) for a in (acts, acts.clone().requires_grad_()))
    assert one.hash == other.hash
