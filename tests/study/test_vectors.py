"""Studies from embeddings: the same as from pictures where pictures are not needed, and clear about what is missing."""

import warnings

import numpy as np
import pytest
import torch

import clipattr as ca
from clipattr.images.decoding import PictureError
from clipattr.studies.vectors import check_space

WORDS = ["kite", "bat", "camel", "lemon", "banjo", "tent", "canoe", "apron"]
SMALL = {"n_latents": 24, "k": 3, "examples": 4, "training": {"steps": 20}, "progress": False}


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(80, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def rows(tiny_model, pixels):
    """(80, embed) features of random pictures."""
    return ca.activations(tiny_model, pixels, "image.embedding").numpy()


def build(*given, **named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ca.build_study(*given, **{**SMALL, **named})


@pytest.fixture(scope="module")
def study(tiny_model, rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("vectors") / "study"
    return build(tiny_model, embeddings=ca.Embeddings(rows, labels=WORDS * 10), path=path, vocabulary=WORDS)


def test_a_study_of_vectors_holds_them_at_the_embedding(study, rows, tiny_model):
    assert str(study.site) == "image.embedding" and len(study.images) == 80
    np.testing.assert_allclose(study.activations, rows, rtol=1e-3, atol=1e-3)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(study.evaluator_embeddings, unit, atol=1e-3)
    assert len(study.latents) == 24 and study.holdout is None
    notes = " ".join(study.manifest["images"]["notes"])
    assert "Built from embeddings (lengths" in notes and "share one space" in notes
    again = ca.open_study(study.path, model=tiny_model, evaluator=tiny_model)
    assert again.hash == study.hash and again.images.columns["label"][:2] == WORDS[:2]


def test_without_pictures_each_call_that_needs_them_says_so(study):
    assert not study.sees.any()
    with pytest.raises(PictureError, match="only its embedding is known|not part of the study"):
        study.thumbnail(0)


def test_the_same_vectors_give_the_same_study_and_others_are_refused(study, rows, tiny_model):
    given = ca.Embeddings(rows, labels=WORDS * 10)
    assert build(tiny_model, embeddings=given, path=study.path, vocabulary=WORDS).hash == study.hash
    with pytest.raises(ca.StudyError, match="holds another study.*vectors"):
        build(tiny_model, embeddings=rows[::-1].copy(), path=study.path, vocabulary=WORDS)


def test_effects_at_the_embedding_are_exact(study, tiny_model, pixels, rows):
    found = ca.attribute(study, pixels[:4], ca.Similarity(["kite", "bat"]))
    assert found.route == "closed form" and found.method == "exact"
    text = tiny_model.encode_text(["kite", "bat"])
    latent, code = int(found.codes.indices[0, 0]), found.codes.values[0, 0]
    direction = torch.as_tensor(study.dictionary.decoder)[latent] * code

    def cosine(features):
        return torch.nn.functional.normalize(features, dim=-1) @ text.T

    features = torch.from_numpy(rows[0])
    torch.testing.assert_close(
        found.values[0, 0], cosine(features) - cosine(features - direction), atol=1e-5, rtol=1e-3
    )


def test_a_study_of_vectors_is_audited(study):
    findings = ca.audit(study, WORDS[:3], progress=False)
    assert findings.about["site"] == "image.embedding"


def test_text_embeddings_stand_in_for_a_model(rows, tmp_path, tiny_model):
    text = tiny_model.encode_text(WORDS).numpy()
    study = build(embeddings=rows, text_embeddings=(WORDS, text), path=tmp_path / "study")
    assert list(study.vocabulary.words) == WORDS
    again = ca.open_study(tmp_path / "study")
    torch.testing.assert_close(again.model.encode_text(["bat"]), tiny_model.encode_text(["bat"]))
    values = ca.ClosedFormTail(again.model, again.dictionary, torch.from_numpy(text.T), site=again.site)
    assert values.values(torch.from_numpy(rows[:2])).shape == (2, 8)
    with pytest.raises(ca.ModelError, match=r"'kit' is not among the 8 texts.*Nearest: kite"):
        again.model.encode_text(["kit"])
    with pytest.raises(ca.ModelError, match="no image tower|only text embeddings are known"):
        again.model.encode_image(torch.zeros(1, 3, 1, 1))
    assert ca.audit(again, WORDS[:2], progress=False) is not None
    np.savez(tmp_path / "texts.npz", words=np.array(WORDS), vectors=text)
    for form in (dict(zip(WORDS, text, strict=True)), tmp_path / "texts.npz"):
        assert ca.TextEmbeddings.open(form).weights_hash == again.model.weights_hash


@pytest.mark.parametrize(
    ("given", "told"),
    (
        ({}, "give one"),
        ({"images": "folder", "embeddings": np.eye(3)}, "give one"),
        ({"embeddings": np.eye(3), "model": None}, "Give one of them"),
        ({"embeddings": np.eye(3), "text_embeddings": {"a": np.ones(3)}}, "Give one of them"),
        ({"embeddings": np.eye(48), "site": "image.-1.cls"}, "needs the pictures"),
    ),
)
def test_what_does_not_go_together_is_refused(given, told, tiny_model, tmp_path):
    named = {"model": tiny_model} | given
    with pytest.raises(ca.StudyError, match=told):
        ca.build_study(named.pop("model"), path=tmp_path / "study", vocabulary=WORDS, **named)


def test_vectors_that_do_not_fit_the_model_are_refused(tiny_model, rows, tmp_path):
    with pytest.raises(ca.DataError, match="40 numbers per row, those of custom 48"):
        build(tiny_model, embeddings=rows[:, :40], path=tmp_path / "a", vocabulary=WORDS)
    with pytest.raises(ca.DataError, match="beyond the float16 range"):
        build(tiny_model, embeddings=rows * 1e6, path=tmp_path / "b", vocabulary=WORDS)
    with pytest.raises(ca.DataError, match="80 pictures need as many rows of embeddings; got 79"):
        build(
            tiny_model, embeddings=rows, evaluator_embeddings=rows[1:], path=tmp_path / "c", vocabulary=WORDS
        )
    text = np.eye(4)
    for bad, told in (((["a", "a"], text[:2]), "more than one embedding"), ((["a"], text), "one row per text"),
                      ((["a"], text[:1] * np.nan), "zero or not finite")):  # fmt: skip
        with pytest.raises(ca.ModelError, match=told):
            ca.TextEmbeddings.open(bad)


def test_an_evaluator_needs_pictures_or_its_own_embeddings(tiny_model, rows, tmp_path):
    import copy

    other = ca.load_model(copy.deepcopy(tiny_model.clip))
    with torch.no_grad():
        other.clip.visual.conv1.weight.mul_(1.1)
    with pytest.raises(ca.DataError, match="needs to encode the pictures.*evaluator_embeddings="):
        build(tiny_model, embeddings=rows, evaluator=other, path=tmp_path / "a", vocabulary=WORDS)
    study = build(tiny_model, embeddings=rows, evaluator=other, evaluator_embeddings=rows[::-1].copy(),
                  path=tmp_path / "b", vocabulary=WORDS)  # fmt: skip
    unit = rows[::-1] / np.linalg.norm(rows[::-1], axis=1, keepdims=True)
    np.testing.assert_allclose(study.evaluator_embeddings, unit, atol=1e-3)


def test_paths_let_the_evaluator_see_and_rows_out_of_step_are_told(tiny_model, rows, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    files = []
    for number in range(12):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(
            file := tmp_path / f"{number}.png"
        )
        files.append(str(file))
    pixels = torch.stack([tiny_model.prepare(file) for file in files])
    own = ca.activations(tiny_model, pixels, "image.embedding").numpy()
    good = build(
        tiny_model, embeddings=ca.Embeddings(own, paths=files), path=tmp_path / "a", vocabulary=WORDS
    )
    assert good.sees.all() and "to a cosine of 1.000" in " ".join(good.manifest["images"]["notes"])
    assert good.images[3].load().size == (32, 32)
    moved = ca.Embeddings(rows[:12], paths=files)
    assert "8 of them are nearest to their own row" in " ".join(good.manifest["images"]["notes"])
    wrong = build(tiny_model, embeddings=moved, path=tmp_path / "b", vocabulary=WORDS)
    assert "Rows are out of step with the paths" in " ".join(wrong.manifest["images"]["notes"])


def test_text_embeddings_of_another_model_show_in_the_space_check():
    # Pictures lie near the texts of what they show; a rotation keeps every width and length and nothing else.
    generator = torch.Generator().manual_seed(0)
    spread = torch.diag(0.9 ** torch.arange(64.0))
    texts = torch.nn.functional.normalize(torch.randn(40, 64, generator=generator) @ spread, dim=1)
    truth = torch.randint(0, 40, (400,), generator=generator)
    pictures = (texts[truth] + 0.1 * torch.randn(400, 64, generator=generator)).numpy()
    rotation = torch.linalg.qr(torch.randn(64, 64, generator=generator)).Q.numpy()
    for labels in (None, truth):
        classes = None if labels is None else texts
        assert check_space(pictures, texts, labels, classes).is_plausible
        assert not check_space(pictures @ rotation, texts, labels, classes).is_plausible
    with pytest.warns(UserWarning, match="may come from different models"):
        model = ca.TextEmbeddings([f"w{i}" for i in range(40)], texts.numpy())
        from clipattr.studies.vectors import VectorInput, space_notes

        given = ca.Embeddings(pictures @ rotation, labels=[f"w{i}" for i in truth.tolist()])
        space_notes(VectorInput(given), given.images, model, model.words)


def test_prompts_of_a_table_of_texts_are_targets_however_long_they_are():
    generator = torch.Generator().manual_seed(0)
    words = ["kite", "a " * 400 + "bat"]
    model = ca.TextEmbeddings(words, torch.randn(2, 16, generator=generator).numpy())
    weights, _ = ca.as_target(words).linear(model)
    torch.testing.assert_close(weights.T, model.encode_text(words))
