"""Mutated checkpoints: each is read as its publisher's code would, or refused; never read wrongly."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def mutations():
    spec = importlib.util.spec_from_file_location("mutations", Path(__file__).parent / "mutations.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutations"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_a_mutated_file_is_read_right_or_refused(mutations):
    found = list(mutations.verdicts(200, seed=20))
    assert [row for row in found if row[2] not in ("right", "refused")] == []
    # The seed must exercise both answers, every mutation and most formats.
    assert sum(row[2] == "right" for row in found) > 15
    assert {name for _, names, _ in found for name in names} == {m.__name__ for m in mutations.MUTATIONS}


def test_a_misreading_would_be_noticed(mutations, tmp_path, monkeypatch):
    case = mutations.CASES["prisma, topk, layer norm"]
    wrong = case.config | {"normalize_activations": "none"}
    read = mutations.load_sae
    config = case.config

    def careless(path, **given):
        case.write(path.parent, config=wrong)  # a reader that forgets the normalisation
        return read(path, **given)

    monkeypatch.setattr(mutations, "load_sae", careless)
    assert mutations.verdict(case, case.tensors, config, tmp_path / "a").startswith("codes differ by")
    monkeypatch.setattr(mutations, "load_sae", lambda path, **given: read(path, site="image.1.cls", **given))
    assert (
        mutations.verdict(case, case.tensors, config, tmp_path / "b")
        == "site image.1.cls instead of image.3.cls"
    )
    monkeypatch.setattr(mutations, "load_sae", lambda path, **given: read(path, ignore=["*"], **given))
    more = case.tensors | {"mean": mutations.torch.ones(10)}
    assert mutations.verdict(case, more, config, tmp_path / "c").startswith("read although")
