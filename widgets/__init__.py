"""clipattr_widgets: panels for notebooks. Pick a model, a picture or a prompt, and see what it rests on.

State lives in view-models (`*_state.py`, traitlets) that call public `clipattr` functions; views only draw. Names are
imported on first use. Start at `explore`.
"""

from importlib import import_module
from typing import Any

CONTENTS = {
    "explore": "explorer",
    "ExplorerPanel": "explorer",
    "ExplorerState": "explorer_state",
    "BrowsePanel": "browse",
    "BrowseState": "browse_state",
    "LatentPanel": "latent",
    "LatentState": "latent_state",
    "PromptPanel": "prompt",
    "PromptState": "prompt_state",
    "FindingsPanel": "findings",
    "FindingsState": "findings_state",
    "MapPanel": "map",
    "MapState": "map_state",
    "WorldPanel": "world",
    "WorldState": "world_state",
    "ComparePanel": "compare",
    "CompareState": "compare_state",
    "BarList": "parts",
    "DotList": "parts",
    "Gallery": "parts",
    "Grid": "grid",
    "Overlay": "parts",
    "DataTable": "parts",
    "Scatter": "parts",
    "Stage": "parts",
}

__all__ = list(CONTENTS)


def __getattr__(name: str) -> Any:
    """Import a public name on first use and keep it."""
    if name not in CONTENTS:
        raise AttributeError(
            f"module 'clipattr_widgets' has no attribute {name!r}; it has {', '.join(CONTENTS)}."
        )
    value = getattr(import_module(f"clipattr_widgets.{CONTENTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *CONTENTS})
