"""Splits: held-out pictures, with related pictures on one side.

Pictures of one lesion, patient or scene must not be on both sides of a split, or a classifier would be evaluated on
training data. Owns units and sides; ignores where they come from. Start at `units_of`, then `split_by_unit`.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from clipattr.display.wording import be, counted
from clipattr.errors import DataError

HELD = ("holdout", "test", "val", "validation")  # names of held-out splits in files
# All accepted spellings, in lower case, and the names of the other side.
HELD_NAMES = frozenset(
    [
        *HELD,
        "valid",
        "dev",
        "eval",
        "evaluation",
        "testing",
        "holdout",
        "hold_out",
        "hold-out",
        "heldout",
        "held_out",
    ]
)
TRAIN_NAMES = frozenset({"train", "training", "trainval", "trn"})
_SPLIT = re.compile(r"^([a-z]+?)[-_ ]?(?:set|split|data|images|imgs)?[-_ ]?\d*$")


def split_name(name: str) -> str | None:
    """ "holdout" or "train" for a name that is one of a split's in any usual spelling, else None.

    >>> split_name("Val"), split_name("train2017"), split_name("test_set"), split_name("cat")
    ('holdout', 'train', 'holdout', None)
    """
    text = name.strip().casefold()
    match = _SPLIT.match(text)
    for word in {text, match[1] if match else text}:
        if word in HELD_NAMES:
            return "holdout"
        if word in TRAIN_NAMES:
            return "train"
    return None


def held_out(splits: Sequence[str | None]) -> tuple[list[str | None], list[str]]:
    """A column of splits with all names of held-out splits as "holdout", and a note on the changed names.

    >>> held_out(["train", "Test", None, "val2017", "holdout"])[0]
    ['train', 'holdout', None, 'holdout', 'holdout']
    """
    held = [split is not None and split_name(split) == "holdout" for split in splits]
    renamed = Counter(
        str(split) for split, out in zip(splits, held, strict=True) if out and split != "holdout"
    )
    sides = ["holdout" if out else split for split, out in zip(splits, held, strict=True)]
    if not renamed:
        return sides, []
    shown = ", ".join(f"{name!r} ({count})" for name, count in sorted(renamed.items()))
    return sides, [
        f"{counted(renamed.total(), 'picture')} {be(renamed.total())} held out, as their split says: {shown}."
    ]


def units_of(count: int, columns: Sequence[Sequence[str | None]]) -> list[int]:
    """Connected components of rows: a unit number for each row; rows that share a value in any column have one unit.

    Args:
        count: number of rows.
        columns: of values such as the name of a lesion or patient, one per row; None is not shared.
    """
    parent = list(range(count))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for column in columns:
        first: dict[str, int] = {}
        for place, value in enumerate(column):
            if value is not None:
                parent[root(place)] = root(first.setdefault(value, place))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(place), len(numbers)) for place in range(count)]


def given_split(
    cells: Sequence[str | None], units: Sequence[int], names: Sequence[str], file: Path
) -> list[str]:
    """A file's own split as "holdout" or "train" for each row.

    Args:
        cells: what the file says; names of held-out splits (`split_name`) hold out, all else does not.
        units: of `units_of`. names: of the pictures, for messages.

    Raises:
        DataError: a unit on both sides, or one side empty.
    """
    sides = ["holdout" if split_name(cell or "") == "holdout" else "train" for cell in cells]
    first: dict[int, int] = {}
    leaks = []
    for place, unit in enumerate(units):
        before = first.setdefault(unit, place)
        if sides[before] != sides[place]:
            leaks.append((names[before], names[place]))
    if leaks:
        one, other = leaks[0]
        raise DataError(
            f"{len(leaks)} pictures in {str(file)!r} show a lesion or patient that is also on the other side of the "
            f"split, first {one!r} and {other!r}: a probe would be evaluated on training data. Leave out `split` to "
            "make a new split by lesion."
        )
    if len(set(sides)) < 2:
        raise DataError(
            f"The split in {str(file)!r} puts every picture on one side ({sides[0]}); {HELD} hold out."
        )
    return sides


def split_by_unit(classes: Sequence[str], units: Sequence[int], holdout: float, seed: int) -> list[str]:
    """Hold out whole units, the same share of each class. A unit with several classes belongs to its rarest one.

    Returns:
        "holdout" or "train" for each row; each class has at least one unit on either side.

    Raises:
        DataError: a share outside (0, 1), or a class with a single unit.
    """
    if not 0 < holdout < 1:
        raise DataError(f"The fraction to hold out must lie between 0 and 1; got {holdout}.")
    frequency = Counter(classes)
    rarest: dict[int, str] = {}
    for name, unit in zip(classes, units, strict=True):
        if unit not in rarest or (frequency[name], name) < (frequency[rarest[unit]], rarest[unit]):
            rarest[unit] = name
    held: set[int] = set()
    for name in sorted(set(classes)):
        own = [unit for unit, of in rarest.items() if of == name]
        if len(own) < 2:
            raise DataError(
                f"The class {name!r} has {frequency[name]} pictures of {len(own) or 'no'} lesion or patient of its "
                "own; at least two are needed, for training and evaluation. Add some, or leave the class out."
            )
        random.Random(f"{seed} {name}").shuffle(own)
        held.update(own[: min(len(own) - 1, max(1, round(holdout * len(own))))])
    return ["holdout" if unit in held else "train" for unit in units]
