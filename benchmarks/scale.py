"""Scale: Ray against one process on this machine, and memory against the number of pictures.

    python benchmarks/scale.py [--quick] [--keep FOLDER --minutes M]

Encoding, codes and examples of the same pictures by 1 and 2 Ray workers of one thread: equal bytes, and the speed-up.
The stages after encoding on synthetic activations of 10^4 to 10^6 pictures: peak memory and pictures per second.
Merging parts: milliseconds per part. The speed-up is that of the fastest of three rounds, and needs two cores that do
nothing else. With `--keep FOLDER` a run that was cut off, or stopped by `--minutes`, goes on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import threading
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pieces import Pieces, add_arguments
from PIL import Image
from results import write_results

WIDTH, EMBED, LATENTS, K = 256, 256, 4096, 32


def studies(pictures: int) -> dict[str, dict[str, Any]]:
    """Seconds and hashes of whole builds, the dictionary given: here, and by 1 and 2 workers of one cluster."""
    import open_clip

    import clipattr
    import clipattr.studies.gathering
    from clipattr.dictionaries import random_sae
    from clipattr.execution.ray import Ray

    torch.set_num_threads(1)
    torch.manual_seed(0)
    clips = [
        open_clip.model.CLIP(
            embed_dim=128,
            vision_cfg={"image_size": 128, "patch_size": 16, "width": 256, "layers": 6, "head_width": 32},
            text_cfg={"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
        )
        for _ in range(2)
    ]
    model, evaluator = (clipattr.load_model(clip) for clip in clips)
    generator = np.random.default_rng(0)
    dictionary = random_sae(torch.randn(4096, 256), n_latents=LATENTS, k=K)
    clipattr.studies.gathering.SHARD = 64
    seconds, hashes = {}, {}
    with tempfile.TemporaryDirectory() as place, Ray(workers=2) as two:
        images = [Path(place) / f"{number:06d}.jpg" for number in range(pictures)]
        for image in images:
            noise = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((128, 128), Image.Resampling.BICUBIC).save(image)
        one = Ray(workers=1)  # of the same cluster
        for name, engine in (("warm", two), ("1", one), ("2", two), ("here", None)):
            begun = time.perf_counter()
            study = clipattr.build_study(
                model, images[:128] if name == "warm" else images, path=Path(place) / name, evaluator=evaluator,
                vocabulary=["a", "b"], dictionary=dictionary, batch=32, workers=1, progress=False, engine=engine,
            )  # fmt: skip
            seconds[name], hashes[name] = time.perf_counter() - begun, study.hash
    print({name: round(value, 2) for name, value in seconds.items()})
    return {"seconds": seconds, "hashes": hashes}


def compared(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, float]:
    """Equality and speed-up. The fastest round counts, since other programs only slow a round."""
    fastest = {name: min(one["seconds"][name] for one in rounds) for name in ("1", "2", "here")}
    # Pictures are new files in every round, with another study hash.
    equal = all(len({one["hashes"][name] for name in fastest}) == 1 for one in rounds)
    return {
        "ray_equals_single": float(equal),
        "ray_speedup_2": fastest["1"] / fastest["2"],
        "ray_overhead_1": fastest["1"] / fastest["here"],
    }


def watched() -> list[float]:
    """Peak of what this process has allocated, in MiB, kept up to date by a thread.

    Pages of mapped files are left out: they count as ours, but the system takes them back when it needs them.
    """
    peak = [0.0]

    def look() -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            now = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))
            peak[0] = max(peak[0], now)
            time.sleep(0.05)

    threading.Thread(target=look, daemon=True).start()
    return peak


def later_stages(pictures: int, said: multiprocessing.connection.Connection) -> None:
    """In a process of its own: codes and examples of synthetic activations, from disk to disk."""
    from clipattr.dictionaries import random_sae
    from clipattr.meaning.summary import merged
    from clipattr.studies.build import PART, collect_part, encode_block
    from clipattr.studies.format import ArrayWriter, CodesWriter

    torch.set_num_threads(1)
    peak = watched()
    generator = np.random.default_rng(0)
    dictionary = random_sae(torch.randn(4096, WIDTH), n_latents=LATENTS, k=K)
    with tempfile.TemporaryDirectory() as place:
        work, block = Path(place), 8192
        for name, width in (("activations", WIDTH), ("evaluator", EMBED)):
            writer = ArrayWriter(work / f"{name}.npy", pictures, np.float16)
            for start in range(0, pictures, block):
                writer.add(generator.standard_normal((min(block, pictures - start), width), dtype=np.float32))
            writer.close()
        begun = time.perf_counter()
        codes = CodesWriter(work, pictures, LATENTS)
        for start in range(0, pictures, 1024):
            codes.add(*encode_block((work, dictionary, 1024), start))
        codes.close()
        coded = time.perf_counter()
        none = np.zeros(pictures, dtype=bool)
        parts = (
            collect_part((work, LATENTS, none, none, 20, PART), start) for start in range(0, pictures, PART)
        )
        merged(parts)
        done = time.perf_counter()
    said.send((pictures / (coded - begun), pictures / (done - coded), peak[0]))


def merging(parts: int) -> float:
    """Milliseconds to merge one part into the others."""
    from clipattr.meaning.examples import Examples
    from clipattr.meaning.scores import Totals
    from clipattr.meaning.summary import merged

    def part(number: int) -> tuple[Examples, Totals]:
        examples = Examples(LATENTS, 20)
        examples.indices = torch.arange(LATENTS * 20).view(LATENTS, 20) + number * 10**7
        examples.values = torch.rand(LATENTS, 20).sort(1, descending=True).values
        return examples, Totals(LATENTS, EMBED)

    made = [part(number) for number in range(parts)]
    begun = time.perf_counter()
    merged(made)
    return (time.perf_counter() - begun) * 1000 / (parts - 1)


def grown(pictures: int) -> dict[str, float]:
    """`later_stages` of so many pictures, in a process of its own."""
    listen, said = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=later_stages, args=(pictures, said))
    process.start()
    said.close()  # here, so that the end of the process is heard
    codes, examples, peak = listen.recv()
    process.join()
    print(f"{pictures:>9,} pictures: codes {codes:,.0f}/s, examples {examples:,.0f}/s, {peak:,.0f} MiB",
          flush=True)  # fmt: skip
    return {"pictures": pictures, "codes_per_s": codes, "examples_per_s": examples, "peak_mib": peak}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument(
        "--pictures", type=int, help="of the studies that are built (default: 2048, quick: 512)"
    )
    add_arguments(arguments)
    given = arguments.parse_args()
    pieces = Pieces(given.keep, given.minutes)
    quick = given.quick
    warnings.simplefilter("ignore")
    number = given.pictures or (512 if quick else 2048)
    rounds = [
        pieces.piece(f"round {turn}", [number, turn], partial(studies, number))
        for turn in range(1 if quick else 3)
    ]
    figures = compared(rounds)
    sizes = (10_000, 100_000) if quick else (10_000, 100_000, 1_000_000)
    rows = [pieces.piece(f"{size:,} pictures", size, partial(grown, size)) for size in sizes]
    built = [{"built": number, "workers": name, "seconds": [one["seconds"][name] for one in rounds]}
             for name in ("1", "2", "here")]  # fmt: skip
    figures["memory_growth"] = rows[-1]["peak_mib"] / rows[0]["peak_mib"]
    for parts in (4, 16):
        figures[f"merge_ms_{parts}"] = pieces.piece("merging", parts, partial(merging, parts))
    print({name: round(value, 3) for name, value in figures.items()})
    write_results("scale", figures, [*built, *rows], quick=quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
