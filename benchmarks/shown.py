"""Do the pictures shown with a finding show its cause? Compared with the drawn contents.

    python benchmarks/shown.py [--quick] [--worlds FOLDER] [--only NAME ...]

Audits the bundled studies, whose pictures are drawn from known contents, and with --worlds those that
`benchmarks/worlds.py study` built under FOLDER. A finding contradicts its pictures if at most half of those shown as
showing its cause do X
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from results import write_results  # noqa: E402

import clipattr as ca  # noqa: E402
from clipattr.discovery.audit.base import plain  # noqa: E402

WORD = "the word "
QUICK_PROMPTS = 12


def bundled(quick: bool) -> Iterator[tuple[str, ca.Study, list[frozenset[str]], list[str] | None]]:
    """Name, study, contents of each picture and prompts (None: all) of the bundled studies."""
    from clipattr_data.build import STUDIES
    from clipattr_data.lesion_world import LesionWorld
    from clipattr_data.world import World

    worlds: dict[str, Any] = {study: World.open(world) for study, world in STUDIES.items()}
    worlds["lesions"] = LesionWorld.open("lesions")
    for name, world in list(worlds.items())[: 1 if quick else None]:
        study = ca.open_study(name)
        contents = [world.true_of(study.images[row].scene) for row in range(len(study.images))]
        yield name, study, contents, study.vocabulary.words[:QUICK_PROMPTS] if quick else None


def built(
    folder: Path, names: Sequence[str]
) -> Iterator[tuple[str, ca.Study, list[frozenset[str]], list[str]]]:
    """The same of studies under a folder."""
    for name in names:
        pictures = folder / "pictures" / name
        study = ca.open_study(folder / "studies" / name / "plain")
        contents = json.loads((pictures / "contents.json").read_text("utf-8"))
        prompts = [line for line in (pictures / "prompts.txt").read_text("utf-8").splitlines() if line]
        yield name, study, [frozenset(contents[Path(name).name]) for name in study.images.ids], prompts


def shows(label: str, contents: frozenset[str]) -> bool:
    """Whether a picture of some contents shows what a label names; any written word is one."""
    asked = plain(label)
    written = any(one.startswith(WORD) for one in contents)
    return asked in {plain(one) for one in contents} or (written and asked in ("written word", "writing"))


def examine(
    name: str, study: ca.Study, contents: Sequence[frozenset[str]], prompts: Any
) -> list[dict[str, Any]]:
    """One row a finding with a label."""
    place = {one: row for row, one in enumerate(study.images.ids)}
    rows = []
    for f in ca.audit(study, prompts, progress=False):
        if f.label is None:
            continue

        def share(ids: Sequence[str], label: str = f.label) -> float | None:
            there = [shows(label, contents[place[one]]) for one in ids]
            return sum(there) / len(there) if there else None

        rows.append(
            {
                "world": name, "prompt": f.prompt, "label": f.label, "kind": f.kind, "confidence": f.confidence,
                "shown": share(f.pictured) if f.shows_cause else None, "pictures": len(f.pictured),
                "measured": share(f.measured_on or ()) if f.shows_cause else None,
                "strongest": share(f.examples), "doubts": list(f.doubts),
            }
        )  # fmt: skip
        print(
            f"{name}: {f.prompt} rests on {f.label}: {rows[-1]['shown']} {rows[-1]['measured']}", flush=True
        )
    return rows


def contradicts(row: dict[str, Any]) -> bool:
    """Whether a strip of pictures mostly shows something else."""
    return any(row[strip] is not None and row[strip] <= 0.5 for strip in ("shown", "measured"))


def figures_of(rows: Sequence[dict[str, Any]], prefix: str) -> dict[str, float]:
    """Counts over some findings, and how well doubts detect words that the family's pictures do not confirm."""
    wrong = [row for row in rows if (row["strongest"] or 0) <= 0.5]
    right = [row for row in rows if (row["strongest"] or 0) > 0.5]
    return {
        f"{prefix}findings": len(rows),
        f"{prefix}contradicted": sum(map(contradicts, rows)),
        f"{prefix}unclaimed": sum(row["shown"] is None for row in rows),
        f"{prefix}contradicted_by_strongest": len(wrong),
        f"{prefix}doubted_where_strongest_contradict": sum(bool(row["doubts"]) for row in wrong)
        / max(1, len(wrong)),
        f"{prefix}doubted_where_strongest_agree": sum(bool(row["doubts"]) for row in right)
        / max(1, len(right)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few prompts of one study")
    parser.add_argument("--worlds", type=Path, help="folder of built worlds")
    parser.add_argument("--only", nargs="*", default=[], help="names of built worlds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for world in bundled(arguments.quick) for row in examine(*world)]
    figures = figures_of(rows, "bundled_")
    if arguments.worlds:
        names = arguments.only or sorted(p.name for p in (arguments.worlds / "studies").iterdir())
        more = [row for world in built(arguments.worlds, names) for row in examine(*world)]
        figures |= figures_of(more, "built_")
        rows += more
    for key, value in figures.items():
        print(f"{key:50} {value:.3f}")
    write_results("shown", figures, rows, quick=arguments.quick)


if __name__ == "__main__":
    main()
