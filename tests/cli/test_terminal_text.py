"""What the command line writes is the same text on every terminal."""

import io
import json
import sys

import pytest

from clipattr.cli.terminal import emit, escaped

TEXT = {"prompt": "caf\u00e9", "other": "\u98ce\u7b5d", "face": "\U0001f600", "half": "\ud83d"}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8", "cp437", "shift_jis"])
def test_json_on_stdout_keeps_every_letter(monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors="replace"))
    kept = {name: text for name, text in TEXT.items() if name != "half"}
    emit(json.dumps(kept, ensure_ascii=False), "-")
    assert json.loads(raw.getvalue().decode("utf-8")) == kept


def test_escapes_are_ascii_and_mean_the_same():
    made = escaped(json.dumps(TEXT, ensure_ascii=False))
    assert made.isascii() and json.loads(made) == TEXT
