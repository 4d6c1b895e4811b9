"""The paper's protocol as a value: its numbers are the paper's, and its calls are the library's."""

import pytest

import clipattr as ca
from clipattr.studies.presets import paper


def test_the_numbers_are_those_of_the_paper():
    asked = paper.settings()
    assert (asked["n_latents"], asked["k"], asked["site"]) == (30_000, 64, "image.-1.cls")
    assert (asked["examples"], asked["evaluator"], asked["vocabulary"]) == (
        20,
        "MobileCLIP-S2:datacompdr",
        "imagenet21k",
    )
    assert asked["training"]["lr"] == 2e-4 and asked["training"]["batch"] == 32
    assert paper.clear == 0.4 and len(paper.variants) == 8


def test_the_names_of_the_models_are_ones_that_open_clip_knows():
    import open_clip

    known = set(open_clip.list_pretrained())
    evaluator = tuple(paper.evaluator.split(":"))
    assert set(paper.variants) <= known and evaluator in known


def test_presets_are_reached_from_the_package():
    assert ca.presets.paper is paper


def test_a_change_replaces_one_setting_and_leaves_the_protocol_alone():
    assert paper.settings(k=8)["k"] == 8 and paper.settings()["k"] == 64
    changed = paper.settings()
    changed["training"]["lr"] = 1.0
    assert paper.settings()["training"]["lr"] == 2e-4
    with pytest.raises(ca.StudyError, match=r"has no setting latents; it has .*n_latents"):
        paper.settings(latents=3)


def test_its_training_settings_are_ones_that_training_takes():
    import torch

    torch.manual_seed(0)
    rows = torch.randn(128, 8)
    made = ca.train_sae(rows, n_latents=16, k=2, progress=False, **paper.training)
    assert made.info["training"]["steps"] == 3 * 128 // 32 and made.info["training"]["lr"] == 2e-4


def test_triage_is_the_order_of_activation_times_clarity_times_alignment():
    study = ca.open_study("picture-world")
    shown = paper.triage(study)
    product = shown["mean_top"] * shown["clarity"] * shown["alignment"].clip(lower=0)
    assert len(shown) and (shown["clarity"] > 0.4).all()
    assert (product.diff().dropna() <= 1e-6).all()


def test_outliers_are_clear_strong_and_badly_named():
    study = ca.open_study("picture-world")
    limit = float(study.latents["alignment"].median())
    found = paper.outliers(study, below=limit)
    assert len(found) and (found["alignment"] < limit).all() and (found["clarity"] > 0.4).all()
    assert found["mean_top"].is_monotonic_decreasing
    assert (paper.outliers(study)["alignment"] < 0.08).all()


def test_its_attribution_is_patching_of_the_plain_cosine():
    import torch

    study = ca.open_study("picture-world")
    ours = paper.attribute(study, study.images[3], ["kite", "bat"])
    same = ca.attribute(study, study.images[3], ca.Similarity(["kite", "bat"]), method="patching")
    torch.testing.assert_close(ours.values, same.values, rtol=0, atol=0)
    assert ours.unit == "cosine"


def test_the_vocabulary_of_the_protocol_has_one_prompt_per_spelling():
    from clipattr.studies.presets import first_names

    names = first_names("imagenet21k")
    assert len(set(names.words)) == len(names.words) > 15_000 and names.prompts == names.words
