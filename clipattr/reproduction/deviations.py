"""Deviations: where a run differs from the published protocol, found by comparing values.

Owns that comparison and the list of versions. Ignores what a difference does to the results. Start at `deviations`.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from clipattr import __version__
from clipattr.storage.paths import user_path

if TYPE_CHECKING:
    from clipattr.reproduction.run import Result, Run

PACKAGES = (
    "torch",
    "open_clip_torch",
    "timm",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "matplotlib",
    "pillow",
)
ITS_PICTURES = 1_281_167  # of ImageNet-1k's training set, on which the paper interprets latents


def versions() -> dict[str, str]:
    """Versions of this package and of what it computes with."""
    found = {"clipattr": __version__, "python": sys.version.split()[0], "system": platform.system()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def deviations(run: Run, results: Sequence[Result]) -> list[str]:
    """Differences between this run and the protocol, one sentence each."""
    inputs, sizes, protocol = run.inputs, run.sizes, run.inputs.protocol
    found: list[str] = []
    own = {f"{name}:{weights}" for name, weights in protocol.variants}
    used = {str(given) for given in inputs.models.values()}
    if missing := sorted(own - used):
        found.append(f"models left out: {', '.join(missing)}")
    if other := [name for name, given in inputs.models.items() if str(given) not in own]:
        found.append(f"other models: {', '.join(other)}")
    for what, asked, published in (
        ("evaluator", _reference(inputs.evaluator), protocol.evaluator),
        ("vocabulary", _last(inputs.given["vocabulary"]), protocol.vocabulary),
        ("latents of the dictionary", sizes.n_latents, protocol.n_latents),
        ("active latents", sizes.k, protocol.k),
        ("passes over the pictures in training", sizes.epochs, protocol.training["epochs"]),
        ("examples per latent", sizes.examples, protocol.examples),
        ("pictures", len(inputs.images), ITS_PICTURES),
    ):
        if asked != published:
            found.append(f"{what}: {_number(asked)} in place of {_number(published)}")
    if sizes.prompts:
        found.append(f"{len(inputs.prompts)} prompts are audited, those with the most pictures")
    sides = [side == "holdout" for side in inputs.images.columns["split"]]
    share = sum(sides) / len(sides) if any(sides) else sizes.holdout
    by = "by the collection's own split" if any(sides) else "at random"
    found.append(
        f"{share * 100:.0f} % of the pictures are held out {by}, and effects are measured on them; the paper holds out "
        "none"
    )
    found += protocol.differences
    for result in results:
        found += [f"{result.experiment.title.lower()}: {text}" for text in result.experiment.deviations]
        if not result.units:
            found.append(f"{result.experiment.title.lower()}: not measured, as {result.experiment.lacking}")
    return found


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def _reference(model: Any) -> str:
    return _last(model if isinstance(model, str) else str(getattr(model, "reference", "a module")))


def _last(text: str) -> str:
    """A file or folder by its last name: the page may be read elsewhere."""
    return (
        user_path(text.removeprefix("local-dir:")).name if "/" in text and not text.startswith("hf") else text
    )
