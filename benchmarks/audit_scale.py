"""How an audit grows, forward passes left out: synthetic activations, codes, embeddings and words, no picture decoded.

Prevalence of words follows Zipf's law, each picture shows a few words in its evaluator embedding and in its activation.
Prints processor time by stage, peak memory, and the exponent of growth along each axis, of all, of preparing and of one
prompt. Processor time of one thread: other programs on the machine do not count in it. Every size runs in a process of
its own. The full size asks `--prompts` prompts and multiplies, as prompts are independent; 1000 asks them all.
"""

from __future__ import annotations

import argparse
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from results import write_results

from clipattr.dictionaries import SparseCodes
from clipattr.discovery.audit.expectations import Prompt
from clipattr.discovery.audit.run import Ready, audit_prompt
from clipattr.discovery.audit.settings import Settings
from clipattr.sites import Site

WIDTH, EMBED, WORDS_SHOWN, NOISE = 768, 512, 3, 0.6  # the site is the embedding
SMALL = {"prompts": 20, "latents": 4_000, "pictures": 6_000, "words": 5_000, "k": 32}
FULL = {"prompts": 1_000, "latents": 30_000, "pictures": 50_000, "words": 20_000, "k": 64}


class Words(list):  # type: ignore[type-arg]
    """A vocabulary of bare words."""

    def __init__(self, words: list[str]) -> None:
        super().__init__(words)
        self.words = self.prompts = words
        self.ids = self.groups = [None] * len(words)


class Texts:
    """A model without towers: texts are known directions, pictures are never asked for."""

    def __init__(self, words: list[str], table: torch.Tensor) -> None:
        self.known, self.table = {word: n for n, word in enumerate(words)}, table
        self.asked, self.image_size = 0, (224, 224)

    def knows(self, texts: list[str], templates: Any = None) -> bool:
        return True

    def encode_text(self, texts: list[str], templates: Any = None) -> torch.Tensor:
        self.asked += len(texts)
        return torch.stack([self.table[self.known.get(text, 0)] for text in texts])


class Audited(Texts):
    """The audited side, at its embedding: what follows the site is division by the length."""

    def __init__(self, words: list[str], table: torch.Tensor) -> None:
        super().__init__(words, table)
        self.embed_dim, self.dtype, self.device = table.shape[1], torch.float32, torch.device("cpu")
        self.reference = "synthetic"

    def unit(self, features: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(features, dim=-1)


def synthetic(prompts: int, latents: int, pictures: int, words: int, k: int, seed: int = 0) -> Any:
    """A study as an audit sees one, of the stated size."""
    random = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)

    def unit(*shape: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)

    names = [f"word {n}" for n in range(words)]
    rate = 1 / (np.arange(words) + 10.0)
    shown = random.choice(words, (pictures, WORDS_SHOWN), p=rate / rate.sum())
    seen, directions, decoder = unit(words, EMBED), unit(words, WIDTH), unit(latents, WIDTH)
    acts, embeddings = np.empty((pictures, WIDTH), np.float16), np.empty((pictures, EMBED), np.float16)
    indices = torch.randint(latents, (pictures, k), generator=generator, dtype=torch.int32)
    indices[:, :WORDS_SHOWN] = torch.from_numpy(shown % latents).int()
    values = torch.rand(pictures, k, generator=generator)
    for start in range(0, pictures, 4096):
        rows = slice(start, start + 4096)
        noise = NOISE * unit(len(shown[rows]), EMBED)
        embeddings[rows] = torch.nn.functional.normalize(seen[shown[rows]].sum(1) + noise, dim=1).numpy()
        acts[rows] = (directions[shown[rows]].sum(1) + NOISE * unit(len(shown[rows]), WIDTH)).numpy()
    audited = Audited(names, directions)
    order = [f"{n:08d}" for n in range(pictures)]
    return SimpleNamespace(
        site=Site("image.embedding"), model=audited, evaluator=Texts(names, seen), manifest={},
        vocabulary=Words(names),
        vocabulary_embeddings=seen, empty_embedding=torch.zeros(EMBED),
        images=SimpleNamespace(ids=order, columns={"label": [None] * pictures,
                               "split": ["holdout" if n % 2 else "train" for n in range(pictures)]}),
        activations=acts, evaluator_embeddings=embeddings, repeats=np.zeros(pictures, dtype=bool),
        sees=np.zeros(pictures, dtype=bool), codes=SparseCodes(indices, values, latents),
        dictionary=SimpleNamespace(decoder=decoder, n_latents=latents),
        examples=SimpleNamespace(counts=torch.ones(latents), values=torch.ones(latents, 20), of=lambda latent: []),
        labels=SimpleNamespace(mean_embedding=unit(latents, EMBED)),
        seen=lambda rows: torch.from_numpy(np.asarray(embeddings[rows], dtype=np.float32)),
    )  # fmt: skip


def measure(size: dict[str, int]) -> dict[str, float]:
    """Processor seconds of each stage and peak gigabytes of one size."""
    torch.set_num_threads(1)
    study = synthetic(**size)
    names = study.vocabulary.words
    start = time.process_time()
    ready = Ready(study, Settings(budget=0))
    prepared = time.process_time()
    for name in names[5 : 5 + size["prompts"]]:
        audit_prompt(ready, Prompt(name))
    done = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"prepare": prepared - start, "asking": done - prepared, "gigabytes": peak, **size}


def apart(size: dict[str, int], times: int = 1) -> dict[str, float]:
    """`measure` in processes of its own, the quickest of several."""
    rows = []
    for _ in range(times):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rows.append(pool.submit(measure, size).result())
    best = min(rows, key=lambda row: row["prepare"] + row["asking"])
    print({name: round(value, 2) for name, value in best.items()}, flush=True)
    return best


def growth(before: dict[str, float], after: dict[str, float], axis: str) -> dict[str, float]:
    """Exponents along an axis that was doubled."""

    def of(row: dict[str, float]) -> dict[str, float]:
        return {
            "": row["prepare"] + row["asking"],
            "_prepare": row["prepare"],
            "_prompt": row["asking"] / row["prompts"],
        }

    one, other = of(before), of(after)
    return {f"exponent_{axis}{part}": float(np.log2(other[part] / one[part])) for part in one}


def at_full_size(rows: list[dict[str, float]]) -> dict[str, float]:
    """Figures at the full size, from a row of it, or from a quarter and a half of its pictures.

    Two rows grow with the exponent between them, or linearly if that is less.
    """
    row = dict(rows[-1])
    if len(rows) == 2:
        for part in ("prepare", "asking", "gigabytes"):
            row[part] *= 2 ** max(1.0, float(np.log2(rows[1][part] / rows[0][part])))
    each = row["asking"] / row["prompts"]
    return {
        "non_forward_minutes": (row["prepare"] + each * FULL["prompts"]) / 60,
        "prepare_minutes": row["prepare"] / 60,
        "seconds_a_prompt": each,
        "prompts_asked": float(row["prompts"]),
        "pictures_measured": float(rows[-1]["pictures"]),
        "peak_gigabytes": row["gigabytes"],
        "forwards_a_prompt": float(Settings().budget),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small size, and twice that along each axis")
    parser.add_argument("--prompts", type=int, default=FULL["prompts"], help="prompts asked at the full size")
    parser.add_argument(
        "--extrapolate", action="store_true", help="from a quarter and a half of the full size's pictures"
    )
    arguments = parser.parse_args()
    times = 1 if arguments.quick or arguments.extrapolate else 2
    rows = [apart(SMALL, times)]
    figures: dict[str, float] = {}
    for axis in ("prompts", "latents", "pictures", "words"):
        rows.append(apart(SMALL | {axis: 2 * SMALL[axis]}, times))
        figures |= growth(rows[0], rows[-1], axis)
    if not arguments.quick:
        parts = (4, 2) if arguments.extrapolate else (1,)
        large = [
            apart(FULL | {"prompts": arguments.prompts, "pictures": FULL["pictures"] // part})
            for part in parts
        ]
        rows += large
        figures |= at_full_size(large)
    for name, value in figures.items():
        print(f"{name:28} {value:.2f}")
    write_results("audit_scale", figures, rows, quick=arguments.quick)


if __name__ == "__main__":
    main()
