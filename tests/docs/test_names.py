"""Kinds have one name for code and one for people, and the glossary has both."""

import re
from pathlib import Path

from clipattr.discovery.findings import KINDS
from clipattr.display.wording import KIND_WORDS, kind_word

GLOSSARY = Path(__file__).parents[2] / "docs" / "glossary.md"


def test_the_glossary_lists_kinds_in_code_and_as_people_read_them():
    entry = re.search(r"^kind\n(.*?)\n\n", GLOSSARY.read_text("utf-8"), re.M | re.S)[1]
    assert re.findall(r"`(\w+)`", entry) == list(KINDS) == list(KIND_WORDS)
    shown = entry.replace("\n", " ").rpartition("order: ")[2].rstrip(".")
    assert [" ".join(word.split()) for word in shown.split(",")] == [kind_word(kind) for kind in KINDS]
