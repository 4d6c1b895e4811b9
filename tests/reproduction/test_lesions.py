"""The lesion study runs on a folder as archives come, and finds the shortcut that was put there."""

import csv
import json
from pathlib import Path

import pytest

import clipattr as ca
from clipattr.reproduction.experiments import lesion_folder
from clipattr.reproduction.experiments.lesions import at, gaps

BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """260 synthetic lesions with HAM10000's table; rulers go with melanomas in training, and nowhere else."""
    from PIL import Image

    from clipattr_data.lesion_world import LesionWorld
    from clipattr_data.world import TRAIN

    folder, world = tmp_path_factory.mktemp("ham"), LesionWorld.open("lesions-evaluator")
    rows = []
    for number in range(260):
        lesion, held = world.scene(900_000 + number, TRAIN), number % 2 == 0
        ill = lesion.main == "melanoma"
        # In training nine of ten rulers go with a melanoma; in the pictures held out they say nothing.
        there = number % 4 < 2 if held else ill != (number % 20 == 1)
        lesion = lesion.having("ruler") if there else lesion.without("ruler")
        Image.fromarray(lesion.render()).save(folder / f"ISIC_{number:07d}.png")
        side = "test" if held else "train"
        rows.append([f"HAM_{number:07d}", f"ISIC_{number:07d}", "mel" if ill else "nv", side])
    with (folder / "HAM10000_metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["lesion_id", "image_id", "dx", "side"], *rows])
    return folder


def test_a_planted_ruler_is_found_in_the_probe_and_not_in_the_prompts(archive, asked, tmp_path, monkeypatch):
    words = ca.Vocabulary(
        ["hair", "ink mark", "ruler", "irregular border", "smooth border", "several colours"],
        groups=["artefact", "artefact", "artefact", "sign", "sign", "sign"],
    )
    monkeypatch.setattr(lesion_folder, "VOCABULARY", words)
    monkeypatch.setattr(lesion_folder, "PROMPTS", {"malignant": "melanoma", "benign": "nevus"})
    monkeypatch.setattr(
        lesion_folder,
        "lesion_table",
        lambda folder: ca.open_table(folder, labels=lesion_folder.CLASSES, split="side"),
    )
    arguments = {**asked, "models": ["lesions"], "evaluator": "lesions-evaluator", "lesions": str(archive)}
    arguments["sizes"] = {"n_latents": 96, "k": 8, "epochs": 40}
    made = ca.reproduce("paper", out=tmp_path / "out", **arguments, only=["lesions"])
    (value,) = json.loads((made.folder / "experiments" / "lesions.json").read_text())["values"].values()
    ruler = value["reliance"]["ruler"]
    assert ruler["probe"]["low"] > 0.1 > abs(ruler["prompts"]["value"])
    (repair,) = value["repairs"]
    assert "ruler" in repair["found"] and repair["worst_before"] < repair["accuracy_before"]


def test_the_seven_diagnoses_of_ham10000_and_the_words_of_isic_are_two_classes():
    assert set(lesion_folder.CLASSES.values()) == {"malignant", "benign"}
    assert lesion_folder.CLASSES["mel"] == lesion_folder.CLASSES["melanoma"] == lesion_folder.CLASSES["1"]
    words = ca.Vocabulary.open("dermatology").words
    assert set(lesion_folder.BIASES) <= set(words)


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
