"""What stored activations and codes cost: bytes per token, reading in order and shuffled, resuming.

    python benchmarks/store.py [--quick]

The store is written through its own writer from random activations of width 768 (no model runs), then read from the
page cache: reading in order and shuffled alternate, and the ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from results import write_results

from clipattr.dictionaries import SparseCodes
from clipattr.store import ActivationStore

WIDTH, K, LATENTS, BATCH, SHARD = 768, 64, 30_000, 4096, 8192


def filled(path: Path, rows: int) -> ActivationStore:
    """A complete store of random activations."""
    model: Any = SimpleNamespace(
        reference="random", weights_hash="0" * 16, preprocess_id="none", image_width=WIDTH, image_tokens=50
    )
    store = ActivationStore.create(
        path, model, "image.-1.cls", pictures=rows, fingerprint="random", batch=64, shard_pictures=SHARD
    )
    generator = torch.Generator().manual_seed(0)
    while not store.complete:
        size = min(SHARD, rows - len(store))
        store.write_shard({"image.-1.cls": torch.randn(size, WIDTH, generator=generator)}, [])
    return store


def in_order(store: ActivationStore) -> None:
    for start in range(0, len(store) - BATCH + 1, BATCH):
        store.read(start, start + BATCH)


def seconds(task: Any) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    options = parser.parse_args()
    rows = 32_768 if options.quick else 262_144
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        store = filled(place / "store", rows)
        size = sum(file.stat().st_size for file in (place / "store").rglob("*") if file.is_file())
        ratios, sequential, shuffled = [], [], []
        for epoch in range(3 if options.quick else 7):
            sequential.append(seconds(lambda: in_order(store)))
            shuffled.append(seconds(lambda epoch=epoch: [None for _ in store.shuffled(BATCH, 0, epoch)]))
            ratios.append(sequential[-1] / shuffled[-1])
        # A crash after half of the shards: what resuming costs before the first new shard.
        for record in sorted(place.glob("store/0*.json"))[rows // SHARD // 2 :]:
            record.unlink()
        resume = seconds(lambda: ActivationStore.open(place / "store"))
        codes = SparseCodes(
            torch.randint(0, LATENTS, (10_000, K), dtype=torch.int32), torch.rand(10_000, K), LATENTS
        )
        codes.save(place / "codes.safetensors", half=True)
        per_code = (place / "codes.safetensors").stat().st_size / len(codes)
    gigabytes = rows * WIDTH * 2 / 1e9
    figures = {
        "bytes_per_token_codes": per_code,
        "bytes_per_token_activations": size / rows,
        "imagenet_gigabytes": size / rows * 1.28e6 / 1e9,
        "shuffled_over_sequential": statistics.median(ratios),
        "sequential_gigabytes_per_second": gigabytes / statistics.median(sequential),
        "shuffled_gigabytes_per_second": gigabytes / statistics.median(shuffled),
        "resume_seconds": resume,
    }
    for name, value in figures.items():
        print(f"{name:34s} {value:12.4f}")
    print(
        f"written to {write_results('store', figures, [{'rows': rows, 'width': WIDTH}], quick=options.quick)}"
    )


if __name__ == "__main__":
    main()
