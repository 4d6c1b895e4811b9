"""A check tells before the work what would spoil it, and laws are tested on a study of one's own."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import clipattr as ca
from clipattr.discovery import check as checking
from clipattr.discovery import laws
from clipattr.discovery.findings import Finding, Findings, PromptVerdict
from clipattr.errors import DataError
from clipattr.statistics import Interval

THINGS = ("rabbit", "eagle", "rose", "tiger")


@pytest.fixture(scope="module")
def pictures():
    """48 scenes of four objects, a copy, and a picture of another world."""
    from clipattr_data.scene import Scene

    made = [Scene(main=THINGS[n % 4], seed=n).picture() for n in range(48)]
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    images = ca.Images.open([*made, made[0].copy(), Image.fromarray(noise)])
    images.columns["label"] = [THINGS[n % 4] for n in range(48)] + ["rabbit", None]
    return images


@pytest.fixture(scope="module")
def models():
    return ca.load_model("picture-world-a"), ca.load_model("picture-world-evaluator")


@pytest.fixture(scope="module")
def found(models, pictures):
    return ca.check(models[0], pictures, vocabulary=[*THINGS, "meadow"], evaluator=models[1], holdout=0.5)


@pytest.fixture(autouse=True)
def unpriced(monkeypatch):
    """Leaves out the calibration, which only `found` needs (it is made before)."""
    monkeypatch.setattr(checking, "_about_cost", lambda *_: checking.Line("cost", "good", ""))


def test_what_fits_is_usable_and_what_a_person_should_see_is_named(found, pictures):
    assert found.is_usable and found["model"].outcome == found["evaluator"].outcome == "good"
    assert found["model"].figures["label_auc"] > 0.85
    assert found["duplicates"].figures["duplicates"] == 1
    assert found["unlike the rest"].figures["unlike"][0] == pictures.ids[49]
    assert found["labels"].outcome == "good" and "all 4 are words" in found["labels"].text
    assert "audit of 4 prompts" in found["cost"].text
    assert {line["about"] for line in found.to_dict()["lines"]} >= {"preprocessing", "words", "audit"}
    assert str(found).count("\n") == len(found.lines) - 1


def test_the_auc_of_labels_is_that_of_pairs(models, pictures, found):
    model = models[0]
    rows = [row for row in range(50)]
    embedded = model.encode_image(torch.stack([model.prepare(pictures[row].load()) for row in rows]))
    scores = torch.nn.functional.normalize(embedded, dim=-1) @ model.encode_text(sorted(THINGS)).T
    scores = scores - scores.mean(1, keepdim=True)
    labels, values = pictures.columns["label"], []
    for column, thing in enumerate(sorted(THINGS)):
        own = [scores[row, column] for row in rows if labels[row] == thing]
        other = [scores[row, column] for row in rows if labels[row] != thing]
        values.append(np.mean([float(a > b) + 0.5 * float(a == b) for a in own for b in other]))
    assert found["model"].figures["label_auc"] == pytest.approx(float(np.mean(values)), abs=1e-6)


def test_a_text_tower_that_does_not_belong_is_bad(models, pictures, monkeypatch):
    model = models[0]
    right = model.encode_text

    def wrong(prompts, **options):
        """As with another tokenizer: every text is read as another one."""
        return right([THINGS[(THINGS.index(p) + 1) % 4] if p in THINGS else p for p in prompts], **options)

    monkeypatch.setattr(model, "encode_text", wrong)
    made = ca.check(model, pictures, vocabulary=list(THINGS), evaluator=models[1], seconds=0)
    assert (
        made["model"].outcome == "bad"
        and not made.is_usable
        and "do not belong together" in made["model"].text
    )


def test_words_that_a_model_cannot_distinguish_are_counted(models, pictures):
    words = ["rabbit", "eagle", "xqzt", "vwkj"]  # two unknown ones read the same
    line = ca.check(models[0], pictures, vocabulary=words, evaluator=models[1], seconds=0)["words"]
    assert line.outcome == "look" and line.figures["not_told_apart"] == 2 and "xqzt" in line.text


def test_codes_as_labels_and_an_evaluator_that_is_the_model_are_said(models, pictures):
    images = ca.Images.open([pictures[row].load() for row in range(40)])
    images.columns["label"] = ["mel", "nv"] * 20
    made = ca.check(models[0], images, vocabulary=["rabbit", "eagle"], seconds=0)
    assert made["labels"].figures["not_in_vocabulary"] == ["mel", "nv"] and "codes" in made["labels"].text
    assert made["evaluator"].outcome == "look" and "--evaluator" in made["evaluator"].text


def test_how_many_prompts_will_be_judged_is_counted_from_labels(models, pictures):
    counts = Counter(label for label in pictures.columns["label"] if label)
    made = ca.check(models[0], pictures, vocabulary=list(THINGS), evaluator=models[1], holdout=0.4, seconds=0)
    needed = 5 / 0.4
    assert made["audit"].figures == {
        "judged": sum(count >= needed for count in counts.values()),
        "prompts": 4,
        "pictures_needed": needed,
    }
    asked = ca.check(
        models[0], pictures, vocabulary=list(THINGS), evaluator=models[1], seconds=0, prompts=["yak"]
    )["audit"]
    assert asked.outcome == "bad" and "not yak" in asked.text


def test_pictures_that_cannot_be_read_are_an_error_or_counted(models, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="None of the 3 pictures"):
        ca.check(models[0], tmp_path, vocabulary=["a"], evaluator=models[1])


def test_preprocessing_is_compared_with_the_tag(models, monkeypatch):
    model = models[0]
    assert checking._about_preprocessing(model).outcome == "good"
    monkeypatch.setattr(model, "reference", "ViT-B-32:openai")
    assert "as the tag says" in checking._about_preprocessing(model).text
    monkeypatch.setattr(model, "reference", "ViT-B-16-SigLIP:webli")
    assert checking._about_preprocessing(model).outcome == "bad"


def test_the_laws_hold_on_a_small_part_of_a_study(monkeypatch):
    monkeypatch.setattr(laws, "PICTURES", 1500)
    made = ca.check_laws(ca.open_study("picture-world-b"), ["tiger"])
    assert made.is_usable and [line.text for line in made.lines].count("holds") == 5


def test_a_broken_law_is_named(monkeypatch):
    effect = Interval(0.1, 0.1, 0.1)
    finding = Finding("tiger", (1,), "meadow", "context", 0.9, effect, effect, 0.5, 0.0, 0.5, 0.9)

    def careless(study, prompts, **options):
        """An audit whose effects depend on how many prompts are asked, and that does not look at codes."""
        grown = replace(finding, causal_effect=replace(effect, value=0.1 * len(prompts)))
        return Findings(
            [grown] * ("tiger" in prompts), study, {}, [PromptVerdict(p, "found") for p in prompts]
        )

    monkeypatch.setattr(laws, "PICTURES", 300)
    monkeypatch.setattr(laws, "audit", careless)
    made = ca.check_laws(ca.open_study("picture-world-b"), ["tiger", "house"])
    assert (
        made["one prompt alone"].outcome == "bad" and "an effect of 'tiger'" in made["one prompt alone"].text
    )
    assert made["order of prompts"].outcome == "good"
    assert made["permuted codes"].outcome == "bad" and not made.is_usable
