"""Every public function states its arguments, result and errors, and has an example; every public class has one too."""

import inspect

import pytest

import clipattr

PARTS = {"arguments": "Args:", "result": "Returns:", "errors": "Raises:", "example": ">>> "}


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
    """(name, docstring) of every public method of a public class that is written in its class or in a base of ours."""
    for name, value in public():
        if inspect.isclass(value):
            for member, written in vars(value).items():
                function = getattr(
                    written, "__func__", getattr(written, "fget", getattr(written, "func", written))
                )
                if not member.startswith("_") and inspect.isfunction(function):
                    yield (
                        f"{name}.{member}",
                        inspect.getdoc(getattr(value, member, None)) or inspect.getdoc(function),
                    )


@pytest.mark.parametrize("name", [name for name, _ in public()])
def test_a_public_docstring_has_its_parts(name):
    found = lacking(getattr(clipattr, name))
    assert not found, f"add {', '.join(sorted(found))} to the docstring of {name}"


def test_every_public_method_says_what_it_does():
    assert not (bare := [name for name, text in methods() if not text]), bare


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
