"""Small drawings in HTML made in Python: they follow the theme and need no message to change.

Owns their markup. Ignores where numbers come from. Start at `histogram_svg`.
"""

from collections.abc import Sequence

from clipattr.display.wording import counted
from clipattr_widgets.text import plain

WIDTH, HEIGHT, FOOT = 250, 96, 16


def histogram_svg(counts: Sequence[int], edges: Sequence[float]) -> str:
    """A histogram of activations; counts on a square-root scale, since strong ones are rare."""
    if not counts:
        return '<p class="clipattr-note">active in no picture</p>'
    highest = max(counts) ** 0.5 or 1.0
    step = WIDTH / len(counts)
    bars = []
    for i, count in enumerate(counts):
        tall = (HEIGHT - FOOT - 8) * count**0.5 / highest
        title = f"{counted(count, 'picture')} from {plain(edges[i])} to {plain(edges[i + 1])}"
        bars.append(
            f'<rect class="clipattr-svg-bar" fill="#2f7fd0" x="{i * step:.1f}" y="{HEIGHT - FOOT - tall:.1f}" '
            f'width="{step - 1:.1f}" height="{tall:.1f}"><title>{title}</title></rect>'
        )
    name = f"histogram of {sum(counts):,} activations up to {plain(edges[-1])}"
    axis = (
        f'<line x1="0" x2="{WIDTH}" y1="{HEIGHT - FOOT}" y2="{HEIGHT - FOOT}" stroke="#999"/>'
        f'<text x="0" y="{HEIGHT - 3}">{plain(edges[0])}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 3}" text-anchor="end">{plain(edges[-1])}</text>'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 3}" text-anchor="middle">activation, '
        f"{counted(sum(counts), 'picture')}</text>"
    )
    return (
        f'<svg role="img" aria-label="{name}" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-size="10.5" fill="currentColor">{"".join(bars)}{axis}</svg>'
    )
