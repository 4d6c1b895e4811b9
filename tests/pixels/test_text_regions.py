"""Regions of text: the test of a detector, and a detector that finds words as a candidate edit."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

import clipattr as ca
from clipattr.discovery.audit.text_insertion import written
from clipattr.discovery.findings import Finding
from clipattr.discovery.pixels import text_regions
from clipattr.discovery.pixels.candidates import candidate_edits
from clipattr.discovery.pixels.measure import Measure
from clipattr.errors import DataError
from clipattr.statistics import Interval

MISSING = importlib.util.find_spec("rapidocr_onnxruntime") is None
SETTINGS = ca.PixelSettings(
    strong_pictures=9, weak_pictures=9, windows=2, fractions=(0.25,), kept=(), borders=(), text=True
)


def changed(picture, text, number):
    """Where `written` changes a picture, by brute force."""
    return torch.from_numpy(
        (np.asarray(written(picture, text, number)) != np.asarray(picture.convert("RGB"))).any(-1)
    )


def test_recall_counts_words_of_which_half_the_box_is_covered():
    plain = [Image.new("RGB", (96, 96), "gray")] * 4
    exact = iter([changed(plain[0], text_regions.WORDS[n], n) for n in range(4)])

    def boxes(pictures):  # the whole box of even words, the left quarter of odd ones
        mask = next(exact)
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        box = torch.zeros(1, 96, 96, dtype=torch.bool)
        width = columns[-1] + 1 - columns[0] if boxes.calls % 2 == 0 else (columns[-1] + 1 - columns[0]) // 4
        box[0, rows[0] : rows[-1] + 1, columns[0] : columns[0] + width] = True
        boxes.calls += 1
        return box

    boxes.calls = 0
    assert text_regions.recall(boxes, plain) == 0.5


def test_without_the_package_text_regions_are_refused_with_its_name(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rapidocr_onnxruntime", None)
    text_regions._engine.cache_clear()
    study = ca.open_study("picture-world")
    interval = Interval(0.0, 0.0, 0.0)
    item = Finding("kite", (0,), None, "unknown", 0.0, interval, interval, 0.0, 0.0, 0.0, 0.0)
    with pytest.raises(DataError, match=r"pip install 'clipattr\[ocr\]'"):
        ca.verify(study, item, settings=SETTINGS, progress=False)


def test_regions_of_text_are_not_tried_where_the_detector_misses_known_words(monkeypatch):
    study = ca.open_study("picture-world")
    latent = int(study.examples.counts.argmax())
    interval = Interval(0.0, 0.0, 0.0)
    item = Finding("kite", (latent,), None, "unknown", 0.0, interval, interval, 0.0, 0.0, 0.0, 0.0)
    monkeypatch.setattr(Measure, "text_recall", 0.5)
    monkeypatch.setattr(Measure, "text_masks", None)  # would fail if it were called
    checked = ca.verify(study, item, settings=SETTINGS, progress=False)
    assert checked.about["pixels"]["text_tried"] is False
    assert checked.about["pixels"]["text_recall"] == 0.5


def test_a_region_of_text_is_taken_out_and_pasted_where_it_stands():
    generator = torch.Generator().manual_seed(0)
    strong, weak = (torch.rand(4, 3, 24, 24, generator=generator) for _ in range(2))
    mask = torch.zeros(4, 24, 24, dtype=torch.bool)
    mask[:, 8:16, 4:20] = True
    edit = candidate_edits(strong, weak, SETTINGS, lambda pixels: mask)["text"](strong, None)
    without, _ = edit.remove(strong, weak)
    pasted, _ = edit.transplant(strong, weak)
    inner = (slice(None), slice(None), slice(10, 14), slice(6, 18))
    assert torch.equal(without[inner], weak[inner]) and torch.equal(pasted[inner], strong[inner])
    assert torch.equal(without[..., :6, :], strong[..., :6, :])
    assert "text" not in candidate_edits(strong, weak, SETTINGS)


@pytest.mark.skipif(MISSING, reason="needs the extra ocr")
def test_the_detector_finds_words_and_no_others():
    scene = np.random.default_rng(0).integers(90, 120, (96, 96, 3), dtype=np.uint8)
    plain = Image.fromarray(scene)
    detector = text_regions.TextDetector()
    word, nothing = detector.masks([written(plain, "lantern", 0), plain])
    there = changed(plain, "lantern", 0)
    assert (word & there).sum() >= 0.9 * there.sum() and word.float().mean() < 0.4
    assert not nothing.any()
