"""Whether likeness separates two looks of one name from two senses of it: do objects of one group look or read alike?

Worlds plant *another look* as two concepts of one group and *another sense* as two of different groups. For all pairs
of a world's concepts, this measures the area under the ROC curve by which one value tells pairs of one group from
others: the cosine of their mean pictures (evaluator's embeddings, the audited model's, its activations), the cosine of
their texts, and how much of one word the evaluator sees in the other's pictures. 0.5 is chance.

    python benchmarks/kinship.py --out OUT --photos PHOTOS [--only WORLD …]    # OUT: what `worlds.py study` wrote
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
FEW = 8  # pictures of a concept


def areas(world: Any, study: Any) -> dict[str, float]:
    """Area of every value in one world."""
    import numpy as np
    import torch

    from clipattr.discovery.audit.base import Base
    from clipattr.statistics import auc

    base, words = Base.of(study), list(study.vocabulary.words)
    group = {name: world.group[concept] for concept, name in world.concepts.items()}
    halves, rows, seen, kept = (base.finding, base.measuring), [], [], []
    for number, word in enumerate(words):
        main = [(base.main_words(half)[0] == number).numpy() for half in halves]
        if word in group and sum(some.sum() for some in main) >= FEW:
            kept.append(number)
            rows.append(np.concatenate([half.rows[some] for half, some in zip(halves, main, strict=True)]))
            seen.append(
                np.concatenate(
                    [half.seen[some].toarray() for half, some in zip(halves, main, strict=True)]
                ).mean(0)
            )
    pairs = np.triu_indices(len(kept), 1)
    same = np.array([group[words[kept[i]]] == group[words[kept[j]]] for i, j in zip(*pairs, strict=True)])

    def told(likeness: Any) -> float:
        return float(auc(np.asarray(likeness)[pairs], same))

    found = {}
    for name, embed in (
        ("evaluator_pictures", lambda some: base.concepts.centred(study.seen(some))),
        ("audited_pictures", base.audited),
        ("activations", base.acts),
    ):
        means = torch.stack([embed(some).float().mean(0) for some in rows])
        means = torch.nn.functional.normalize(means - means.mean(0), dim=1)
        found[name] = told(means @ means.T)
    texts = base.concepts.words[kept]
    found["texts"] = told(texts @ texts.T)
    weights = np.stack(seen)[:, kept]
    found["seen_in_the_other"] = told(weights + weights.T)
    return found | {"pairs_of_one_group": float(same.sum()), "pairs": float(len(same))}


def main() -> None:
    from sensitivity import parser_of_worlds, worlds_to_choose_on

    arguments = parser_of_worlds(__doc__).parse_args()
    sys.modules["transformers"] = None  # type: ignore[assignment]
    import torch
    from results import write_results
    from world_kit.families import open_world
    from world_kit.studying import open_form

    torch.set_num_threads(1)
    ready = [name for name in worlds_to_choose_on(arguments.out) if "null" not in name]
    figures = {}
    for name in arguments.only or ready:
        world = open_world(name, arguments.photos)
        found = areas(world, open_form(arguments.out, name, "plain"))
        figures |= {f"{name}.{key}": value for key, value in found.items()}
        print(name, {key: round(value, 3) for key, value in found.items()}, flush=True)
    write_results("kinship", figures, [])


if __name__ == "__main__":
    main()
