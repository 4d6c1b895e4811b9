"""Studies: built in one pass, the same bytes after a kill, opened by the right model only."""

import copy
import json
import shutil

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

import clipattr.studies.encode
from clipattr import collect_activations
from clipattr.attribution import attribute, attribution_map, stream
from clipattr.errors import DataError, DictionaryError, SiteError, StudyError
from clipattr.images.collection import Images
from clipattr.meaning import Vocabulary, examples_of_use, words_of
from clipattr.models.loading import load_model
from clipattr.sites import activations
from clipattr.studies.join import duplicates
from clipattr.studies.start import build_study
from clipattr.studies.study import open_study

WORDS = ["red", "green", "blue", "a <b>striped</b> thing", "night"]
SMALL = {
    "n_latents": 24,
    "k": 4,
    "examples": 6,
    "training": {"steps": 30},
    "batch": 8,
    "progress": False,
    "workers": 2,
}


def paint(index):
    """Coloured noise: pictures of three colours, distinguished by their noise."""
    generator = np.random.default_rng(index)
    base = np.array([[220, 30, 30], [30, 200, 40], [30, 40, 220]][index % 3])
    blocks = generator.integers(-60, 60, (6, 6, 1)) + base
    return Image.fromarray(blocks.clip(0, 255).astype(np.uint8)).resize((48, 40), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def evaluator():
    torch.manual_seed(7)
    clip = open_clip.model.CLIP(
        embed_dim=32,
        vision_cfg={"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
        text_cfg={"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
    )
    return load_model(clip)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(60):
        path = folder / ("red", "green", "blue")[index % 3] / f"pic ü{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        paint(index).save(path)
    (folder / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    (folder / "blue" / "zero.png").touch()
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr("clipattr.studies.gathering.SHARD", 20)


@pytest.fixture(scope="session")
def finished(tiny_model, evaluator, pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("studies") / "one"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipattr.studies.gathering.SHARD", 20)
        return build_study(
            tiny_model, pictures, path=path, vocabulary=WORDS, evaluator=evaluator, holdout=0.2, **SMALL
        )


def interrupt(*_, **__):
    raise KeyboardInterrupt


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_every_row_belongs_to_its_picture(finished, tiny_model, evaluator):
    images = finished.images
    assert (
        len(images)
        == 60
        == len(finished.codes)
        == len(finished.activations)
        == len(finished.evaluator_embeddings)
    )
    for row in (0, 17, 59):
        pixels = tiny_model.prepare(images[row].load())[None]
        np.testing.assert_allclose(
            finished.activations[row],
            activations(tiny_model, pixels, "image.-1.cls")[0],
            rtol=2e-3,
            atol=2e-3,
        )
        seen = evaluator.encode_image(evaluator.prepare(images[row].load())[None])[0]
        np.testing.assert_allclose(finished.evaluator_embeddings[row], seen, atol=2e-3)
    acts = torch.from_numpy(np.asarray(finished.activations, dtype=np.float32))
    again = finished.dictionary.encode(acts)
    torch.testing.assert_close(finished.codes.to_dense(), again.to_dense(), rtol=2e-3, atol=2e-3)


def test_broken_pictures_are_counted_and_listed(finished):
    assert finished.manifest["counts"]["skipped"] == 2
    assert [name for name, _ in finished.manifest["skipped"]] == ["blue/zero.png", "red/broken.jpg"]


def test_held_out_pictures_are_no_examples(finished):
    held = set(finished.holdout_rows.tolist())
    assert len(held) == 12 and len(finished.holdout) == 12
    used = set(finished.examples.indices.flatten().tolist()) - {-1}
    assert used and not used & held
    assert finished.images.index_of(finished.holdout[3].id) == finished.holdout_rows[3]


def test_the_table_has_a_row_per_latent_and_says_what_is_silent(finished):
    table = finished.latents
    assert table["latent"].tolist() == list(range(24))
    live = finished.examples.counts > 0
    assert set(table["label"][live.numpy()]) <= set(WORDS)
    assert (table["name"][~live.numpy()] == "(silent)").all()
    wanted = table["mean_top"] * table["clarity"].clip(lower=0) * table["alignment"].clip(lower=0)
    np.testing.assert_allclose(table["triage"][live.numpy()], wanted[live.numpy()], atol=1e-5)


def test_a_study_opens_anywhere_and_finds_its_pictures(finished, pictures, tiny_model, evaluator, tmp_path):
    shutil.copytree(pictures, tmp_path / "here" / "pictures")
    shutil.copytree(finished.path, tmp_path / "here" / "study")
    moved = open_study(tmp_path / "here" / "study", images=tmp_path / "here" / "pictures")
    assert moved.hash == finished.hash and moved.images.ids == finished.images.ids
    assert moved.images[5].load().tobytes() == finished.images[5].load().tobytes()
    assert moved.thumbnail(5).size == (48, 40)
    moved.verify()
    with pytest.raises(StudyError, match="was a module, which cannot be loaded by name"):
        _ = moved.model
    assert open_study(finished.path, model=tiny_model).model is tiny_model


def test_paths_are_relative_so_a_study_moves_with_its_pictures(tiny_model, evaluator, pictures, tmp_path):
    shutil.copytree(pictures / "red", tmp_path / "a" / "p")
    build_study(
        tiny_model,
        tmp_path / "a" / "p",
        path=tmp_path / "a" / "s",
        vocabulary=WORDS,
        evaluator=evaluator,
        **SMALL,
    )
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert open_study(tmp_path / "b" / "s").images[0].load().size == (48, 40)
    assert str(tmp_path) not in (tmp_path / "b" / "s" / "pictures.csv").read_text("utf-8")


def test_another_model_is_an_error_that_names_both_hashes(finished, evaluator, tiny_model):
    with pytest.raises(StudyError, match=f"{tiny_model.weights_hash}.*{evaluator.weights_hash}"):
        open_study(finished.path, model=evaluator)


def test_a_model_of_equal_weights_that_computes_something_else_is_refused_everywhere(
    finished, evaluator, pictures, tiny_model, tmp_path
):
    quick = copy.deepcopy(tiny_model.clip)
    for block in [*quick.visual.transformer.resblocks, *quick.transformer.resblocks]:
        block.mlp.gelu = open_clip.transformer.QuickGELU()
    quick = load_model(quick)
    assert quick.weights_hash == tiny_model.weights_hash
    told = r"image activation \['gelu'\] there, \['quick_gelu'\] here"
    with pytest.raises(StudyError, match=told):
        open_study(finished.path, model=quick)
    how = {"vocabulary": WORDS, "evaluator": evaluator, **SMALL}
    with pytest.raises(StudyError, match=f"another study.*{told}"):
        build_study(quick, pictures, path=finished.path, **how)
    with pytest.raises(StudyError, match=f"dictionary was trained on.*{told}"):
        given = {name: how[name] for name in ("vocabulary", "evaluator", "batch", "progress")}
        build_study(quick, pictures, path=tmp_path / "s", dictionary=finished.dictionary, **given)
    with pytest.raises(DictionaryError, match=told):
        attribute(quick, torch.zeros(1, 3, 32, 32), "red", dictionary=finished.dictionary)
    store = {"site": "image.-1.cls", "path": tmp_path / "store", "progress": False}
    collect_activations(tiny_model, pictures, **store)
    with pytest.raises(StudyError, match=told):
        build_study(quick, pictures, path=tmp_path / "s", store=tmp_path / "store", **how)
    with pytest.raises(DataError, match=r"image activation: \['gelu'\] there, \['quick_gelu'\] asked"):
        collect_activations(quick, pictures, **store)
    stream(tiny_model, torch.zeros(2, 3, 32, 32), "red", tmp_path / "out", dictionary=finished.dictionary)
    (tmp_path / "out" / "attributions.json").rename(tmp_path / "out" / "attributions.json.partial")
    unmarked = copy.copy(finished.dictionary)
    unmarked.info = {}
    with pytest.raises(DataError, match="forward, targets differ"):
        stream(quick, torch.zeros(2, 3, 32, 32), "red", tmp_path / "out", dictionary=unmarked)
    words = Vocabulary.open(WORDS)
    assert not torch.equal(words.embed(quick, cache=tmp_path), words.embed(tiny_model, cache=tmp_path))


def test_studies_and_stores_without_recorded_facts_are_used_as_before(
    finished, evaluator, pictures, tiny_model, tmp_path
):
    shutil.copytree(finished.path, tmp_path / "s")
    file = tmp_path / "s" / "study.json"
    manifest = json.loads(file.read_text())
    for entry in (manifest["model"], manifest["evaluator"], manifest["plan"]["encoding"]):
        del entry["forward"]
    file.write_text(json.dumps(manifest))
    how = {"model": tiny_model, "evaluator": evaluator}
    assert open_study(tmp_path / "s", **how).model is tiny_model
    collect_activations(tiny_model, pictures, "image.-1.cls", tmp_path / "store", progress=False)
    file = tmp_path / "store" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["forward"]
    file.write_text(json.dumps(manifest))
    collect_activations(tiny_model, pictures, "image.-1.cls", tmp_path / "store", progress=False)


def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(
    finished, tiny_model, evaluator, pictures, tmp_path, monkeypatch
):
    encoded = []
    original = clipattr.studies.encode._write

    def dies(made, shard):
        if len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.append(shard.number)
        original(made, shard)

    def call():
        return build_study(
            tiny_model,
            pictures,
            path=tmp_path / "s",
            vocabulary=WORDS,
            evaluator=evaluator,
            holdout=0.2,
            **SMALL,
        )

    monkeypatch.setattr("clipattr.studies.encode._write", dies)
    with pytest.raises(KeyboardInterrupt):
        call()
    assert not (tmp_path / "s").exists()
    with pytest.raises(StudyError, match="unfinished one lies beside it"):
        open_study(tmp_path / "s")
    monkeypatch.setattr(
        "clipattr.studies.encode._write", lambda *rest: (encoded.append(rest[1].number), original(*rest))
    )
    monkeypatch.setattr("clipattr.studies.build._codes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        call()
    monkeypatch.undo()
    monkeypatch.setattr("clipattr.studies.gathering.SHARD", 20)
    call()
    assert sorted(encoded) == [0, 1, 2, 3]
    one, two = contents(finished.path), contents(tmp_path / "s")
    assert sorted(one) == sorted(two)
    differing = [
        name for name in one if one[name] != two[name] and name not in ("pictures.csv", "study.json")
    ]
    assert differing == []
    assert not (tmp_path / "s.building").exists()


def test_a_study_of_larger_shards_is_the_same_study(finished, tiny_model, evaluator, pictures, monkeypatch):
    before = contents(finished.path)
    monkeypatch.setattr("clipattr.studies.gathering.SHARD", 24)
    monkeypatch.setattr("clipattr.studies.build._build", interrupt)  # nothing is built again
    again = build_study(
        tiny_model, pictures, path=finished.path, vocabulary=WORDS, evaluator=evaluator, holdout=0.2, **SMALL
    )
    assert again.hash == finished.hash and contents(finished.path) == before


@pytest.mark.parametrize("kind", ["bmp", "png"])  # the changed file keeps its size, or does not
def test_only_the_shard_of_a_changed_picture_is_encoded_again_on_resume(
    tiny_model, evaluator, tmp_path, monkeypatch, kind
):
    (tmp_path / "p").mkdir()
    for index in range(50):
        paint(index).save(tmp_path / "p" / f"{index:02d}.{kind}")
    arguments = {"path": tmp_path / "s", "vocabulary": WORDS, "evaluator": evaluator, **SMALL}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("clipattr.studies.gathering.join", interrupt)
        build_study(tiny_model, tmp_path / "p", **arguments)
    paint(200).save(tmp_path / "p" / f"23.{kind}")
    encoded, original = [], clipattr.studies.encode._write
    monkeypatch.setattr(
        "clipattr.studies.encode._write", lambda *rest: (encoded.append(rest[1].number), original(*rest))
    )
    study = build_study(tiny_model, tmp_path / "p", **arguments)
    assert encoded == [1]
    pixels = tiny_model.prepare(paint(200))[None]
    np.testing.assert_allclose(
        study.activations[23], activations(tiny_model, pixels, "image.-1.cls")[0], rtol=2e-3, atol=2e-3
    )


def test_a_shard_whose_list_of_skipped_pictures_was_damaged_is_encoded_again(
    tiny_model, evaluator, tmp_path, monkeypatch
):
    (tmp_path / "p").mkdir()
    for index in range(30):
        paint(index).save(tmp_path / "p" / f"{index:02d}.png")
    (tmp_path / "p" / "broken.png").write_bytes(b"no picture")
    arguments = {"path": tmp_path / "s", "vocabulary": WORDS, "evaluator": evaluator, **SMALL}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("clipattr.studies.gathering.join", interrupt)
        build_study(tiny_model, tmp_path / "p", **arguments)
    file = tmp_path / "s.building" / "shards" / "00001.json"
    before = file.read_bytes()
    assert before.count(b"broken.png") == 1
    file.write_bytes(before.replace(b"broken.png", b"brokem.png"))
    study = build_study(tiny_model, tmp_path / "p", **arguments)
    assert [name for name, _ in study.manifest["skipped"]] == ["broken.png"]


def test_the_finished_study_is_opened_and_another_is_not_overwritten(
    finished, tiny_model, evaluator, pictures, tmp_path, monkeypatch
):
    shutil.copytree(finished.path, tmp_path / "s")
    monkeypatch.setattr("clipattr.studies.gathering.fill", lambda *_, **__: pytest.fail("encoded again"))
    arguments = {"path": tmp_path / "s", "evaluator": evaluator, "holdout": 0.2, **SMALL}
    same = build_study(tiny_model, pictures, vocabulary=WORDS, **arguments)
    assert same.hash == finished.hash
    same.rename(3, "mine")
    with pytest.raises(StudyError, match="holds another study .meaning.vocabulary.*overwrite=True"):
        build_study(tiny_model, pictures, vocabulary=["owl"], **arguments)
    other = build_study(tiny_model, pictures, vocabulary=["owl"], overwrite=True, **arguments)
    assert set(other.latents["label"].dropna()) == {"owl"} and other.names == {3: "mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_folder_that_is_no_study_is_left_alone(tiny_model, evaluator, pictures, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(StudyError, match="exists and is not a study"):
        build_study(tiny_model, pictures, path=tmp_path, vocabulary=WORDS, evaluator=evaluator, **SMALL)
    with pytest.raises(StudyError, match="is not a study"):
        open_study(tmp_path)
    with pytest.raises(StudyError, match="no bundled study of that name"):
        open_study("no-such-study")
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_the_best_words_of_a_latent_are_listed_with_their_lead(finished):
    study = open_study(finished.path)
    latent = int(study.latents["mean_top"].idxmax())
    words = words_of(study, latent)
    assert words["word"][0] == study.latents["label"][latent] and 1 < len(words) <= 5
    assert words["alignment"].is_monotonic_decreasing
    assert words["lead"][0] == pytest.approx(study.latents["margin"][latent], abs=1e-6)
    assert words["lead"][:-1].sum() == pytest.approx(words["alignment"].iloc[0] - words["alignment"].iloc[-1])
    silent = np.flatnonzero(study.examples.counts == 0)
    assert all(len(words_of(study, int(latent))) == 0 for latent in silent[:2])
    with pytest.raises(DataError, match="no latent 9999"):
        words_of(study, 9999)


def test_names_win_over_labels_and_stay(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "s")
    study = open_study(tmp_path / "s")
    study.rename(2, " <i>wheels</i> ")
    assert open_study(tmp_path / "s").latents["name"][2] == "<i>wheels</i>" == study.latents["name"][2]
    assert study.hash == finished.hash
    study.rename(2, None)
    assert open_study(tmp_path / "s").names == {}
    with pytest.raises(StudyError, match="no latent 99"):
        study.rename(99, "x")


def test_damage_is_noticed(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "s")
    (tmp_path / "s" / "activations.npy").write_bytes(b"")
    with pytest.raises(StudyError, match="activations.npy has 0 bytes"):
        open_study(tmp_path / "s")
    shutil.copy(finished.path / "activations.npy", tmp_path / "s" / "activations.npy")
    labels = tmp_path / "s" / "labels.safetensors"
    data = bytearray(labels.read_bytes())
    data[-1] ^= 1
    labels.write_bytes(bytes(data))
    with pytest.raises(StudyError, match="labels.safetensors"):
        open_study(tmp_path / "s").verify()
    manifest = json.loads((tmp_path / "s" / "study.json").read_text())
    (tmp_path / "s" / "study.json").write_text(json.dumps(manifest | {"schema": 99}))
    with pytest.raises(StudyError, match="schema 99, newer"):
        open_study(tmp_path / "s")


def test_an_evaluator_that_is_the_audited_model_is_warned_about(tiny_model, tmp_path):
    with pytest.warns(UserWarning, match="shares the model's confusions"):
        study = build_study(
            tiny_model,
            [np.asarray(paint(i)) for i in range(12)],
            path=tmp_path / "s",
            vocabulary=WORDS,
            **SMALL,
        )
    assert open_study(tmp_path / "s").images[4].load().tobytes() == paint(4).tobytes()
    assert study.manifest["counts"]["auc_on"].startswith("all pictures")


def test_a_dictionary_of_another_model_is_refused(finished, evaluator, pictures, tmp_path):
    with pytest.raises(StudyError, match="trained on the model with weights"):
        build_study(
            evaluator, pictures, path=tmp_path / "s", vocabulary=WORDS, evaluator=finished.model,
            dictionary=finished.dictionary, progress=False,
        )  # fmt: skip


def test_copies_of_a_picture_fill_one_place_among_the_examples(tiny_model, evaluator, finished, tmp_path):
    items = [np.asarray(paint(i)) for i in range(20)] + [np.asarray(paint(0)) for _ in range(8)]
    study = build_study(
        tiny_model, items, path=tmp_path / "s", vocabulary=WORDS, evaluator=evaluator,
        dictionary=finished.dictionary, examples=6, batch=8, progress=False,
    )  # fmt: skip
    used = study.examples.indices
    assert study.manifest["counts"]["near_duplicates"] >= 8 and (used[used >= 0] < 20).all()


def test_near_duplicates_need_both_fingerprint_and_likeness():
    hashes = np.array([0b1011, 0b1010, 0b1011, 2**60 - 1], dtype=np.uint64)
    embeddings = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], dtype=np.float32)
    assert duplicates(hashes, embeddings).tolist() == [0, 0, 2, 3]
    plain = np.zeros(3000, dtype=np.uint64)
    vectors = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert len(np.unique(duplicates(plain, vectors))) > 2900


def test_examples_of_use_are_those_with_the_largest_exact_effect(finished):
    used = examples_of_use(finished, "a red thing", m=3)
    rows = finished.rows[~finished.repeats[finished.rows]]
    effect = attribute(finished, finished.images.select(rows), "a red thing", method="exact")
    dense = np.zeros((len(rows), 24))
    indices, values = effect.codes.indices.numpy(), effect.values[..., 0].numpy()
    np.add.at(dense, (np.arange(len(rows))[:, None], indices), values)
    for latent in range(24):
        wanted = sorted(dense[:, latent][dense[:, latent] > 0], reverse=True)[:3]
        got = used.values[latent][used.indices[latent] >= 0].numpy()
        np.testing.assert_allclose(got, wanted, rtol=0.05, atol=2e-4)
    with pytest.raises(DataError, match="one target per call; got 2"):
        examples_of_use(finished, ["a", "b"])


@pytest.fixture(scope="module")
def of_patches(tiny_model, evaluator, pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("patches") / "study"
    options = {**SMALL, "examples": 4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipattr.studies.gathering.SHARD", 20)
        return build_study(
            tiny_model,
            pictures,
            path=path,
            site="image.-2.patches",
            vocabulary=WORDS,
            evaluator=evaluator,
            **options,
        )


def test_a_study_of_patches_keeps_each_latents_largest_value_and_its_token(of_patches, tiny_model):
    study = open_study(of_patches.path, model=tiny_model, evaluator=of_patches.evaluator)
    acts = torch.from_numpy(np.asarray(study.activations, dtype=np.float32))
    assert acts.shape == (60, 16, 64) and study.manifest["tokens"] == {"count": 16, "grid": [4, 4]}
    dense = study.dictionary.encode(acts.flatten(0, 1)).to_dense().view(60, 16, -1)
    torch.testing.assert_close(study.codes.to_dense(), dense.amax(1), rtol=2e-3, atol=2e-3)
    allowed = torch.from_numpy(~study.repeats)
    for latent in torch.nonzero(study.examples.counts > 0)[:, 0].tolist():
        strongest = torch.where(allowed, dense[:, :, latent].amax(1), 0)
        rows = study.examples.of(latent)
        values, tokens = (
            each[latent, : len(rows)].tolist() for each in (study.examples.values, study.examples.tokens)
        )
        wanted = strongest.sort(descending=True).values[: len(rows)]
        np.testing.assert_allclose(values, wanted, rtol=2e-3)
        for row, token, value in zip(rows, tokens, values, strict=True):
            assert float(dense[row, token, latent]) == pytest.approx(value, rel=2e-3)


def test_pictures_of_a_patch_study_are_attributed_at_their_patches(of_patches):
    picture = of_patches.images[3]
    found = attribute(of_patches, picture, "a red thing")
    assert found.tokens == 16 and found.method == "patching" and found.site == "image.-2.patches"
    heat = attribution_map(found)
    assert heat.shape == (1, 4, 4)
    torch.testing.assert_close(heat.sum(), found.values.sum())
    assert 1 <= len(found.top(5)) <= 5 and of_patches.latents["label"].notna().any()


def test_examples_of_use_at_patches_are_sums_over_tokens_with_the_strongest_token(of_patches):
    used = examples_of_use(of_patches, "a red thing", m=3, block=25)
    rows = of_patches.rows[~of_patches.repeats[of_patches.rows]]
    effect = attribute(of_patches, of_patches.images.select(rows), "a red thing")
    dense = torch.zeros(len(rows), 16, 24)
    places = torch.arange(len(rows) * 16)[:, None].expand_as(effect.codes.indices)
    dense.view(-1, 24).index_put_(
        (places, effect.codes.indices.long()), effect.values[..., 0], accumulate=True
    )
    total = dense.sum(1)
    for latent in range(24):
        best = total[:, latent].argsort(descending=True)[:3]
        best = best[total[best, latent] > 0]
        assert used.of(latent) == rows[best.numpy()].tolist()
        assert used.tokens[latent, : len(best)].tolist() == dense[best, :, latent].argmax(1).tolist()


def test_a_study_where_nothing_reaches_the_embedding_is_refused_with_advice(
    tiny_model, evaluator, pictures, tmp_path
):
    with pytest.raises(SiteError, match=r"only the class token.*e\.g\. image\.-2\.patches"):
        build_study(
            tiny_model, pictures, path=tmp_path / "s", site="image.-1.patches", vocabulary=WORDS,
            evaluator=evaluator, **SMALL,
        )  # fmt: skip


def test_pictures_that_cannot_be_read_leave_no_study(tiny_model, evaluator, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.jpg").write_text("text")
    with pytest.raises(DataError, match="can be read"):
        build_study(
            tiny_model, tmp_path / "p", path=tmp_path / "s", vocabulary=WORDS, evaluator=evaluator, **SMALL
        )
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_odd_names_and_odd_pictures_keep_their_own_rows(tiny_model, evaluator, tmp_path):
    odd = '<b>&amp; "q" ü 1.png'  # spaces, unicode and HTML, and the same name in two folders
    for place, folder in enumerate(("one", "two")):
        (tmp_path / "p" / folder).mkdir(parents=True)
        for index in range(8):
            paint(3 * index + place).save(tmp_path / "p" / folder / (odd if index == 0 else f"{index}.png"))
    Image.new("RGB", (1, 1), (250, 0, 0)).save(tmp_path / "p" / "one" / "pixel.png")
    turned = Image.new("RGB", (60, 20), (0, 0, 250))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "p" / "two" / "turned.jpg", exif=exif)
    study = build_study(
        tiny_model, tmp_path / "p", path=tmp_path / "s", vocabulary=WORDS, evaluator=evaluator, **SMALL
    )
    study = open_study(tmp_path / "s", model=tiny_model, evaluator=evaluator)
    assert len(study.images) == 18 and study.manifest["counts"]["skipped"] == 0
    for name in (f"one/{odd}", f"two/{odd}", "one/pixel.png", "two/turned.jpg"):
        row = study.images.index_of(name)
        picture = study.images[row].load()
        assert study.images[row].id == name
        acts = activations(tiny_model, tiny_model.prepare(picture)[None], "image.-1.cls")[0]
        np.testing.assert_allclose(study.activations[row], acts, rtol=2e-3, atol=2e-3)
    assert study.images[study.images.index_of("two/turned.jpg")].load().size == (20, 60)
    assert not np.array_equal(
        *(study.activations[study.images.index_of(f"{f}/{odd}")] for f in ("one", "two"))
    )


def test_scenes_are_copied_into_the_study_and_rendered_again(tiny_model, evaluator, tmp_path):
    pytest.importorskip("clipattr_data.scene")
    lines = [{"id": f"s{i}", "label": "dog", "scene": {"main": "dog", "seed": i}} for i in range(10)]
    (tmp_path / "w.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    build_study(
        tiny_model,
        f"scenes:{tmp_path / 'w.jsonl'}",
        path=tmp_path / "s",
        vocabulary=WORDS,
        evaluator=evaluator,
        **SMALL,
    )
    (tmp_path / "w.jsonl").unlink()
    study = open_study(tmp_path / "s")
    assert study.images[3].scene.seed == 3 and study.thumbnail(3).size == (64, 64)
    assert not (tmp_path / "s" / "thumbnails.bin").exists()
    assert isinstance(study.images, Images)


def test_a_studys_own_dictionary_joins_words_and_trained_latents(
    tiny_model, evaluator, pictures, tmp_path, monkeypatch
):
    short = {"vocabulary": WORDS, "evaluator": evaluator, "training": {"steps": 5}, "progress": False}

    def build(name, **changes):
        return build_study(tiny_model, pictures, path=tmp_path / name, **{**short, **changes})

    with monkeypatch.context() as patch:
        patch.setattr("clipattr.studies.build.summarise", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build("one")
    one = build("one")  # goes on
    assert one.dictionary.info["asked"] == len(WORDS)
    assert set(one.dictionary.info["named"]) <= set(WORDS)
    assert one.dictionary.hash == build("two").dictionary.hash
    alone = build("alone", named=False)
    assert "asked" not in alone.dictionary.info and alone.dictionary.hash != one.dictionary.hash
    with pytest.warns(UserWarning, match="audited model itself"):
        own = build("own", evaluator=None)
    assert "asked" not in own.dictionary.info
    with pytest.raises(StudyError, match="dictionary"):
        build("one", named=False)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"n_latents": 0}, "n_latents is a whole number of at least 1; got 0"),
        ({"k": 1.5}, "k is a whole number"),
        ({"n_latents": 4, "k": 9}, "k must lie between 1 and the 4"),
        ({"training": {"steps": 0}}, "steps is a whole number of at least 1; got 0"),
        ({"training": {"step": 10}}, "Training does not know step"),
        ({"training": {"kind": "top-k"}}, "'top-k' cannot be trained"),
        ({"batch": 0}, "a batch of one; got"),
    ],
)
def test_settings_that_cannot_run_are_refused_before_anything_is_encoded(
    tiny_model, tmp_path, settings, told
):
    with pytest.raises(ValueError, match=told):
        build_study(tiny_model, tmp_path / "no such folder", path=tmp_path / "s", **settings)


def test_a_study_opens_from_inside_its_folder_and_by_its_manifest(finished, monkeypatch):
    assert open_study(finished.path / "study.json").path == finished.path
    monkeypatch.chdir(finished.path)
    assert open_study(".").path.name == finished.path.name
    monkeypatch.chdir(finished.path.parent)
    with pytest.raises(StudyError, match="no study.json in it"):
        open_study(".")


def test_pictures_that_have_moved_are_called_so(tiny_model, evaluator, pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "there")
    build_study(
        tiny_model, tmp_path / "there", path=tmp_path / "s", vocabulary=WORDS, evaluator=evaluator, **SMALL
    )
    shutil.rmtree(tmp_path / "there")
    study = open_study(tmp_path / "s", model=tiny_model)
    with pytest.raises(DataError, match=r"no such file: .*there/.*open_study\(path, images=…\)"):
        attribute(study, study.images[0], "red")
