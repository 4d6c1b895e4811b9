"""Cost of examples and labels: one pass over pictures against bare encoding, memory, and other collectors.

    python benchmarks/examples.py [--quick] [--study NAME] [--only PART]

`semanticlens` is timed beside it where it is installed (its requirements differ from ours: best in an environment of
its own); its activations are bfloat16, ours float32. Labels are compared with the factors of the bundled scenes: is a
latent that fires on one factor labelled with its name, and do validation and scores tell right labels and latents that
mix factors?
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
from memory import peak_mb
from PIL import Image
from results import FOLDER, write_results
from scipy.stats import spearmanr

from clipattr.dictionaries import SparseCodes, random_sae
from clipattr.images.collection import Images
from clipattr.meaning.examples import Examples, by_latent
from clipattr.meaning.scores import Totals
from clipattr.statistics import auc
from clipattr.studies.encode import collect_activations
from clipattr.studies.join import join

LATENTS, K, M, WIDTH, EMBED = 30_000, 64, 20, 768, 512
LONGEST = 240  # seconds after which the pass is not repeated again
COMMON = 20  # pictures that must show a factor: as many as a latent has examples
STRONG = 0.8  # F1 from which a latent counts as having a true factor
TOLD = 0.6  # F1 that one or two factors must reach for it to be known whether a latent mixes
GAIN = 0.1  # what a second factor must add to F1 for a latent to count as mixing two
PARTS = ("pass", "memory", "collectors", "labels")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer pictures, one repetition")
    parser.add_argument("--study", default=None, help="one study of rendered scenes, not all bundled ones")
    parser.add_argument("--only", choices=PARTS, help="one part; what was written of the others is kept")
    parser.add_argument("--memory-child", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_child is not None:
        stream(options.memory_child)
        return
    torch.set_grad_enabled(False)
    figures: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    parts: dict[str, Callable[[], tuple[dict[str, float], list[dict[str, Any]]]]] = {
        "pass": lambda: pass_over_encode(options.quick),
        "memory": lambda: memory_growth(options.quick),
        "collectors": lambda: collectors(options.quick),
        "labels": lambda: labels(bundled() if options.study is None else [options.study]),
    }
    for name in PARTS if options.only is None else (options.only,):
        found, details = parts[name]()
        figures |= found
        rows += details
    for name, value in figures.items():
        print(f"{name:42s} {value:10.4f}")
    if options.only is not None:
        figures, rows = with_the_others(options.only, figures, rows, quick=options.quick)
    print(f"written to {write_results('examples', figures, rows, quick=options.quick)}")


def with_the_others(
    part: str, figures: dict[str, float], rows: list[dict[str, Any]], *, quick: bool
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Results of an earlier run for the other parts, and of this run for its own."""
    file = FOLDER / ("examples.quick.json" if quick else "examples.json")
    if not file.exists():
        return figures, rows
    old = json.loads(file.read_text(encoding="utf-8"))
    kept = {name: value for name, value in old["figures"].items() if part_of(name) != part}
    return kept | figures, [row for row in old["rows"] if row["what"] != part] + rows


def part_of(figure: str) -> str:
    """The part that a figure belongs to."""
    for start, part in (("pass_", "pass"), ("memory_", "memory"), ("speedup_", "collectors")):
        if figure.startswith(start):
            return part
    return "labels"


def pass_over_encode(quick: bool) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The whole pass (activations, embeddings, thumbnails, codes, examples) over the loop with bare encoding.

    By the clock, and by the processor time of all threads, which other work on the machine disturbs less.
    """
    import open_clip

    from clipattr.models.loading import load_model

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
                store = collect_activations(
                    models[0], images, "image.-1.cls", shards, evaluator=models[1], batch=32, progress=False
                )
                join(images, store, store, Path(target), single=True)
                acts = np.load(Path(target) / "activations.npy")
                embeddings = np.load(Path(target) / "evaluator.npy")
                examples, totals = Examples(LATENTS, M), Totals(LATENTS, EMBED)
                for start in range(0, n, 1024):
                    codes = dictionary.encode(torch.from_numpy(acts[start : start + 1024].astype(np.float32)))
                    examples.update(codes, start)
                    totals.update(codes, embeddings[start : start + 1024])

        bare()
        work, begun = [], time.perf_counter()
        for _ in range(repeats):
            if time.perf_counter() - begun > LONGEST:
                break
            # In turns, so that whatever else the machine does falls on both.
            both = [measured(call) for call in (bare, whole, whole, bare)]
            ratios.append((both[1][0] + both[2][0]) / (both[0][0] + both[3][0]))
            work.append((both[1][1] + both[2][1]) / (both[0][1] + both[3][1]))
            print(f"pass over encode {ratios[-1]:.3f}, by processor time {work[-1]:.3f}", flush=True)
            rows.append({"what": "pass", "pictures": n, "seconds_in_turn": [seconds for seconds, _ in both],
                         "processor_seconds_in_turn": [seconds for _, seconds in both]})  # fmt: skip
    figures = {
        "pass_over_encode": statistics.median(ratios),
        "pass_over_encode_by_processor_time": statistics.median(work),
    }
    return figures, rows


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
    examples, totals = Examples(LATENTS, M), Totals(LATENTS, EMBED)
    vectors = torch.nn.functional.normalize(torch.randn(2048, EMBED), dim=1)
    for start in range(0, n, 2048):
        size = min(2048, n - start)
        codes = synthetic(size, start)
        examples.update(codes, start)
        totals.update(codes, vectors[:size])
    print(json.dumps({"peak_mb": peak_mb()}))


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
        {"what": "collectors", "name": name, "pictures": batches * size, "s": s}
        for name, s in seconds.items()
    ]
    figures = {f"speedup_over_{name}": s / seconds["ours"] for name, s in seconds.items() if name != "ours"}
    return figures, rows


def bundled() -> list[str]:
    """The bundled studies that are there."""
    from clipattr_data import studies_dir
    from clipattr_data.build import STUDIES

    return [name for name in STUDIES if (studies_dir() / name / "study.json").exists()]


def labels(studies: list[str]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Labels against true factors, pooled over studies and for each of them.

    A latent has a true factor if "more active than some bound" predicts "the picture shows it" with an F1 of at least
    0.8, for the bound that suits best; `label_accuracy` is the share of those whose label names the factor.
    `auc_correlation_with_right` is the rank correlation of the validation AUC with being right, `auc_auroc` how well it
    tells right labels from wrong ones, both over all live latents. A latent mixes if two factors together reach 0.6 and
    0.1 more than either alone; it is pure if one factor reaches 0.6 and a second adds less than 0.05. `mixture_auroc`,
    `meanings_auroc` and `small_margin_auroc` are the areas under the ROC curve by which these numbers separate the two
    sorts. Rows are kept of latents with a true factor and of those that mix.
    """
    from clipattr.errors import StudyError
    from clipattr.studies.study import open_study

    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    for name in studies:
        try:
            own = judged(open_study(name), name)
        except StudyError as error:
            print(f"No label accuracy: {error}")
            continue
        rows += own
        figures |= {f"{key}_{name}": value for key, value in summary(own).items() if key in PER_STUDY}
    telling = [row for row in rows if row["f1"] >= STRONG or row["mixes"]]
    return (summary(rows) | figures if rows else {}), telling


PER_STUDY = ("label_accuracy", "latents_with_a_true_factor", "auc_auroc", "auc_correlation_with_right")


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The figures of `labels`; NaN where there is nothing to compare."""
    true = [row for row in rows if row["f1"] >= STRONG]
    mixed = [row for row in rows if row["mixes"]]
    pure = [row for row in rows if row["f1"] >= TOLD and row["f1_of_two"] < row["f1"] + GAIN / 2]
    known = [row for row in rows if row["auc"] == row["auc"]]
    right = [bool(row["right"]) for row in known]
    auc = [row["auc"] for row in known]
    varied = len(set(right)) == 2
    return {
        "label_accuracy": float(np.mean([row["right"] for row in true])) if true else float("nan"),
        "latents_with_a_true_factor": float(len(true)),
        "live_latents": float(len(rows)),
        "auc_correlation_with_right": float(spearmanr(auc, right).statistic) if varied else float("nan"),
        "auc_auroc": auroc(
            [a for a, r in zip(auc, right, strict=True) if r],
            [a for a, r in zip(auc, right, strict=True) if not r],
        ),
        "mixing_latents": float(len(mixed)),
        "mixture_auroc": auroc([row["mixture"] for row in mixed], [row["mixture"] for row in pure]),
        "meanings_auroc": auroc([row["meanings"] for row in mixed], [row["meanings"] for row in pure]),
        "two_words_name_mixing": float(np.mean([row["two_right"] for row in mixed]))
        if mixed
        else float("nan"),
        "small_margin_auroc": auroc([row["margin"] for row in pure], [row["margin"] for row in mixed]),
    }


def auroc(high: list[float], low: list[float]) -> float:
    """Chance that one of the first is larger than one of the second, ties half; NaN without either."""
    if not high or not low:
        return float("nan")
    return auc(np.array(high + low), np.arange(len(high) + len(low)) < len(high))


def judged(study: Any, name: str) -> list[dict[str, Any]]:
    """One row per live latent: its best factor, whether its label names it, and what the scores say."""
    factors = true_factors(study)
    names = list(factors)
    present = np.stack([factors[factor] for factor in names]).astype(np.float32)
    offsets, pictures, values = by_latent(study.codes)
    latents = study.latents
    rows = []
    for latent in np.flatnonzero((study.examples.counts > 0).numpy()).tolist():
        here = slice(int(offsets[latent]), int(offsets[latent + 1]))
        ranked = pictures[here][values[here].argsort(descending=True, stable=True)].numpy()
        f1 = best_f1(present, ranked)
        best = int(f1.argmax())
        one, two = np.triu_indices(12, 1)
        few = np.argsort(-f1, kind="stable")[:12]
        both = best_f1(np.maximum(present[few[one]], present[few[two]]), ranked)
        together, pair = float(both.max()), [few[side[both.argmax()]] for side in (one, two)]
        first_two = {study.vocabulary.words[word] for word in study.labels.word_top[latent, :2]}
        words = {str(latents["label"][latent]), study.vocabulary.words[study.labels.word_top[latent, 0]]}
        rows.append(
            {
                "what": "labels",
                "study": name,
                "latent": latent,
                "factor": names[best][1],
                "f1": float(f1[best]),
                "f1_of_two": together,
                "mixes": bool(together >= max(TOLD, f1[best] + GAIN)),
                "factors_of_two": [names[place][1] for place in pair],
                "label": str(latents["label"][latent]),
                "two_right": all(first_two & right_names(*names[place]) for place in pair),
                "right": bool(words & right_names(*names[best])),
                "aligned": bool(latents["aligned"][latent]),
                "auc": float(latents["auc"][latent]),
                "margin": float(latents["margin"][latent]),
                "meanings": int(latents["meanings"][latent]),
                "mixture": float(latents["mixture"][latent]),
            }
        )
    return rows


def true_factors(study: Any) -> dict[tuple[str, str], np.ndarray]:
    """(what it is, its name) -> (pictures,) bool: which pictures show it, from the scenes.

    An object is the same factor as main object and as companion. Any writing and any watermark count as factors too.
    Factors that fewer than 20 pictures show are left out: a single picture is easily told by some bound.
    """
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for record in study.images:
        scene = record.scene
        shown = {("object", str(name)) for name in (scene.main, *scene.companions) if name}
        for kind in ("context", "word", "watermark"):
            factor = getattr(scene, kind)
            if factor:
                shown.add((kind, str(factor)))
                if kind != "context":
                    shown.add((kind, "any"))
        for factor in shown:
            found[factor].append(record.index)
    masks = {}
    for factor, rows in found.items():
        if len(rows) < COMMON:
            continue
        masks[factor] = np.zeros(len(study.images), dtype=bool)
        masks[factor][rows] = True
    return masks


def right_names(kind: str, name: str) -> set[str]:
    """What a factor may be called: words and watermarks have one name in the vocabulary for all of their kind."""
    from clipattr_data.world import WRITING

    return {name} | {"word": {WRITING}, "watermark": {"a watermark"}}.get(kind, set())


def best_f1(present: np.ndarray, ranked: np.ndarray) -> np.ndarray:
    """(factors,) F1 of "more active than a bound" as a prediction of each row of `present`, at its best bound.

    Args:
        present: (factors, pictures) of 0 and 1; ranked: the pictures with the latent active, strongest first.
    """
    hits = present[:, ranked].cumsum(1)
    chosen = np.arange(1, len(ranked) + 1)
    return (2 * hits / (chosen + present.sum(1, keepdims=True))).max(1)


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
    return measured(call)[0]


def measured(call: Callable[[], None]) -> tuple[float, float]:
    """Seconds that passed, and seconds that this process computed on all of its threads."""
    start, work = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - work


if __name__ == "__main__":
    main()
