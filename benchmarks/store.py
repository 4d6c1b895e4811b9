"""Cost of stored activations and codes: bytes per token, reading in order and shuffled, resuming.

    python benchmarks/store.py [--quick] [--one-core]

Two stores are written through their own writer from random activations of width 768 (no model runs), one in the given
order and one mixed on writing, then read from the page cache. Reading in order, shuffled by blocks (mixed store) and
shuffled by rows (the other) take turns, each batch is dropped before the next is read, and ratios are medians over
rounds. `--one-core` counts CPU seconds of one thread instead of the clock, for a machine on which other jobs run.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from results import write_results
from torch import Tensor

from clipattr.dictionaries import SparseCodes
from clipattr.sites import Site
from clipattr.storage.activations import ActivationStore

WIDTH, K, LATENTS, BATCH, SHARD = 768, 64, 30_000, 4096, 8192


def filled(path: Path, rows: int, shuffle: int | None) -> ActivationStore:
    """A complete store of random activations."""
    model: Any = SimpleNamespace(
        reference="random", weights_hash="0" * 16, preprocess_id="none", image_width=WIDTH, image_tokens=50
    )
    store = ActivationStore.create(
        path,
        model,
        {"image.-1.cls": Site("image.-1.cls").shape(model)},
        pictures=rows,
        fingerprint="random",
        batch=64,
        shard_pictures=SHARD,
        shuffle=shuffle,
    )
    generator = torch.Generator().manual_seed(0)
    while not store.complete:
        size = min(SHARD, rows - len(store))
        store.write_shard(
            {"image.-1.cls": torch.randn(size, WIDTH, generator=generator)}, [], number=len(store.shards)
        )
        store.refresh()
    return store


def in_order(store: ActivationStore) -> Iterator[Tensor]:
    return (store.read(start, start + BATCH) for start in range(0, len(store) - BATCH + 1, BATCH))


def seconds(batches: Iterator[Tensor]) -> float:
    """By the clock, or with one thread the CPU's."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    collections.deque(batches, maxlen=0)
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument(
        "--one-core", action="store_true", help="one thread and its CPU seconds, not the clock"
    )
    options = parser.parse_args()
    if options.one_core:
        torch.set_num_threads(1)
    rows = 32_768 if options.quick else 262_144
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        given, store = filled(place / "given", rows, None), filled(place / "store", rows, 0)
        size = sum(file.stat().st_size for file in (place / "store").rglob("*") if file.is_file())
        times: dict[str, list[float]] = {name: [] for name in ("in order", "by blocks", "by rows")}
        for epoch in range(4 if options.quick else 12):
            round_of = {
                "in order": in_order(store),
                "by blocks": store.shuffled(BATCH, 0, epoch),
                "by rows": given.shuffled(BATCH, 0, epoch),
            }
            # The order in a round may matter, so all take turns in being first.
            names = list(itertools.islice(itertools.cycle(round_of), epoch % 3, epoch % 3 + 3))
            for name in names:
                taken = seconds(round_of[name])
                if epoch:  # the first round maps the files
                    times[name].append(taken)
        # A crash after half of the shards: what resuming costs before the first new shard.
        for record in sorted(place.glob("store/0*.json"))[rows // SHARD // 2 :]:
            record.unlink()
        began = time.perf_counter()
        ActivationStore.open(place / "store")
        resume = time.perf_counter() - began
        codes = SparseCodes(
            torch.randint(0, LATENTS, (10_000, K), dtype=torch.int32), torch.rand(10_000, K), LATENTS
        )
        codes.save(place / "codes.safetensors", half=True)
        per_code = (place / "codes.safetensors").stat().st_size / len(codes)
    gigabytes = rows * WIDTH * 2 / 1e9

    def against_in_order(name: str) -> float:
        return statistics.median(a / b for a, b in zip(times["in order"], times[name], strict=True))

    figures = {
        "bytes_per_token_codes": per_code,
        "bytes_per_token_activations": size / rows,
        "imagenet_gigabytes": size / rows * 1.28e6 / 1e9,
        "shuffled_over_sequential": against_in_order("by blocks"),
        "row_shuffled_over_sequential": against_in_order("by rows"),
        "sequential_gigabytes_per_second": gigabytes / statistics.median(times["in order"]),
        "resume_seconds": resume,
    }
    for name, value in figures.items():
        print(f"{name:34s} {value:12.4f}")
    table = [
        {"rows": rows, "width": WIDTH, "batch": BATCH, "reading": name, "seconds": t}
        for name, t in times.items()
    ]
    print(f"written to {write_results('store', figures, table, quick=options.quick)}")


if __name__ == "__main__":
    main()
