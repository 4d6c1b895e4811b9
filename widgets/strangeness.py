"""Strangeness: a warning if the dictionary explains a picture worse than nearly all pictures of the study.

Owns the comparison and its words. Errors come from `clipattr.studies.browsing`. Start at `strangeness`.
"""

from typing import Any

from clipattr.errors import ClipattrError
from clipattr_widgets.measured import Measured


def strangeness(desk: Any, measured: Measured) -> str:
    """The warning; "" where the picture is like the study's, or where that is not known (sites with tokens)."""
    dictionary, acts = desk.study.dictionary, measured.splice.acts
    if acts.ndim != 2:
        return ""
    try:
        usual = desk.browser.usual_error
        recon = dictionary.decode(dictionary.encode(acts))
        one, other = (part[0].detach().cpu().double().numpy() for part in (acts, recon))
        share = desk.browser.error_of(one, other)
    except (ClipattrError, OSError):
        return ""
    if not share > usual:
        return ""
    return (
        f"unlike the study's pictures: the dictionary leaves {100 * share:.0f} % of its activation unexplained, "
        f"against less than {100 * usual:.0f} % for 99 in 100 of them"
    )
