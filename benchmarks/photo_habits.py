"""Habits of a collection of photographs: where they are, what they do to a model's scores, beside what an audit found.

Caltech 101 is known for pictures that were turned and whose corners were filled in, plain white backgrounds and frames.
For each habit: its share by folder, found in the pixels; and its effect, from giving it to pictures that have none of
them. The effect is the rise of each prompt's contrast beyond a control edit that changes as much: turned with mirrored
corners, and a grey background or frame. Pictures of the prompt's own folder are left out.

    clipattr study local-dir:MODEL PHOTOS --evaluator local-dir:EVALUATOR --vocabulary words.txt --out photos.study
    clipattr audit photos.study --prompts prompts.txt --pixels --html audit.html --json audit.json
    python benchmarks/photo_habits.py photos.study prompts.txt audit.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from results import write_results

import clipattr as ca
from clipattr.statistics import auc, t_interval

SIDE = 96  # px, to which pictures are reduced before habits are looked for
TURN = 20  # degrees
SMALLER = 0.72  # side of a picture on a plain background, of the whole
FRAME = 0.05  # width of a frame, of the shorter side
PICTURES = 240  # pictures that are given a habit
BATCH = 60
MOSTLY = 0.5  # share of a folder's pictures from which a habit cannot be distinguished from the folder
LARGE = 0.05  # raw cosine: rises that are listed
Edit = Callable[[Image.Image], Image.Image]


def small(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB").resize((SIDE, SIDE))).astype(int)


def rim(pixels: np.ndarray, width: int) -> np.ndarray:
    """(n, 3): the pixels of the outer `width` rows and columns."""
    inside = np.zeros(pixels.shape[:2], bool)
    inside[width:-width, width:-width] = True
    return pixels[~inside]


def on_white(pixels: np.ndarray) -> bool:
    """Whether four fifths of the rim are nearly white."""
    return bool((rim(pixels, 4).min(1) > 235).mean() > 0.8)


def framed(pixels: np.ndarray) -> bool:
    """Whether nine tenths of the rim are nearly black."""
    return bool((rim(pixels, 2).max(1) < 30).mean() > 0.9)


def turned(pixels: np.ndarray) -> bool:
    """Whether each corner has one colour, while the middles of the edges have many."""
    places = [(y, x) for y in range(8) for x in range(8 - y)]
    flat = all(
        np.array([pixels[y if top else -1 - y, x if left else -1 - x] for y, x in places]).std(0).max() < 6
        for top in (True, False)
        for left in (True, False)
    )
    middle = slice(SIDE // 2 - 8, SIDE // 2 + 8)
    edges = [pixels[:3, middle], pixels[-3:, middle], pixels[middle, :3], pixels[middle, -3:]]
    return flat and bool(np.concatenate([edge.reshape(-1, 3) for edge in edges]).std(0).max() > 25)


def turn(colour: str | None) -> Edit:
    """Turned pictures with corners of one colour; None: with corners that mirror the picture."""

    def edit(picture: Image.Image) -> Image.Image:
        if colour is not None:
            return picture.rotate(TURN, Image.Resampling.BICUBIC, fillcolor=colour)
        pixels = np.asarray(picture)
        pad = max(pixels.shape[:2]) // 2
        wide = Image.fromarray(np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)), "symmetric"))
        turned_ = wide.rotate(TURN, Image.Resampling.BICUBIC)
        return turned_.crop((pad, pad, pad + picture.width, pad + picture.height))

    return edit


def smaller(colour: str) -> Edit:
    def edit(picture: Image.Image) -> Image.Image:
        whole = Image.new("RGB", picture.size, colour)
        inner = picture.resize((round(SMALLER * picture.width), round(SMALLER * picture.height)))
        whole.paste(inner, ((whole.width - inner.width) // 2, (whole.height - inner.height) // 2))
        return whole

    return edit


def frame(colour: str) -> Edit:
    def edit(picture: Image.Image) -> Image.Image:
        width = max(1, round(FRAME * min(picture.size)))
        return ImageOps.expand(ImageOps.crop(picture, width), width, colour)

    return edit


HABITS: dict[str, tuple[Edit, Edit]] = {
    "turned, black corners": (turn("black"), turn(None)),
    "turned, white corners": (turn("white"), turn(None)),
    "white background": (smaller("white"), smaller("grey")),
    "black frame": (frame("black"), frame("grey")),
}
SEEN = {"turned": turned, "on white": on_white, "framed": framed}


def contrasts(
    study: ca.Study, pictures: list[Image.Image], edit: Edit, columns: torch.Tensor
) -> torch.Tensor:
    """(pictures, prompts) of edited pictures."""
    parts = []
    for at in range(0, len(pictures), BATCH):
        pixels = torch.stack([study.model.prepare(edit(one)) for one in pictures[at : at + BATCH]])
        with torch.no_grad():
            parts.append(study.model.encode_image(pixels) @ columns)
    return torch.cat(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", help="of a folder of photographs, one folder a category")
    parser.add_argument("prompts", type=Path, help="text file, one prompt a line")
    parser.add_argument("audit", type=Path, help="JSON that `clipattr audit --pixels --json` wrote")
    parser.add_argument("--quick", action="store_true", help="40 pictures")
    options = parser.parse_args()
    study = ca.open_study(options.study)
    prompts = [line.strip() for line in options.prompts.read_text("utf-8").splitlines() if line.strip()]
    folders = np.array([name.split("/")[0] for name in study.images.ids])
    whole = [image.load().convert("RGB") for image in study.images]
    seen = {name: np.array([has(small(one)) for one in whole]) for name, has in SEEN.items()}
    rows: list[dict[str, Any]] = []
    for name, has in seen.items():
        shares = sorted(((float(has[folders == one].mean()), one) for one in set(folders)), reverse=True)
        rows += [{"habit": name, "folder": str(one), "share": share} for share, one in shares if share >= 0.2]
    plain = np.flatnonzero(~np.any(list(seen.values()), 0))
    chosen = np.random.default_rng(0).permutation(plain)[: 40 if options.quick else PICTURES]
    codes = study.codes.to_dense().numpy()
    found: dict[str, float] = {}
    for name, has in seen.items():
        # Where most pictures have the habit, a latent of the folder's own object would tell it as well.
        mostly = [one for one in set(folders) if has[folders == one].mean() >= MOSTLY]
        rest = ~np.isin(folders, mostly)
        found[f"share {name}"] = float(has.mean())
        found[f"best latent's AUC {name}"] = max(auc(one, has[rest]) for one in codes[rest].T)
    text = study.model.encode_text(prompts)
    columns = (text - study.model.encode_text(list(study.vocabulary.words)).mean(0)).T
    pictures = [whole[row] for row in chosen]
    for habit, (edit, control) in HABITS.items():
        change = contrasts(study, pictures, edit, columns) - contrasts(study, pictures, control, columns)
        for place, prompt in enumerate(prompts):
            others = folders[chosen] != prompt.replace(" ", "_")
            rise = t_interval(change[torch.from_numpy(others), place])
            rows.append({"habit": habit, "prompt": prompt, "rise": rise.value, "low": rise.low, "high": rise.high,
                         "listed": rise.value >= LARGE})  # fmt: skip
        mine = [row for row in rows if row["habit"] == habit]
        found[f"prompts raised by {habit}"] = sum(row["low"] >= LARGE for row in mine)
        found[f"largest rise by {habit}"] = max(row["rise"] for row in mine)
        for row in sorted(mine, key=lambda row: -row["rise"])[:4]:
            span = f"[{row['low'] * 100:.1f}, {row['high'] * 100:.1f}]"
            print(f"{habit:22} {row['prompt']:18} {row['rise'] * 100:+.1f} {span}")
    audit = json.loads(options.audit.read_text("utf-8"))
    verdicts = [one["evidence"]["pixels"]["verdict"] for one in audit["findings"]]
    found |= {"pictures": len(whole), "prompts": len(prompts), "findings": len(verdicts),
              "confirmed": verdicts.count("confirmed")}  # fmt: skip
    rows += [
        {"finding": one["prompt"], "label": one["label"], "kind": one["kind"]}
        | {key: one["evidence"]["pixels"][key] for key in ("verdict", "edit", "removal", "transplant")}
        for one in audit["findings"]
    ]
    for name, value in found.items():
        print(f"{name:44} {value:.3f}")
    write_results("photo_habits", found, rows, quick=options.quick)


if __name__ == "__main__":
    main()
