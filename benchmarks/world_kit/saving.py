"""Writes small CLIPs in open_clip's local-dir format so that archives of them are small.

Start at `save`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .scene import SIDE

MANTISSA = (
    6  # bits kept of fp16's ten: a relative error of 0.5 % on average a weight, and archives half the size
)


def rounded(state: dict[str, Tensor], seen: Tensor, bits: int = MANTISSA) -> dict[str, Tensor]:
    """A model's state as fp16 on the CPU, matrices rounded to a few bits, rows of tokens never seen zero.

    Args:
        state: of a CLIP.
        seen: (vocabulary,) bool.
        bits: of the mantissa.
    """
    found = {}
    for name, value in state.items():
        half = value.detach().cpu().half().contiguous().clone()
        if half.ndim >= 2:
            drop = 10 - bits
            whole = half.view(torch.int16)
            whole += 1 << (drop - 1)
            whole &= ~((1 << drop) - 1)
        if name == "token_embedding.weight":
            half[~seen] = 0  # not by multiplication, which leaves the signs
        found[name] = half
    return found


def save(
    state: dict[str, Tensor],
    folder: Path,
    config: dict[str, Any],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> None:
    """Write `open_clip_config.json` and `open_clip_model.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {
        "mean": mean,
        "std": std,
        "interpolation": "bicubic",
        "resize_mode": "squash",
        "size": [SIDE, SIDE],
    }
    written = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    partial = folder / "open_clip_model.partial"
    save_file({name: value.contiguous() for name, value in state.items()}, partial)
    os.replace(partial, folder / "open_clip_model.safetensors")
