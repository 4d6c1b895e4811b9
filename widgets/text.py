"""Text from outside (labels, file names, prompts, notes) as panels show it.

Owns the lengths that fit a panel and the HTML escaping; which characters a line may hold is decided in
`clipattr.display.wording`. Start at `shown`; `markup` is the same for HTML.
"""

import html
import math

from clipattr.display.wording import signed as _signed
from clipattr.display.wording import visible
from clipattr.errors import ClipattrError

LABEL_LENGTH = 80
TIP_LENGTH = 400


def shown(text: object, limit: int = LABEL_LENGTH) -> str:
    """Any text as one harmless line of at most `limit` characters; what was cut is counted."""
    return visible(text, limit)


def markup(text: object, limit: int = LABEL_LENGTH) -> str:
    """`shown`, escaped for HTML text, and isolated so that its direction stays its own."""
    return f'<bdi dir="auto">{html.escape(shown(text, limit), quote=True)}</bdi>'


def attribute_text(text: object, limit: int = TIP_LENGTH) -> str:
    """`shown`, escaped for an HTML attribute value."""
    return html.escape(shown(text, limit), quote=True)


def words_of(error: Exception) -> str:
    """An error as display text: own messages unchanged, others with their type."""
    text = str(error) if isinstance(error, ClipattrError) else f"{type(error).__name__}: {error}"
    return shown(text, 600)


def signed(value: float | None, digits: int = 2) -> str:
    """A number with its sign and a real minus; a dash where there is none. Infinity counts as none."""
    return _signed(value if value is None or math.isfinite(value) else math.nan, digits)


def plain(value: float | None, digits: int = 2) -> str:
    """`signed` without the plus."""
    return signed(value, digits).lstrip("+")
