"""The lesion study runs on a folder as archives come, and finds the shortcut that was put there."""

import csv
import json
from pathlib import Path

import pytest

import clipattr as ca
from clipattr.reproduction.classes import LESION_CLASSES, lesion_table, with_words
from clipattr.reproduction.experiments import lesion_folder
from clipattr.reproduction.experiments.lesions import at, compared, gaps

PARTS = ("HAM10000_images_part_1", "HAM10000_images_part_2")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """200 synthetic lesions in 260 pictures, in HAM10000's layout: two folders of pictures, and its table with several
    pictures of one lesion. Rulers go with melanomas in training, and nowhere else."""
    from PIL import Image

    from clipattr_data.lesion_world import LesionWorld
    from clipattr_data.world import TRAIN

    folder, world = tmp_path_factory.mktemp("ham"), LesionWorld.open("lesions-evaluator")
    for part in PARTS:
        (folder / part).mkdir()
    rows = []
    for number in range(260):
        scene = world.scene(900_000 + number, TRAIN)
        lesion, held = scene, number % 2 == 0
        ill = lesion.main == "melanoma"
        # In training nine of ten rulers go with a melanoma; in the pictures held out they say nothing.
        there = number % 4 < 2 if held else ill != (number % 20 == 1)
        lesion = lesion.having("ruler") if there else lesion.without("ruler")
        name = f"ISIC_{number:07d}"
        Image.fromarray(lesion.render()).save(folder / PARTS[number % 2] / f"{name}.jpg", quality=95)
        # Of every ten pictures three show one lesion.
        lesion_id = f"HAM_{number // 10 * 10 + 4 if number % 10 in (4, 6, 8) else number:07d}"
        code = ("mel" if ill else "nv") if number % 3 else ("bcc" if ill else "bkl")
        row = [lesion_id, name, code, "histo", 5 * (number % 18), ("male", "female")[number // 2 % 2], "back"]
        rows.append([*row, "test" if held else "train"])
    with (folder / "HAM10000_metadata.csv").open("w", newline="") as file:
        header = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization", "side"]
        csv.writer(file).writerows([header, *rows])
    return folder


def test_a_planted_ruler_is_found_in_the_probe_and_not_in_the_prompts(archive, asked, tmp_path, monkeypatch):
    words = ca.Vocabulary(
        ["hair", "ink mark", "ruler", "irregular border", "smooth border", "several colours"],
        groups=["artefact", "artefact", "artefact", "sign", "sign", "sign"],
    )
    monkeypatch.setattr(lesion_folder, "VOCABULARY", words)
    monkeypatch.setattr(lesion_folder, "PROMPTS", {"malignant": "melanoma", "benign": "nevus"})
    table = ca.open_table(archive, labels=LESION_CLASSES, split="side", group="sex")
    arguments = {**asked, "models": ["lesions"], "evaluator": "lesions-evaluator", "lesions": table}
    arguments["sizes"] = {"n_latents": 96, "k": 8, "epochs": 40}
    made = ca.reproduce("paper", out=tmp_path / "out", **arguments, only=["lesions"])
    stored = json.loads((made.folder / "experiments" / "lesions.json").read_text())
    (value,) = stored["values"].values()
    ruler = value["reliance"]["ruler"]
    assert ruler["probe"]["low"] > 0.1 > abs(ruler["prompts"]["value"])
    assert stored["figures"]["reliance_probe_over_prompts, lesions: ruler"]["low"] > 0
    (repair,) = value["repairs"]
    assert "ruler" in repair["found"] and repair["worst_before"] < repair["accuracy_before"]
    assert {(row["method"], row["group"]) for row in value["strata"]} == {
        (method, sex) for method in ("probe", "prompts") for sex in ("male", "female")
    }
    assert sum(row["pictures"] for row in value["strata"] if row["method"] == "probe") == 130


def test_the_seven_diagnoses_of_ham10000_and_the_words_of_isic_are_two_classes():
    assert set(LESION_CLASSES.values()) == {"malignant", "benign"}
    assert LESION_CLASSES["mel"] == LESION_CLASSES["melanoma"] == LESION_CLASSES["1"]
    words = ca.Vocabulary.open("dermatology").words
    assert set(lesion_folder.BIASES) <= set(words)


def test_pictures_of_one_lesion_stay_on_one_side_and_its_columns_are_strata(archive):
    table = lesion_table(archive, group="age")
    sides = {}
    for unit, split in zip(table.units, table.images.columns["split"], strict=True):
        sides.setdefault(unit, set()).add(split)
    assert len(sides) == 208 and all(len(each) == 1 for each in sides.values())
    assert set(table.images.columns["label"]) == {"malignant", "benign"}
    assert set(table.images.columns["group"]) == {"under 30", "30 to 49", "50 to 69", "70 and over"}


def test_diagnoses_as_labels_are_prompts_in_words_and_other_codes_are_reported(archive):
    named, notes = with_words(ca.open_table(archive).images)
    assert set(named.columns["label"]) == {
        "melanoma", "melanocytic nevus", "basal cell carcinoma", "benign keratosis"
    }  # fmt: skip
    assert notes[0].startswith("labels are read as words: bcc as basal cell carcinoma, bkl as")
    other = ca.Images(named.source, named.ids, {"label": ["c7" if label == "melanoma" else "mole" for label in
                                                          named.columns["label"]]}, rows=named.rows)  # fmt: skip
    (note,) = with_words(other)[1]
    assert note.startswith("1 of 2 labels look like codes, which no text encoder knows (c7)")


def test_numbers_of_imagenet_are_words_and_equal_words_keep_their_senses(drawings):
    ids = ["n01440764", "n02012849", "n03126707"]
    labels = [ids[number % 3] for number in range(len(drawings))]
    named, _ = with_words(ca.Images(drawings.source, drawings.ids, {"label": labels}))
    bird, lifts = sorted(set(named.columns["label"]) - {"tench"})
    assert "bird" in bird and "lifts" in lifts and bird.startswith("crane") and lifts.startswith("crane")
    with pytest.raises(ca.DataError, match="all have the word 'fish'"):
        with_words(ca.Images(drawings.source, drawings.ids, {"label": labels}), dict.fromkeys(ids, "fish"))


def test_a_bias_that_cannot_be_judged_is_no_evidence_and_another_is():
    def spans(value, low, high):
        return {"value": value, "low": low, "high": high}

    values = {
        "one": {
            "reliance": {
                "hair": {"probe": spans(0.0, None, None), "prompts": spans(0.1, 0.0, 0.2)},
                "ruler": {"probe": spans(-0.6, -0.7, -0.5), "prompts": spans(0.1, -0.1, 0.2)},
            }
        }
    }
    (found,) = compared(values).values()
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.3, 0.7))


def test_the_mean_at_a_strength_is_over_shortcuts_and_seeds():
    def curve(*worst):
        rows = [{"method": "probe", "strength": 1.0, "worst": each} for each in worst]
        return {"curves": [*rows, {"method": "probe", "strength": 0.0, "worst": 9.0}]}

    assert at({"ruler": curve(0.2, 0.4), "hair": curve(0.6, 0.8)}, "probe", 1.0, "worst") == pytest.approx(
        0.5
    )


def test_the_figures_agree_with_the_benchmarks_to_rounding():
    # The benchmark's rows are means over seeds, and each shortcut has as many; so both must come to the same figures.
    found = json.loads((BENCHMARKS / "probes.json").read_text("utf-8"))
    rows = [row for row in found["rows"] if {"shortcut", "method", "strength", "worst"} <= set(row)]
    values = {}
    for row in rows:
        values.setdefault(row["shortcut"], {"curves": []})["curves"].append(row)
    assert len(values) == 7
    for method, name in (("probe", "probe"), ("prompts", "prompt")):
        assert gaps(values, method).value == pytest.approx(
            found["figures"][f"worst_group_gap_{name}"], abs=5e-4
        )
        for strength, said in ((0.0, "none"), (1.0, "total")):
            figure = found["figures"][f"worst_group_{name}_at_{said}"]
            assert at(values, method, strength, "worst") == pytest.approx(figure, abs=5e-4)
