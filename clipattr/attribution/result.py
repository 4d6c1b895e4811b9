"""The result: signed attributions of a batch, with the effects of bias and error node, and the gap.

Owns `Attribution`, its tables and text; `result_files.py` writes it. Numbers are raw (cosine or logit units); `plot`
and `explain` show cosines in points (× 100). Ignores how the values are computed. Start at `Attribution.top`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from clipattr.attribution.result_files import TENSORS, read_result, write_result
from clipattr.dictionaries.codes import SparseCodes
from clipattr.errors import DataError, TargetError
from clipattr.storage.paths import user_path

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("latent", "label", "activation", "attribution", "share", "alignment")


@dataclass(frozen=True)
class Attribution:
    """Attributions of a batch's targets to each active latent, as `attribute` returns them.

    Attributes:
        codes: `SparseCodes` of batch · tokens rows; `tokens` is 1 at CLS sites.
        values: (batch · tokens, k, n): attribution of each entry of `codes`, raw, signed, in `unit`. Positive: the
            latent raises the target.
        y: (batch, n): the targets.
        error, bias: (batch, n): effects of the error node and of the bias (exact for the method `exact`, else first
            order).
        gap: (batch, n): `y - y_baseline` minus the sum of all values; 0 for a method that adds up exactly.
        y_baseline: (batch, n): the targets with all codes at their baseline, bias and error node unchanged.
        unit: "cosine", "logit", …; "mixed" where targets differ (see `units`), "rank only" for methods whose values
            have no unit.
        names: n names of targets. method, site: how and where. adds_up: whether the values of a picture add up.
        pictures: names of the pictures, as many as the batch.
        flagged: (batch, n) bool: a method that should add up leaves a residual above 1e-3 (ill-conditioned).
        grid: (rows, columns) of patches where tokens are patches.
        labels: {latent: label} of the latents that occur; empty without a study.
        model_hash, dictionary_hash: hashes of model and dictionary.
        units: the unit of each target's `y`.
        route: "closed form", or "autograd from the site onward".
        preprocess: the model's `preprocess_id`, which determines the part of a picture that a map covers.
        y_bias: (batch, n): the targets with all codes at their baseline and without the error node. NaN in results
            that were saved by earlier versions.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> att = ca.attribute(study, study.images[:2], ["kite", "bat"])
    >>> att.values.shape, att.y.shape, list(att.names)
    (torch.Size([2, 8, 2]), torch.Size([2, 2]), ['kite', 'bat'])
    >>> att.top(2, picture=1, target=0).columns.tolist()
    ['latent', 'label', 'activation', 'attribution', 'share', 'alignment']
    """

    codes: SparseCodes
    values: Tensor
    y: Tensor
    error: Tensor
    bias: Tensor
    gap: Tensor
    y_baseline: Tensor
    unit: str
    names: list[str]
    method: str
    site: str
    adds_up: bool
    pictures: list[str]
    flagged: Tensor
    tokens: int = 1
    grid: tuple[int, int] | None = None
    labels: dict[int, str] = field(default_factory=dict)
    model_hash: str | None = None
    dictionary_hash: str | None = None
    units: list[str] = field(default_factory=list)
    route: str = ""
    preprocess: str = ""
    y_bias: Tensor | None = None
    align: Callable[[Sequence[int], int], Tensor] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.y)

    def __post_init__(self) -> None:
        if self.y_bias is None:
            object.__setattr__(self, "y_bias", torch.full_like(self.y, torch.nan))

    @property
    def bias_alone(self) -> Tensor:
        """`y_bias`, NaN where it is unknown; (batch, n)."""
        return torch.full_like(self.y, torch.nan) if self.y_bias is None else self.y_bias

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return self.y.shape[1]

    def latents(self, picture: int | None = 0, target: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Latent numbers, activations and attributions of one target, (k,) each, one entry per latent.

        Over tokens, the largest activation and the sum of attributions are taken.

        Args:
            picture: its index; None means the mean over all pictures, with 0 where a latent is not active.
            target: its index.

        Raises:
            IndexError: no such picture or target.
        """
        target = self._target(target)
        picture = None if picture is None else self._picture(picture)
        rows = slice(None) if picture is None else slice(picture * self.tokens, (picture + 1) * self.tokens)
        indices = self.codes.indices[rows].long()
        amounts, values = self.codes.values[rows], self.values[rows, :, target]
        count = len(self) if picture is None else 1
        owner = torch.arange(len(indices), device=indices.device)[:, None].expand_as(indices) // self.tokens
        used = (amounts != 0) | (values != 0)
        found, place = indices[used].unique(return_inverse=True)
        total = values.new_zeros(len(found)).index_add_(0, place, values[used])
        # The largest activation per picture and latent, then the mean over pictures.
        pairs, pair = (owner[used] * self.codes.n_latents + indices[used]).unique(return_inverse=True)
        largest = amounts.new_zeros(len(pairs)).scatter_reduce_(
            0, pair, amounts[used], "amax", include_self=False
        )
        where = torch.searchsorted(found, pairs % self.codes.n_latents)
        activation = amounts.new_zeros(len(found)).index_add_(0, where, largest)
        return found, activation / count, total / count

    def top(self, n: int = 10, *, picture: int | None = 0, target: int = 0) -> pd.DataFrame:
        """Table of the n latents with the largest |attribution|.

        Args:
            n: number of rows.
            picture: index of the picture; None means the mean over all pictures.
            target: index of the target.

        Returns:
            DataFrame: latent, label, activation, attribution (raw, signed), share of the positive evidence
            (`max(R, 0) / Σ max(R, 0)` over all latents), alignment of the latent with the target's prompt by the
            evaluator (raw cosine; NaN without a study or a prompt).

        Raises:
            IndexError: no such picture or target.
        """
        table = self._table(picture, target)
        order = np.argsort(-table["attribution"].abs().to_numpy(), kind="stable")[: max(n, 0)]
        table = table.iloc[order].reset_index(drop=True)
        table["alignment"] = self._alignment(table["latent"].tolist(), target)
        return table

    def _table(self, picture: int | None, target: int) -> pd.DataFrame:
        import pandas as pd

        latents, activation, values = self.latents(picture, target)
        positive = values.clamp_min(0)
        share = positive / positive.sum() if positive.sum() > 0 else positive
        return pd.DataFrame(
            {
                "latent": latents.cpu().numpy(),
                "label": [self.labels.get(int(latent), "") for latent in latents],
                "activation": activation.cpu().numpy(),
                "attribution": values.cpu().numpy(),
                "share": share.cpu().numpy(),
            }
        )

    def _alignment(self, latents: Sequence[int], target: int) -> Any:
        if self.align is None or not latents:
            return np.full(len(latents), np.nan)
        return self.align(latents, self._target(target)).cpu().numpy()

    def to_frame(self) -> pd.DataFrame:
        """Every non-zero entry: picture, target, token (at patch sites), latent, label, activation, attribution."""
        import pandas as pd

        row, place, target = (part.cpu().numpy() for part in self.values.nonzero(as_tuple=True))
        latents = self.codes.indices.cpu().numpy()[row, place]
        frame = pd.DataFrame(
            {
                "picture": [self.pictures[number] for number in row // self.tokens],
                "target": [self.names[number] for number in target],
                "latent": latents,
                "label": [self.labels.get(int(latent), "") for latent in latents],
                "activation": self.codes.values.cpu().numpy()[row, place],
                "attribution": self.values.cpu().numpy()[row, place, target],
            }
        )
        if self.tokens > 1:
            frame.insert(2, "token", row % self.tokens)
        return frame

    def by_label(self, *, picture: int | None = 0, target: int = 0) -> pd.DataFrame:
        """Attributions summed over latents that share a label, largest |attribution| first.

        Columns: label, latents, attribution (raw, signed), share. A latent without a label has its own row, `latent J`.

        Raises:
            IndexError: no such picture or target.
        """
        table = self._table(picture, target)
        table["label"] = [
            label or f"latent {latent}" for label, latent in zip(table["label"], table["latent"], strict=True)
        ]
        grouped = table.groupby("label", as_index=False).agg(
            latents=("latent", list), attribution=("attribution", "sum"), share=("share", "sum")
        )
        order = np.argsort(-grouped["attribution"].abs().to_numpy(), kind="stable")
        return grouped.iloc[order].reset_index(drop=True)

    def plot(self, n: int = 12, *, picture: int = 0, target: int = 0, title: str | None = None) -> Any:
        """Figure with signed bars of the n strongest latents, bias, error and gap, in points for cosines."""
        from clipattr.display.plots import attribution_bars

        return attribution_bars(self, n, picture=picture, target=target, title=title)

    def waterfall(self, n: int = 10, *, picture: int = 0, target: int = 0) -> pd.DataFrame:
        """Steps from the baseline to the target; DataFrame: step, change, level after it, raw as `values`.

        Raises:
            TargetError: the method does not add up, or left a residual for this picture.
            IndexError: no such picture or target.
        """
        import pandas as pd

        target, picture = self._target(target), self._picture(picture)
        if not self.adds_up or bool(self.flagged[picture, target]):
            raise TargetError(
                f"the values of {self.method!r} do not add up to the target here, so a waterfall would mislead. Use "
                "method='integrated_gradients' or 'shapley', or plot()."
            )
        table = self.top(n, picture=picture, target=target)
        names = [
            label or f"latent {latent}" for label, latent in zip(table["label"], table["latent"], strict=True)
        ]
        changes = table["attribution"].tolist()
        start = float(self.y_baseline[picture, target])
        rest = float(self.values_of(picture)[..., target].sum()) - sum(changes)
        steps = [("bias and error", start), *zip(names, changes, strict=True), ("other latents", rest)]
        steps.append(("residual", float(self.gap[picture, target])))
        frame = pd.DataFrame(steps, columns=["step", "change"])
        frame["level"] = frame["change"].cumsum()
        return frame

    def plot_waterfall(
        self, n: int = 10, *, picture: int = 0, target: int = 0, title: str | None = None
    ) -> Any:
        """The steps of `waterfall` as a figure, in points for cosines.

        Raises:
            TargetError, IndexError: as for `waterfall`.
        """
        from clipattr.display.plots import waterfall_steps

        steps = self.waterfall(n, picture=picture, target=target)
        own = self.units[target] if self.units else self.unit
        scale, unit = (100.0, "points") if own == "cosine" else (1.0, own)
        changes = [scale * change for change in steps["change"]]
        return waterfall_steps(steps["step"].tolist(), changes, unit=unit, title=title)

    def values_of(self, picture: int) -> Tensor:
        """Values of one picture, (tokens, k, n); IndexError if there is no such picture."""
        picture = self._picture(picture)
        return self.values[picture * self.tokens : (picture + 1) * self.tokens]

    def explain(self, *, picture: int = 0, target: int = 0, n: int = 3) -> str:
        """A paragraph of text: the score, the n strongest latents, bias, error and gap; IndexError as for `top`."""
        target, picture = self._target(target), self._picture(picture)
        own = self.units[target] if self.units else self.unit
        scale, unit = (100.0, " points") if own == "cosine" else (1.0, f" {own}")
        table = self.top(n, picture=picture, target=target)

        def phrase(row: Any) -> str:
            name = f"“{row.label}” (latent {row.latent})" if row.label else f"latent {row.latent}"
            return f"{name} {row.attribution * (1.0 if self.unit == 'rank only' else scale):+.1f}"

        listed = "; ".join(phrase(row) for row in table.itertuples()) or "no latent is active"
        total = len(self.latents(picture, target)[0])
        text = (
            f"{self.pictures[picture]}: {self.names[target]} is {float(self.y[picture, target]) * scale:+.1f}{unit}. "
            f"By {self.method} at {self.site}, the strongest of {total} active latents: {listed}. "
        )
        if self.unit == "rank only":
            return text + "These values only rank latents; they are not in the target's unit."
        parts = [
            f"{name} {float(getattr(self, name)[picture, target]) * scale:+.1f}" for name in ("bias", "error")
        ]
        text += f"Not latents: {', '.join(parts)}. "
        gap = float(self.gap[picture, target]) * scale
        if self.adds_up and not self.flagged[picture, target]:
            return text + f"The values add up to the change that all latents make, to {abs(gap):.2f}."
        if self.adds_up:
            return text + f"The values should add up but leave a residual of {gap:+.2f} (ill-conditioned)."
        side = "more" if gap >= 0 else "less"
        return (
            text
            + f"Together the latents change the target by {abs(gap):.1f} {side} than these values sum to."
        )

    def cpu(self) -> Attribution:
        """The same result with all numbers on the CPU."""
        if self.values.device.type == "cpu":
            return self
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: value.cpu() for name, value in tensors.items()}
        return replace(self, codes=self.codes.to("cpu"), **moved)

    # several batches, files

    @staticmethod
    def cat(parts: Sequence[Attribution]) -> Attribution:
        """Concatenate the pictures of several results of one call.

        Raises:
            DataError: an empty list.
        """
        if not parts:
            raise DataError(
                "no picture was attributed: none was given, or none could be read. Give readable pictures."
            )
        if len(parts) == 1:
            return parts[0]
        places = max(part.values.shape[1] for part in parts)
        codes = SparseCodes(
            torch.cat([_widened(part.codes.indices, places) for part in parts]),
            torch.cat([_widened(part.codes.values, places) for part in parts]),
            parts[0].codes.n_latents,
        )
        rows: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts]) for name in TENSORS[1:]
        }
        labels = {latent: label for part in parts for latent, label in part.labels.items()}
        values = torch.cat([_widened(part.values, places) for part in parts])
        pictures = [name for part in parts for name in part.pictures]
        return replace(parts[0], codes=codes, values=values, labels=labels, pictures=pictures, **rows)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file atomically. Alignments are not saved: they belong to the study.

        Raises:
            DataError: a full disk or a folder that cannot be written.
        """
        write_result(self, user_path(path))

    @staticmethod
    def load(path: str | Path) -> Attribution:
        """Read what `save` wrote.

        Raises:
            DataError: not such a file, or of a newer schema.
        """
        return Attribution(**read_result(user_path(path)))

    def _target(self, target: int) -> int:
        if not -self.n_targets <= target < self.n_targets:
            raise IndexError(
                f"target {target} was asked for; there are {self.n_targets}, first {self.names[:5]}."
            )
        return target % self.n_targets

    def _picture(self, picture: int) -> int:
        if not -len(self) <= picture < len(self):
            raise IndexError(f"picture {picture} was asked for; this result has {len(self)}, counted from 0.")
        return picture % len(self)


def _widened(rows: Tensor, width: int) -> Tensor:
    """Rows padded with zeros to `width` in their second dimension."""
    return pad(rows, (0, 0) * (rows.ndim - 2) + (0, width - rows.shape[1]))
