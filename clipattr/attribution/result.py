"""The result: signed attributions of a batch, with what is not a latent (bias, error, gap) beside them.

Owns `Attribution`: tables and words; `result_files.py` writes it. Numbers are raw (cosine or logit units); `plot` and
`explain` show cosines in points (× 100). Ignores how the values came about. Start at `Attribution.top`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from clipattr.attribution.result_files import TENSORS, read_result, write_result
from clipattr.dictionaries.codes import SparseCodes
from clipattr.errors import DataError, TargetError

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("latent", "label", "activation", "attribution", "share", "alignment")


@dataclass(frozen=True)
class Attribution:
    """What a batch's targets owe to each active latent.

    Attributes:
        codes: (batch · tokens) rows of codes; `tokens` is 1 at CLS sites.
        values: (batch · tokens, k, n): attribution of the latent in the same place of `codes`, raw, signed, in `unit`.
        y: (batch, n): the targets.
        error, bias: (batch, n): what the error node and the bias get by the same logic (first order or exact).
        gap: (batch, n): `y - y_baseline` minus the sum of all values: what the method leaves unexplained of the
            change that all latents make together. 0 for a method that adds up exactly.
        y_baseline: (batch, n): the targets with all codes at their baseline, bias and error kept.
        unit: "cosine", "logit", …; "mixed" where targets differ (see `units`), "rank only" for methods whose values
            have no unit.
        names: n names of targets. method, site: how and where. adds_up: whether a waterfall is right.
        pictures: names of the pictures, as many as the batch.
        flagged: (batch, n) bool: a method that should add up leaves more than 1e-3 (ill-conditioned).
        grid: (rows, columns) of patches where tokens are patches.
        labels: label of every latent that occurs, where a study knew it.
        model_hash, dictionary_hash: what made it.
        units: the unit of each target's `y`.
        route: "closed form", or "autograd from the site onward" where the tail behind the site is another.
        preprocess: the model's `preprocess_id`, by which a map finds its place in a picture.
        y_bias: (batch, n): the targets with all codes at their baseline and the error node taken out: what the bias
            alone gives. NaN in results that were saved before this was kept.
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
        """`y_bias`, NaN where it is not known."""
        return torch.full_like(self.y, torch.nan) if self.y_bias is None else self.y_bias

    @property
    def n_targets(self) -> int:
        return self.y.shape[1]

    def latents(self, picture: int | None = 0, target: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Latent numbers, activations and attributions of one target, one entry per latent.

        Args:
            picture: its number; None means the mean over all pictures, where a latent that is not active counts 0.

        Tokens are reduced by the largest activation and the sum of attributions.
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
        """The n latents with the largest |attribution|: latent, label, activation, attribution, share, alignment.

        `share` is of the positive evidence, `max(R, 0) / Σ max(R, 0)` over all latents. `alignment` says how much the
        latent's examples look like the target's prompt to the evaluator; NaN where no study or no prompt is known.
        `picture=None` means the mean over all pictures.
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

        Latents without a label stay on their own, as `latent J`.
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
        """Signed bars of the n strongest latents with bias, error and gap below; see `plots.attribution_bars`."""
        from clipattr.display.plots import attribution_bars

        return attribution_bars(self, n, picture=picture, target=target, title=title)

    def waterfall(self, n: int = 10, *, picture: int = 0, target: int = 0) -> pd.DataFrame:
        """Steps from the baseline to the target: name, change, and the level after it.

        Raises:
            TargetError: the method does not add up, or did not here.
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
        """The steps of `waterfall` as a figure, from the level without latents to the target.

        Raises:
            TargetError: the method does not add up, or did not here.
        """
        from clipattr.display.plots import waterfall_steps

        steps = self.waterfall(n, picture=picture, target=target)
        own = self.units[target] if self.units else self.unit
        scale, unit = (100.0, "points") if own == "cosine" else (1.0, own)
        changes = [scale * change for change in steps["change"]]
        return waterfall_steps(steps["step"].tolist(), changes, unit=unit, title=title)

    def plot_picture(
        self, image: Any, *, latent: int | None = None, picture: int = 0, target: int = 0
    ) -> Any:
        """The picture, and beside it the map of where the evidence lies; of all latents, or of one.

        The map lies where the model looks: a centre crop is marked by greying the rest.

        Args:
            image: the picture itself (record, PIL or array): results keep names, not pixels.

        Raises:
            SiteError: attributed at a class token, which has no place in the picture.
            DataError: what the model sees of the picture is not known, because its preprocessing is its own; lay the
                map over with `overlay(picture, heat, frame=frame_of(model, picture.size))`.
        """
        from PIL import Image

        from clipattr.attribution.maps import attribution_map
        from clipattr.attribution.pixels import picture_in
        from clipattr.display.framing import frame_of
        from clipattr.display.plots import gallery, overlay

        heat = attribution_map(self, latent=latent, target=target)[self._picture(picture)]
        shown = picture_in(image)
        shown = shown if isinstance(shown, Image.Image) else Image.fromarray(np.asarray(shown))
        what = "all latents" if latent is None else self.labels.get(latent) or f"latent {latent}"
        drawn = overlay(shown, heat.cpu(), frame=frame_of(self.preprocess, shown.size))
        return gallery([shown, drawn], [self.pictures[picture], what], side=2.2)

    def values_of(self, picture: int) -> Tensor:
        """(tokens, k, n) of one picture."""
        picture = self._picture(picture)
        return self.values[picture * self.tokens : (picture + 1) * self.tokens]

    def explain(self, *, picture: int = 0, target: int = 0, n: int = 3) -> str:
        """One paragraph in words and numbers."""
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
            return text + "These values rank latents; they are not in the target's unit."
        parts = [
            f"{name} {float(getattr(self, name)[picture, target]) * scale:+.1f}" for name in ("bias", "error")
        ]
        text += f"Not latents: {', '.join(parts)}. "
        gap = float(self.gap[picture, target]) * scale
        if self.adds_up and not self.flagged[picture, target]:
            return text + f"The values add up to the change that all latents make, to {abs(gap):.2f}."
        if self.adds_up:
            return (
                text
                + f"The values should add up but miss by {gap:+.2f}: ill-conditioned here, read with care."
            )
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
        """Pictures of several results below one another; they must come from one call's batches.

        Raises:
            DataError: nothing to join.
        """
        if not parts:
            raise DataError("no pictures were attributed: none was given, or none could be read.")
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
        """Write one safetensors file, complete or not at all. Alignments are not kept: they belong to the study.

        Raises:
            DataError: a full disk or a folder that cannot be written.
        """
        write_result(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> Attribution:
        """Read what `save` wrote.

        Raises:
            DataError: not such a file, or of a newer schema.
        """
        return Attribution(**read_result(Path(path)))

    def _target(self, target: int) -> int:
        if not -self.n_targets <= target < self.n_targets:
            raise IndexError(f"target {target} of {self.n_targets}: {self.names[:5]}.")
        return target % self.n_targets

    def _picture(self, picture: int) -> int:
        if not -len(self) <= picture < len(self):
            raise IndexError(f"picture {picture} of {len(self)}.")
        return picture % len(self)


def _widened(rows: Tensor, places: int) -> Tensor:
    """Rows padded with zeros to `places` in their second dimension."""
    if rows.shape[1] == places:
        return rows
    return torch.cat([rows, rows.new_zeros(len(rows), places - rows.shape[1], *rows.shape[2:])], dim=1)
