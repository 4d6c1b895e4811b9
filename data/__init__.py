"""The bundled picture world: scenes with known causes, small CLIP models trained on them, finished studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def models_dir() -> Path:
    """Folder of the bundled models, one subfolder each in open_clip's format."""
    return Path(__file__).parent / "models"


def studies_dir() -> Path:
    """Folder of the bundled studies, one subfolder each."""
    return Path(__file__).parent / "studies"


def read_scene(text: str) -> Any:
    """The editable scene that a line of JSON describes: a `Lesion` if it has a field `lesion`, else a `Scene`.

    Raises:
        ValueError: neither.
    """
    from .lesions import Lesion
    from .scene import Scene

    fields = json.loads(text)
    kind: Any = Lesion if isinstance(fields, dict) and "lesion" in fields else Scene
    return kind.from_json(fields)
