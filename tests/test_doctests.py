"""The examples in docstrings are true."""

import doctest
import importlib
from functools import cache
from pathlib import Path

import pytest

import clipattr

ROOT = Path(__file__).parents[1]
PACKAGES = {"clipattr": "clipattr", "clipattr_widgets": "widgets", "clipattr_data": "data"}
MODULES = sorted(
    ".".join((package, *file.relative_to(ROOT / folder).with_suffix("").parts)).removesuffix(".__init__")
    for package, folder in PACKAGES.items()
    for file in (ROOT / folder).rglob("*.py")
    if ">>> " in file.read_text("utf-8")
)


@pytest.fixture(scope="module", autouse=True)
def shared():
    """Examples open the bundled study and models; opening each once keeps this file quick."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("open_study", "load_model"):
            patch.setattr(clipattr, name, cache(getattr(clipattr, name)))
        yield


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name):
    result = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    )
    assert result.attempted and not result.failed


def test_there_are_examples():
    assert len(MODULES) >= 6
