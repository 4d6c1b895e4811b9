"""The jobs, what they make undisturbed, and how long that takes."""

import importlib.util
import sys
import time
from pathlib import Path

import pytest


def load_jobs():
    """`jobs.py` as a top-level module, which the server of children can import too."""
    if "jobs" not in sys.modules:
        here = str(Path(__file__).parent)
        if here not in sys.path:
            sys.path.insert(0, here)
        spec = importlib.util.spec_from_file_location("jobs", Path(__file__).parent / "jobs.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["jobs"] = module
        spec.loader.exec_module(module)
    return sys.modules["jobs"]


@pytest.fixture(scope="session")
def jobs():
    return load_jobs()


@pytest.fixture(scope="session")
def undisturbed(jobs, tmp_path_factory):
    """(root, {verb: (digests, seconds)})."""
    root = tmp_path_factory.mktemp("faults")
    jobs.prepare(root)
    jobs.run("encode", root, root / "warm")
    results = {}
    for verb in jobs.VERBS:
        place = root / f"{verb}-good"
        place.mkdir()
        begun = time.perf_counter()
        assert jobs.run(verb, root, place / "out") == (jobs.DONE, "")
        results[verb] = (jobs.digests(place / "out"), time.perf_counter() - begun)
    return root, results
