"""Growth of an audit's cost without forward passes: synthetic activations, codes, embeddings and words.

Prevalence of words follows Zipf's law. Each picture shows a few words in its evaluator embedding, its activation and
its codes; a word often comes with a companion on which the audited model's text of it relies, so that prompts have
candidates, families and findings. Prints processor time by stage, peak memory, and the exponent of growth along each
axis, fitted to three sizes. Memory is the process's own at its peak while it audits; with files it includes what is
mapped from disk, which the system may drop, and the making of the study. Processor time is of one thread: other
programs on the machine do not count in it. Every size runs in a process of its own. `--million 100` adds a quarter of a
million and a million pictures, memory-mapped, with 100 prompts, whose time is multiplied to that of 1,000.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from memory import Private, peak_mb
from results import write_results

from clipattr.dictionaries import SparseCodes
from clipattr.discovery.audit.expectations import Prompt
from clipattr.discovery.audit.run import Ready, audit_prompt
from clipattr.discovery.audit.settings import Settings
from clipattr.meaning import Vocabulary
from clipattr.sites import Site
from clipattr.statistics import auc

WIDTH, EMBED, WORDS_SHOWN, NOISE = 768, 512, 3, 0.6  # the site is the embedding
COMPANIONS = 2_000  # commonest words, among which every word's companion is
OFTEN = 0.5  # share of a word's pictures that show its companion
RELIANCE = 0.4  # of a prompt's text on its companion's direction
SMALL = {"prompts": 40, "latents": 7_500, "pictures": 12_500, "words": 5_000, "k": 64}
TIMES = (2, 4)  # of the small size along each axis
MILLION = 1_000_000  # pictures
FULL = {"prompts": 1_000, "latents": 30_000, "pictures": 50_000, "words": 20_000, "k": 64}


class Texts:
    """A model without towers: texts are known directions, and no picture is read."""

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


def companion(word: np.ndarray) -> np.ndarray:
    """The word that a word often comes with, and on which the audited model's text of it relies."""
    return (3 * word + 1) % COMPANIONS


def codes_of(shown: np.ndarray, latents: int, k: int, random: np.random.Generator) -> tuple[Any, Any]:
    """Indices and values of a block's codes: the latents of the words shown, and others that fire weakly."""
    indices = random.integers(latents, size=(len(shown), k), dtype=np.int32)
    values = random.uniform(0.05, 0.3, indices.shape).astype(np.float32)
    indices[:, :WORDS_SHOWN], values[:, :WORDS_SHOWN] = shown % latents, random.normal(1, 0.1, shown.shape)
    order = indices.argsort(1, kind="stable")
    indices, values = np.take_along_axis(indices, order, 1), np.take_along_axis(values, order, 1)
    values[:, 1:][indices[:, 1:] == indices[:, :-1]] = 0.0  # a latent fires once in a picture
    return torch.from_numpy(indices), torch.from_numpy(values)


def synthetic(
    prompts: int, latents: int, pictures: int, words: int, k: int, folder: str, seed: int = 0
) -> Any:
    """A study as an audit sees one, of the stated size; activations and embeddings lie on disk, as in a study."""
    random = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)

    def unit(*shape: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)

    def on_disk(name: str, width: int) -> np.ndarray:
        return np.lib.format.open_memmap(f"{folder}/{name}.npy", "w+", np.float16, (pictures, width))

    names = [f"word {n}" for n in range(words)]
    rate = 1 / (np.arange(words) + 10.0)
    shown = random.choice(words, (pictures, WORDS_SHOWN), p=rate / rate.sum())
    beside = random.random(pictures) < OFTEN
    shown[beside, 1] = companion(shown[beside, 0]) % words
    seen, directions, decoder = unit(words, EMBED), unit(words, WIDTH), unit(latents, WIDTH)
    decoder[: min(words, latents)] = directions[:latents]
    acts, embeddings = on_disk("activations", WIDTH), on_disk("evaluator", EMBED)
    codes = torch.empty(pictures, k, dtype=torch.int32), torch.empty(pictures, k)
    for start in range(0, pictures, 4096):
        some = shown[start : start + 4096]
        rows = slice(start, start + len(some))
        noise = NOISE * unit(len(some), EMBED)
        embeddings[rows] = torch.nn.functional.normalize(seen[some].sum(1) + noise, dim=1).numpy()
        acts[rows] = (directions[some].sum(1) + NOISE * unit(len(some), WIDTH)).numpy()
        for whole, part in zip(codes, codes_of(some, latents, k, random), strict=True):
            whole[rows] = part
    texts = directions + RELIANCE * directions[companion(np.arange(words)) % words]
    audited = Audited(names, torch.nn.functional.normalize(texts, dim=1))
    order = [f"{n:08d}" for n in range(pictures)]
    return SimpleNamespace(
        site=Site("image.embedding"), model=audited, evaluator=Texts(names, seen), manifest={},
        vocabulary=Vocabulary(names),
        vocabulary_embeddings=seen, empty_embedding=torch.zeros(EMBED),
        images=SimpleNamespace(ids=order, columns={"label": [names[n] for n in shown[:, 0].tolist()],
                               "split": ["holdout" if n % 2 else "train" for n in range(pictures)]}),
        activations=acts, evaluator_embeddings=embeddings, repeats=np.zeros(pictures, dtype=bool),
        had=np.zeros(pictures, dtype=bool), codes=SparseCodes(*codes, latents),
        dictionary=SimpleNamespace(decoder=decoder, n_latents=latents),
        examples=SimpleNamespace(counts=torch.ones(latents), values=torch.ones(latents, 20), of=lambda latent: []),
        labels=SimpleNamespace(
            mean_embedding=unit(latents, EMBED), word_top=torch.arange(latents)[:, None] % words,
            aligned=torch.ones(latents, dtype=torch.bool),
        ),
        seen=lambda rows: torch.from_numpy(np.asarray(embeddings[rows], dtype=np.float32)),
    )  # fmt: skip


def word_auc(study: Any) -> float:
    """Mean AUC of the evaluator's similarities as predictors of the pictures that show a word."""
    rows = np.arange(min(len(study.activations), 20_000))
    seen, labels = study.seen(rows), np.array(study.images.columns["label"])[rows]
    words = [study.vocabulary.words[n] for n in range(5, 55)]
    scores = (seen @ study.evaluator.encode_text(words).T).numpy()
    found = [auc(scores[:, n], labels == word) for n, word in enumerate(words) if (labels == word).any()]
    return float(np.mean(found))


def measure(size: dict[str, int]) -> dict[str, float]:
    """Processor seconds of each stage and peak gigabytes of one size."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        study = synthetic(**size, folder=folder)
        names, told = study.vocabulary.words, word_auc(study)
        with Private() as private:
            start = time.process_time()
            ready = Ready(study, Settings(budget=0))
            prepared = time.process_time()
            audited = [audit_prompt(ready, Prompt(name)) for name in names[5 : 5 + size["prompts"]]]
            done = time.process_time()
    return {
        "prepare": prepared - start, "asking": done - prepared, "gigabytes": private.peak_mb / 1024,
        "with_files": peak_mb() / 1024, "word_auc": told, "findings": sum(len(one.findings) for one in audited), **size,
    }  # fmt: skip


def apart(size: dict[str, int]) -> dict[str, float]:
    """`measure` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        row = pool.submit(measure, size).result()
    print({name: round(value, 3) for name, value in row.items()}, flush=True)
    return row


def in_all(row: dict[str, float], axis: str) -> float:
    """Seconds of everything; of as many prompts as the full size has, unless prompts are the axis."""
    prompts = row["prompts"] if axis == "prompts" else FULL["prompts"]
    return row["prepare"] + row["asking"] / row["prompts"] * prompts


def exponent(rows: list[dict[str, float]], axis: str) -> dict[str, float]:
    """Slope of log time over log size, fitted to all rows of an axis: of everything, of preparing, of one prompt."""

    def slope(times: list[float]) -> float:
        return float(np.polyfit(np.log([row[axis] for row in rows]), np.log(times), 1)[0])

    return {
        f"exponent_{axis}": slope([in_all(row, axis) for row in rows]),
        f"exponent_{axis}_prepare": slope([row["prepare"] for row in rows]),
        f"exponent_{axis}_prompt": slope([row["asking"] / row["prompts"] for row in rows]),
    }


def figures_of(row: dict[str, float], name: str = "") -> dict[str, float]:
    """Figures of one large row; its prompts count as often as the full size has prompts."""
    each = row["asking"] / row["prompts"]
    return {
        f"{name}non_forward_minutes": (row["prepare"] + each * FULL["prompts"]) / 60,
        f"{name}prepare_minutes": row["prepare"] / 60,
        f"{name}seconds_a_prompt": each,
        f"{name}prompts_asked": float(row["prompts"]),
        f"{name}peak_gigabytes": row["gigabytes"],
        f"{name}peak_gigabytes_with_files": row["with_files"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--prompts", type=int, default=FULL["prompts"], help="prompts asked at the full size")
    parser.add_argument(
        "--million", type=int, default=0, metavar="N", help="also a million pictures, N prompts"
    )
    arguments = parser.parse_args()
    small = {axis: max(1, n // (8 if arguments.quick else 1)) for axis, n in SMALL.items()}
    rows: list[dict[str, float]] = [apart(small)]
    figures: dict[str, float] = {}
    for axis in ("prompts", "latents", "pictures", "words"):
        some = [rows[0], *(apart(small | {axis: times * small[axis]}) for times in TIMES)]
        figures |= exponent(some, axis)
        rows += some[1:]
    figures["word_auc"] = rows[0]["word_auc"]
    if not arguments.quick:
        full = apart(FULL | {"prompts": arguments.prompts})
        rows.append(full)
        figures |= figures_of(full) | {"forwards_a_prompt": float(Settings().budget)}
    if arguments.million:
        large = [apart(FULL | {"prompts": arguments.million, "pictures": n}) for n in (MILLION // 4, MILLION)]
        rows += large
        figures |= figures_of(large[-1], "million_")
        figures |= {f"large_{name}": value for name, value in exponent([full, *large], "pictures").items()}
    for name, value in figures.items():
        print(f"{name:32} {value:.2f}")
    write_results("audit_scale", figures, rows, quick=arguments.quick)


if __name__ == "__main__":
    main()
