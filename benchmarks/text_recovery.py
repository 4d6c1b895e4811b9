"""Recovery of words by text latents: F1 of each word's best latent on captions on which it was not chosen.

Captions name one or two words of the world. A dictionary is trained on the text activations of half of them; each
word's latent is the one that predicts best which of these captions name the word, at its best threshold.
F1 is then measured on the other half. Beside it, on the same halves: a ridge regression a word (what is linearly
there), and the same dictionary shape untrained (what chance gives).

    python benchmarks/text_recovery.py [--quick]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from results import write_results
from torch import Tensor

import clipattr as ca
from clipattr.dictionaries import TopK

FORMS = ("a photo of a {} with a {}", "{} and {}", "a picture of a {} next to a {}")
STUDIES = ("picture-world-b", "picture-world-c")  # K was chosen on picture-world
SITES = ("text.-1.eot", "text.embedding")
PER_WORD, LATENTS, K, STEPS = 40, 512, 4, 4000
RIDGE = 0.1  # share of the mean variance added to the regressions' diagonal
FOUND = 0.7  # F1 from which a word counts as having a latent
LEVELS = 12  # thresholds tried for a word's score


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one study, one site, fewer captions and steps")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    rows = []
    for name in STUDIES[: 1 if arguments.quick else None]:
        model = ca.open_study(name).model
        words = [word for word in ca.open_study(name).vocabulary.words if " " not in word]
        captions, named = written(words, 10 if arguments.quick else PER_WORD)
        for site in SITES[: 1 if arguments.quick else None]:
            made = recovered(model, site, captions, named, 300 if arguments.quick else STEPS)
            rows += [{"study": name, "site": site, "way": way, "word": word, "f1": float(value)}
                     for way, values in made.items() for word, value in zip(words, values, strict=True)]  # fmt: skip
    figures = {"seconds": time.perf_counter() - begun}
    for site in SITES:
        for way in ("latents", "probes", "untrained"):
            values = np.array([row["f1"] for row in rows if (row["site"], row["way"]) == (site, way)])
            values = values[~np.isnan(values)]  # a word that no caption of one half names tells nothing
            if len(values):
                stem = f"{site.removeprefix('text.').replace('-1.', '')}_{way}"
                figures |= {
                    f"{stem}_f1": float(np.median(values)),
                    f"{stem}_f1_70": float((values >= FOUND).mean()),
                    f"{stem}_words": len(values),
                }
    for figure, value in figures.items():
        print(f"{figure:28} {value:.3f}")
    write_results("text_recovery", figures, rows, quick=arguments.quick)


def written(words: list[str], per_word: int) -> tuple[list[str], Tensor]:
    """Captions, each with its one or two words, and (captions, words) bool."""
    rng = np.random.default_rng(0)
    captions, named = [], []
    for number in range(per_word * len(words) // 2):
        one, two = rng.choice(len(words), 2, replace=False).tolist()
        alone = number % 4 == 0
        form = "a photo of a {}" if alone else FORMS[number % len(FORMS)]
        captions.append(form.format(*([words[one]] if alone else [words[one], words[two]])))
        there = torch.zeros(len(words), dtype=torch.bool)
        there[[one] if alone else [one, two]] = True
        named.append(there)
    return captions, torch.stack(named)


def recovered(
    model: ca.Model, site: str, captions: list[str], named: Tensor, steps: int
) -> dict[str, Tensor]:
    """F1 of every word, (words,), by each way, on the odd captions; everything is fitted on the even ones."""
    sae = ca.train_text_sae(
        model,
        captions[::2],
        site=site,
        templates=("{}",),
        n_latents=LATENTS,
        k=K,
        steps=steps,
        progress=False,
    )
    with torch.no_grad():
        acts = torch.cat(
            [
                ca.activations(model, captions[at : at + 256], site).float()
                for at in range(0, len(captions), 256)
            ]
        )
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(LATENTS, acts.shape[1]), dim=1)
    chance = TopK(k=K, decoder=rows, encoder=rows, site=site, model_hash=model.weights_hash)
    centred = (acts - acts[::2].mean(0)).double()
    first, there = centred[::2], named[::2].double() - named[::2].double().mean(0)
    spread = first.T @ first
    ridge = RIDGE * spread.diagonal().mean() * torch.eye(len(spread), dtype=torch.float64)
    probes = torch.linalg.solve(spread + ridge, first.T @ there)
    return {
        "latents": told(sae.encode(acts).to_dense(), named),
        "probes": told((centred @ probes).float(), named, own=True),
        "untrained": told(chance.encode(acts).to_dense(), named),
    }


def told(scores: Tensor, named: Tensor, own: bool = False) -> Tensor:
    """F1 (words,) of the best column for each word (its own one with `own`) at the best level, both from even rows."""
    first, last, found = scores[::2], scores[1::2], []
    for word in range(named.shape[1]):
        there, later = named[::2, word], named[1::2, word]
        if not there.any() or not later.any():
            found.append(float("nan"))
            continue
        columns = [word] if own else (first[there].mean(0) - first.mean(0)).topk(8).indices.tolist()
        best, place = -1.0, (0, 0.0)
        for column in columns:
            levels = (
                first[there, column]
                .quantile(torch.linspace(0, 0.9, LEVELS))
                .clamp_min(1e-6 if not own else -1e9)
            )
            for level in levels.tolist():
                value = f1(first[:, column] >= level, there)
                if value > best:
                    best, place = value, (column, level)
        found.append(f1(last[:, place[0]] >= place[1], later))
    return torch.tensor(found)


def f1(said: Tensor, true: Tensor) -> float:
    """2 hits over (said + true)."""
    return 2 * float((said & true).sum()) / max(1.0, float(said.sum() + true.sum()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
