"""Misreadings: thousands of mutated checkpoints, each to be read as its publisher's code reads it, or refused.

    python benchmarks/misreadings.py [--quick] [--files N] [--seed S]

Files of every format are changed in one or two places: tensors renamed, transposed, dropped, added, retyped,
exchanged or cut; settings changed, dropped, renamed or added. The truth of a mutated file is its publisher's formula,
written again in float64 numpy (tests/dictionaries/publishers.py). Codes and reconstructions must agree to a relative
1e-5 (1e-3 where tensors were stored in half precision), and the site must be the one that the file names. The exit
status is 1 if a file was misread or a reader crashed.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter, defaultdict
from pathlib import Path

from results import write_results

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "hostile"))


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--files", type=int, default=2000)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--quick", action="store_true", help="200 files, nothing written")
    told = arguments.parse_args()
    warnings.simplefilter("ignore")
    import mutations
    import numpy as np
    import torch

    count = 200 if told.quick else told.files
    by_mutation: dict[str, Counter[str]] = defaultdict(Counter)
    total: Counter[str] = Counter()
    wrong = []
    for number, (case, names, verdict) in enumerate(mutations.verdicts(count, told.seed)):
        answer = verdict if verdict in ("right", "refused") else "misread"
        total[answer] += 1
        for name in names:
            by_mutation[name][answer] += 1
        if answer == "misread":
            wrong.append(f"{case} ({', '.join(names)}): {verdict}")
            print(f"file {number}, seed {told.seed}: {wrong[-1]}", flush=True)
    largest, formats = 0.0, set()
    for case in mutations.CASES.values():
        z, recon, _ = case.truth()
        largest = max(largest, formula_difference(case, z, recon, np, torch, mutations))
        formats.add(case.format)
    rows = [
        {"mutation": name, **{answer: counts[answer] for answer in ("right", "refused", "misread")}}
        for name, counts in sorted(by_mutation.items())
    ]
    for row in rows:
        print(
            f"{row['mutation']:20s} right {row['right']:5d}  refused {row['refused']:5d}  misread {row['misread']:3d}"
        )
    figures = {
        "files": count, "right": total["right"], "refused": total["refused"], "misread": total["misread"],
        "cases": len(mutations.CASES), "formats": len(formats), "largest_formula_difference": largest,
    }  # fmt: skip
    print(figures)
    if not told.quick:
        write_results("misreadings", figures, rows)
    return 1 if wrong or largest > mutations.TOLERANCE else 0


def formula_difference(case, z, recon, np, torch, mutations) -> float:
    """Largest relative difference of codes and reconstruction of the unchanged file from its publisher's formula."""
    import tempfile

    x = torch.from_numpy(mutations.X)
    with tempfile.TemporaryDirectory() as folder:
        made = mutations.load_sae(case.write(Path(folder) / "file"), **case.keywords)
        codes = made.encode(x)
    pairs = ((codes.to_dense().numpy(), z), (made.decode(codes).numpy(), recon))
    return max(float(np.linalg.norm(got - expected) / np.linalg.norm(expected)) for got, expected in pairs)


if __name__ == "__main__":
    sys.exit(main())
