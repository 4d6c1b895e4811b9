"""Repaired: a repair in numbers, for the findings panel.

Owns the rows of its table. Start at `Repaired`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipattr_widgets.text import plain, shown, signed

HOWS = (
    ("erase the directions and refit", "erased"),
    ("project the directions out", "project"),
    ("ablate the latents", "ablate"),
)
REPAIR_COLUMNS: tuple[dict[str, Any], ...] = (
    {"key": "measure", "label": "on held-out pictures"},
    *({"key": key, "label": key, "numeric": True} for key in ("before", "after", "change")),
)


@dataclass(frozen=True, eq=False)
class Repaired:
    """A repair in numbers: what was done, to how many findings, what came of it (a `BeforeAfter`)."""

    about: str
    findings: int
    outcome: Any

    def rows(self) -> list[dict[str, Any]]:
        """Rows for a `DataTable`, shares in per cent; intervals beside the values."""
        return [
            {"id": i, "cells": [shown(f"{row['measure']}, {row['pictures']} pictures", 60),
                                *(_measured(row, key) for key in ("before", "after", "change"))]}
            for i, row in enumerate(self.outcome.rows)
        ]  # fmt: skip


def _measured(row: Mapping[str, Any], key: str) -> str:
    share = row["unit"] == "share"
    value, low, high = (
        float(row[name]) * (100 if share else 1) for name in (key, f"{key}_low", f"{key}_high")
    )
    digits = 1 if share else 2
    text = signed(value, digits) if key == "change" else plain(value, digits)
    unit = " %" if share and key != "change" and math.isfinite(value) else ""
    bounds = f" ({plain(low, digits)} to {plain(high, digits)})" if math.isfinite(low + high) else ""
    return text + unit + bounds
