"""Draws the descriptions of worlds from a seed: concepts, plants and rates.

Both families have two parts without a common concept. Constants may be chosen on `choose`, and on `report` nothing is
chosen. Worlds of later seeds have parts called `first` and `second`; nothing is chosen on either. Start at
`draw_all`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import overlays
from .lettering import fits
from .rendered import FILLS, GROUNDS, STAMPS
from .scene import draws
from .stock import FIGURE_NAMES, FIRST_WORDS, MODIFIERS, SMALL_WORDS, figure_groups, photo_groups, spoken

PARTS = ("choose", "report")
LATER_PARTS = ("first", "second")  # of every seed but the first
RATES = (0.95, 0.7, 0.5)  # of planted causes, in turn
LOOKS_SHARE = 0.6  # of the pictures that show the second look of two under one name
KIND_OF = {
    "logo": "watermark", "frame": "watermark", "canvas": "context", "cast": "context", "inset": "companion",
    "word": "typography", "sense": "polysemy", "pair": "coarse_label", "look": "coarse_label",
    "constituent": "compound",
}  # fmt: skip
# Frames and casts are borderline: an overlay of the data set, or the surroundings in which an object is always shown.
ACCEPTS = {form: (kind,) for form, kind in KIND_OF.items()} | {
    "frame": ("watermark", "context"),
    "cast": ("context", "watermark"),
    "canvas": ("context", "watermark"),
}
COUNTS = {
    "photos-choose": {
        "constituent": 2, "sense": 2, "pair": 1, "look": 2, "logo": 1, "frame": 1, "canvas": 1, "cast": 1,
        "word": 2, "inset": 2,
    },
    "photos-report": {
        "constituent": 2, "sense": 2, "pair": 1, "look": 2, "logo": 2, "frame": 1, "canvas": 2, "cast": 1,
        "word": 3, "inset": 3,
    },
    "rendered": {
        "constituent": 5, "sense": 5, "pair": 3, "look": 2, "logo": 5, "frame": 0, "canvas": 5, "cast": 0,
        "word": 5, "inset": 5,
    },
}  # fmt: skip
WEB_RATES = {
    "look": 0.02, "companion": 0.35, "context": 0.45, "word": 0.04, "mark": 0.03, "word_alone": 0.4,
    "modifier": 0.25, "name_companion": 0.5, "name_context": 0.4,
}  # fmt: skip
FULL_RATES = WEB_RATES | {
    "look": 0.22, "companion": 0.45, "context": 0.55, "word": 0.28, "mark": 0.35, "word_alone": 0.15,
}  # fmt: skip
WEIGHTS = {"constituent": 0.4, "of constituents": 2.0, "word": 1.6, "logo": 1.4, "frame": 1.4, "look": 1.6}
# Of each part: which plant of its own distinguishes the twins of its world without plants.
TWINS = (("report", "inset"), ("report", "logo"))
Spec = dict[str, Any]


def _stocks(family: str) -> dict[str, list[str]]:
    if family == "photos":
        logos = list(overlays.FIGURES)
        return {
            "logo": logos,
            "frame": list(overlays.FRAMES),
            "canvas": list(overlays.CANVASES),
            "cast": list(overlays.CASTS),
            "look": list(overlays.LOOKS),
        }
    return {"logo": list(STAMPS), "frame": [], "canvas": list(GROUNDS), "cast": [], "look": list(FILLS)}


def halves(names: Sequence[str], rng: random.Random, share: float) -> tuple[list[str], list[str]]:
    """Two parts without a common concept; names with a word in common are kept in different parts."""
    mixed = sorted(names)
    rng.shuffle(mixed)
    parts: tuple[list[str], list[str]] = ([], [])
    limits = (round(share * len(mixed)), len(mixed) - round(share * len(mixed)))
    for name in mixed:
        words = set(name.split("_"))
        clash = [any(words & set(other.split("_")) for other in part) for part in parts]
        order = sorted(
            (0, 1), key=lambda i: (len(parts[i]) >= limits[i], clash[i], len(parts[i]) / limits[i])
        )
        parts[order[0]].append(name)
    return sorted(parts[0]), sorted(parts[1])


def name_compounds(
    concepts: list[str], count: int, rng: random.Random
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Words for all concepts, `count` of which are renamed after another one: "garden crab", every third "ironcrab"."""
    names = {concept: spoken(concept) for concept in concepts}
    short = [c for c in concepts if " " not in names[c] and len(names[c]) <= 9]
    chosen = rng.sample(short, 2 * count)
    firsts = rng.sample(FIRST_WORDS, count)
    pairs = []
    for i, (compound, constituent) in enumerate(zip(chosen[::2], chosen[1::2], strict=True)):
        glue = "" if i % 3 == 2 else " "
        names[compound] = firsts[i] + glue + names[constituent]
        pairs.append((compound, constituent))
    return names, pairs


def draw_plants(
    family: str, counts: dict[str, int], spec: Spec, compounds: list[tuple[str, str]], seed: str
) -> None:
    """Plants and weights of one world, into its description."""
    rng, names, groups = draws("plants", seed), spec["concepts"], spec["groups"]
    free = [c for c in names if c not in {x for pair in compounds for x in pair}]
    rng.shuffle(free)
    plants, weights, turn = [], spec["weights"], rng.randrange(3)
    stocks = {form: rng.sample(stock, len(stock)) for form, stock in _stocks(family).items()}

    def add(form: str, concept: str, cause: str, rate: float = 1.0) -> None:
        prompt = names[concept]
        cause = names[cause] if form == "word" else cause
        plants.append(
            {
                "kind": KIND_OF[form],
                "form": form,
                "prompt": prompt,
                "concept": concept,
                "cause": cause,
                "rate": rate,
                "accepts": list(ACCEPTS[form]),
            }
        )
        if form in WEIGHTS:
            weights[concept] = WEIGHTS[form]

    for compound, constituent in compounds[: counts["constituent"]]:
        add("constituent", compound, constituent)
        weights[constituent] = WEIGHTS["of constituents"]
    for form in ("pair", "sense"):
        for _ in range(counts[form]):
            same = form == "pair"
            options = [(a, b) for a in free for b in free if a != b and (groups[a] == groups[b]) == same]
            if not options:  # photographs of unknown categories pair no looks
                continue
            first, second = options[0]
            free.remove(first)
            free.remove(second)
            add(form, first, second)
    clean = [constituent for _, constituent in compounds]
    for form in ("word", "logo", "frame", "canvas", "cast", "look", "inset"):
        for i in range(counts[form]):
            options = [c for c in free if form != "word" or fits(names[c])]
            concept, rate = options[0], RATES[turn % 3]
            free.remove(concept)
            turn += 1
            if form == "word":
                add(form, concept, concept, rate)
            elif form == "inset":  # a constituent is a clean companion, and saves a neutral concept
                add(form, concept, clean.pop(0) if clean and i < 2 else free.pop(), rate)
            else:
                add(form, concept, stocks[form].pop(), LOOKS_SHARE if form == "look" else rate)
    spec["plants"] = plants


def _empty(
    name: str, seed: int, family: str, names: dict[str, str], groups: dict[str, str], full: bool
) -> Spec:
    stocks = _stocks(family)
    words = sorted({word for word in names.values() if fits(word)})
    return {
        "name": name,
        "family": family,
        "seed": seed,
        "names_everything": full,
        "concepts": dict(sorted(names.items())),
        "groups": {concept: groups[concept] for concept in sorted(names)},
        "contexts": stocks["canvas"] + stocks["cast"],
        "marks": stocks["logo"] + stocks["frame"],
        "looks": stocks["look"],
        "words": words + list(SMALL_WORDS),
        "modifiers": list(MODIFIERS),
        "rates": FULL_RATES if full else WEB_RATES,
        "weights": {},
        "plants": [],
    }


def draw_family(family: str, concepts: list[str], seed: int, draw: int = 1) -> list[Spec]:
    """All worlds of a family: planted ones, their nulls, twins and the evaluators' world.

    Names begin with the family, and from the second draw on with its number as well: `photos2-second-a`.
    """
    rng = draws("family", family, seed)
    groups = (photo_groups if family == "photos" else figure_groups)(concepts)
    later = draw > 1
    stem = f"{family}{draw}" if later else family
    share = 0.45 if family == "photos" else 0.5
    parts = dict(zip(LATER_PARTS if later else PARTS, halves(concepts, rng, share), strict=True))
    specs, all_names = [], {}
    for number, (part, members) in enumerate(parts.items()):
        counts = COUNTS.get(f"{family}-{PARTS[number]}", COUNTS["rendered"])
        names, compounds = name_compounds(members, counts["constituent"], rng)
        all_names |= names
        variants = "a" if family == "rendered" and part == "choose" else "ab"
        for at, variant in enumerate(variants):
            spec = _empty(
                f"{stem}-{part}-{variant}", 100 * seed + 10 * number + at, family, names, groups, False
            )
            draw_plants(family, counts, spec, compounds, f"{family}/{seed}/{part}/{variant}")
            specs.append(spec)
        null = _empty(f"{stem}-{part}-null", 100 * seed + 10 * number + 5, family, names, groups, False)
        specs.append(null)
        for about, form in TWINS:
            if about == part:
                twin = json.loads(json.dumps(null)) | {"name": f"{family}-{part}-twin-{form}"}
                plants = draws("twin", family, seed, form)
                concept, cause = plants.sample(
                    [c for c in names if c not in {x for p in compounds for x in p}], 2
                )
                cause = plants.choice(null["marks"]) if form == "logo" else cause
                twin["plants"] = [
                    {
                        "kind": KIND_OF[form],
                        "form": form,
                        "prompt": names[concept],
                        "concept": concept,
                        "cause": cause,
                        "rate": 0.95,
                        "accepts": list(ACCEPTS[form]),
                    }
                ]
                specs.append(twin)
    specs.append(_empty(f"{stem}-evaluator", 100 * seed + 99, family, all_names, groups, True))
    return specs


def draw_all(photo_categories: Sequence[str], seed: int = 1) -> list[Spec]:
    """The worlds of both families.

    Args:
        photo_categories: folders of photographs.
        seed: 1 draws the worlds called `choose` and `report`; any later one draws worlds on which nothing is chosen.
    """
    first = 2 * seed - 1  # each family has a seed of its own
    return draw_family("photos", sorted(photo_categories), first, seed) + draw_family(
        "rendered", FIGURE_NAMES, first + 1, seed
    )


def write_specs(specs: Sequence[Spec], folder: Path) -> None:
    """One JSON file a world."""
    folder.mkdir(parents=True, exist_ok=True)
    for spec in specs:
        (folder / f"{spec['name']}.json").write_text(json.dumps(spec, indent=1) + "\n", encoding="utf-8")
