"""Cards: every figure against its definition, and an honest verdict."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score

from clipattr.dictionaries import SparseCodes, TopK, load_dictionary, neurons, pca
from clipattr.dictionaries.stability import stability
from clipattr.errors import DictionaryError
from clipattr.sites import Site, activations, continue_from
from clipattr.studies.cards import Card, factor_scores, make_card, scene_factors, verdict
from clipattr_data import studies_dir


def planted(rows=1500, width=64, factors=24, seed=7):
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(factors, width, generator=generator), dim=1)
    truth = torch.rand(rows, factors, generator=generator) < 0.1
    codes = truth * (1 + torch.rand(rows, factors, generator=generator))
    return codes @ directions + 0.02 * torch.randn(rows, width, generator=generator) + 0.3, truth, directions


@pytest.fixture(scope="module")
def oracle():
    acts, truth, directions = planted()
    bias = torch.full((64,), 0.3)
    made = TopK(
        k=6,
        decoder=directions,
        encoder=torch.linalg.pinv(directions).T.contiguous(),
        bias=bias,
        pre_bias=bias,
    )
    return made, acts, truth


def test_reconstruction_figures_follow_their_definitions(oracle):
    made, acts, _ = oracle
    figures = make_card(made, acts, controls=False, keep=False).figures
    x, r = acts.double(), made.reconstruct(acts).double()
    mean = x.mean(0)
    assert figures["fvu"] == pytest.approx(
        float((x - r).square().sum() / (x - mean).square().sum()), rel=1e-6
    )
    dense = made.encode(acts).to_dense()
    assert figures["l0"] == pytest.approx(float((dense > 0).sum(1).float().mean()))
    assert figures["dead_share"] == float((dense == 0).all(0).float().mean())
    parts = {
        "decoder": made.decoder,
        "encoder": made.encoder,
        "bias": mean.float(),
        "pre_bias": made.pre_bias,
    }
    half = TopK(k=6, gain=torch.full((24,), 0.5), **parts)
    assert make_card(half, acts, controls=False, keep=False).figures["shrinkage"] > 0.2


def test_the_true_directions_beat_every_control_and_the_card_travels_with_them(oracle, tmp_path):
    made, acts, truth = oracle
    card = make_card(made, acts, factors=truth, evaluator_embeddings=truth.float() + 0.01)
    assert card.verdict == [] and set(card.controls) == {"neurons", "pca", "random", "kmeans"}
    assert card.figures["factor_auc"] > 0.95 > card.controls["random"]["factor_auc"]
    made.save(tmp_path)
    assert load_dictionary(tmp_path).card == card.to_dict()
    assert "factor_auc" in str(card)


def test_a_dictionary_that_does_not_beat_its_controls_is_told_so(oracle):
    _, acts, _ = oracle
    card = make_card(neurons(64, k=4), acts, controls={"pca": pca(acts, k=20)}, keep=False)
    assert any(line.startswith("explained_variance: pca does as well or better") for line in card.verdict)


def test_factor_scores_equal_those_of_sklearn_on_dense_codes():
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(80, 7, generator=generator) * (torch.rand(80, 7, generator=generator) < 0.4)
    dense[:, 6] = 0
    truth = (torch.rand(80, 3, generator=generator) < 0.3) | (dense[:, :3] > 0.6)
    auc, f1 = factor_scores(SparseCodes.from_dense(dense), truth)
    for j in range(7):
        for f in range(3):
            y, score = truth[:, f].numpy(), dense[:, j].numpy()
            assert auc[j, f] == pytest.approx(roc_auc_score(y, score), abs=1e-5)
            cuts = (score > 0, score > score.max() / 2)
            assert f1[j, f] == pytest.approx(max(f1_score(y, cut, zero_division=0) for cut in cuts), abs=1e-5)


def test_stability_is_one_for_permuted_directions_and_low_for_others(oracle):
    made, *_ = oracle
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    turned = TopK(k=6, decoder=made.decoder[order], encoder=made.encoder[order])
    assert stability(made, turned) == pytest.approx(1.0, abs=1e-5)
    other = TopK(
        k=6, decoder=torch.randn(24, 64, generator=torch.Generator().manual_seed(2)), encoder=made.encoder
    )
    assert stability(made, other) < 0.5
    with pytest.raises(DictionaryError, match="one shape"):
        stability(made, neurons(64))


def test_spliced_figures_run_the_real_model(tiny_model):
    rng = np.random.default_rng(0)
    pixels = torch.stack(
        [tiny_model.prepare(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(24)]
    )
    acts = activations(tiny_model, pixels, "image.-1.cls")
    text = torch.nn.functional.normalize(
        torch.randn(5, 48, generator=torch.Generator().manual_seed(0)), dim=1
    )
    labels = (continue_from(tiny_model, Site("image.-1.cls"), acts) @ text.T).argmax(1)
    with pytest.raises(DictionaryError, match="does not say where its activations were read. Pass site="):
        make_card(neurons(64), acts, model=tiny_model, controls=False)
    at = {"model": tiny_model, "site": "image.-1.cls"}
    exact = make_card(neurons(64), acts, text=text, labels=labels, controls=False, keep=False, **at).figures
    assert exact["recovered_over_zero"] == pytest.approx(1, abs=1e-4)
    assert exact["similarity_change"] == pytest.approx(0, abs=1e-6)
    assert exact["zero_shot"] == exact["zero_shot_kept"] == 1
    few = pca(acts, 1)
    figures = make_card(few, acts, text=text, labels=labels, controls=False, keep=False, **at).figures
    after = continue_from(tiny_model, Site("image.-1.cls"), few.reconstruct(acts)) @ text.T
    assert figures["zero_shot_spliced"] == pytest.approx(float((after.argmax(1) == labels).float().mean()))
    assert figures["recovered_over_mean"] < 0.9


def test_companions_of_another_length_are_refused(oracle):
    made, acts, truth = oracle
    with pytest.raises(DictionaryError, match="1500 rows of activations need as many of factors; got 9"):
        make_card(made, acts, factors=truth[:9])
    with pytest.raises(DictionaryError, match="labels are row numbers of text"):
        make_card(made, acts, labels=[0] * 1500)


def test_true_factors_are_read_off_the_scenes(tmp_path):
    from clipattr.images.collection import Images

    scenes = [{"main": "bat", "context": "beach"}] * 10 + [{"main": "kite", "word": "bat"}] * 11
    lines = [json.dumps({"id": str(n), "scene": scene}) for n, scene in enumerate([*scenes, {"main": "owl"}])]
    (tmp_path / "scenes.jsonl").write_text("\n".join(lines) + "\n")
    images = Images.open(f"scenes:{tmp_path / 'scenes.jsonl'}")
    names, truth = scene_factors(images, range(5, 22))
    assert names == []  # too few of anything
    names, truth = scene_factors(images, range(22))
    assert names == ["bat", "context beach", "kite", "word bat"]
    assert truth.sum(0).tolist() == [10, 10, 11, 11] and truth[0].tolist() == [1, 1, 0, 0]
    plain = Images.open([np.zeros((8, 8, 3), np.uint8)] * 2)
    assert scene_factors(plain, range(2)) == ([], None)


def test_true_factors_of_lesions_are_diagnosis_signs_artefacts_and_skin(tmp_path):
    from clipattr.images.collection import Images

    ill = {"lesion": ["several colours", "irregular border"], "artefacts": ["ruler"], "skin": "dark skin"}
    scenes = [ill] * 10 + [{"lesion": ["several colours"], "artefacts": ["hair"]}] * 11
    lines = [json.dumps({"id": str(n), "scene": scene}) for n, scene in enumerate(scenes)]
    (tmp_path / "scenes.jsonl").write_text("\n".join(lines) + "\n")
    names, truth = scene_factors(Images.open(f"scenes:{tmp_path / 'scenes.jsonl'}"), range(21))
    told = ["dark skin", "hair", "irregular border", "medium skin", "melanoma", "nevus", "ruler"]
    assert names == told, "several colours are in every picture and tell nothing"
    assert truth[0].tolist() == [1, 0, 1, 0, 1, 0, 1] and truth[-1].tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_a_card_is_saved_and_opened(oracle, tmp_path):
    made, acts, _ = oracle
    card = make_card(made, acts, controls={"neurons": neurons(64, k=4)}, keep=False)
    card.save(tmp_path / "card.json")
    assert Card.open(tmp_path / "card.json") == card
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(DictionaryError, match="holds no card"):
        Card.open(tmp_path / "card.json")


def test_a_card_laid_beside_a_saved_dictionary_is_opened_with_it(oracle, tmp_path):
    made, acts, _ = oracle
    card = make_card(made, acts, controls={"neurons": neurons(64, k=4)}, keep=False)
    judged, made.card = made.card, None
    made.save(tmp_path)
    made.card = judged
    assert load_dictionary(tmp_path).card is None
    card.save(tmp_path / "card.json")
    assert load_dictionary(tmp_path).card == card.to_dict()
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(DictionaryError, match="damaged"):
        load_dictionary(tmp_path)


@pytest.mark.parametrize("name", ["picture-world", "picture-world-b", "picture-world-c"])
def test_a_bundled_dictionary_comes_with_its_card_and_beats_its_controls_in_what_it_is_for(name):
    folder = studies_dir() / name / "dictionary"
    card = Card(**load_dictionary(folder).card)
    assert card == Card.open(folder / "card.json") and sorted(card.verdict) == sorted(verdict(card))
    assert set(card.controls) == {"neurons", "pca", "random", "kmeans"}
    for figure in ("explained_variance", "zero_shot_kept", "recovered_over_mean", "factor_auc", "factor_f1"):
        assert card.figures[figure] > max(other[figure] for other in card.controls.values()), figure
