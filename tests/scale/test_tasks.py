"""Tasks: a study comes out the same wherever and in whatever order its parts are computed."""

import numpy as np
import pytest

from clipattr.study import build_study


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


def test_a_study_is_the_same_bytes_wherever_its_parts_are_computed(tiny_model, tmp_path, monkeypatch):
    for name, value in {"SHARD": 12, "BLOCK": 16, "PART": 24}.items():
        monkeypatch.setattr(f"clipattr.building.{name}", value)
    pictures = [np.random.default_rng(i).integers(0, 255, (40, 48, 3), dtype=np.uint8) for i in range(40)]
    settings = {"n_latents": 24, "k": 4, "examples": 6, "training": {"steps": 20}, "batch": 8, "holdout": 0.2}
    with pytest.warns(UserWarning, match="shares the model's confusions"):
        one, two = (
            build_study(
                tiny_model,
                pictures,
                path=tmp_path / name,
                vocabulary=["a", "b"],
                engine=engine,
                workers=1,
                progress=False,
                **settings,
            )  # fmt: skip
            for name, engine in (("one", None), ("two", Elsewhere()))
        )
    assert one.hash == two.hash
