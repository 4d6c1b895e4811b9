"""Versions: what the first ones wrote is read, with its numbers; the rest is refused with what makes it again.

`first.zip` holds a study, a store, a dictionary, codes, attributions, a probe and findings, each written by the first
version that could, of ten pictures of noise and a model of random weights.
"""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import clipattr as ca
from clipattr.attribution.streaming import Attributions
from clipattr.dictionaries import SparseCodes, load_dictionary
from clipattr.discovery.findings import Findings
from clipattr.discovery.probes.probe import Probe
from clipattr.errors import ClipattrError


@pytest.fixture
def first(tmp_path):
    with zipfile.ZipFile(Path(__file__).parent / "first.zip") as samples:
        samples.extractall(tmp_path)
    return tmp_path


def test_a_study_of_the_first_version_is_read_with_its_numbers(first):
    study = ca.open_study(first / "study")
    study.verify()
    assert study.hash == "fefcfe0a06a08959"
    assert study.latents["label"].tolist() == ["red", "green", "green", "red", "red", "red", "red", "red"]
    assert study.latents["alignment"].iloc[0] == pytest.approx(0.041637, abs=1e-6)
    codes = study.dictionary.encode(torch.from_numpy(study.activations.astype("float32")))
    torch.testing.assert_close(codes.values, study.codes.values, rtol=2e-3, atol=2e-3)
    assert study.repeats.tolist() == [False] * 10  # a file that it does not have yet
    assert len(study.examples.indices) == 8 and len(study.images) == 10 and study.thumbnail(3).size


def test_a_store_of_the_first_version_is_read_and_completed(first, tiny_model):
    store = ca.ActivationStore.open(first / "store")
    store.check()
    assert (len(store), store.width, store.fingerprint, store.complete) == (10, 16, "46b1dda9aa36d35a", True)
    (first / "store" / "00002.json").unlink()
    assert ca.ActivationStore.open(first / "store").missing() == [2]


def test_a_dictionary_of_the_first_version_keeps_its_hash(first):
    made = load_dictionary(first / "dictionary")
    assert (made.hash, made.row_norm, made.n_latents, made.k) == ("55e117e8f2f624f1", None, 8, 2)
    acts = ca.ActivationStore.open(first / "store").read(0, 10)
    torch.testing.assert_close(made.decode(made.encode(acts)) + made.error(acts, made.encode(acts)), acts)
    made.save(first / "again")
    assert load_dictionary(first / "again").row_norm is None


def test_normalisation_that_was_yes_or_no_is_understood(first):
    config = json.loads((first / "dictionary" / "config.json").read_text())
    parts = load_file(first / "dictionary" / "sae.safetensors")
    made = load_dictionary(first / "dictionary")
    config |= {"row_norm": True, "hash": made._hashed({**made._identity(), "row_norm": True})}
    (first / "dictionary" / "config.json").write_text(json.dumps(config))
    save_file(parts, first / "dictionary" / "sae.safetensors")
    assert load_dictionary(first / "dictionary").row_norm == "layer_norm"


def test_codes_attributions_a_probe_and_findings_of_the_first_versions_are_read(first):
    shards = SparseCodes.cat(
        [SparseCodes.load(file) for file in sorted((first / "codes").glob("*.safetensors"))]
    )
    assert float(shards.values.sum()) == pytest.approx(23.2014, abs=1e-3)
    shards = list(Attributions(first / "attributions"))
    assert [len(shard) for shard in shards] == [2, 2] and shards[0].names == ["red", "green"]
    assert shards[0].unit == "cosine" and len(shards[1].top(2)) == 2
    assert float(Probe.open(first / "probe").weights.sum()) == pytest.approx(-15.9278, abs=1e-3)
    assert Findings.from_json(first / "findings.json")[0].label == "eagle"


def rewritten(file, schema):
    """The same file, of another schema."""
    if file.suffix == ".json":
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {"schema": schema}))
        return
    with safe_open(file, "pt") as opened:
        meta = opened.metadata()
    (name, text), *_ = meta.items()
    content = json.loads(text) | {"schema": schema}
    save_file(load_file(file), file, {name: json.dumps(content)})


ARTEFACTS = [
    ("study/study.json", lambda root: ca.open_study(root / "study"), "clipattr study MODEL IMAGES --out"),
    ("store/manifest.json", lambda root: ca.ActivationStore.open(root / "store"), "clipattr encode custom IMAGES"),
    ("dictionary/config.json", lambda root: load_dictionary(root / "dictionary"), "clipattr train STORE --out"),
    ("attributions/attributions.json", lambda root: Attributions(root / "attributions"), "stream"),
    (
        "attributions/attributions-00000.safetensors",
        lambda root: next(iter(Attributions(root / "attributions"))),
        "stream",
    ),
    ("probe/classifier.json", lambda root: Probe.open(root / "probe"), "Probe"),
    ("findings.json", lambda root: Findings.from_json(root / "findings.json"), "clipattr audit STUDY --json"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "read", "command"), ARTEFACTS, ids=[entry[0] for entry in ARTEFACTS])
def test_another_schema_is_refused_with_what_to_do(first, name, read, command):
    whole = shutil.copy(first / name, first / "whole")
    for schema, advice in (
        (99, "newer than 1: update clipattr"),
        (-1, command),
        ("one", command),
        (None, command),
    ):
        shutil.copy(whole, first / name)
        rewritten(first / name, schema)
        with pytest.raises(ClipattrError, match=advice) as refused:
            read(first)
        assert "schema" in str(refused.value) and str(first) in str(refused.value)
