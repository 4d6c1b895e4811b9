"""The drawn parts as a browser meets them: one message each, text harmless, clicks heard."""

import io

import numpy as np
import pytest
from PIL import Image

from clipattr_widgets import BarList, DataTable, Gallery, Overlay
from clipattr_widgets.sprites import heat_bytes, sprite
from clipattr_widgets.text import markup, plain, shown, signed

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "evil \u202egnp.exe",
    "a\u2066b\u200fc",
    "line\nbreak\x00null\x1b[31m",
    "lone \ud800 surrogate",
    "x" * 10_000,
    "'; DROP TABLE latents; --",
    "{{7*7}}$\\mathbb{x}$",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_becomes_one_short_line_without_markup_or_direction_marks(text):
    line, html = shown(text), markup(text)
    assert len(line) < 120 and "\n" not in line
    for mark in "\u202e\u2066\u200f\x00\x1b\ud800":
        assert mark not in line
    inner = html.removeprefix('<bdi dir="auto">').removesuffix("</bdi>")
    assert not set(inner) & set("<>\"'")
    line.encode("utf-8")


def test_what_was_cut_is_counted():
    assert shown("x" * 10_000, 20) == "x" * 20 + "… (10,000 characters)"
    assert shown("ok", 20) == "ok"


def test_numbers_carry_a_real_minus_and_a_dash_where_there_is_none():
    assert [signed(v) for v in (1.234, -1.234, 0.001, float("nan"), float("inf"), None)] == [
        "+1.23", "−1.23", "0.00", "–", "–", "–",
    ]  # fmt: skip
    assert plain(2.5) == "2.50" and plain(-2.5) == "−2.50"


def messages_of(widget, monkeypatch):
    """What the widget sends from now on."""
    sent = []
    monkeypatch.setattr(
        type(widget), "_send", lambda self, message, buffers=None: sent.append((message, buffers))
    )
    return sent


@pytest.mark.parametrize(
    ("made", "update"),
    [
        (
            BarList,
            lambda w: w.show(
                [{"id": 1, "part": "latent", "label": "a", "value": 1.0}], columns={"value": "x"}
            ),
        ),
        (DataTable, lambda w: w.show([{"id": 1, "cells": ["a"]}], columns=[{"key": "k", "label": "K"}])),
        (
            Gallery,
            lambda w: w.show([Image.new("RGB", (9, 9))] * 40, alt=["x"] * 40, heat=np.zeros((40, 7, 7))),
        ),
        (Overlay, lambda w: w.show(Image.new("RGB", (9, 9)), alt="x", heat=np.zeros((7, 7)))),
    ],
)
def test_an_update_is_one_message(made, update, monkeypatch):
    widget = made()
    sent = messages_of(widget, monkeypatch)
    update(widget)
    assert len(sent) == 1
    update(widget)
    assert len(sent) == 2


def test_a_sprite_holds_every_picture_in_its_cell():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]
    data, columns = sprite([Image.new("RGB", (30, 60), c) for c in colours], 16, columns=2)
    page = Image.open(io.BytesIO(data))
    assert columns == 2 and page.size == (32, 48)
    for i, colour in enumerate(colours):
        found = page.getpixel(((i % 2) * 16 + 8, (i // 2) * 16 + 8))
        assert np.abs(np.subtract(found, colour)).max() < 30
    assert sprite([], 16) == (b"", 1)


def test_heat_is_one_byte_a_cell_and_nan_is_no_heat():
    assert heat_bytes(np.array([[0.0, 0.5], [1.0, np.nan]])) == bytes([0, 128, 255, 0])
    assert heat_bytes(np.array([[-1.0, 2.0, np.inf, -np.inf]])) == bytes([0, 255, 255, 0])


def test_a_gallery_refuses_lists_of_different_lengths():
    with pytest.raises(ValueError, match="2 thumbnails need as many alt; got 1"):
        Gallery().show([Image.new("RGB", (4, 4))] * 2, alt=["one"])


def test_messages_from_the_browser_reach_their_handler_and_odd_ones_are_ignored():
    bars, heard = BarList(), []
    bars.on("scale", heard.append)
    for content in (
        {"kind": "scale", "id": 3, "factor": 0},
        {"kind": "nonsense"},
        "text",
        None,
        {},
        ["kind"],
    ):
        bars._handle_custom_msg(content, [])
    assert heard == [{"kind": "scale", "id": 3, "factor": 0}]


def test_the_views_never_parse_text_as_markup():
    for part in (BarList, Gallery, Overlay, DataTable):
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "http:",
            "https:",
        ):
            assert forbidden not in str(part._esm), (part, forbidden)


def test_a_page_of_the_grid_is_one_jpeg_that_says_where_each_picture_is(monkeypatch):
    from clipattr_widgets.browse_state import Item
    from clipattr_widgets.grid import MANY_PX, ONE_PX, Grid

    def stored(size, colour, kind):
        buffer = io.BytesIO()
        Image.new("RGB", size, colour).save(buffer, kind)
        return buffer.getvalue()

    red, blue = stored((112, 112), "red", "JPEG"), stored((40, 80), "blue", "PNG")
    sent = []
    monkeypatch.setattr(Grid, "send", lambda self, message, buffers: sent.append((message, buffers[0])))
    grid = Grid()
    grid.send_page(
        3, 7, [Item((red,), "a", "1", "one"), Item((b"",), "b", "2", "two"), Item((blue,), "c", "3", "x")]
    )
    grid.send_page(4, 7, [Item((red, blue), "a", "1", "one"), Item((), "b", "2", "two")])
    grid.send_page(5, 7, [])
    (one, first), (many, second), (_, third) = sent
    assert one["px"] == ONE_PX and [item["sizes"] for item in one["items"]] == [
        [(112, 112)],
        [(0, 0)],
        [(56, 112)],
    ]
    assert [item["first"] for item in one["items"]] == [0, 1, 2]
    page = Image.open(io.BytesIO(first))
    middle = [page.getpixel((int((i + 0.5) * ONE_PX), ONE_PX // 2)) for i in range(3)]
    assert middle[0][0] > 240 > 60 > middle[0][2] and middle[2][2] > 240 > 60 > middle[2][0]
    assert many["px"] == MANY_PX and [item["sizes"] for item in many["items"]] == [[(56, 56), (28, 56)], []]
    assert Image.open(io.BytesIO(second)).size == (8 * MANY_PX, MANY_PX) and third == b""
    grid.close()
