"""Tasks: a study comes out the same wherever and in whatever order its parts are computed."""

import json

import numpy as np
import pytest
import torch

from clipattr.discovery.audit.run import audit
from clipattr.studies.encode import collect_activations
from clipattr.studies.start import build_study


class Elsewhere:
    """An engine as a cluster is one: everything is sent pickled, and later items are done first."""

    at_once = False

    def map(self, function, shared, items):
        import pickle

        cloudpickle = pytest.importorskip("ray.cloudpickle")
        sent = cloudpickle.dumps((function, shared))
        done = {}
        for item in reversed(items):
            work, box = pickle.loads(sent)
            done[str(item)] = pickle.loads(pickle.dumps(work(box, pickle.loads(pickle.dumps(item)))))
        yield from (done[str(item)] for item in items)


SMALL = {"n_latents": 24, "k": 4, "examples": 6, "training": {"steps": 20}, "batch": 8, "holdout": 0.4,
         "workers": 1, "progress": False}  # fmt: skip


PROMPTS = ["a", "b", "a red thing", "night", "seven"]
PARTS = {
    "studies.gathering.SHARD": 12,
    "studies.build.BLOCK": 16,
    "studies.build.PART": 24,
    "meaning.summary.NAMED": 10,
}


@pytest.fixture
def small_parts(monkeypatch):
    for name, value in PARTS.items():
        monkeypatch.setattr(f"clipattr.{name}", value)


def noise(count=40):
    return [np.random.default_rng(i).integers(0, 255, (40, 48, 3), dtype=np.uint8) for i in range(count)]


def build(model, path, engine, **settings):
    with pytest.warns(UserWarning, match="shares the model's confusions"):
        return build_study(
            model, noise(), path=path, vocabulary=["a", "b"], engine=engine, **(SMALL | settings)
        )


@pytest.mark.parametrize("holdout", [0.4, None])
def test_a_study_is_the_same_bytes_wherever_its_parts_are_computed(
    tiny_model, tmp_path, small_parts, holdout
):
    one, two = (
        build(tiny_model, tmp_path / name, engine, holdout=holdout)
        for name, engine in (("one", None), ("two", Elsewhere()))
    )
    assert one.hash == two.hash


def test_latents_are_named_alike_in_parts_and_in_one(tiny_model, tmp_path, small_parts, monkeypatch):
    parts = build(tiny_model, tmp_path / "parts", None)
    monkeypatch.setattr("clipattr.meaning.summary.NAMED", 4096)
    whole = build(tiny_model, tmp_path / "whole", None)
    assert len(parts.labels) == len(whole.labels) == 24
    torch.testing.assert_close(parts.labels.alignment_top, whole.labels.alignment_top, equal_nan=True)
    for name, scores in whole.scores.items():
        torch.testing.assert_close(parts.scores[name], scores, equal_nan=True, msg=name)


def test_a_store_is_the_same_bytes_wherever_its_shards_are_encoded(tiny_model, tmp_path):
    for name, engine in (("one", None), ("two", Elsewhere())):
        collect_activations(
            tiny_model, noise(22), ["image.-1.cls", "image.-2.patches"], tmp_path / name, batch=4, shard_pictures=8,
            shuffle=3, progress=False, engine=engine,
        )  # fmt: skip
    files = [path for path in sorted((tmp_path / "one").rglob("*")) if path.is_file()]
    assert len(files) == 10  # three shards of two sites, three records and the manifest
    for path in files:
        assert (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes() == path.read_bytes()


def test_an_audit_finds_the_same_wherever_its_suspicions_are_measured(
    tiny_model, tmp_path, everything_counts
):
    study = build(tiny_model, tmp_path / "study", None)
    one, two = (
        audit(study, PROMPTS, settings=everything_counts, progress=False, engine=engine).to_json()
        for engine in (None, Elsewhere())
    )
    assert one == two and len(json.loads(one)["verdicts"]) == len(PROMPTS)
