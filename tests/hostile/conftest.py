"""The fuzzed parsers as a module that the benchmark shares."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def fuzz():
    if "fuzz" not in sys.modules:
        spec = importlib.util.spec_from_file_location("fuzz", Path(__file__).parent / "fuzz.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["fuzz"] = module
        spec.loader.exec_module(module)
    return sys.modules["fuzz"]
