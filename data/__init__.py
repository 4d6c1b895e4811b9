"""The bundled picture world: scenes with known causes, small CLIP models trained on them, finished studies."""

from __future__ import annotations

from pathlib import Path


def models_dir() -> Path:
    """Where the bundled models lie, one folder each in open_clip's own format."""
    return Path(__file__).parent / "models"


def studies_dir() -> Path:
    """Where the bundled studies lie, one folder each."""
    return Path(__file__).parent / "studies"
