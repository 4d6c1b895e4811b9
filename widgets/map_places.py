"""Positions of latents on the map: one function per view.

Owns the axes and their descriptions. Start at `surprise_places`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clipattr.display.wording import counted
from clipattr_widgets.desk import Desk, PanelError
from clipattr_widgets.text import shown


@dataclass(frozen=True, eq=False)
class Places:
    """Where latents lie: `xy` (n_latents, 2), NaN for one that has no place; `x` and `y` name the axes.

    `reliance` and `fit` (n_latents,), raw, are those of the prompt where there is one, else NaN.
    """

    xy: np.ndarray
    x: str
    y: str
    about: str
    reliance: np.ndarray
    fit: np.ndarray
    bare: bool = False  # axes whose numbers mean nothing
    log_y: bool = False  # y is log₁₀ of what its name says
    bent_y: bool = (
        False  # y is drawn linearly near zero and logarithmically far off: most latents lie at zero
    )


def surprise_places(desk: Desk, prompt: str) -> Places:
    """Reliance of a prompt on each latent over its pictures, by how well the latent fits the prompt."""
    from clipattr.meaning.labels import alignment

    study = desk.study
    reason = desk.browse_only
    if reason is not None:
        raise PanelError(f"{reason} The other views of the map do not need the weights.")
    found = desk.collected.rests_on(prompt, desk.target(prompt))
    reliance = np.full(desk.n_latents, np.nan)
    reliance[found.latents] = found.means
    text = study.evaluator.encode_text([prompt]).float().cpu()
    fit = alignment(study.labels.mean_embedding.float(), text, study.empty_embedding)[:, 0].numpy()
    about = (
        f"reliance of “{shown(prompt, 40)}” on each latent, over {counted(len(found.rows), 'picture')} "
        f"{found.chosen_by}. "
        "Right: its examples look like the prompt. Top left: an unexpected reliance."
    )
    return Places(
        np.stack([fit * 100, reliance * 100], 1), f"alignment with “{shown(prompt, 30)}”, points",
        f"reliance of “{shown(prompt, 30)}”, points", about, reliance, fit, bent_y=True,
    )  # fmt: skip


def quality_places(desk: Desk) -> Places:
    """Clarity by frequency."""
    frame = desk.latents
    frequency = np.asarray(frame["frequency"], np.float64) * 100
    with np.errstate(divide="ignore"):
        y = np.where(frequency > 0, np.log10(frequency), np.nan)
    nothing = np.full(desk.n_latents, np.nan)
    xy = np.stack([np.asarray(frame["clarity"], np.float64), y], 1)
    about = "Right: the latent's examples look alike. Top: it is active in many pictures."
    return Places(xy, "clarity", "active in, % of pictures", about, nothing, nothing, log_y=True)


def meaning_places(desk: Desk, on_round: Callable[[int, int], None] | None = None) -> Places:
    """A layout on which latents with like examples are neighbours; made once per study. `on_round` as for `layout`."""
    from clipattr.meaning.layout import layout

    if desk.layout is None:
        desk.layout = layout(desk.study.labels.mean_embedding, on_round=on_round)
    nothing = np.full(desk.n_latents, np.nan)
    about = (
        "Neighbours have similar examples by the evaluator; large distances and directions have no meaning."
    )
    return Places(desk.layout, "", "", about, nothing, nothing, bare=True)


def spread(xy: np.ndarray, worth: np.ndarray, across: int = 7, down: int = 8) -> list[int]:
    """Of each region of a map the latent of greatest worth, the most populated regions first.

    Args:
        xy: (n, 2), NaN for latents without a place; worth: (n,), NaN for none.
        across, down: regions in a row and in a column.
    """
    there = np.flatnonzero(np.isfinite(xy).all(1) & np.isfinite(worth))
    if not len(there):
        return []
    low, size = xy[there].min(0), np.ptp(xy[there], axis=0)
    cells = ((xy[there] - low) / np.where(size > 0, size, 1) * (across, down)).astype(int)
    number = np.minimum(cells[:, 0], across - 1) * down + np.minimum(cells[:, 1], down - 1)
    order = there[np.lexsort((-worth[there], number))]
    _, first, counts = np.unique(np.sort(number), return_index=True, return_counts=True)
    return [int(order[place]) for place in first[np.argsort(-counts, kind="stable")]]
