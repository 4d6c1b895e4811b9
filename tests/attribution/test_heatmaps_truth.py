"""Maps of the bundled study's latents lie on the objects they are named after, as drawn."""

import importlib.util
from pathlib import Path

import torch

import clipattr
from clipattr.attribution.maps import mass_inside, points_inside


def load_benchmark(monkeypatch):
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location("heatmaps_benchmark", folder / "heatmaps.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_firing_maps_point_to_the_object_and_maps_of_other_latents_and_the_centre_less_so(monkeypatch):
    study = clipattr.open_study("picture-world")
    maps, masks = load_benchmark(monkeypatch).maps_of(study, 24)
    points = {name: float(points_inside(heat, masks).mean()) for name, heat in maps.items()}
    mass = {name: float(torch.nanmean(mass_inside(heat, masks))) for name, heat in maps.items()}
    assert points["firing"] > 0.8 and mass["firing"] > 2 * mass["uniform"]
    for control in ("other_latent", "centre", "random"):
        assert points["firing"] > points[control], control
        assert mass["firing"] > mass[control], control
