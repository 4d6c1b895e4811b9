"""The examples in docstrings are true."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"clipattr": "clipattr", "clipattr_widgets": "widgets", "clipattr_data": "data"}
MODULES = sorted(
    ".".join((package, *file.relative_to(ROOT / folder).with_suffix("").parts)).removesuffix(".__init__")
    for package, folder in PACKAGES.items()
    for file in (ROOT / folder).rglob("*.py")
    if ">>> " in file.read_text("utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name):
    result = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    )
    assert result.attempted and not result.failed


def test_there_are_examples():
    assert len(MODULES) >= 6
