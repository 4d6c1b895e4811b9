"""Agreement of verdicts by edited pictures with exact truth, for which pictures are drawn without their cause.

For every plant that the model has learnt a family of latents is built from the truth: latents whose codes fall when the
cause is left out, and that reach a fair part of their strength on pictures with it. Findings about the plant's prompt
are true. False are the same families with prompts that the cause does not move (leaving it out changes nothing, and
pictures with it score like others), and families of random latents. Every finding is verified from the study's pictures
alone. Constants of `PixelSettings` were chosen on the bundled variants a and b and the worlds called choose. Several
runs pool their rows with `--rows`; `--round` appends what is pooled to the result.

    python benchmarks/pixels.py --bundled picture-world-c
    python benchmarks/pixels.py --worlds OUT --photos FOLDER --only photos-report-a rendered-report-a
    python benchmarks/pixels.py --rows ROWS --round TITLE
    python benchmarks/pixels.py --decide     # today's rule on the effects in the result, measuring nothing
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import FOLDER, write_results
from scipy.stats import spearmanr

import clipattr as ca
from clipattr.discovery.encoded import encoded
from clipattr.discovery.findings import Finding
from clipattr.discovery.pixels.verify import decide
from clipattr.sites import capture
from clipattr.statistics import Interval, wilson

PAIRS = 60  # pictures with and without the cause, per plant
STRANGE = 0.05  # of its strength that a random latent may reach on pictures with the cause
LIVE = 20  # pictures on which a latent of a family fires, at least
FAMILY = 4  # latents of a family, at most
TRUE, FALSE = 0.02, 0.005  # raw cosine: lower bound of a true effect, largest mean of none
REACH = 0.15  # of its mean on its strongest pictures that a latent must reach on those with the cause, to stand for it
OWN = ("watermark", "context", "companion")  # kinds whose pairs show the prompt's own object as well
HEADLINE = 90  # findings of a round whose figures stand at the top of the result
CORRELATIONS = (  # rank correlations over findings: figure, effect measured by editing, exact effect
    ("transplant_correlation", "transplant", "inserted"),
    ("removal_correlation", "removal", "effect"),
    ("transplant_to_left_out_correlation", "transplant", "effect"),
)
NOTHING = Interval(0.0, 0.0, 0.0)
Pictures = Sequence[Any]
# Plant; pictures with its cause and the same without; pictures that show neither prompt nor cause, with the cause put
# in and as they are.
Planted = list[tuple[Any, tuple[Pictures, Pictures], tuple[Pictures, Pictures]]]


def encode(study: ca.Study, pictures: Pictures) -> tuple[torch.Tensor, torch.Tensor]:
    """Dense codes and embeddings of pictures (arrays or PIL)."""
    codes, embeddings = [], []
    for at in range(0, len(pictures), 128):
        pixels = torch.stack([study.model.prepare(picture) for picture in pictures[at : at + 128]])
        with torch.no_grad(), capture(study.model, study.site) as held:
            embeddings.append(study.model.encode_image(pixels))
            codes.append(study.dictionary.encode(held[study.site].float()).to_dense())
    return torch.cat(codes), torch.cat(embeddings)


def finding(prompt: str, latents: Sequence[int], label: str | None) -> Finding:
    return Finding(prompt, tuple(latents), label, "unknown", 0.0, NOTHING, NOTHING, 0.0, 0.0, 0.0, 0.0)


def items(study: ca.Study, prompts: Sequence[str], plants: Planted, seed: int) -> list[dict[str, Any]]:
    """True and false findings with the exact effects of their cause: `effect` of leaving it out, `inserted` of putting
    it into pictures that show neither it nor the prompt. Beside the prompt's own object, which has raised the score
    already, a cause may do little that does much alone."""
    rng, made = random.Random(seed), []
    text = study.model.encode_text(list(prompts))
    background = study.model.encode_text(list(study.vocabulary.words)).mean(0)
    direction = (text - background).T
    usual = encoded(study, rows=np.arange(len(study.images))).embeddings.mean(0) @ direction
    level = study.examples.values.float().clamp_min(0).mean(1)
    alive = study.examples.counts >= LIVE
    live = torch.nonzero(alive).flatten().tolist()
    for plant, (with_it, without), (put, plain) in plants:
        codes, embeddings = encode(study, with_it)
        gone, bare = encode(study, without)
        fall = codes.mean(0) - gone.mean(0)
        own = (fall > 0) & (gone.mean(0) <= 0.4 * codes.mean(0)) & (codes.mean(0) >= REACH * level) & alive
        amount = fall * own
        latents = [
            j
            for j in amount.argsort(descending=True).tolist()[:FAMILY]
            if amount[j] >= 0.15 * amount.max() > 0
        ]
        change = (embeddings - bare) @ direction
        inserted = change.mean(0)
        if put is not with_it:
            inserted = ((encode(study, put)[1] - encode(study, plain)[1]) @ direction).mean(0)
        above = (embeddings.mean(0) @ direction - usual).abs()
        half = 1.96 * change.std(0) / len(change) ** 0.5
        about = {"kind": plant.kind, "cause": plant.cause}
        if latents:
            at = list(prompts).index(plant.prompt)
            effect = float(change[:, at].mean())
            made.append(about | {"finding": finding(plant.prompt, latents, plant.cause), "effect": effect,
                                 "inserted": float(inserted[at]), "true": bool(effect - half[at] >= TRUE),
                                 "of": "plant"})  # fmt: skip
            still = [
                q for q in range(len(prompts)) if abs(float(change[:, q].mean())) < FALSE and above[q] < TRUE
            ]
            for q in rng.sample(still, min(1, len(still))):
                told, effect = finding(prompts[q], latents, plant.cause), float(change[:, q].mean())
                made.append(
                    about
                    | {
                        "finding": told,
                        "effect": effect,
                        "inserted": float(inserted[q]),
                        "true": False,
                        "of": "other prompt",
                    }
                )
        other = rng.sample(live, 2)
        # Latents that fire for the plant's own pictures are no false finding about its prompt, whatever chance meant.
        reach = float((codes.mean(0) / level.clamp_min(1e-9))[other].max())
        made.append(about | {"finding": finding(plant.prompt, other, None), "effect": None, "inserted": None,
                             "true": False, "of": "random latents", "reach": reach})  # fmt: skip
    return [
        item for item in made if item["true"] or (item["of"] != "plant" and item.get("reach", 0.0) < STRANGE)
    ]


def bundled(name: str, n: int) -> tuple[ca.Study, list[str], Planted]:
    from clipattr_data.build import STUDIES
    from clipattr_data.world import TEST, World

    study, world = ca.open_study(name), World.open(STUDIES[name])
    plants: Planted = []
    for plant in world.plants:
        pairs = plant.scenes(world, n, TEST, 600_000)
        alone = pairs
        if plant.kind in OWN:
            mains = [world.neutral[at % len(world.neutral)] for at in range(n)]
            alone = [
                (a.with_main(main), b.with_main(main)) for (a, b), main in zip(pairs, mains, strict=True)
            ]
        drawn = [
            tuple([scene.picture() for scene in side] for side in zip(*some, strict=True))
            for some in ((pairs,) if alone is pairs else (pairs, alone))
        ]
        plants.append((plant, drawn[0], drawn[-1]))
    return study, list(world.vocabulary), plants


def foreign(name: str, out: Path, photos: Path, n: int) -> tuple[ca.Study, list[str], Planted]:
    from world_kit.families import open_world
    from world_kit.scene import TEST

    world = open_world(name, photos)
    study = ca.open_study(out / "studies" / name / "plain")
    plants: Planted = []
    for plant in world.plants:
        pairs = world.pairs(plant, n)
        alone = pairs
        if plant.kind in OWN:
            mains = [world.neutral[at % len(world.neutral)] for at in range(n)]
            alone = [
                (replace(a, main=main), replace(b, main=main))
                for (a, b), main in zip(pairs, mains, strict=True)
            ]
        drawn = [
            tuple(
                [np.asarray(world.renderer.render(scene, world.unseen(TEST))) for scene in side]
                for side in zip(*some, strict=True)
            )
            for some in ((pairs,) if alone is pairs else (pairs, alone))
        ]
        plants.append((plant, drawn[0], drawn[-1]))
    return study, list(world.prompts), plants


def examine(
    name: str, opened: Callable[[], Any], most: int | None, seed: int, checkpoint: Path | None
) -> list[dict[str, Any]]:
    study, prompts, plants = opened()
    asked = items(study, prompts, plants, seed)
    if most is not None:
        random.Random(seed).shuffle(asked)
        asked = asked[:most]
    checked = ca.verify(study, [item["finding"] for item in asked], progress=True, checkpoint=checkpoint)
    rows = []
    for item, told in zip(asked, checked, strict=True):
        evidence = told.evidence["pixels"]
        row = {key: item[key] for key in ("kind", "cause", "effect", "inserted", "true", "of")}
        rows.append(row | {"world": name, "prompt": told.prompt} | {
            key: evidence[key] for key in ("verdict", "edit", "area", "silenced", "control", "removal", "transplant",
                                           "wakes", "spread", "forwards", "reason", "alone")})  # fmt: skip
        print(f"{name} {row['of']:14} {row['kind']:12} {told.prompt:16.16} {str(row['cause']):16.16} "
              f"{evidence['verdict']:12} {evidence['edit']} {evidence['silenced']:.2f}/{evidence['control']:.2f} "
              f"{_points(evidence['removal'])} {_points(evidence['transplant'])} "
              f"exact {row['effect']} {row['inserted']}")  # fmt: skip
    return rows


def _points(span: dict[str, float] | None) -> str:
    return (
        "-"
        if span is None
        else f"{span['value'] * 100:.1f} [{span['low'] * 100:.1f}, {span['high'] * 100:.1f}]"
    )


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """DESIGN's figures with Wilson bounds."""
    true, false = ([row for row in rows if row["true"] is wanted] for wanted in (True, False))
    testable = [row for row in rows if row["verdict"] != "untestable"]
    right = sum((row["verdict"] == "confirmed") == row["true"] for row in testable)
    confirmed = sum(row["verdict"] == "confirmed" for row in false)
    can = sum(row["verdict"] != "untestable" for row in true)
    found: dict[str, float] = {"findings": len(rows), "true": len(true), "false": len(false)}
    for name, measured, exact in CORRELATIONS:
        known = [
            (row[measured]["value"], row[exact])
            for row in rows
            if row[measured] is not None and row.get(exact) is not None
        ]
        if len(known) > 2:
            found[name] = float(spearmanr(*zip(*known, strict=True)).statistic)
    for name, count, total in (
        ("agreement", right, len(testable)), ("testable", can, len(true)), ("false_confirmed", confirmed, len(false)),
    ):  # fmt: skip
        if total:
            low, high = wilson(count, total)
            found |= {name: count / total, f"{name}_low": low, f"{name}_high": high}
    return found


def decided(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the verdicts that today's rule gives their effects."""
    settings, made = ca.PixelSettings(), []
    for row in rows:
        if row["removal"] is not None:
            spans = {name: Interval(**row[name]) for name in ("removal", "transplant")}
            verdict, reason = decide(settings, {**row, **spans}, row["spread"])
            row = {**row, "verdict": verdict, "reason": reason}
        made.append(row)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundled", nargs="*", default=[], help="bundled studies")
    parser.add_argument("--worlds", type=Path, help="folder that worlds.py study has filled")
    parser.add_argument("--photos", type=Path, help="folder of photographs")
    parser.add_argument("--only", nargs="*", default=[], help="foreign worlds")
    parser.add_argument("--most", type=int, help="findings a world, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="six findings of one bundled study")
    parser.add_argument("--rows", type=Path, help="write rows here too, and pool with what is there")
    parser.add_argument("--checkpoint", type=Path, help="folder where a stopped run goes on")
    parser.add_argument("--round", help="title under which the pooled rows are appended to the result")
    parser.add_argument("--decide", action="store_true", help="judge the result's rows by today's rule")
    options = parser.parse_args()
    if options.quick:
        options.bundled, options.most = ["picture-world-c"], 6
    rows: list[dict[str, Any]] = []
    for name in options.bundled:
        rows += examine(
            name, lambda name=name: bundled(name, PAIRS), options.most, options.seed, options.checkpoint
        )
    for name in options.only:
        rows += examine(
            name,
            lambda name=name: foreign(name, options.worlds, options.photos, PAIRS),
            options.most,
            options.seed,
            options.checkpoint,
        )
    dropped: dict[str, float] = {}
    if options.decide:
        known = json.loads((FOLDER / "pixels.json").read_text(encoding="utf-8"))
        rows, dropped = decided(known["rows"]), {"dropped": known["figures"]["dropped"]}
    if options.rows:
        done = json.loads(options.rows.read_text()) if options.rows.exists() else []
        here = {row["world"] for row in rows}
        rows = [row for row in done if row["world"] not in here] + rows
        options.rows.write_text(json.dumps(rows))
    found = figures(rows) | dropped
    photos = [row for row in rows if row["world"].startswith("photos")]
    found |= {f"photos_{name}": value for name, value in figures(photos).items()} if photos else {}
    for kind in sorted({row["kind"] for row in rows}):
        some = figures([row for row in rows if row["kind"] == kind])
        shown = ("findings", "true", "agreement", "testable", "false_confirmed")
        found |= {f"{name}_{kind}": some[name] for name in shown if name in some}
    for name, value in found.items():
        print(f"{name:32} {value:.3f}")
    if options.quick:
        write_results("pixels", found, rows, quick=True)
    elif options.round:
        add_round(options.round, found, rows)


def add_round(title: str, found: dict[str, float], rows: list[dict[str, Any]]) -> None:
    """Append a round to `rounds` of the result; no earlier one is changed. Figures and rows at the top are those of the
    last round with `HEADLINE` findings."""
    path = FOLDER / "pixels.json"
    before = json.loads(path.read_text(encoding="utf-8"))
    earlier = before.get("rounds") or [
        {
            "title": "first and second (the second not blind)",
            **{key: before[key] for key in ("commit", "figures", "rows")},
        }
    ]
    write_results("pixels", found, rows)
    made = json.loads(path.read_text(encoding="utf-8"))
    this = {"title": title, **{key: made[key] for key in ("commit", "figures", "rows")}}
    top = made if len(rows) >= HEADLINE else before
    path.write_text(json.dumps({**top, "rounds": [*earlier, this]}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
