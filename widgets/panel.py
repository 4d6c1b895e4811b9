"""What every panel is: a box that draws one view-model, shows itself without a kernel, and lets go when closed.

Owns linking between traits and controls, the mimebundle, `snapshot` and saving. Ignores what a panel is about. Start
at `Panel`.
"""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as W

from clipattr.storage.files import written
from clipattr_widgets.desk import Desk, PanelError
from clipattr_widgets.parts import Pulse
from clipattr_widgets.static import Static
from clipattr_widgets.text import markup

MAX_SUGGESTIONS = 400
# The browser side of Combobox writes its options as markup: only words that hold none are suggested.
_HARMLESS = re.compile(r"[\w][\w \-',.]{0,60}")


class Panel(W.VBox):
    """A panel.

    Args:
        children: its boxes.
        state: its view-model (traitlets); `close` ends its work.
    """

    closed = True  # until it is built: a panel that was refused has nothing to close

    def __init__(self, children: list[Any], state: Any) -> None:
        self.pulse = Pulse()
        super().__init__([self.pulse, *children])
        self.add_class("clipattr-panel")
        # A name of its own for each kind, e.g. clipattr-latent: panels stand inside panels.
        self.add_class(f"clipattr-{type(self).__name__.removesuffix('Panel').lower()}")
        self.state = state
        self.closed = False
        self._ends: list[Callable[[], None]] = []

    def link(self, name: str, control: Any) -> None:
        """Keep a trait of the state and a control's value the same."""
        state = self.state

        def to_state(change: Any) -> None:
            state.set_trait(name, change["new"])

        def to_control(change: Any) -> None:
            control.value = change["new"]

        control.observe(to_state, "value")
        state.observe(to_control, name)
        self._ends.append(lambda: state.unobserve(to_control, name))

    def watch(self, draw: Callable[[], None], *names: str) -> None:
        """Draw anew when one of these traits of the state changes."""
        state = self.state

        def changed(_: Any) -> None:
            draw()

        state.observe(changed, list(names))
        self._ends.append(lambda: state.unobserve(changed, list(names)))

    def static(self) -> Static:
        """What remains without a kernel; every panel says."""
        raise PanelError(f"{type(self).__name__} has no static view.")

    def code(self) -> str:
        """Python that computes what is on the screen, with public functions only."""
        return self.state.code()

    def snapshot(self) -> Static:
        """The panel as it is now, as an ordinary picture and table: what a saved notebook should end with."""
        return self.static()

    def save(self, path: str | Path) -> Path:
        """Write what is shown: `.png` the picture, `.html` a page, `.csv` the table.

        Raises:
            PanelError: another suffix.
        """
        path = Path(path)
        data = self.static().as_file(path.suffix.lower())
        with written(path) as partial:
            partial.write_bytes(data)
        return path

    def drawer_html(self, what: str, code: str) -> str:
        """What the "take away" menu opens: the code, or a link that downloads a file."""
        if what == "code":
            lines = "<br>".join(markup_line(line) for line in code.split("\n"))
            return f'<pre class="clipattr-code" tabindex="0" aria-label="code that reproduces this view">{lines}</pre>'
        mime = {"png": "image/png", "html": "text/html", "csv": "text/csv"}[what]
        data = base64.b64encode(self.static().as_file(f".{what}")).decode("ascii")
        return (
            f'<a class="clipattr-download" download="clipattr-view.{what}" href="data:{mime};base64,{data}">'
            f"download this view as {what.upper()}</a>"
        )

    def close(self) -> None:
        """End the panel: its work, its links, and all widgets in it. Closing again does nothing."""
        if self.closed:
            return
        self.closed = True
        for end in self._ends:
            end()
        self._ends.clear()
        self.state.close()
        close_all(self)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        made = super()._repr_mimebundle_(**kwargs)
        bundle = made[0] if isinstance(made, tuple) else made
        if bundle is None:
            return made
        return {**bundle, **self.static().bundle()}


def close_all(widget: Any) -> None:
    """Close a widget, its layout and style, and everything in it; nothing stays registered."""
    for child in getattr(widget, "children", ()):
        close_all(child)
    for name in ("layout", "style"):
        part = getattr(widget, name, None)
        if isinstance(part, W.Widget):
            part.close()
    W.Widget.close(widget)


def markup_line(line: str) -> str:
    """A line of code as HTML, its indent kept."""
    body = line.lstrip(" ")
    return "&nbsp;" * (len(line) - len(body)) + markup(body, 4000)


def suggestions(desk: Desk) -> list[str]:
    """Words to offer for prompts: labels of pictures first, then the vocabulary; only such as hold no markup."""
    labels = getattr(desk.study.images, "columns", {}).get("label") or []
    words = [str(word).replace("_", " ") for word in dict.fromkeys(labels) if word]
    vocabulary = getattr(desk.study, "vocabulary", None)
    words += list(vocabulary.words[: 4 * MAX_SUGGESTIONS]) if vocabulary is not None else []
    return [word for word in dict.fromkeys(words) if _HARMLESS.fullmatch(word)][:MAX_SUGGESTIONS]
