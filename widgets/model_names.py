"""Names of models in panels: short, without folders of this machine, and different for different studies.

Owns the names alone. Start at `told_apart`.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from clipattr.models.configs import HUB, LOCAL
from clipattr_widgets.text import shown


def reference_of(study: Any) -> str:
    """The name of a study's model, without loading it; of a model in a folder, the folder's own name."""
    manifest = getattr(study, "manifest", None) or {}
    model = manifest.get("model") if isinstance(manifest, Mapping) else None
    if isinstance(model, Mapping):
        model = model.get("reference") or model.get("name")
    name = str(model or "custom model").removeprefix(HUB)
    if name.startswith(LOCAL):
        name = PurePath(name.removeprefix(LOCAL)).name or name
    return shown(name, 60)


def told_apart(desks: Sequence[Any]) -> list[str]:
    """A name for each study: its model's, with the site, and with the study's folder, where others share it."""
    names = [desk.model_name for desk in desks]
    for more in ((lambda desk: desk.site), _folder):
        for name in {name for name in names if names.count(name) > 1}:
            same = [i for i, other in enumerate(names) if other == name]
            said = [more(desks[i]) for i in same]
            if len(set(said)) > 1:
                for i, word in zip(same, said, strict=True):
                    names[i] = f"{name} · {word}"
    return names


def by_model(desks: Sequence[Any]) -> dict[str, list[tuple[str, int]]]:
    """For each model (or given name) its sites, as (what the site picker says, place in `desks`)."""
    groups: dict[str, list[tuple[str, int]]] = {}
    for place, desk in enumerate(desks):
        groups.setdefault(desk.model_name, []).append((desk.site, place))
    for sites in groups.values():
        said = [site for site, _ in sites]
        for i, (site, place) in enumerate(sites):
            if said.count(site) > 1:  # two dictionaries at one site
                sites[i] = (f"{site} · {_folder(desks[place])}", place)
    return groups


def _folder(desk: Any) -> str:
    path = getattr(desk.study, "path", None)
    return shown(path.name, 30) if path is not None else "not saved"
