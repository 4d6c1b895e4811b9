"""The package's text uses the field's terms: words of the first version that were replaced do not come back."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "clipattr"
# Words of names (modules, functions, classes) everywhere, with the term to use.
OF_NAMES = {
    "company": "co-occurrence", "covering": "occlusion", "carriers": "mediators", "blindness": "null-space projection",
    "freed": "erased", "heap": "mixture component", "heaps": "mixture components", "sight": "concept presence",
}  # fmt: skip
# Phrases of docstrings and comments, with the term to use.
OF_PROSE = {
    r"\bcarriers?\b": "mediators",
    r"\bblindness\b": "null-space projection",
    r"\bfreed of\b": "erased from",
    r"\b(upper |lower |two )heaps?\b": "mixture components",
    r"\bthings?\b": "concept, object, value: name it",
    r"\blook(s|ed)? on\b": "the plain verb",
    r"\banew\b": "again",
    r"\bof the way to\b": "a fraction",
    r"\btells? (apart|of|what|how|which|the)\b": "states, shows, distinguishes",
    r"\bfalls? silent\b": "becomes inactive",
    r"\bcomes? along\b": "co-occurs",
    r"\bnobody would expect\b": "unexpected",
    r"\bowes?\b": "depends on, relies on",
    r"\bspeaks? (for|against|of)\b": "is evidence for, is about",
    r"\b(held|holds?) against\b": "compared with",
    r"\bled astray\b": "trained with a shortcut",
    r"\bwhoever\b": "a person who",
    r"\bcarr(y|ies|ied) the prompt\b": "raises its score",
    r"\bcovered (picture|place|region)s?\b": "occluded",
}
FILES = sorted(PACKAGE.rglob("*.py"))


def names(tree):
    """(name, line) of every function and class."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [(node.name, node.lineno) for node in ast.walk(tree) if isinstance(node, kinds)]


def words_of(name):
    return [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def prose(text):
    """(text, line) of docstrings and comments."""
    kinds = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = [
        (ast.get_docstring(node) or "", getattr(node, "lineno", 1))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, kinds)
    ]
    return found + [(line.partition("# ")[2], number) for number, line in enumerate(text.splitlines(), 1)]


# Code in a text: names in backquotes, and the name of an argument or attribute before its colon.
CODE = re.compile(r"`[^`]*`|^ *\w+(?=:)", re.M)


def replaced_terms(text):
    return [
        f"line {line}: {found[0]!r}, use: {use}"
        for said, line in prose(text)
        for pattern, use in OF_PROSE.items()
        if (found := re.search(pattern, CODE.sub("", said), re.I))
    ]


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if "audit" not in path.parent.parts],
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_names_are_terms_of_the_field(path):
    found = [(path.stem, 0), *names(ast.parse(path.read_text("utf-8")))]
    wrong = [
        f"line {line}: {name}, use: {OF_NAMES[word]}"
        for name, line in found
        for word in words_of(name)
        if word in OF_NAMES
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "path",
    FILES,
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_docstrings_and_comments_use_the_terms_of_the_field(path):
    wrong = replaced_terms(path.read_text("utf-8"))
    assert not wrong, "\n".join(wrong)


def test_a_replaced_term_is_noticed():
    assert replaced_terms('"""A probe that is fitted anew."""\n# of the upper heap\n') == [
        "line 1: 'anew', use: again",
        "line 2: 'upper heap', use: mixture components",
    ]
    assert not replaced_terms('"""A value.\n\n    thing: `thing` of the value.\n    """')
    assert words_of("_is_in_Company") == ["is", "in", "company"]
