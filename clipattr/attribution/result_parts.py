"""Parts of a saved result: which fields a file holds, their digest and the check of their shapes.

Owns the layout of the file of `Attribution.save`, and padding that joins batches. Ignores what the numbers mean.
Start at `TENSORS`.
"""

import hashlib
from typing import Any

import torch
from torch import Tensor

PLAIN = (
    "unit", "names", "method", "site", "adds_up", "pictures", "tokens", "grid", "model_hash", "dictionary_hash",
    "units",
    "route",
)  # fmt: skip
LATER = {"units": [], "route": ""}  # what the first files did not have
TENSORS = ("values", "y", "error", "bias", "gap", "y_baseline", "flagged")


def digest_of(tensors: dict[str, Tensor]) -> str:
    """32 hex digits over the numbers of some tensors, in the order of their names."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_shapes(plain: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """ValueError or TypeError unless names and numbers are of as many pictures and targets."""
    pictures, targets, tokens = len(plain["pictures"]), len(plain["names"]), plain["tokens"]
    if not isinstance(tokens, int) or tokens < 1:
        raise ValueError(f"{tokens!r:.40} tokens a picture")
    if not all(isinstance(name, str) for name in (*plain["pictures"], *plain["names"], *plain["units"])):
        raise ValueError("names that are no texts")
    rows = tensors["indices"].shape
    if tensors["values"].shape != (*rows, targets) or rows[0] != pictures * tokens or len(rows) != 2:
        raise ValueError(
            f"values of shape {tuple(tensors['values'].shape)} for {pictures} pictures, {targets} targets"
        )
    for name in TENSORS[1:]:
        if tensors[name].shape != (pictures, targets):
            raise ValueError(
                f"{name} has shape {tuple(tensors[name].shape)} for {pictures} pictures, {targets} targets"
            )


def widened(rows: Tensor, places: int) -> Tensor:
    """Rows padded with zeros to `places` in their second dimension."""
    if rows.shape[1] == places:
        return rows
    return torch.cat([rows, rows.new_zeros(len(rows), places - rows.shape[1], *rows.shape[2:])], dim=1)
