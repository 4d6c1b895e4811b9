"""Cards: name and scores of one latent, for panels.

Owns the choice between name, label and number. Ignores where the numbers come from. Start at `card_of`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NUMBERS = ("alignment", "clarity", "frequency", "mean_top", "triage", "margin", "auc")


@dataclass(frozen=True)
class Card:
    """Name and scores of one latent. Cosines are raw; unknown numbers are NaN.

    `name` is what to show, `given` the analyst's own name; `aligned` False says that the label fits no better than
    words fit random pictures.
    """

    latent: int
    name: str
    label: str | None
    aligned: bool
    given: str | None
    alignment: float
    clarity: float
    frequency: float
    mean_top: float
    triage: float
    margin: float
    auc: float

    @property
    def title(self) -> str:
        """The name with the latent's number, since several latents may have one name."""
        return self.name if self.name.startswith("latent ") else f"{self.name} · {self.latent}"


def card_of(latent: int, row: Mapping[str, Any] | Any, given: str | None) -> Card:
    """A latent's card from its row of the study's table of latents and the analyst's own name for it."""
    label, own = _text(row.get("label")), _text(given)
    fits = bool(row.get("aligned", True))
    name = own
    if name is None and label is not None:
        name = label if fits else f"latent {latent} · {label}?"
    numbers = [_number(row.get(key)) for key in NUMBERS]
    return Card(latent, name or f"latent {latent}", label, fits, own, *numbers)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
