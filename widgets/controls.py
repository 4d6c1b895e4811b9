"""Small pieces that several panels are built of: status line, error box, the "take away" menu.

Owns their look. Ignores what they report. Start at `takeaway`.
"""

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

import ipywidgets as W

from clipattr.display.wording import counted
from clipattr.studies.remarks import remarks
from clipattr_widgets.text import markup

ENTER_SECONDS = 0.1  # longest time between a press of Enter and the message of the change it made
FORMATS = [("take away …", ""), ("code", "code"), ("PNG", "png"), ("HTML", "html"), ("CSV", "csv")]


def labelled(box: Any, *names: str) -> Any:
    """The box with CSS classes."""
    for name in names:
        box.add_class(name)
    return box


def toolbar(*controls: Any) -> W.HBox:
    """Controls in one row."""
    return labelled(W.HBox(controls), "clipattr-toolbar")


def button(text: str, width: int, tip: str | None = None, **more: Any) -> W.Button:
    """A button of this width in px, with a tooltip."""
    return W.Button(description=text, tooltip=tip, layout=W.Layout(width=f"{width}px"), **more)


def text_field(hint: str, width: int, **more: Any) -> W.Text:
    """A field of this width in px for a text that is read when Enter is pressed or the field is left."""
    return W.Text(placeholder=hint, continuous_update=False, layout=W.Layout(width=f"{width}px"), **more)


def label_width(px: int) -> dict[str, str]:
    """The style of a control whose description takes so much of its width."""
    return {"description_width": f"{px}px"}


def show_if(there: object, *controls: Any) -> None:
    """Show controls, or hide them."""
    for control in controls:
        control.layout.display = "" if there else "none"


def error_html(error: str) -> str:
    """An error message as a box; nothing without an error."""
    return f'<div class="clipattr-error" role="alert">{markup(error, 600)}</div>' if error else ""


def status_html(pending: int) -> str:
    """Indicator of a running computation."""
    return '<span class="clipattr-busy" role="status">computing …</span>' if pending else ""


def progress_html(
    progress: tuple[Any, ...], of: str = "", unit: str = "prompt", last: str = "measuring"
) -> str:
    """Progress with a bar and an estimate: units done, asked, seconds left; `of` what goes on, `last` what follows."""
    done, asked, left = progress or (0, 0, None)
    told = f"{markup(of, 40)}{': ' if of else ''}{done:,} of {counted(asked, unit)}"
    if left is not None and done < asked:
        told += f", about {left / 60:.0f} min left" if left >= 90 else f", about {left:.0f} s left"
    elif asked and done >= asked:
        told += f", {last}"
    return (
        f'<span class="clipattr-busy" role="status">{told}</span> '
        f'<progress max="{max(asked, 1)}" value="{done}" aria-label="progress"></progress>'
    )


def remarks_html(study: Any) -> str:
    """Remarks on the study's pictures and words; nothing without remarks."""
    items = "".join(f"<li>{markup(one, 400)}</li>" for one in remarks(study))
    return f'<ul class="clipattr-note clipattr-remarks">{items}</ul>' if items else ""


def on_enter_again(field: W.Text, act: Callable[[str], None]) -> None:
    """Call `act(text)` when Enter is pressed in a field whose text is as it was; changes are told by its trait."""
    changes = count()
    seen = [next(changes)]
    field.observe(lambda _: seen.append(next(changes)), "value")

    def heard(_: Any, content: Any, buffers: Any) -> None:
        if not isinstance(content, dict) or content.get("event") != "submit":
            return
        before = seen[-1]

        def unless_changed() -> None:
            if seen[-1] == before and field.value:
                act(field.value)

        try:  # the browser reports Enter first, then the change that belongs to it
            asyncio.get_running_loop().call_later(ENTER_SECONDS, unless_changed)
        except RuntimeError:
            unless_changed()

    field.on_msg(heard)


def takeaway(panel: Any) -> tuple[W.Dropdown, W.HTML]:
    """A menu that puts the code, or a link to download the view, into the drawer returned beside it."""
    menu = W.Dropdown(options=FORMATS, value="", layout=W.Layout(width="118px"))
    menu.tooltip = "the code that makes this view, or the view as a file"
    drawer = W.HTML()

    def chosen(change: Any) -> None:
        drawer.value = panel.drawer_html(change["new"], panel.state.code()) if change["new"] else ""

    def changed(_: Any) -> None:
        """Code follows the view; a file of an earlier view is removed."""
        if menu.value and not getattr(panel, "closed", False):
            if menu.value == "code":
                drawer.value = panel.drawer_html("code", panel.state.code())
            else:
                menu.value = ""

    menu.observe(chosen, "value")
    panel.state.observe(changed, "gen")
    return menu, drawer


def upload_button() -> W.FileUpload:
    """A button that takes a picture from a file."""
    return W.FileUpload(
        accept="image/*", multiple=False, description="upload", tooltip="open a picture from a file",
        layout=W.Layout(width="100px"),
    )  # fmt: skip
