"""Ray: the same study, byte for byte, whichever worker computed its shards or died."""

import json
import os
import pathlib
import signal
import sys
import time

import numpy as np
import pytest
import torch

from clipattr.discovery.audit.run import audit
from clipattr.discovery.findings import Finding
from clipattr.discovery.pixels.settings import PixelSettings
from clipattr.discovery.pixels.verify import verify
from clipattr.errors import DataError
from clipattr.statistics import Interval

if os.environ.get("CI") == "true":
    import ray  # noqa: F401 (where nobody looks, its absence is a failure)
else:
    pytest.importorskip("ray")
SMALL = {"n_latents": 24, "k": 4, "examples": 6, "training": {"steps": 20}, "batch": 8, "holdout": 0.4,
         "progress": False, "workers": 1}  # fmt: skip


@pytest.fixture(scope="module")
def engine():
    import ray

    from clipattr.execution.ray import Ray

    with Ray(workers=2) as engine:
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
        yield engine


def square(shared, item):
    """Dies the first time where a mark says so."""
    if shared is not None and item == 5 and not os.path.exists(shared):
        open(shared, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def die(shared, item):
    os.kill(os.getpid(), signal.SIGKILL)


def dawdle(shared, item):
    """The first item waits for marks that the others leave."""
    folder = pathlib.Path(shared)
    if item == 0:
        for _ in range(600):
            if len(list(folder.iterdir())) >= 5:
                break
            time.sleep(0.05)
        return len(list(folder.iterdir()))
    (folder / str(item)).touch()
    return -item


def crowd(shared, item):
    """How many are at work at once."""
    mark = pathlib.Path(shared) / str(item)
    mark.touch()
    time.sleep(0.1)
    found = len(list(mark.parent.iterdir()))
    mark.unlink()
    return found


def niceness(shared, item):
    return os.nice(0)


def refuse(shared, item):
    raise DataError(f"no {item}")


def test_a_study_by_ray_is_the_same_bytes(engine, tiny_model, tmp_path, monkeypatch, everything_counts):
    from clipattr.studies.start import build_study

    for name, value in {"gathering.SHARD": 12, "build.BLOCK": 16, "build.PART": 24}.items():
        monkeypatch.setattr(f"clipattr.studies.{name}", value)
    pictures = [np.random.default_rng(i).integers(0, 255, (40, 48, 3), dtype=np.uint8) for i in range(40)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.warns(UserWarning, match="shares the model's confusions"):
            one, two = (
                build_study(
                    tiny_model, pictures, path=tmp_path / name, vocabulary=["a", "b"], engine=given, **SMALL
                )
                for name, given in (("one", None), ("two", engine))
            )
        assert one.hash == two.hash
        alone, spread = (
            audit(
                one, ["a", "b", "seven"], settings=everything_counts, progress=False, engine=given
            ).to_json()
            for given in (None, engine)
        )
        assert alone == spread and len(json.loads(alone)["verdicts"]) == 3
        latent, nothing = int(one.examples.counts.argmax()), Interval(0.0, 0.0, 0.0)
        items = [
            Finding(prompt, (latent,), None, "unknown", 0.0, nothing, nothing, 0.0, 0.0, 0.0, 0.0)
            for prompt in ("a", "b", "seven")
        ]
        few = PixelSettings(6, fewest=3, weak_pictures=4, windows=2, fractions=(0.3,), kept=(), borders=())
        alone, spread = (
            verify(one, items, settings=few, progress=False, engine=given).to_json()
            for given in (None, engine)
        )
        assert alone == spread and '"silenced"' in alone and '"edit": null' not in alone
    finally:
        torch.set_num_threads(threads)


def test_results_come_in_the_order_of_the_items_though_a_worker_is_killed(engine, tmp_path):
    assert list(engine.map(square, str(tmp_path / "died"), range(12))) == [i * i for i in range(12)]
    assert (tmp_path / "died").exists()


def test_a_slow_worker_does_not_hold_up_the_other_and_keeps_its_place(engine, tmp_path):
    assert list(engine.map(dawdle, str(tmp_path), range(6))) == [5, -1, -2, -3, -4, -5]


def test_no_more_work_is_under_way_than_there_are_workers(engine, tmp_path):
    from clipattr.execution.ray import Ray

    one = Ray(workers=1)  # of the same cluster, which has two cores
    assert set(one.map(crowd, str(tmp_path), range(6))) == {1}
    assert max(engine.map(crowd, str(tmp_path), range(8))) == 2


def test_workers_are_as_important_as_the_process_that_waits_for_them(engine):
    assert list(engine.map(niceness, None, [0])) == [os.nice(0)]


def test_workers_that_keep_dying_are_an_error_that_says_what_to_do(engine, monkeypatch):
    monkeypatch.setattr("clipattr.execution.ray.RETRIES", 1)  # every worker takes seconds to come
    with pytest.raises(DataError, match=r"(?s)died 2 times.*fewer workers"):
        list(engine.map(die, None, [0]))


def test_an_error_in_a_worker_is_that_error_here(engine):
    with pytest.raises(DataError, match="no 3"):
        list(engine.map(refuse, None, [3]))


def test_absurd_numbers_of_workers_are_refused():
    from clipattr.execution.ray import Ray

    with pytest.raises(DataError, match="at least one worker"):
        Ray(workers=0)
