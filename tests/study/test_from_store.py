"""A study built from a store has the numbers of one built from the pictures, and encodes only what is missing."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clipattr import build_study, collect_activations, load_model
from clipattr.errors import StudyError
from clipattr.models.loading import Model
from clipattr.storage.activations import ActivationStore

SMALL = {"vocabulary": ["red", "green", "night"], "n_latents": 24, "k": 4, "examples": 6, "training": {"steps": 10},
         "batch": 8, "progress": False, "draft": False, "holdout": 0.3}  # fmt: skip
COMPUTED = (
    "activations.npy",
    "evaluator.npy",
    "fingerprints.npy",
    "thumbnails.bin",
    "thumbnails.npy",
    "labels.safetensors",
)


@pytest.fixture(scope="module")
def evaluator():
    torch.manual_seed(7)
    return load_model(
        open_clip.model.CLIP(
            embed_dim=32,
            vision_cfg={"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
            text_cfg={"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
        )
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(40):
        noise = np.random.default_rng(index).integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{index:02d}.png")
    (folder / "17.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    return folder


@pytest.fixture
def encoded(monkeypatch):
    """Names of the models that read pictures, batch by batch."""
    seen, original = [], Model.encode_image

    def watched(model, pixels, *rest, **options):
        seen.append((model.weights_hash, len(pixels)))
        return original(model, pixels, *rest, **options)

    monkeypatch.setattr(Model, "encode_image", watched)
    return seen


def store_of(model, pictures, path, **options):
    # Shards of whole micro-batches, as many pictures as a study's shard would have.
    settings = {"batch": 8, "shard_pictures": 16, "progress": False, **options}
    return collect_activations(model, pictures, ["image.-2.cls", "image.-1.cls"], path, **settings)


@pytest.mark.parametrize("shuffle", [None, 3])
def test_a_store_with_the_evaluator_spares_the_whole_pass(
    tiny_model, evaluator, pictures, tmp_path, encoded, shuffle
):
    plain = build_study(tiny_model, pictures, path=tmp_path / "plain", evaluator=evaluator, **SMALL)
    store_of(tiny_model, pictures, tmp_path / "store", evaluator=evaluator, shuffle=shuffle)
    encoded.clear()
    study = build_study(
        tiny_model, pictures, path=tmp_path / "s", evaluator=evaluator, store=tmp_path / "store", **SMALL
    )
    assert encoded == []
    assert study.images.ids == plain.images.ids and len(study.images) == 40
    for name in COMPUTED:
        one, two = (study.path / name).read_bytes(), (plain.path / name).read_bytes()
        if shuffle is None or name.startswith(("thumb", "finger")):
            assert one == two, name
        elif name.endswith(".npy"):  # other pictures share a batch: floats are added in another order
            np.testing.assert_allclose(
                np.load(study.path / name), np.load(plain.path / name), atol=4e-3, rtol=2e-3
            )
    assert [name for name, _ in study.manifest["skipped"]] == ["17.jpg"]
    again = build_study(
        tiny_model, pictures, path=tmp_path / "s", evaluator=evaluator, store=tmp_path / "store", **SMALL
    )
    assert again.hash == study.hash and encoded == []


def test_a_store_without_the_evaluator_leaves_the_audited_model_in_peace(
    tiny_model, evaluator, pictures, tmp_path, encoded
):
    plain = build_study(tiny_model, pictures, path=tmp_path / "plain", evaluator=evaluator, **SMALL)
    store_of(tiny_model, pictures, tmp_path / "store")
    before = {path: path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()}
    encoded.clear()
    study = build_study(
        tiny_model, pictures, path=tmp_path / "s", evaluator=evaluator, store=tmp_path / "store", **SMALL
    )
    assert {name for name, _ in encoded} == {evaluator.weights_hash} and sum(n for _, n in encoded) == 40
    for name in COMPUTED:
        assert (study.path / name).read_bytes() == (plain.path / name).read_bytes(), name
    assert before == {path: path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()}


def test_a_store_of_something_else_is_refused_with_what_to_do(tiny_model, evaluator, pictures, tmp_path):
    store_of(tiny_model, pictures, tmp_path / "store")
    arguments = {"path": tmp_path / "s", "store": tmp_path / "store", "evaluator": evaluator, **SMALL}
    with pytest.raises(
        StudyError, match=rf"weights {tiny_model.weights_hash}.*weights {evaluator.weights_hash}"
    ):
        build_study(evaluator, pictures, **{**arguments, "evaluator": tiny_model})
    with pytest.raises(StudyError, match=r"other pictures than those given \(41 there, 40 here"):
        (pictures / "39.png").rename(tmp_path / "39.png")
        try:
            build_study(tiny_model, pictures, **arguments)
        finally:
            (tmp_path / "39.png").rename(pictures / "39.png")
    with pytest.raises(
        StudyError, match=r"has image\.-1\.cls, image\.-2\.cls; the study's site is image\.-3\.cls"
    ):
        build_study(tiny_model, pictures, site="image.0.cls", **arguments)
    (tmp_path / "store" / "00002.json").unlink()
    with pytest.raises(StudyError, match="unfinished: run the same clipattr encode again"):
        build_study(tiny_model, pictures, **arguments)


def test_a_damaged_shard_of_a_store_is_encoded_again_by_the_same_call(
    tiny_model, pictures, tmp_path, evaluator
):
    store_of(tiny_model, pictures, tmp_path / "store", evaluator=evaluator)
    whole = {path: path.read_bytes() for path in sorted((tmp_path / "store").rglob("*")) if path.is_file()}
    for name in ("image.-1.cls/00001.bin", "pictures/00002.safetensors", "00000.json"):
        file = tmp_path / "store" / name
        data = bytearray(file.read_bytes())
        data[-3] ^= 1
        file.write_bytes(data)
        with pytest.raises(Exception, match="damaged|unfinished"):
            build_study(
                tiny_model,
                pictures,
                path=tmp_path / "s",
                store=tmp_path / "store",
                evaluator=evaluator,
                **SMALL,
            )
        store_of(tiny_model, pictures, tmp_path / "store", evaluator=evaluator)
        assert {path: path.read_bytes() for path in whole} == whole


def test_the_manifest_of_a_store_names_its_evaluator(tiny_model, pictures, tmp_path, evaluator):
    store_of(tiny_model, pictures, tmp_path / "store", evaluator=evaluator)
    about = json.loads((tmp_path / "store" / "manifest.json").read_text())["evaluator"]
    assert about["hash"] == evaluator.weights_hash and about["thumbnails"]
    assert len(ActivationStore.open(tmp_path / "store", "image.-2.cls")) == 40
