"""All text that people read uses the field's terms: words of the first version that were replaced do not come back.

That is docstrings and comments, documents, notebooks, messages, texts of reports and panels, and the names of tests.
"""

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
    r"\btold (apart|from)\b": "distinguished",
    r"\bcommoner\b": "more frequent",
    r"\bbears?( out)?\b": "has, confirms",
    r"\babounds?\b": "are many",
    r"\bwakes?\b": "becomes active",
    r"\bfell silent\b": "became inactive",
    r"\bled astray\b": "trained with a shortcut",
    r"\bwhoever\b": "a person who",
    r"\bcarr(y|ies|ied) the prompt\b": "raises its score",
    r"\bcovered (picture|place|region)s?\b": "occluded",
}
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SCRIPTS = [
    *FILES,
    *(
        path
        for folder in ("widgets", "benchmarks", "data", "notebooks")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ),
    ROOT / "docs/conf.py",
]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
]


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
    return found + comments(text, "#")


def comments(text, mark):
    """(text, line) of every comment; lines of comment under one another are one text."""
    found, open_since = [], 0
    for number, line in enumerate(text.splitlines(), 1):
        before, _, said = line.partition(mark + " ")
        if open_since and not before.strip() and said:
            found[-1] = (found[-1][0] + "\n" + said, open_since)
        elif said:
            found.append((said, number))
        open_since = 0 if before.strip() or not said else found[-1][1]
    return found


def strings(text):
    """(text, line) of strings with a space in them: messages, and what panels and reports show."""
    return [
        (node.value, node.lineno)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
    ]


def paragraphs(text):
    """(text, line) of every paragraph of a document outside its blocks of code."""
    plain = re.sub(r"```.*?```", lambda block: re.sub(r"[^\n]", "", block[0]), text, flags=re.S)
    return [
        (found[0], plain.count("\n", 0, found.start()) + 1) for found in re.finditer(r"(?:.+\n?)+", plain)
    ]


# Code in a text: names in backquotes, and the name of an argument or attribute before its colon.
CODE = re.compile(r"`[^`]*`|^ *\w+(?=:)", re.M)


def replaced_terms(texts):
    """A line for each replaced term in these (text, line)."""
    return [
        f"line {line}: {found[0]!r}, use: {use}"
        for said, line in texts
        for pattern, use in OF_PROSE.items()
        if (found := re.search(pattern, re.sub(r"\s+", " ", CODE.sub("", said)), re.I))
    ]


def each(paths):
    return pytest.mark.parametrize("path", list(paths), ids=lambda path: path.relative_to(ROOT).as_posix())


@each(path for path in FILES if "audit" not in path.parent.parts)
def test_names_are_terms_of_the_field(path):
    found = [(path.stem, 0), *names(ast.parse(path.read_text("utf-8")))]
    wrong = [
        f"line {line}: {name}, use: {OF_NAMES[word]}"
        for name, line in found
        for word in words_of(name)
        if word in OF_NAMES
    ]
    assert not wrong, "\n".join(wrong)


@each(TESTS)
def test_names_comments_and_docstrings_of_tests_use_the_terms_of_the_field(path):
    text = path.read_text("utf-8")
    if path == Path(__file__):  # whose examples are the replaced terms
        text = text[: text.rindex("\ndef test_a_replaced_term_is_noticed")]
    named = names(ast.parse(text))
    wrong = [f"line {line}: {name}" for name, line in named if set(words_of(name)) & set(OF_NAMES)]
    sentences = [(name.replace("_", " "), line) for name, line in named]
    wrong += replaced_terms(prose(text) + sentences)
    assert not wrong, "\n".join(wrong)


@each(SCRIPTS)
def test_docstrings_comments_and_messages_use_the_terms_of_the_field(path):
    text = path.read_text("utf-8")
    shown = strings(text) if path.is_relative_to(PACKAGE) or path.is_relative_to(ROOT / "widgets") else []
    wrong = replaced_terms(prose(text) + shown)
    assert not wrong, "\n".join(wrong)


@each(DOCUMENTS)
def test_documents_use_the_terms_of_the_field(path):
    wrong = replaced_terms(paragraphs(path.read_text("utf-8")))
    assert not wrong, "\n".join(wrong)


@each(sorted((ROOT / "widgets/static").glob("*.js")))
def test_scripts_of_panels_use_the_terms_of_the_field(path):
    wrong = replaced_terms(comments(path.read_text("utf-8"), "//"))
    assert not wrong, "\n".join(wrong)


def test_a_replaced_term_is_noticed():
    assert replaced_terms(
        prose('"""A probe that is fitted anew."""\nx = 1  # of the upper heap\n# it tells\n# the rest\n')
    ) == [
        "line 1: 'anew', use: again",
        "line 2: 'upper heap', use: mixture components",
        "line 3: 'tells the', use: states, shows, distinguishes",
    ]
    assert not replaced_terms(prose('"""A value.\n\n    thing: `thing` of the value.\n    """'))
    assert replaced_terms(strings('x = "anew"; y = f"drawn anew {x}"')) == ["line 1: 'anew', use: again"]
    assert replaced_terms(paragraphs("# T\n\n```\nanew\n```\nfitted\nanew\n")) == [
        "line 6: 'anew', use: again"
    ]
    assert replaced_terms(comments("let a = 1; // anew\n", "//")) == ["line 1: 'anew', use: again"]
    assert words_of("_is_in_Company") == ["is", "in", "company"]
