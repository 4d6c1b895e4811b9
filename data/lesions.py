"""Synthetic dermoscopy pictures of skin lesions, drawn from an editable list of causes.

A `Lesion` says which of four signs it shows and what else is in the picture: ruler, ink mark, hair, coloured patch, gel
bubbles, vignette, the tone of the skin. Two signs or more make it a melanoma, fewer a nevus; that is this world's own
rule, after the dermatologists' habit of counting signs, and no medical knowledge. Everything beside the lesion is
irrelevant to its class, and each part can be removed with every other pixel unchanged.

Rendering is integer arithmetic: the same lesion gives the same bytes on every machine.
Start at `Lesion`, then `Lesion.render`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from .drawing import SIZE, Draws, SceneError
from .lesion_tiles import ONE, SINE, TILE, TURN, Tiles, tiles

MALIGNANT, BENIGN = "melanoma", "nevus"
SIGNS = ("asymmetric shape", "irregular border", "several colours", "atypical network")
SIGNS_OF_MELANOMA = 2  # that many or more
ARTEFACTS = ("ruler", "ink mark", "hair", "coloured patch", "gel bubbles", "vignette")
SKINS = ("light skin", "medium skin", "dark skin")
USUAL_SKIN = "medium skin"  # tone of pictures in which the tone carries no information
SHORTCUTS = (*ARTEFACTS, "dark skin")  # parts that may correlate with a class without defining it

_TONES = {"light skin": (236, 200, 182), "medium skin": (205, 158, 128), "dark skin": (122, 84, 64)}
_BROWNS = ((150, 96, 62), (132, 82, 54), (112, 68, 46), (160, 104, 80), (124, 84, 66))
# Pigments of a lesion with several colours, in the order in which they meet.
_MANY = ((168, 108, 70), (70, 42, 32), (92, 98, 122), (176, 82, 72), (34, 26, 26))
_INKS = ((86, 60, 150), (60, 70, 170), (110, 52, 138))
_PATCHES = ((70, 150, 215), (240, 200, 60), (80, 175, 110), (225, 110, 150), (240, 140, 60))
_HAIRS = ((44, 32, 26), (70, 48, 32), (30, 26, 28))


@dataclass(frozen=True)
class Lesion:
    """What is in one picture; `seed` fixes where and how.

    `signs` are some of `SIGNS`, `artefacts` some of `ARTEFACTS`, `skin` is one of `SKINS`. The order in which they are
    given does not matter.
    """

    signs: tuple[str, ...] = ()
    artefacts: tuple[str, ...] = ()
    skin: str = USUAL_SKIN
    seed: int = 0

    def __post_init__(self) -> None:
        for field, known in (("signs", SIGNS), ("artefacts", ARTEFACTS)):
            given = getattr(self, field)
            unknown = [name for name in given if name not in known]
            if unknown or len(set(given)) < len(given):
                raise SceneError(
                    f"the {field} of a lesion are some of {known}, each at most once; got {given!r:.200}"
                )
            object.__setattr__(self, field, tuple(name for name in known if name in given))
        if self.skin not in SKINS:
            raise SceneError(f"the skin of a lesion is one of {SKINS}; got {self.skin!r:.80}")

    @property
    def main(self) -> str:
        """What it is, by the rule of this world: two signs or more make a melanoma."""
        return MALIGNANT if len(self.signs) >= SIGNS_OF_MELANOMA else BENIGN

    def shows(self, part: str) -> bool:
        """Whether a sign, an artefact or a tone of skin is in the picture. SceneError for anything else."""
        if part not in (*SIGNS, *ARTEFACTS, *SKINS):
            raise SceneError(f"{part!r:.80} is no part of a lesion's picture: {(*SIGNS, *ARTEFACTS, *SKINS)}")
        return part in (*self.signs, *self.artefacts, self.skin)

    def having(self, part: str) -> Lesion:
        """The same picture with this part; a tone of skin replaces the one that was there."""
        if self.shows(part):
            return self
        if part in SKINS:
            return replace(self, skin=part)
        if part in SIGNS:
            return replace(self, signs=(*self.signs, part))
        return replace(self, artefacts=(*self.artefacts, part))

    def without(self, part: str) -> Lesion:
        """The same picture without this part; the tone of the skin becomes the usual one."""
        if not self.shows(part):
            return self
        if part in SKINS:
            return replace(self, skin=USUAL_SKIN)
        if part in SIGNS:
            return replace(self, signs=tuple(name for name in self.signs if name != part))
        return replace(self, artefacts=tuple(name for name in self.artefacts if name != part))

    def render(self) -> np.ndarray:
        """Pixels, (64, 64, 3) uint8 RGB."""
        return _draw(self)

    def picture(self) -> Image.Image:
        """The rendered lesion as a PIL image."""
        return Image.fromarray(self.render())

    def mask(self, part: str) -> np.ndarray:
        """Pixels that removing the part changes, (64, 64) bool; all False if it is absent."""
        return (self.render() != self.without(part).render()).any(axis=2)

    def factors(self) -> frozenset[str]:
        """What is in the picture, by name: the diagnosis, signs, artefacts and the tone of the skin."""
        return frozenset({self.main, *self.signs, *self.artefacts, self.skin})

    def to_json(self) -> str:
        """One line of JSON; the field `lesion` distinguishes it from a scene of the picture world."""
        fields = {"lesion": self.signs, "artefacts": self.artefacts, "skin": self.skin, "seed": self.seed}
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> Lesion:
        """Read what `to_json` wrote.

        Raises:
            SceneError: not JSON, an unknown field, part or type.
        """
        try:
            fields = json.loads(text) if isinstance(text, str) else dict(text)
        except ValueError as error:
            raise SceneError(f"a lesion must be a JSON object; this is not JSON: {error}") from error
        known = {"lesion", "artefacts", "skin", "seed"}
        if not isinstance(fields, dict) or "lesion" not in fields or set(fields) - known:
            raise SceneError(f"a lesion has the fields {sorted(known)}; got {fields!r:.200}")
        lists = [fields["lesion"], fields.get("artefacts", ())]
        if not all(
            isinstance(part, list | tuple) and all(isinstance(name, str) for name in part) for part in lists
        ):
            raise SceneError(f"lesion and artefacts must be lists of names; got {fields!r:.200}")
        if not isinstance(fields.get("seed", 0), int) or isinstance(fields.get("seed", 0), bool):
            raise SceneError(f"seed must be a whole number; got {fields['seed']!r:.50}")
        return cls(tuple(lists[0]), tuple(lists[1]), fields.get("skin", USUAL_SKIN), fields.get("seed", 0))


def _crop(stock: tuple[np.ndarray, ...], draws: Draws) -> np.ndarray:
    """A random part of a random tile, turned or mirrored, (SIZE, SIZE)."""
    tile = stock[draws.below(len(stock))]
    y, x, way = draws.below(TILE - SIZE + 1), draws.below(TILE - SIZE + 1), draws.below(8)
    part = tile[y : y + SIZE, x : x + SIZE]
    if way & 1:
        part = part[::-1]
    if way & 2:
        part = part[:, ::-1]
    return part.T if way & 4 else part


def _blend(canvas: np.ndarray, colour: Any, cover: np.ndarray) -> None:
    """Lay a colour over the canvas where `cover` (…, 0 to 256) says, in place."""
    canvas += ((np.asarray(colour, np.int32) - canvas) * cover[..., None]) >> 8


def _ramp(colours: np.ndarray) -> np.ndarray:
    """256 colours that pass from one to the next by equal steps, (256, 3) int32."""
    place = np.arange(256) * (len(colours) - 1)
    low, part = place // 256, (place % 256)[:, None]
    return (colours[low] * (256 - part) + colours[low + 1] * part) // 256


def _draw(lesion: Lesion) -> np.ndarray:
    stock = tiles()
    # The tone replaces colours only: a picture with another skin has every shape where it was.
    draws = Draws(lesion.seed, 1)
    tint = np.array([246 + draws.below(21) for _ in range(3)])  # of 256
    skin = np.array(_TONES[lesion.skin]) * tint // 256
    ramp = (skin * (236 + np.arange(256)[:, None] * 40 // 256)) // 256
    canvas = np.minimum(ramp, 255).astype(np.int32)[_crop(stock.fine, draws)]

    middle, size = _pigment(canvas, lesion, stock)
    drawn = set(lesion.artefacts)
    if "hair" in drawn:
        draws = Draws(lesion.seed, 12)
        colour = _HAIRS[draws.below(len(_HAIRS))]
        for _ in range(1 + draws.below(2)):
            _blend(canvas, colour, _crop(stock.hairs, draws).astype(np.int32) * 220 >> 8)
    if "ink mark" in drawn:
        _ink(canvas, lesion, stock, middle, size)
    if "gel bubbles" in drawn:
        draws = Draws(lesion.seed, 14)
        for _ in range(5 + draws.below(4)):
            added = stock.bubbles[draws.below(len(stock.bubbles))]
            side = len(added)
            y, x = draws.below(SIZE - side), draws.below(SIZE - side)
            region = canvas[y : y + side, x : x + side]
            np.clip(region + added, 0, 255, out=region)
    if "coloured patch" in drawn:
        draws = Draws(lesion.seed, 15)
        colour = _PATCHES[draws.below(len(_PATCHES))]
        corner, reach = draws.below(4), 16 * (13 + draws.below(6))
        y, x = (SIZE - 3 if corner & 1 else 3), (SIZE - 3 if corner & 2 else 3)
        far = stock.radius[TILE // 2 - y :, TILE // 2 - x :][:SIZE, :SIZE]
        _blend(canvas, colour, np.clip((reach - far) * 16, 0, 244))
    if "ruler" in drawn:
        _ruler(canvas, lesion)
    if "vignette" in drawn:
        draws = Draws(lesion.seed, 17)
        canvas *= stock.corners[draws.below(len(stock.corners))]
        canvas >>= 8
    return canvas.astype(np.uint8)


def _pigment(canvas: np.ndarray, lesion: Lesion, stock: Tiles) -> tuple[tuple[int, int], int]:
    """Draw the lesion itself. Returns its middle and its mean radius in px.

    Each sign draws its own numbers, whether or not the sign is shown, so that adding one does not change the others.
    """
    shape = Draws(lesion.seed, 2)
    y, x = 26 + shape.below(13), 26 + shape.below(13)
    size = 12 + shape.below(8)
    steps = np.arange(TURN)
    tilt, stretch = shape.below(TURN), 2 + shape.below(7)
    outline = stretch * SINE[(2 * steps + tilt) % TURN] // 32  # an ellipse, within ± 0.25
    if "asymmetric shape" in lesion.signs:
        odd = Draws(lesion.seed, 3)
        outline = outline + (8 + odd.below(4)) * SINE[(3 * steps + odd.below(TURN)) % TURN] // 32
        outline = outline + (6 + odd.below(4)) * SINE[(steps + odd.below(TURN)) % TURN] // 32
    if "irregular border" in lesion.signs:
        rough = Draws(lesion.seed, 4)
        for waves in (7 + rough.below(3), 11 + rough.below(3), 17 + rough.below(4)):
            outline = outline + (2 + rough.below(3)) * SINE[(waves * steps + rough.below(TURN)) % TURN] // 32
    edge = np.maximum(16 * size * (ONE + outline) // ONE, 40).astype(np.int32)  # 1/16 px, by direction
    window = np.s_[TILE // 2 - y : TILE // 2 - y + SIZE, TILE // 2 - x : TILE // 2 - x + SIZE]
    far, way = stock.radius[window], stock.angle[window]
    depth = edge[way] - far  # 1/16 px inside the border

    colours = Draws(lesion.seed, 5)
    brown = np.array(_BROWNS[colours.below(len(_BROWNS))])
    pigment = _crop(stock.coarse, colours)
    if "several colours" in lesion.signs:
        many = Draws(lesion.seed, 6)
        first = many.below(len(_MANY))
        palette = _ramp(np.array([_MANY[(first + n) % len(_MANY)] for n in range(4)]))
    else:
        palette = brown * (228 + np.arange(256)[:, None] * 56 // 256) // 256
    if "asymmetric shape" in lesion.signs:  # and darker on one side
        side = Draws(lesion.seed, 7)
        slope = SINE[(steps + side.below(TURN)) % TURN]
        dark = np.clip((slope[way] * far >> 11) - 60, 0, 120)
    else:
        dark = np.clip(depth >> 2, 0, 50)  # and darker towards the middle
    # Pigment lies over skin: dark skin shows through.
    palette = palette * (np.array(_TONES[lesion.skin]) + 190) // 400
    colour = palette.astype(np.int32)[pigment]
    # Every lesion has a net; the sign is that it is atypical.
    atypical = "atypical network" in lesion.signs
    net = _crop(stock.atypical if atypical else stock.regular, Draws(lesion.seed, 8)).astype(np.int32)
    dark = dark + (net * (120 if atypical else 56) >> 8)
    colour *= (256 - np.minimum(dark, 200))[..., None]
    colour >>= 8
    soft = 3 if "irregular border" in lesion.signs else 2  # of 1/16 px to 256: rough borders are also sharp
    _blend(canvas, colour, np.clip((depth + 16) << soft, 0, 244))
    return (y, x), size


def _ink(canvas: np.ndarray, lesion: Lesion, stock: Tiles, middle: tuple[int, int], size: int) -> None:
    """A surgeon's pen: an arc about the lesion, or dots on it."""
    draws = Draws(lesion.seed, 13)
    colour = _INKS[draws.below(len(_INKS))]
    y, x = middle
    window = np.s_[TILE // 2 - y : TILE // 2 - y + SIZE, TILE // 2 - x : TILE // 2 - x + SIZE]
    off = stock.radius[window] - 16 * (size + 6 + draws.below(3))
    start, length = draws.below(TURN), 90 + draws.below(100)
    along = (stock.angle[window] - start) % TURN
    if draws.below(2):
        along = along | np.where(along & 31 < 14, 0, TURN)  # broken
    cover = np.clip(380 - abs(off) * 12, 0, 230) * (along < length)
    _blend(canvas, colour, cover)


def _ruler(canvas: np.ndarray, lesion: Lesion) -> None:
    """Graduations along one edge, on a pale strip or on the skin itself."""
    draws = Draws(lesion.seed, 16)
    side, strip = draws.below(4), draws.below(2)
    edge = (canvas, canvas[::-1], canvas.transpose(1, 0, 2), canvas[:, ::-1].transpose(1, 0, 2))[side]
    first, step = draws.below(4), 4 + draws.below(2)
    if strip:
        edge[:9] += ((236 - edge[:9]) * 200) >> 8
    edge[:4, first::step] = 24
    edge[:8, first :: 5 * step] = 24
