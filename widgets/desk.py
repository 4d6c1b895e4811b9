"""Desk: queries of panels about one study, answered by public `clipattr` functions, or with a reason.

Owns the questions (which picture, which latent, which target, what after a change) and what is shown where an answer is
missing: a study without labels, pictures or model weights can still be browsed. Ignores how answers are drawn and when
they are asked for. Start at `Desk.measure`.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipattr.display.framing import Frame, frame_of
from clipattr.errors import ClipattrError
from clipattr.studies.browsing import Browser
from clipattr.studies.collected import Collected
from clipattr.studies.first_look import well_explained
from clipattr_widgets.cards import Card, card_of
from clipattr_widgets.measured import Measured, measure
from clipattr_widgets.model_names import reference_of
from clipattr_widgets.strangeness import strangeness
from clipattr_widgets.text import plain, shown

MISSING = Image.new("RGB", (112, 112), (222, 224, 228))
MAX_PROMPT = 2_000
KEPT_PICTURES = 32


class PanelError(ClipattrError, ValueError):
    """A request of a panel cannot be answered; the panel shows the message."""


class Desk:
    """One study for panels.

    Args:
        study: an opened `Study`.
        name: in the model picker; default: model and site.
        read_only: nothing is written to the study by any panel.
    """

    def __init__(self, study: Any, name: str | None = None, *, read_only: bool = False) -> None:
        self.study, self.read_only = study, read_only
        # Where slow answers are kept if the study's own folder is not written to.
        self.scratch: Path | None = None
        self.site = str(study.site)
        self.model_name = name or reference_of(study)
        self.name = name or f"{self.model_name} · {self.site}"
        self.n_latents = int(study.dictionary.n_latents)
        self._frame: Any = None
        self._kept: dict[int, tuple[Any, Any]] = {}
        self._aligned: tuple[Any, Any] = (None, None)
        self.layout: np.ndarray | None = None  # of the map's meaning view, once it was asked for
        self._thumbnail = lru_cache(4096)(self._read_thumbnail)
        self._target = lru_cache(64)(self._make_target)

    # pictures

    @property
    def n_pictures(self) -> int:
        """How many pictures the study holds; 0 for an empty one."""
        return len(self.study.images)

    def picture_caption(self, index: int) -> str:
        """Number, id and label of a picture as display text."""
        record = self.study.images[index]
        label = f" · {shown(record.label, 40)}" if record.label else ""
        return f"{index} · {shown(record.id, 60)}{label}"

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.study.images.ids)}

    def place_of(self, name: str) -> int | None:
        """The number of the picture with this id, or None."""
        return self._places.get(name)

    def find_picture(self, text: str, after: int = -1) -> tuple[int, str]:
        """The next picture whose number, id or label is or holds this text; the search wraps round.

        Returns:
            Its number, and which of how many it is: "2 of 41", or "" for a number.

        Raises:
            PanelError: there is none.
        """
        wanted = text.strip().lower()
        if wanted.isdecimal() and int(wanted) < self.n_pictures:
            return int(wanted), ""
        images = self.study.images
        labels = getattr(images, "columns", {}).get("label") or [None] * self.n_pictures
        hits = [
            index
            for index, (name, label) in enumerate(zip(images.ids, labels, strict=True))
            if wanted and (wanted in name.lower() or wanted in (label or "").lower())
        ]
        if hits:
            return _next(hits, after)
        raise PanelError(
            f"No picture has “{shown(text, 40)}” in its id or label; there are {self.n_pictures}."
        )

    def thumbnail(self, index: int) -> Image.Image:
        """The study's own small copy; a grey square where even that is missing."""
        return self._thumbnail(index)

    def picture(self, index: int) -> Image.Image:
        """The picture in the largest available size: the file, else the thumbnail."""
        try:
            return self.study.images[index].load()
        except (ClipattrError, OSError):
            return self.thumbnail(index)

    def _read_thumbnail(self, index: int) -> Image.Image:
        try:
            return self.study.thumbnail(index)
        except (ClipattrError, OSError, ValueError):
            return MISSING

    # latents

    @property
    def latents(self) -> Any:
        """The study's table of latents, read once; `forget` reads it again."""
        if self._frame is None:
            frame = self.study.latents
            self._frame = frame.set_index("latent", drop=False) if "latent" in frame else frame
        return self._frame

    def forget(self) -> None:
        """Read names and labels again, after a rename elsewhere."""
        self._frame = None

    def card(self, latent: int) -> Card:
        """What is known of a latent.

        Raises:
            PanelError: the dictionary has no such latent.
        """
        if not 0 <= latent < self.n_latents:
            raise PanelError(
                f"Latent {latent} does not exist; this dictionary has 0 to {self.n_latents - 1}."
            )
        try:
            row = self.latents.loc[latent]
        except KeyError:
            row = {}
        return card_of(latent, row, self.study.names.get(latent))

    def name_of(self, latent: int) -> str:
        """A latent's name or label with its number as display text."""
        return shown(self.card(latent).title)

    def find_latent(self, text: str, after: int = -1) -> tuple[int, str]:
        """The latent with this number, else the next whose name or label holds this text; the search wraps round.

        Returns:
            Its number, and which of how many it is: "2 of 80", or "" for a number.

        Raises:
            PanelError: there is none.
        """
        wanted = text.strip().lower()
        if wanted.isdecimal():
            return self.card(int(wanted)).latent, ""
        hits: set[int] = set()
        for column in ("name", "label"):
            if wanted and column in self.latents:
                lower = self.latents[column].astype("string").str.lower()
                hit = lower.str.contains(wanted, regex=False, na=False)
                hits |= {int(j) for j in self.latents.index[hit.to_numpy()]}
        if hits:
            return _next(sorted(hits), after)
        raise PanelError(f"No latent has “{shown(text, 40)}” in its name or label.")

    def examples(self, latent: int, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Places (m,) and activations (m,) of a latent's top pictures, strongest first; both may be empty."""
        held = self.study.examples
        if held is None or latent >= len(held.indices):
            return np.zeros(0, np.int64), np.zeros(0)
        places, values = np.asarray(held.indices[latent]), np.asarray(held.values[latent])
        keep = places >= 0
        return places[keep][:n], values[keep][:n]

    def maps(self, pictures: Sequence[Image.Image], latent: int) -> Any:
        """Where pictures drive a latent, as `LatentMaps`; None where the site has no such maps, or for no pictures.

        All on one scale: 1 is the latent's largest activation in the study.
        """
        from clipattr.attribution import latent_maps

        if not len(pictures):
            return None
        _, strongest = self.examples(latent, 1)
        largest = float(strongest[0]) if len(strongest) else None
        return latent_maps(self.study, pictures, latent, largest=largest)

    def frame(self, size: tuple[int, int]) -> Frame:
        """The frame of a picture of this size that the model sees; the whole picture without the model."""
        try:
            return frame_of(self.study.model, size)
        except (ClipattrError, OSError):
            return Frame()

    def rename(self, latent: int, name: str) -> None:
        """Give a latent a name of one's own; an empty one takes it back. Kept in the study."""
        self.writable()
        self.study.rename(latent, name)
        self.forget()

    def writable(self) -> None:
        """Raises PanelError where the study is served read-only."""
        if self.read_only:
            raise PanelError(
                "This page is read-only: names, verdicts and notes are not kept, and no audit is run."
            )

    @property
    def opening(self) -> str:
        """What `open_study` is given to open this study, as code: the bundled name, else the folder."""
        import clipattr_data

        path = getattr(self.study, "path", None)
        bundled = path is not None and path.parent.resolve() == clipattr_data.studies_dir().resolve()
        # Visitors of a served page do not see folders of this machine.
        return repr(path.name if path is not None and (bundled or self.read_only) else str(path))

    def code_head(self, *imports: str) -> list[str]:
        """The lines of code that every view begins with: imports, and opening the study."""
        return ["import clipattr as ca", *imports, "", f"study = ca.open_study({self.opening})"]

    # reliance

    @cached_property
    def collected(self) -> Collected:
        """Queries over all pictures of the study."""
        return Collected(self.study)

    def well_explained(self) -> tuple[int, str]:
        """A picture and a prompt to begin with; (0, "") where none can be chosen."""
        if self.browse_only is not None or not self.n_pictures:
            return 0, ""
        try:
            return well_explained(self.collected)
        except (ClipattrError, OSError):
            return 0, ""

    @cached_property
    def browser(self) -> Browser:
        """Orders and errors of the study's pictures."""
        return Browser(self.collected)

    def standing(self, measured: Measured, target: Any, picture: int | None) -> str:
        """Rank of the score among other pictures and prompts, in words; "" if unknown."""
        splice = measured.splice
        try:
            embedding = splice.embeddings(splice.acts)[0]
            found = self.collected.standing(measured.y, target, embedding, picture=picture)
        except ClipattrError:
            return ""  # a site whose stored activations do not give the embedding
        parts = []
        if found.pictures:
            # Rounded down: 100 % would say that no picture scores higher.
            share = "all" if found.below == 1 else f"{math.floor(100 * found.below)}%"
            parts.append(f"higher than {share} of the other {found.pictures:,} pictures")
        if found.label:
            mean = found.label_mean * (100 if target.unit == "cosine" else 1)
            parts.append(f"pictures labelled {shown(found.label, 30)} score {plain(mean)} on average")
        if found.prompts > 1:
            parts.append(f"place {found.rank} of {found.prompts} among the label words on this picture")
        if strange := strangeness(self, measured):
            parts.insert(0, strange)
        return "; ".join(parts)

    @property
    def browse_only(self) -> str | None:
        """Why nothing can be computed here (the model's weights are missing), or None."""
        try:
            self.study.model  # noqa: B018  # loading it is the question
        except (ClipattrError, OSError) as error:
            return f"Browsing only: {error}"
        return None

    def target(self, prompt: str, against: str = "") -> Any:
        """The target that two text boxes stand for: similarity, or a contrast where the second is filled in.

        Raises:
            PanelError: no prompt, both the same, or one far too long.
        """
        prompt, against = " ".join(prompt.split()), " ".join(against.split())
        if not prompt:
            raise PanelError("Write a prompt: a word or a caption, for instance one of the study's labels.")
        for text in (prompt, against):
            if len(text) > MAX_PROMPT:
                raise PanelError(
                    f"A prompt of {len(text):,} characters is too long; {MAX_PROMPT:,} are read."
                )
        if prompt == against:
            raise PanelError(
                f"“{shown(prompt, 40)}” rather than itself is zero everywhere. Change one of the two."
            )
        return self._target(prompt, against)

    def _make_target(self, prompt: str, against: str) -> Any:
        from clipattr.attribution import Contrast, Similarity

        target = Contrast(prompt, against) if against else Similarity(prompt)
        target.linear(self.study.model)  # embedded once, and refused here where it cannot be
        return target

    def measure(self, picture: "int | Image.Image", target: Any, method: str | None = None) -> Measured:
        """Attribute a target to the latents of one picture.

        Args:
            picture: its number in the study, or a picture from elsewhere.
            target: from `target`.
            method: a name in `clipattr.METHODS`; None for the one whose parts add up (`EXPLAINING`).
        """
        from clipattr.attribution import Splice

        study = self.study
        acts, context = self.read(picture)
        splice = Splice(study.model, study.dictionary, self.site, acts, target, context=context)
        return measure(splice, method, lambda latents: self.fits(latents, target))

    def fits(self, latents: np.ndarray, target: Any) -> np.ndarray:
        """Alignment of latents (k,) with a target's prompt by the evaluator, raw; NaN where it is not to be had."""
        from clipattr.attribution.compute import align_with

        try:
            if self._aligned[0] is not target:  # what was made for this target last holds its embedded text
                self._aligned = (target, align_with(self.study, target))
            align = self._aligned[1]
            if align is not None and len(latents):
                return np.asarray(align(latents.tolist(), 0), np.float64)
        except (ClipattrError, OSError):
            pass  # the evaluator's weights are missing: the column stays empty
        return np.full(len(latents), math.nan)

    def after(self, measured: Measured, scales: Mapping[int, float]) -> float:
        """The target once the activations of these latents are multiplied by these factors (0 takes one out).

        The rest of the activation, bias and error node included, stays as it is.
        """
        import torch

        splice = measured.splice
        factors = torch.ones_like(splice.amounts)
        for latent, factor in scales.items():
            factors[splice.indices == latent] = float(factor)
        return float(splice.states((splice.amounts * factors)[:, None])[0, 0, 0])

    def read(self, picture: "int | Image.Image") -> tuple[Any, Any]:
        """Activations of a picture at the site, and what later blocks need of it (or None); kept for a few pictures."""
        from clipattr.attribution.compute import read_site
        from clipattr.sites import Site

        key = int(picture) if isinstance(picture, int | np.integer) else None
        if key is not None and key in self._kept:
            return self._kept[key]
        source = self.study.images[key].load() if key is not None else picture
        model = self.study.model
        read = read_site(model, model.prepare(source)[None].to(model.device, model.dtype), Site(self.site))
        if key is not None:
            self._kept[key] = read
            while len(self._kept) > KEPT_PICTURES:
                self._kept.pop(next(iter(self._kept)))
        return read


def _next(hits: list[int], after: int) -> tuple[int, str]:
    """The first hit behind a place, wrapping round, and which of how many it is."""
    place = bisect_right(hits, after) % len(hits)
    return hits[place], f"{place + 1} of {len(hits):,}"


def target_code(prompt: str, against: str) -> str:
    """`Desk.target` as code."""
    prompt, against = " ".join(prompt.split()), " ".join(against.split())
    return f"ca.Contrast({prompt!r}, {against!r})" if against else f"ca.Similarity({prompt!r})"


def desk_of(study: Any, name: str | None = None) -> Desk:
    """The desk of a study under this name; a desk is returned as it is."""
    return study if isinstance(study, Desk) else Desk(study, name)
