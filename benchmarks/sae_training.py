"""Speed of TopK training beside dense autograd, the encoder product alone, and other libraries.

    python benchmarks/sae_training.py [--quick] [--batch 2048] [--peers FOLDER] [--keep FOLDER --minutes M]

All at 30,000 latents, width 768, k = 64 on the CPU, step by step in turns, so that machine load affects all alike;
ratios are medians over rounds. `--one-core` counts CPU seconds of one thread instead of the clock, and compares
the losses of a smaller dictionary, for a machine on which other jobs run. Dense is our own autograd reference with
the same objective and optimiser, in float32 and under bf16 autocast; the faster counts. The encoder product alone is
(batch, 768) x (768, 30000), the fastest of float32, bf16, and bf16 with pieces side by side as in training. Equal loss:
sparse and dense train from one start on the same batches, and their last losses are compared.

Peers are timed where they can be imported, in float32 and under bf16 autocast; those that one step on fewer tokens
finds less than half as fast as the best are left out of the rounds, and the fastest counts (the same holds for the
dense reference and the product). With `--keep FOLDER` a run that was cut off, or stopped by `--minutes`, goes on. Put
peers into a throw-away folder (`pip install --target FOLDER --no-deps overcomplete dictionary-learning eai-sparsify
sae-lens`, plus what they ask for; sae-lens wants `transformer-lens<4`) and pass it with --peers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
import types
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pieces import Pieces, add_arguments
from results import write_results
from torch import Tensor

from clipattr.dictionaries.kernels import abreast as side_by_side
from clipattr.dictionaries.kernels import chunk_rows
from clipattr.dictionaries.objective import OBJECTIVES
from clipattr.dictionaries.trainer import BETAS, Run

WIDTH, LATENTS, K, LR = 768, 30_000, 64, 1e-4
SCREENED = 512  # tokens

PEERS = ("overcomplete", "dictionary-learning", "eai-sparsify", "sae-lens")

Step = Callable[[Tensor], float]


def seconds(step: Step, x: Tensor) -> float:
    """Seconds of one step: by the clock, or with one thread CPU seconds, which other programs hardly change."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    step(x)
    return clock() - start


def planted(rows: int, factors: int = 4096, seed: int = 0) -> Tensor:
    """(rows, WIDTH) activations of mean 0 and mean square length 1: sparse mixtures of random directions plus noise."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(factors, WIDTH, generator=generator), dim=1)
    active = torch.randint(0, factors, (rows, 24), generator=generator)
    amount = torch.rand(rows, 24, generator=generator) + 0.2
    acts = torch.nn.functional.embedding_bag(active, directions, per_sample_weights=amount, mode="sum")
    acts += 0.02 * torch.randn(rows, WIDTH, generator=generator)
    acts -= acts.mean(0)
    return acts / acts.square().sum(1).mean().sqrt()


def sparse_step(n_latents: int, precision: str) -> tuple[Run, Step]:
    run = Run(OBJECTIVES["topk"](n_latents, K), WIDTH, precision=precision)
    return run, lambda x: run.step(x, LR)["loss"]


def dense_step(start: Run, autocast: bool) -> Step:
    """The textbook step: dense codes, autograd, fused Adam, unit-length decoder rows."""
    parameters = {name: p.clone().requires_grad_() for name, p in start.parameters.items()}
    adam = torch.optim.Adam(parameters.values(), lr=LR, betas=BETAS, fused=True)

    def step(x: Tensor) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            pre = torch.nn.functional.linear(x, parameters["encoder"], parameters["encoder_bias"])
            values, indices = torch.relu(pre).topk(K, dim=-1)
            codes = torch.zeros_like(pre).scatter(-1, indices, values)
            recon = codes @ parameters["decoder"] + parameters["bias"]
            loss = (recon.float() - x).square().sum() / len(x)
        adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            rows = parameters["decoder"]
            assert rows.grad is not None
            rows.grad.addcmul_((rows.grad * rows).sum(1, keepdim=True), rows.detach(), value=-1)
            adam.step()
            rows /= rows.norm(dim=1, keepdim=True)
        return float(loss.detach())

    return step


def encoder_product(n_latents: int, dtype: torch.dtype, abreast: bool = False) -> Step:
    """The product alone, in pieces that stay in the cache; `abreast`: with one thread each."""
    weight = torch.randn(n_latents, WIDTH).to(dtype)
    rows = chunk_rows(n_latents, dtype.itemsize)
    own = threading.local()

    def product(piece: Tensor) -> None:
        if not hasattr(own, "out"):
            own.out = torch.empty(rows, n_latents, dtype=dtype)
        torch.mm(piece, weight.T, out=own.out[: len(piece)])

    def step(x: Tensor) -> float:
        if abreast:
            side_by_side(product, x.to(dtype).split(rows), x.device)
        else:
            for piece in x.to(dtype).split(rows):
                product(piece)
        return 0.0

    return step


def encoder_products() -> dict[str, Step]:
    return {
        "encoder product, float32": encoder_product(LATENTS, torch.float32),
        "encoder product, bf16": encoder_product(LATENTS, torch.bfloat16),
        "encoder product, bf16, side by side": encoder_product(LATENTS, torch.bfloat16, abreast=True),
    }


def dense_steps(run: Run | None = None) -> dict[str, Step]:
    """The dense reference in float32 and under bf16 autocast."""
    start = run or sparse_step(LATENTS, "auto")[0]
    return {
        "dense, float32": dense_step(start, autocast=False),
        "dense, bf16 autocast": dense_step(start, autocast=True),
    }


def competitors(run: Run | None = None) -> dict[str, Step]:
    return {**encoder_products(), **dense_steps(run), **peers(LATENTS)}


def every_step() -> dict[str, Step]:
    run, ours = sparse_step(LATENTS, "auto")
    return {"clipattr": ours, **competitors(run)}


def peers(n_latents: int) -> dict[str, Step]:
    """A training step of every peer that can be imported, in float32 and under bf16 autocast."""
    found: dict[str, Step] = {}
    builders = (overcomplete_step, dictionary_learning_step, sparsify_step, sae_lens_step)
    for name, build in zip(PEERS, builders, strict=True):
        try:
            step = build(n_latents)
        except (ImportError, AttributeError) as error:
            print(f"{name}: not timed ({error})")
            continue
        found |= {name: step, f"{name}, bf16 autocast": in_bfloat16(step)}
    return found


def screened(steps: dict[str, Step]) -> dict[str, float]:
    """Seconds of one step on few tokens; those that do not run are named."""
    x, taken = planted(SCREENED), {}
    for name, step in steps.items():
        try:
            step(x[:128])  # makes the optimiser's state
        except RuntimeError as error:
            print(f"{name}: not timed ({str(error).splitlines()[0]:.120})")
            continue
        taken[name] = seconds(step, x)
        print(f"{name:38s} {taken[name]:8.2f} s for {SCREENED} tokens", flush=True)
    return taken


def contenders(taken: dict[str, float]) -> list[str]:
    """Candidates for the fastest."""
    return [name for name, took in taken.items() if took <= 2 * min(taken.values())]


def in_bfloat16(step: Step) -> Step:
    """The same step under autocast."""

    def half(x: Tensor) -> float:
        with torch.autocast("cpu", torch.bfloat16):
            return step(x)

    return half


def overcomplete_step(n_latents: int) -> Step:
    # Its plotting part asks for a function that matplotlib has dropped; training does not plot.
    import matplotlib
    import matplotlib.cm

    if not hasattr(matplotlib.cm, "get_cmap"):
        matplotlib.cm.get_cmap = matplotlib.colormaps.get_cmap  # type: ignore[attr-defined]
    from overcomplete.sae import TopKSAE

    model = TopKSAE(WIDTH, n_latents, top_k=K)
    adam = torch.optim.Adam(model.parameters(), lr=LR)

    def step(x: Tensor) -> float:
        adam.zero_grad()
        _, codes = model.encode(x)
        loss = (model.decode(codes) - x).square().sum() / len(x)
        loss.backward()
        adam.step()
        return float(loss.detach())

    return step


def dictionary_learning_step(n_latents: int) -> Step:
    # Its package imports a language-model library that training on given activations never touches.
    sys.modules.setdefault("nnsight", types.SimpleNamespace(LanguageModel=object))  # type: ignore[arg-type]
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer: Any = TopKTrainer(
        steps=10_000, activation_dim=WIDTH, dict_size=n_latents, k=K, layer=0, lm_name="", lr=LR, device="cpu"
    )
    count = iter(range(1, 10_000))
    return lambda x: float(trainer.update(next(count), x))


def sparsify_step(n_latents: int) -> Step:
    os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")  # its Triton kernels need a GPU
    from sparsify import SparseCoder, SparseCoderConfig

    model = SparseCoder(WIDTH, SparseCoderConfig(num_latents=n_latents, k=K))
    adam = torch.optim.Adam(model.parameters(), lr=LR)

    def step(x: Tensor) -> float:
        adam.zero_grad()
        loss = model(x).fvu
        loss.backward()
        model.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        model.set_decoder_norm_to_unit_norm()
        return float(loss.detach())

    return step


def sae_lens_step(n_latents: int) -> Step:
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    # Its auxiliary loss concerns dead latents only, of which there are none at the start, so it is not timed.
    # Its sparse codes do not run on a CPU with this torch, so it trains with dense ones.
    model = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=WIDTH, d_sae=n_latents, k=K, device="cpu"))
    adam = torch.optim.Adam(model.parameters(), lr=LR)

    def step(x: Tensor) -> float:
        given = TrainStepInput(
            sae_in=x, coefficients={}, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False
        )
        loss = model.training_forward_pass(given).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
        return float(loss.detach())

    return step


class Rounds:
    """Seconds of a step of each, one round of all after the other. Made when first asked, and warmed by a step."""

    def __init__(self, names: list[str], batch: int) -> None:
        self.names, self.batch = names, batch
        self.steps: dict[str, Step] = {}

    def measured(self, number: int) -> dict[str, float]:
        x, times = planted(self.batch, seed=number), {}
        if not self.steps:
            self.steps = {name: step for name, step in every_step().items() if name in self.names}
            for step in self.steps.values():
                step(x)
        for name, step in self.steps.items():
            times[name] = seconds(step, x)
        return times


def loss_gap(steps: int, batch: int, n_latents: int) -> tuple[float, float, float]:
    """Last losses of sparse and dense training from one start, and their relative difference."""
    run, sparse = sparse_step(n_latents, "auto")
    dense = dense_step(run, autocast=False)
    acts = planted(steps * batch, seed=3)
    losses = [(sparse(x), dense(x)) for x in acts.split(batch)]
    tail = losses[-max(1, steps // 10) :]
    ours, theirs = (statistics.mean(pair[side] for pair in tail) for side in (0, 1))
    return ours, theirs, abs(ours - theirs) / theirs


def peer_losses(name: str, steps: int, batch: int) -> tuple[float, float]:
    """Last losses of ours and of a peer on the same batches, ours with an encoder as short as peers begin with.

    After few steps the loss depends mostly on the start: peers keep encoder rows as `nn.Linear` creates them, of length
    1/sqrt(3), and ours have length 1.
    """
    run, ours = sparse_step(LATENTS, "auto")
    run.parameters["encoder"].mul_(3**-0.5)
    theirs, acts = peers(LATENTS)[name], planted(steps * batch, seed=3)
    tail = [(ours(x), theirs(x)) for x in acts.split(batch)][-max(1, steps // 10) :]
    return statistics.mean(pair[0] for pair in tail), statistics.mean(pair[1] for pair in tail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 rounds and a smaller loss comparison")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--peers", help="folder with other libraries, see above")
    parser.add_argument(
        "--one-core", action="store_true", help="one thread and its CPU seconds, not the clock"
    )
    add_arguments(parser)
    options = parser.parse_args()
    if options.peers:
        sys.path.append(options.peers)
    if options.one_core:
        torch.set_num_threads(1)
    pieces = Pieces(options.keep, options.minutes)
    about = [options.batch, LATENTS, WIDTH, K, bool(options.peers), torch.get_num_threads()]
    taken = pieces.piece("screening", about, lambda: screened(competitors()))

    def fast(*begin: str) -> list[str]:
        return contenders({name: took for name, took in taken.items() if name.startswith(begin)})

    references, products, other = fast("dense"), fast("encoder product"), fast(*PEERS)
    rounds = Rounds(["clipattr", *references, *products, *other], options.batch)
    found = [
        pieces.piece(f"round {number}", [about, rounds.names], partial(rounds.measured, number))
        for number in range(2 if options.quick else 7)
    ]
    times = {name: [one[name] for one in found] for name in rounds.names}
    median = {name: statistics.median(values) for name, values in times.items()}
    print(f"{'':38s} {'tokens/s':>10s} {'s/step':>8s}")
    for name, took in median.items():
        print(f"{name:38s} {options.batch / took:10.0f} {took:8.3f}")

    def ratio(names: list[str]) -> float:
        """Median over rounds of the fastest of these over ours."""
        best = min(names, key=lambda name: median[name])
        return statistics.median(b / a for a, b in zip(times["clipattr"], times[best], strict=True))

    count, batch, size = (40, 512, 4096) if options.quick or options.one_core else (40, 1024, LATENTS)
    sparse_loss, dense_loss, gap = pieces.piece(
        "losses", [count, batch, size], lambda: loss_gap(count, batch, size)
    )
    figures = {
        "speedup_over_dense": ratio(references),
        "share_of_encoder_matmul": ratio(products),
        "relative_loss_gap": gap,
        "tokens_per_second": options.batch / median["clipattr"],
    }
    if other:
        figures["speedup_over_best_peer"] = ratio(other)
        plain = [name for name in other if "autocast" not in name]
        if plain:
            figures["speedup_over_best_peer_float32"] = ratio(plain)
        best = min(other, key=lambda name: median[name])
        if size == LATENTS:
            loss, peer_loss = pieces.piece(
                f"losses of {best}", [best, count, batch], partial(peer_losses, best, count, batch)
            )
            print(f"loss after {count} steps from a shorter encoder: ours {loss:.5f}, {best} {peer_loss:.5f}")
            figures["relative_loss_gap_best_peer"] = abs(loss - peer_loss) / peer_loss
    print(f"loss after {count} steps: sparse {sparse_loss:.5f}, dense {dense_loss:.5f}")
    for name, value in figures.items():
        print(f"{name:28s} {value:10.4f}")
    rows = [{"name": name, "seconds": took, "batch": options.batch} for name, took in median.items()]
    rows += [{"name": n, "seconds": s, "batch": SCREENED} for n, s in taken.items() if n not in median]
    print(f"written to {write_results('sae_training', figures, rows, quick=options.quick)}")


if __name__ == "__main__":
    main()
