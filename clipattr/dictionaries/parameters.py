"""Parameters: checks and normalisations that every kind of dictionary applies to its tensors and inputs.

Owns shape and value checks, unit-length decoder rows, and the row normalisations. Start at `fitting`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipattr.errors import DictionaryError

ROW_NORMS = (None, "layer_norm", "length")
# Added to a row's standard deviation before dividing, and not when undoing it: as Prisma, SAELens and OpenAI do.
ROW_NORM_EPS = 1e-5


def unit_rows(decoder: Tensor) -> tuple[Tensor, Tensor | None]:
    """Rows scaled to unit length, and their lengths (None if all were unit vectors to 1e-4 already).

    Rows of length zero stay zero.
    """
    lengths = torch.linalg.vector_norm(decoder.double(), dim=1)
    if bool(((lengths - 1).abs() < 1e-4).all()):
        return decoder, None
    safe = torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    return (decoder.double() / safe[:, None]).float(), lengths.float()


def real(name: str, tensor: Tensor) -> None:
    """Raise DictionaryError unless the tensor holds real floating point numbers."""
    if not tensor.is_floating_point():
        raise DictionaryError(f"Dictionary field {name!r} must hold real numbers; got {tensor.dtype}.")


def fitting(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """The tensor as contiguous float32, if it has this shape and holds finite real numbers; else DictionaryError."""
    assert tensor is not None
    if tuple(tensor.shape) != shape:
        raise DictionaryError(
            f"Dictionary field {name!r} must have shape {shape} beside this decoder; got {tuple(tensor.shape)}."
        )
    real(name, tensor)
    tensor = tensor.detach().float().contiguous()
    if not bool(torch.isfinite(tensor).all()):
        raise DictionaryError(f"Dictionary field {name!r} holds NaN or infinite values.")
    return tensor


def checked_acts(acts: Tensor, width: int) -> Tensor:
    """The activations, if they are finite real numbers of shape (batch, width); else DictionaryError."""
    if not isinstance(acts, Tensor) or not acts.is_floating_point():
        raise DictionaryError(
            f"A dictionary takes a tensor of real floating point numbers; got {getattr(acts, 'dtype', 'none')} in "
            f"a {type(acts).__name__}. Convert arrays with torch.from_numpy and integers with .float()."
        )
    if acts.ndim != 2 or acts.shape[1] != width:
        raise DictionaryError(
            f"This dictionary takes activations of shape (batch, {width}); got {tuple(acts.shape)}. "
            "Flatten token activations; another width means another site or model."
        )
    if not torch.isfinite(acts.sum()):
        bad = (~torch.isfinite(acts)).any(-1).nonzero().flatten()
        if len(bad):
            raise DictionaryError(
                f"Activations hold NaN or infinite values in {len(bad)} of {len(acts)} rows, first in row "
                f"{int(bad[0])}: check the model's dtype, or leave these inputs out."
            )
    return acts


def normalised_rows(acts: Tensor, how: str) -> tuple[Tensor, Tensor]:
    """Rows normalised by their own statistics.

    Args:
        acts: (batch, width), float32.
        how: "layer_norm" or "length", see `Dictionary`.

    Returns:
        The normalised rows (batch, width), and (batch, 2): the mean and the deviation that undo it.
    """
    if how == "layer_norm":
        mean = acts.mean(-1, keepdim=True)
        deviation = acts.std(-1, keepdim=True)
        return (acts - mean) / (deviation + ROW_NORM_EPS), torch.cat([mean, deviation], -1)
    length = (acts.norm(dim=-1, keepdim=True) / acts.shape[1] ** 0.5).clamp_min(1e-12)
    return acts / length, torch.cat([torch.zeros_like(length), length], -1)
