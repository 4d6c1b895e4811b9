"""Panel: a box that draws one view-model, has a still view without a kernel, and frees its widgets when closed.

Owns linking between traits and controls, the mimebundle, `snapshot` and saving. Ignores what a panel is about. Start
at `Panel`.
"""

import asyncio
import base64
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import ipywidgets as W

from clipattr.storage.files import written
from clipattr.storage.paths import user_path
from clipattr_widgets.controls import error_html, status_html
from clipattr_widgets.desk import Desk, PanelError
from clipattr_widgets.parts import Part, Pulse
from clipattr_widgets.static import Static
from clipattr_widgets.text import markup

MAX_SUGGESTIONS = 400
_STILLS = count(1)
STILL_AFTER = (
    2.0  # seconds without a change until the saved still view follows: no picture is drawn between clicks
)
# The browser side of Combobox writes its options as markup: only words that hold none are suggested.
_HARMLESS = re.compile(r"[\w][\w \-',.]{0,60}")


class Panel(W.VBox):
    """A panel.

    Args:
        children: its boxes.
        state: its view-model (traitlets); `close` ends its work.
    """

    status: W.HTML
    notice: W.HTML
    closed = True  # until it is built: a panel that was refused has nothing to close

    def __init__(self, children: list[Any], state: Any) -> None:
        self.pulse = Pulse()
        super().__init__([self.pulse, *children])
        self.add_class("clipattr-panel")
        if (notice := getattr(self, "notice", None)) is not None:
            notice.add_class("clipattr-notice")
        # A name of its own for each kind, e.g. clipattr-latent: panels stand inside panels.
        self.add_class(f"clipattr-{type(self).__name__.removesuffix('Panel').lower()}")
        self.pulse.on("drawn", lambda _: say_again(self))
        self.state = state
        self.closed = False
        self._still: Still | None = None
        self._look_at: Callable[[int, int, str], None] | None = None
        self._ends: list[Callable[[], None]] = []
        self._draws: list[Callable[[], None]] = []

    def _draw_status(self) -> None:
        """Show the number of pending answers, and errors; for panels with `status` and `notice`."""
        self.status.value = status_html(self.state.pending)
        self.notice.value = error_html(self.state.error)

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

    def draw_all(self) -> None:
        """Draw everything that is watched, each once."""
        for draw in self._draws:
            draw()

    def watch(self, draw: Callable[[], None], *names: str) -> None:
        """Draw again when one of these traits of the state changes."""
        state = self.state
        self._draws.append(draw)

        def changed(_: Any) -> None:
            draw()

        state.observe(changed, list(names))
        self._ends.append(lambda: state.unobserve(changed, list(names)))

    def on_picture(self, look: Callable[[int, int, str], None]) -> None:
        """Call `look(picture, latent, prompt)` when a thumbnail is clicked; latent -1 and "" where there is none."""
        self._look_at = look

    def doors(self, gallery: Any, shelf: Callable[[], Any]) -> None:
        """Make every thumbnail of a gallery open its picture."""

        def picked(message: dict[str, Any]) -> None:
            places, at = shelf().places, int(message.get("i", -1))
            if 0 <= at < len(places) and self._look_at is not None:
                self._look_at(places[at], *self.shown_for())

        gallery.on("pick", picked)

    def shown_for(self) -> tuple[int, str]:
        """The latent and prompt that the panel's pictures are shown for."""
        return int(getattr(self.state, "latent", -1)), str(getattr(self.state, "prompt", ""))

    def static(self) -> Static:
        """The still view without a kernel; every panel defines it."""
        raise PanelError(f"{type(self).__name__} has no static view.")

    def code(self) -> str:
        """Python code that computes the view, with public functions only."""
        return self.state.code()

    def snapshot(self) -> Static:
        """The panel as it is now, as an ordinary picture and table: what a saved notebook should end with."""
        return self.static()

    def save(self, path: str | Path) -> Path:
        """Write what is shown: `.png` the picture, `.html` a page, `.csv` the table.

        Raises:
            PanelError: another suffix.
        """
        path = user_path(path)
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

    def _ipython_display_(self) -> None:
        """Two outputs: the live view, and the still one, which the live view hides as long as it is there.

        A notebook that is opened again has no live view: its first output says so, and the second shows what the panel
        showed last, since it is written again as the panel changes.
        """
        from IPython.display import display

        bundle = super()._repr_mimebundle_()
        bundle = dict(bundle[0] if isinstance(bundle, tuple) else bundle)
        bundle["text/plain"] = "A panel: live while its kernel runs. Below is its last view."
        display(bundle, raw=True)
        if self._still is None:
            self._still = Still(self.static, self.pulse)
            self.state.observe(self.changed, self._redrawn)
            self._ends.append(self._still.end)
        self._still.display()

    _redrawn = "gen"  # the trait of the state that counts its drawings

    def changed(self, _: Any = None) -> None:
        """Write the still view again, soon."""
        if self._still is not None:
            self._still.soon()


class Still:
    """The still view of a displayed panel, as a second output that follows the panel.

    Args:
        make: what makes the view.
        pulse: the panel's part that hides this output in the page while the panel is alive.
    """

    def __init__(self, make: Callable[[], Static], pulse: Pulse) -> None:
        self._make = make
        self._handles: list[Any] = []
        self._timer: asyncio.TimerHandle | None = None
        # Numbered, not random: what a notebook stores stays the same from run to run.
        self._name = f"clipattr-still-{next(_STILLS)}"
        pulse.still = self._name

    def display(self) -> None:
        """Put the view below what was displayed last."""
        from IPython.display import display

        handle = display(self._bundle(), raw=True, display_id=True)
        if handle is not None:  # None outside a notebook
            self._handles.append(handle)

    def _bundle(self) -> dict[str, Any]:
        made = self._make()
        bundle = made.bundle()
        bundle["text/html"] = f'<div class="{self._name}">{bundle["text/html"]}</div>'
        return bundle

    def soon(self) -> None:
        """Write the view again after a pause without changes; not without an event loop, where nobody sees it."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(STILL_AFTER, self._write)

    def _write(self) -> None:
        self._timer = None
        bundle = self._bundle()
        for handle in self._handles:
            handle.update(bundle, raw=True)

    def end(self) -> None:
        """Leave the view as it is."""
        if self._timer is not None:
            self._timer.cancel()


def say_again(widget: Any) -> None:
    """Send the values of all plain controls in a widget once more.

    A page that is being made (Voila, a notebook that is opened again) takes the values of its controls together, and
    loses what changes between then and the end. Parts ask for it themselves (`static/common.js`).
    """
    for child in getattr(widget, "children", ()):
        say_again(child)
    if not isinstance(widget, (Part, W.FileUpload)) and (said := {"value", "index"} & set(widget.keys)):
        widget.send_state(said)


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


def word_field(desk: Desk, value: str, name: str, hint: str, *, width: int, label: int) -> W.Combobox:
    """A field for a word or a prompt of one's own, with suggestions; `width` and that of its `label` in px."""
    return W.Combobox(
        value=value, options=suggestions(desk), description=name, continuous_update=False, ensure_option=False,
        placeholder=hint, layout=W.Layout(width=f"{width}px"), style={"description_width": f"{label}px"},
    )  # fmt: skip


def prompt_fields(state: Any, *, width: int) -> tuple[W.Combobox, W.Combobox]:
    """Fields for `prompt` and `against` of a view-model, each `width` px."""
    return (
        word_field(state.table, state.prompt, "prompt", "a word or a caption", width=width, label=74),
        word_field(state.table, state.against, "rather than", "(nothing)", width=width, label=74),
    )
