"""Audits of releases: every release of a base on the same pictures, in a study of its own with default settings.

Start at `audit_base`, whose audit is the accepted one, and `audit_release`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

from .releases import planted_spec, study_world
from .scene import draws
from .studying import family_of, write_pictures
from .world import World

PICTURES = {"photos": 2000, "rendered": 3000}  # of a base's study
PROMPTS = 50  # asked of a base at most
ABOVE = (3.0, 5.0)  # points


def prompts_of(null: World) -> list[str]:
    """Prompts of a base: those that its releases plant something in, the planted objects, and others."""
    plants = planted_spec(null.name)["plants"]
    first = {plant["prompt"] for plant in plants}
    first |= {null.call(plant["cause"]) for plant in plants if plant["cause"] in null.concepts}
    rest = [prompt for prompt in null.prompts if prompt not in first]
    draws("releases", null.name, "prompts").shuffle(rest)
    return sorted([*first, *rest[: max(0, PROMPTS - len(first))]])


_judges: dict[str, Any] = {}


def _judge(family: str, evaluators: Path) -> Any:
    """The evaluator of a family, which embeds every picture once: all releases are audited on the same."""
    if family in _judges:
        return _judges[family]
    import torch

    import clipattr as ca

    judge = ca.load_model(f"local-dir:{evaluators / (family + '-evaluator')}", device="cpu")
    embed, known = judge.encode_image, {}

    def remembered(pixels: torch.Tensor) -> torch.Tensor:
        keys = [hashlib.blake2b(one.numpy().tobytes(), digest_size=16).digest() for one in pixels]
        new = [i for i, key in enumerate(keys) if key not in known]
        if new:
            known.update(zip((keys[i] for i in new), embed(pixels[new]), strict=True))
        return torch.stack([known[key] for key in keys])

    judge.encode_image = remembered
    _judges[family] = judge
    return judge


def _study(
    model: Path, null: World, evaluators: Path, out: Path, folder: Path, dictionary: Any = None
) -> Any:
    import clipattr as ca

    pictures = out / "pictures" / null.name
    ca.build_study(
        ca.load_model(f"local-dir:{model}", device="cpu"), pictures / "images", path=folder,
        vocabulary=str(pictures / "vocabulary.txt"), evaluator=_judge(family_of(null.name), evaluators),
        dictionary=dictionary, thumbnails=False, progress=False,
    )  # fmt: skip
    return ca.open_study(folder)


def audit_base(null: World, models: Path, evaluators: Path, out: Path) -> str:
    """Draw the pictures of a base, build its study and audit it; a line on what was done."""
    import clipattr as ca

    file, begun = out / "audits" / f"{null.name}.json", time.time()
    if not file.exists():
        n = PICTURES[null.spec["family"]]
        write_pictures(study_world(null.name, null.renderer), out / "pictures" / null.name, n)
        study = _study(models / null.name, null, evaluators, out, out / "studies" / null.name)
        found = ca.audit(study, prompts_of(null), device="cpu", progress=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        found.to_json(file)
    return f"{null.name}: audited in {time.time() - begun:.0f} s"


def audit_release(name: str, null: World, model: Path, evaluators: Path, out: Path, carried: bool) -> str:
    """Build a release's study, audit it and decide with the base's study as `previous`; a line on what was done.

    Writes `audits/NAME.json` and `audits/NAME.previous.json`; the study itself is not kept.

    Args:
        carried: read the release with the dictionary of its base rather than one of its own.
    """
    import clipattr as ca
    from clipattr.discovery.findings import Findings

    kind = "carried" if carried else "own"
    file, begun = out / f"audits-{kind}" / f"{name}.json", time.time()
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        folder = out / "studies" / f"{name}-{kind}"
        before = ca.open_study(out / "studies" / null.name)
        dictionary = None
        if carried:
            dictionary = copy.copy(before.dictionary)
            dictionary.model_hash = None  # it was trained on the base
        study = _study(model, null, evaluators, out, folder, dictionary)
        found = ca.audit(study, prompts_of(null), device="cpu", progress=False)
        accepted = Findings.from_json(out / "audits" / f"{null.name}.json")
        decided = {above: ca.gate(found, above, accepted, previous=before).to_dict() for above in ABOVE}
        file.with_suffix(".previous").write_text(json.dumps(decided), encoding="utf-8")
        partial = file.with_suffix(".partial")
        found.to_json(partial)
        partial.rename(file)
        shutil.rmtree(folder)
    return f"{name}: audited in {time.time() - begun:.0f} s"
