"""Wording: numbers, kinds of findings and foreign text as displayed text.

Owns signs, units, the sentences about kinds, and the neutralisation of control characters in foreign text. Ignores
HTML, terminals and figures, which all use it. Start at `visible` and `points`.
"""

import math
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

NO_VALUE = "–"
NO_LABEL = "(no word for it)"
SAME_TEXT = "the audited model has the same text embedding for it and for"  # begins the reason of a verdict
NEWLY = "words that raise a prompt more than in the released model"

# Display name of each kind, and the sentence that explains it. Keys: `clipattr.discovery.findings.KINDS`.
KIND_WORDS: Mapping[str, tuple[str, str]] = {
    "polysemy": ("another sense", "pictures of another object with the same name score for the prompt"),
    "compound": ("part of a compound", "one word of the prompt names something else, and that scores for it"),
    "typography": ("written word", "writing in the picture scores for the prompt"),
    "watermark": ("watermark", "a mark laid over the picture scores for the prompt"),
    "context": ("background", "the place where the object is usually seen scores for its name"),
    "companion": ("companion", "an object that is often beside the prompt's object scores for the prompt"),
    "coarse_label": ("coarse label", "one look of an object with many looks scores for its name"),
    "unknown": ("unknown", "no word fits the family, or the evidence does not decide between the kinds"),
}


def visible(text: object, limit: int | None = None) -> str:
    """Any text as one line in which every character is visible and none can reorder or hide others.

    Control and direction marks and lone surrogates are replaced by their code point, as in ⟨U+202E⟩; runs of white
    space become one space. A text longer than `limit` characters is cut, followed by its length.
    """
    raw = str(text)
    line = "".join(_shown(c) for c in (raw if limit is None else raw[: 4 * limit]))
    line = " ".join(line.split())
    if limit is None or (len(line) <= limit and len(raw) <= 4 * limit):
        return line
    return f"{line[:limit].rstrip()}… ({len(raw):,} characters)"


def _shown(character: str) -> str:
    if character.isspace():
        return " "
    if (
        unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
        and character not in "\u200c\u200d"
    ):
        return f"⟨U+{ord(character):04X}⟩"
    return character


def signed(value: float | None, digits: int = 1) -> str:
    """A number with its sign and a typographic minus; "–" for None and NaN."""
    if value is None or not math.isfinite(value):
        return NO_VALUE
    rounded = round(float(value), digits)
    sign = "+" if rounded > 0 else "−" if rounded < 0 else ""
    return f"{sign}{abs(rounded):.{digits}f}"


def points(value: float | None, digits: int = 1) -> str:
    """A raw cosine in points, cosine × 100, signed.

    >>> points(0.123), points(-0.5, 0), points(float("nan"))
    ('+12.3', '−50', '–')
    """
    return signed(None if value is None else value * 100, digits)


def span(low: float, high: float) -> str:
    """The bounds of an interval of raw cosines, in points, without plus signs.

    >>> span(0.11, 0.135)
    '11.0 to 13.5'
    """
    return f"{points(low).lstrip('+')} to {points(high).lstrip('+')}"


def percent(value: float | None) -> str:
    """A share or probability as a whole percentage."""
    return NO_VALUE if value is None or not math.isfinite(value) else f"{value * 100:.0f}\u00a0%"


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, in the singular for one; `plural` if it does not end in "s".

    >>> counted(1, "finding"), counted(1200, "finding"), counted(2, "unexpected reliance")
    ('1 finding', '1,200 findings', '2 unexpected reliances')
    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def few(values: Iterable[object], most: int = 5) -> str:
    """The first values of many and the number of the others, for messages; "none" without values.

    >>> few("abc"), few(range(8)), few([])
    ('a, b, c', '0, 1, 2, 3, 4 and 3 more', 'none')
    """
    listed = [visible(value, 60) for value in values]
    rest = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest if listed else "none"


def newly(words: int) -> str:
    """The part of a gate's sentence about words that have come to raise a prompt; "" without any.

    >>> newly(0), newly(1)
    ('', ', and 1 word newly raises a prompt')
    """
    return (
        f", and {counted(words, 'word')} newly {'raises' if words == 1 else 'raise'} a prompt"
        if words
        else ""
    )


def be(n: int, past: bool = False) -> str:
    """The verb that fits a number: "is" (in the past "was") for one, else "are" ("were")."""
    if past:
        return "was" if n == 1 else "were"
    return "is" if n == 1 else "are"


def have(n: int) -> str:
    """The verb that fits a number: "has" for one, else "have"."""
    return "has" if n == 1 else "have"


def capital(text: str) -> str:
    """A text that begins with a capital letter."""
    return text[:1].upper() + text[1:]


def kind_word(kind: str) -> str:
    """Display name of a kind."""
    return KIND_WORDS.get(kind, (kind.replace("_", " "), ""))[0]


def is_number(value: Any) -> bool:
    """Whether a value is a number to display; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def least_points(effect: float) -> str:
    """A smallest effect, raw cosine, in points (cosine × 100): to one decimal, and never as zero.

    >>> least_points(0.004), least_points(0.0002)
    ('0.4', 'less than 0.1')
    """
    points = effect * 100
    return f"{points:.1f}" if points >= 0.05 else "less than 0.1"
