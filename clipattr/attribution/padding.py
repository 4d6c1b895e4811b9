"""Conversion of codes in any layout to (batch, k) indices and values, as attribution methods read them.

Padding has value exactly 0, and therefore attribution exactly 0. Start at `padded`.
"""

from typing import Any

from torch import Tensor


def padded(codes: Any) -> tuple[Tensor, Tensor]:
    """Indices (batch, k) int64 and values (batch, k) of sparse codes; k is at least 1, for CSR the longest row."""
    if codes.offsets is not None or codes.indices.shape[1] == 0:
        codes = codes.to_fixed()
    return codes.indices.long(), codes.values
