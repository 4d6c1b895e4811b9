"""Every public docstring states arguments, result, shapes and errors, and has an example; what it states is checked."""

import ast
import builtins
import inspect
import re
from functools import cache
from pathlib import Path

import pytest

import clipattr
from clipattr.attribution.faithfulness import Faithfulness
from clipattr.attribution.methods import Method
from clipattr.attribution.splice import Splice
from clipattr.discovery.check import Line
from clipattr.discovery.findings import PromptVerdict
from clipattr.discovery.gate import Gate, Judgement
from clipattr.discovery.probes.fitting import SparseProbe
from clipattr.discovery.repair.evaluation import BeforeAfter
from clipattr.errors import ClipattrError
from clipattr.reproduction.plan import ReproductionPlan
from clipattr.statistics import Interval
from clipattr.studies.plan import Plan

PARTS = {"arguments": "Args:", "result": "Returns:", "errors": "Raises:", "example": ">>> "}
# "(batch, embed)", "(n,)", "(batch · tokens, k)", "(…)"; a remark in brackets has a space before its first comma.
SHAPE = re.compile(r"\([^()\s,]+(?: [·+×*-] [^()\s,]+)*,[^()]*\)|\(…\)")
ARRAY = re.compile(r"\b(Tensor|ndarray)\b")
ENTRY = re.compile(r"(?:^|[.;] )((?:\w+, )*\w+): ", re.M)


# Classes that public functions return, beside the public ones.
RETURNED = (
    Faithfulness, Splice, Method, Plan, Gate, Judgement, BeforeAfter, PromptVerdict, Line, SparseProbe, Interval,
    ReproductionPlan,
)  # fmt: skip


def public():
    """(name, object) of every public function and class; errors and constants explain themselves."""
    for name in clipattr.CONTENTS:
        value = getattr(clipattr, name)
        if inspect.isfunction(value) or (inspect.isclass(value) and not issubclass(value, Exception)):
            yield name, value


def lacking(value):
    """The parts that a docstring lacks."""
    text = inspect.getdoc(value) or ""
    if inspect.isclass(value):
        needed = {"example"}
    else:
        signature = inspect.signature(value)
        needed = {"errors", "example"}
        if signature.parameters:
            needed.add("arguments")
        if signature.return_annotation not in (None, "None"):
            needed.add("result")
    return {part for part in needed if PARTS[part] not in text}


def methods():
    """(name, function, docstring) of every public method, property and constructor of a public class."""
    for name, value in [*public(), *((one.__name__, one) for one in RETURNED)]:
        if inspect.isclass(value):
            for member, written in vars(value).items():
                function = getattr(
                    written, "__func__", getattr(written, "fget", getattr(written, "func", written))
                )
                made = member in ("__init__", "__post_init__")
                if not inspect.isfunction(function) or function.__code__.co_filename.startswith("<"):
                    continue  # not a function, or made by dataclasses
                if made or not member.startswith("_"):
                    own = inspect.getdoc(getattr(value, member, None)) or inspect.getdoc(function)
                    yield f"{name}.{member}", function, inspect.getdoc(value) if made else own


def documented():
    """(name, function, docstring) of everything public that can be called or read."""
    yield from (
        (name, inspect.unwrap(value), inspect.getdoc(value))
        for name, value in public()
        if inspect.isfunction(value)
    )
    yield from methods()


@cache
def functions_of(file):
    """The functions of a module by name, its methods by class and name."""
    found = {}
    for node in ast.parse(Path(file).read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{part.name}": part for part in node.body if isinstance(part, ast.FunctionDef)
            }
    return found


def errors_of(function):
    """Names of the errors that a function raises itself, or through functions and private methods of its module."""
    known = functions_of(function.__code__.co_filename)
    owner = function.__qualname__.rpartition(".")[0]
    waiting, done, found = [f"{owner}.{function.__name__}".lstrip(".")], set(), set()
    while waiting:
        name = waiting.pop()
        if name in done or name not in known:
            continue
        done.add(name)
        for node in ast.walk(known[name]):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Name):
                waiting.append(called.id)
            elif isinstance(called, ast.Attribute) and ast.unparse(called.value) in ("self", "cls"):
                waiting += [f"{owner}.{called.attr}"] * called.attr.startswith("_")
            if isinstance(node, ast.Raise) and node.exc is not None:
                raised = ast.unparse(getattr(node.exc, "func", node.exc))
                kind = function.__globals__.get(raised, getattr(builtins, raised, None))
                if kind is IndexError or (inspect.isclass(kind) and issubclass(kind, ClipattrError)):
                    found.add(raised)
    return found


def section(text, head):
    """The lines of a section, without their common indent."""
    found = re.search(rf"^{head}\n((?:(?: .*)?\n?)+)", text or "", re.M)
    return inspect.cleandoc(found[1]) if found else ""


def entries(text):
    """The arguments that a docstring explains; continued lines are joined, and one line may explain several."""
    joined = re.sub(r"\n {2,}", " ", section(text, "Args:"))
    return {name for found in ENTRY.findall(joined) for name in found.split(", ")}


def unexplained(function, text):
    """Parameters that the section on arguments does not explain, and explained ones that do not exist."""
    taken = {name for name in inspect.signature(function).parameters if name not in ("self", "cls")}
    explained = entries(text)
    first = set(re.findall(r"^(\w+)(?=[:,] )", section(text, "Args:"), re.M))
    return (taken - explained) | (first - taken) if explained else set()


@pytest.mark.parametrize("name", [name for name, _ in public()])
def test_a_public_docstring_has_its_parts(name):
    found = lacking(getattr(clipattr, name))
    assert not found, f"add {', '.join(sorted(found))} to the docstring of {name}"


def test_every_public_method_says_what_it_does():
    assert not (bare := [name for name, _, text in methods() if not text]), bare


def test_every_error_that_is_raised_is_documented():
    found = {
        name: errors_of(function) - set(re.findall(r"\w+", text or ""))
        for name, function, text in documented()
    }
    assert not (wrong := {name: errors for name, errors in found.items() if errors}), wrong


def test_arrays_have_a_shape():
    bare = [
        name
        for name, function, text in documented()
        if ARRAY.search(str(inspect.signature(function))) and not SHAPE.search(text or "")
    ]
    assert not bare, bare


def test_arguments_are_explained_and_exist():
    found = {
        name: unexplained(function, text)
        for name, function, text in documented()
        if not name.endswith(".__post_init__")  # whose arguments are the fields
    }
    assert not (wrong := {name: names for name, names in found.items() if names}), wrong


def test_an_error_has_a_condition():
    vague = [
        name
        for name, _, text in documented()
        if (told := section(text, "Raises:"))
        and not re.search(r"\b[A-Z]\w*(Error|Shard)\b[^:]*: \S+ \S+", told)
    ]
    assert not vague, vague


def test_missing_parts_are_noticed():
    def complete(n: int) -> int:
        """Double a number.

        Args:
            n: any.

        Returns:
            Its double.

        Raises:
            TypeError: not a number.

        >>> complete(2)
        4
        """
        return 2 * n

    def bare(n: int) -> int:
        """Double a number."""
        return 2 * n

    assert lacking(complete) == set() and lacking(bare) == {"arguments", "result", "errors", "example"}
    assert unexplained(complete, inspect.getdoc(complete)) == set()
    assert unexplained(lambda n, m: n, inspect.getdoc(complete)) == {"m"}
    assert unexplained(lambda: 0, inspect.getdoc(complete)) == {"n"}
    assert errors_of(clipattr.Site.index) == {"SiteError"} and errors_of(clipattr.SparseCodes.rows) == {
        "IndexError"
    }
    assert SHAPE.search("(batch, embed)") and not SHAPE.search("a tensor (wrong site, or model)")
