"""Exact reliances from stored embeddings alone: a million vectors, a thousand prompts, families of latents.

    python benchmarks/vectors.py [--quick] [--rows N]

float16 vectors of width 768 are written to disk block by block and opened as `ca.Embeddings`; `ca.mean_effects` reads
them, encodes them with a dictionary of 30,000 latents (k = 32) and ablates 10,000 families of three latents exactly for
1,000 prompts. Two runs, each in a process of its own for its peak memory: one with a tenth of the rows, one with all of
them. The last figure checks the result on 2,000 rows and three families: the embedding without the family is normalised
again in float64.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from memory import peak_mb
from results import write_results
from torch.nn.functional import normalize

import clipattr as ca
from clipattr.dictionaries import TopK
from clipattr.models.textonly import TextEmbeddings

WIDTH, LATENTS, K, FAMILIES, PROMPTS, BLOCK = 768, 30_000, 32, 10_000, 1000, 20_000


def write_rows(file: Path, rows: int) -> None:
    """float16 unit vectors in npy format, a block at a time."""
    array = np.lib.format.open_memmap(file, "w+", np.float16, (rows, WIDTH))
    generator = torch.Generator().manual_seed(0)
    for start in range(0, rows, BLOCK):
        stop = min(start + BLOCK, rows)
        array[start:stop] = normalize(torch.randn(stop - start, WIDTH, generator=generator), dim=1).numpy()
    array.flush()


def pieces(seed: int = 1) -> tuple[TextEmbeddings, TopK, list[list[int]], torch.Tensor]:
    """Text embeddings in place of a model, a random dictionary, families and prompts."""
    generator = torch.Generator().manual_seed(seed)
    decoder = normalize(torch.randn(LATENTS, WIDTH, generator=generator), dim=1)
    dictionary = TopK(
        k=K, decoder=decoder, encoder=decoder.clone(), bias=torch.zeros(WIDTH), site="image.embedding"
    )
    prompts = normalize(torch.randn(PROMPTS, WIDTH, generator=generator), dim=1)
    texts = TextEmbeddings([f"prompt {i}" for i in range(PROMPTS)], prompts)
    order = torch.randperm(LATENTS, generator=generator).view(FAMILIES, 3)
    return texts, dictionary, order.tolist(), prompts


def measure(file: Path) -> dict[str, float]:
    """Minutes of processor time to encode alone and for everything, peak memory, and the largest error on a sample."""
    rows = ca.Embeddings(file)
    texts, dictionary, families, prompts = pieces()
    names = [f"prompt {i}" for i in range(PROMPTS)]
    start = time.process_time()
    found = ca.mean_effects(texts, dictionary, rows, names, families, progress=False)
    whole = time.process_time() - start
    peak = peak_mb()
    sample = torch.from_numpy(rows.read(0, 2000))
    start = time.process_time()
    codes = dictionary.encode(sample)
    encoding = (time.process_time() - start) * len(rows) / len(sample)
    some = ca.mean_effects(texts, dictionary, sample, names, families, progress=False)
    return {
        "rows": len(rows), "processor_minutes": whole / 60, "encoding_minutes": encoding / 60, "peak_mib": peak,
        "largest": float(found.abs().max()), "error": error(sample, codes, dictionary, families, prompts, some),
    }  # fmt: skip


def error(
    acts: torch.Tensor, codes: Any, dictionary: Any, families: Any, prompts: torch.Tensor, found: Any
) -> float:
    """Largest difference from ablating three families one after the other in float64, over the largest effect."""
    dense, wide = codes.to_dense().double(), acts.double()
    worst = 0.0
    for number in (0, len(families) // 2, len(families) - 1):
        moved = dense[:, families[number]] @ dictionary.decoder[families[number]].double()
        change = normalize(wide, dim=1) - normalize(wide - moved, dim=1)
        worst = max(worst, float((change.mean(0) @ prompts.double().T - found[number]).abs().max()))
    return worst / float(found.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    total = 20_000 if arguments.quick else arguments.rows
    rows = []
    for count in (total // 10, total):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "vectors.npy"
            write_rows(file, count)
            command = [sys.executable, __file__, "--measure", str(file)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1])
    few, many = (SimpleNamespace(**row) for row in rows)
    figures = {
        "rows": many.rows, "processor_minutes": many.processor_minutes,
        "over_encoding": many.processor_minutes / many.encoding_minutes,
        "peak_gib": many.peak_mib / 1024, "peak_over_tenth_of_rows": many.peak_mib / few.peak_mib,
        "relative_error": max(few.error, many.error),
    }  # fmt: skip
    for name, value in figures.items():
        print(f"{name:28} {value:12.4g}")
    write_results("vectors", figures, rows, quick=arguments.quick)


if __name__ == "__main__":
    main()
