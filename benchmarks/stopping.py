"""Errors of stopping a text insertion early: simulated prompts whose true rise is known.

    python benchmarks/stopping.py [--quick]

A prompt's rise over the bare picture and over other words are drawn together, with a given mean and distribution, and
tested after 36 pictures, or with looks after 8 and 16 at which it may be given up. Rises are in units of their
deviation over pictures, above the least rise. Given up: at a mean for which the final test has an even chance. Lost:
largest probability, over all means, that the final test would hold and the prompt was given up. False: probability that
the final test holds although neither rise is above the least. Pictures: mean number where nothing rises.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from results import write_results
from scipy.stats import t as student

from clipattr.discovery.audit.settings import Settings
from clipattr.discovery.audit.stopping import CONFIDENCE, even_chance, looks_of

SETTINGS = Settings()
PICTURES, LOOKS = SETTINGS.inserted, looks_of(SETTINGS.first, SETTINGS.inserted)
SHARED = 0.5  # correlation of the two rises
MEANS = np.round(np.arange(-0.5, 1.51, 0.125), 3)
FORMS = ("normal", "heavy tails", "skewed up", "skewed down")


def drawn(form: str, prompts: int, random: np.random.Generator) -> np.ndarray:
    """(prompts, pictures, 2) noise of mean 0 and deviation 1."""
    mixed = np.array([[1.0, 0.0], [SHARED, math.sqrt(1 - SHARED**2)]])
    shape = (prompts, PICTURES, 2)
    if form == "normal":
        noise = random.standard_normal(shape)
    elif form == "heavy tails":
        noise = random.standard_t(4, shape) / math.sqrt(2)
    else:
        noise = (random.exponential(size=shape) - 1) * (1 if form == "skewed up" else -1)
    return noise @ mixed.T


def tested(rises: np.ndarray, error: float) -> tuple[np.ndarray, np.ndarray]:
    """Whether the final test of each prompt holds, and after how many pictures it ends; rises are over the least."""

    def statistic(some: np.ndarray) -> np.ndarray:
        return some.mean(1) / some.std(1, ddof=1) * math.sqrt(some.shape[1])

    holds = (statistic(rises) >= student.ppf(CONFIDENCE, PICTURES - 1)).all(1)
    spent = np.full(len(rises), PICTURES)
    for look in reversed(LOOKS):
        low = statistic(rises[:, :look]) < even_chance(look, PICTURES, error / len(LOOKS) / 2)
        spent[low.any(1)] = look
    return holds, spent


def simulated(form: str, prompts: int, error: float, seed: int = 0) -> dict[str, float | str]:
    """One row: what stopping costs and saves under one distribution."""
    noise = drawn(form, prompts, np.random.default_rng(seed))
    even = float(student.ppf(CONFIDENCE, PICTURES - 1)) / math.sqrt(PICTURES)
    lost = []
    for mean in (*MEANS, even):
        holds, spent = tested(noise + mean, error)
        lost.append(float((holds & (spent < PICTURES)).mean()))
    _, at_even = tested(noise + even, error)
    holds, none = tested(noise, error)
    return {
        "distribution": form, "error": error, "given_up": float((at_even < PICTURES).mean()), "lost": max(lost),
        "false_fixed": float(holds.mean()), "false": float((holds & (none == PICTURES)).mean()),
        "pictures": float(none.mean()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a twentieth of the prompts")
    quick = parser.parse_args().quick
    rows = []
    for error in (0.01, SETTINGS.given_up, 0.1):
        for form in FORMS:
            rows.append(simulated(form, 1_000 if quick else 20_000, error))
            print(rows[-1], flush=True)
    chosen = [row for row in rows if row["error"] == SETTINGS.given_up]
    figures = {
        f"{name}_{str(row['distribution']).replace(' ', '_')}": float(row[name])
        for row in chosen
        for name in ("given_up", "lost", "false", "pictures")
    }
    write_results("stopping", figures, rows, quick=quick)


if __name__ == "__main__":
    main()
