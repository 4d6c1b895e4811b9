"""What meaning costs: one pass over pictures against bare encoding, memory against their number, and other collectors.

    python benchmarks/examples.py [--quick] [--study NAME]

`semanticlens` is timed beside it where it is installed. Label accuracy needs a study of rendered scenes.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from results import write_results
from scipy.stats import spearmanr

from clipattr.dictionaries import SparseCodes, random_sae
from clipattr.encoding import encode, gather
from clipattr.images import Images
from clipattr.meaning.examples import Examples, by_latent
from clipattr.meaning.scores import Totals

LATENTS, K, M, WIDTH, EMBED = 30_000, 64, 20, 768, 512
STRONG = 0.8  # F1 from which a latent counts as having a true factor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer pictures, one repetition")
    parser.add_argument(
        "--study", default="picture-world", help="study of rendered scenes for label accuracy"
    )
    parser.add_argument("--memory-child", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_child is not None:
        stream(options.memory_child)
        return
    torch.set_grad_enabled(False)
    figures: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    for part in (pass_over_encode, memory_growth, collectors):
        found, details = part(options.quick)
        figures |= found
        rows += details
    found, details = label_accuracy(options.study)
    figures |= found
    rows += details
    for name, value in figures.items():
        print(f"{name:32s} {value:10.4f}")
    print(f"written to {write_results('examples', figures, rows, quick=options.quick)}")


def pass_over_encode(quick: bool) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The whole pass (activations, embeddings, thumbnails, codes, examples) over the loop with bare encoding."""
    import open_clip

    from clipattr.models import load_model

    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(load_model(open_clip.create_model("ViT-B-32", pretrained=None)))
    dictionary = random_sae(torch.randn(1000, WIDTH), LATENTS, K)
    n, repeats = (64, 1) if quick else (256, 5)
    ratios, rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        pictures.mkdir()
        for index in range(n):
            photograph(index).save(pictures / f"{index:05d}.jpg", quality=90)
        images = Images.open(pictures)

        def bare() -> None:
            for _, (first, second) in images.batches(models, batch=32, workers=2):
                models[0].encode_image(first)
                models[1].encode_image(second)

        def whole() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as target:
                shards = Path(target) / "shards"
                encode(images, *models, "image.-1.cls", shards, batch=32, workers=2, progress=False)
                gather(images, shards, Path(target))
                acts = np.load(Path(target) / "activations.npy")
                embeddings = np.load(Path(target) / "evaluator.npy")
                examples, totals = Examples(LATENTS, M), Totals(LATENTS, EMBED)
                for start in range(0, n, 1024):
                    codes = dictionary.encode(torch.from_numpy(acts[start : start + 1024].astype(np.float32)))
                    examples.update(codes, start)
                    totals.update(codes, embeddings[start : start + 1024])

        bare()
        for _ in range(repeats):
            # In turns, so that whatever else the machine does falls on both.
            seconds = [clock(bare), clock(whole), clock(whole), clock(bare)]
            ratios.append((seconds[1] + seconds[2]) / (seconds[0] + seconds[3]))
            rows.append({"what": "pass", "pictures": n, "bare_s": seconds[0], "whole_s": seconds[1]})
    return {"pass_over_encode": statistics.median(ratios)}, rows


def memory_growth(quick: bool) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Peak memory of collecting from 1,000,000 pictures' synthetic codes over that from 10,000, less 1."""
    sizes = (10_000, 50_000) if quick else (10_000, 1_000_000)
    peaks = []
    for size in sizes:
        call = [sys.executable, __file__, "--memory-child", str(size)]
        peaks.append(
            json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout)["peak_mb"]
        )
    rows = [
        {"what": "memory", "pictures": size, "peak_mb": peak} for size, peak in zip(sizes, peaks, strict=True)
    ]
    return {"memory_growth": peaks[1] / peaks[0] - 1}, rows


def stream(n: int) -> None:
    """Child process: collect examples and totals from n synthetic pictures, print the peak memory."""
    import resource

    examples, totals = Examples(LATENTS, M), Totals(LATENTS, EMBED)
    vectors = torch.nn.functional.normalize(torch.randn(2048, EMBED), dim=1)
    for start in range(0, n, 2048):
        size = min(2048, n - start)
        codes = synthetic(size, start)
        examples.update(codes, start)
        totals.update(codes, vectors[:size])
    print(json.dumps({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def collectors(quick: bool) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Collecting top examples from codes: ours, semanticlens' running maximum, and sorting a dense matrix."""
    batches, size = (4, 64) if quick else (24, 64)
    parts = [synthetic(size, index) for index in range(batches)]
    ids = [torch.arange(index * size, (index + 1) * size) for index in range(batches)]

    def ours() -> None:
        examples = Examples(LATENTS, M)
        for own, part in zip(ids, parts, strict=True):
            examples.update(part, indices=own)

    def dense() -> None:
        torch.cat([part.to_dense() for part in parts]).topk(min(M, batches * size), dim=0)

    timed: dict[str, Callable[[], None]] = {"ours": ours, "dense": dense}
    try:
        from semanticlens.component_visualization.activation_caching import ActMax
    except ImportError as error:
        print(
            f"No comparison with semanticlens (pip install semanticlens, best in another environment): {error}"
        )
    else:

        def peer() -> None:
            running = ActMax(M, LATENTS)
            for own, part in zip(ids, parts, strict=True):
                running.update(part.to_dense(), own)

        timed["semanticlens"] = peer
    seconds = {
        name: statistics.median(clock(call) for _ in range(1 if quick else 5)) for name, call in timed.items()
    }
    rows = [
        {"what": "collector", "name": name, "pictures": batches * size, "s": s} for name, s in seconds.items()
    ]
    figures = {f"speedup_over_{name}": s / seconds["ours"] for name, s in seconds.items() if name != "ours"}
    return figures, rows


def label_accuracy(name: str) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Share of latents with a true factor (F1 ≥ 0.8 of active against present) whose label is that factor."""
    from clipattr.errors import StudyError
    from clipattr.study import open_study

    try:
        study = open_study(name)
    except StudyError as error:
        print(f"No label accuracy: {error}")
        return {}, []
    factors = true_factors(study)
    offsets, pictures, values = by_latent(study.codes)
    latents = study.latents
    rows: list[dict[str, Any]] = []
    for latent in np.flatnonzero((study.examples.counts > 0).numpy()).tolist():
        here = slice(int(offsets[latent]), int(offsets[latent + 1]))
        active = pictures[here][values[here] > 0.25 * values[here].max()].numpy()
        factor, f1 = max(
            ((name, f1_of(active, present)) for name, present in factors.items()), key=lambda x: x[1]
        )
        label = str(latents["label"][latent])
        rows.append(
            {
                "what": "label",
                "latent": latent,
                "factor": factor,
                "f1": f1,
                "label": label,
                "right": label == factor
                or study.vocabulary.words[study.labels.word_top[latent, 0]] == factor,
                "auc": float(latents["auc"][latent]),
                "meanings": int(latents["meanings"][latent]),
                "mixture": float(latents["mixture"][latent]) if "mixture" in latents else float("nan"),
            }
        )
    true = [row for row in rows if row["f1"] >= STRONG]
    if not true:
        print(f"No latent of {name} has a true factor with F1 >= {STRONG}")
        return {}, rows
    known = [row for row in rows if row["auc"] == row["auc"]]
    return {
        "label_accuracy": float(np.mean([row["right"] for row in true])),
        "latents_with_a_true_factor": float(len(true)),
        "live_latents": float(len(rows)),
        "auc_correlation_with_right": float(
            spearmanr([row["auc"] for row in known], [row["right"] for row in known]).statistic
        ),
    }, rows


def true_factors(study: Any) -> dict[str, np.ndarray]:
    """Factor name -> rows of the pictures that show it, from the scenes."""
    found: dict[str, list[int]] = defaultdict(list)
    for record in study.images:
        scene = record.scene
        for factor in {scene.main, *scene.companions, scene.context, scene.word, scene.watermark} - {None}:
            found[str(factor)].append(record.index)
    return {name: np.asarray(rows) for name, rows in found.items()}


def f1_of(active: np.ndarray, present: np.ndarray) -> float:
    """F1 of "active" as a prediction of "present"."""
    both = len(np.intersect1d(active, present, assume_unique=True))
    return 2 * both / (len(active) + len(present))


def synthetic(size: int, seed: int) -> SparseCodes:
    """Codes with k of 30,000 latents per row; a latent may be drawn twice, which no collector minds."""
    generator = torch.Generator().manual_seed(seed)
    step = LATENTS // K
    indices = torch.arange(K) * step + torch.randint(step, (size, K), generator=generator)
    return SparseCodes(indices.int(), torch.rand(size, K, generator=generator), LATENTS)


def photograph(seed: int) -> Image.Image:
    """A picture of 500 × 375 px that costs about as much to decode as a photograph."""
    noise = np.random.default_rng(seed).integers(0, 256, (47, 63, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return Image.open(buffer)


def clock(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
