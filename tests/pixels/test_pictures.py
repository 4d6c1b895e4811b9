"""The four pictures of a verified finding, and the part of the report that shows them."""

import re

import numpy as np
import pytest
import torch

import clipattr as ca
from clipattr.discovery.findings import Finding, Findings
from clipattr.discovery.pixels.measure import Measure
from clipattr.discovery.pixels.pictures import as_picture, edited_pictures
from clipattr.display.wording import points
from clipattr.errors import DataError
from clipattr.reporting.verification import caption, verification_html
from clipattr.statistics import Interval

QUICK = ca.PixelSettings(
    strong_pictures=9, weak_pictures=9, windows=2, fractions=(0.25,), kept=(), borders=()
)
NOTHING = Interval(0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def study():
    return ca.open_study("picture-world")


@pytest.fixture(scope="module")
def checked(study):
    latent = int(study.examples.counts.argmax())
    bare = Finding("kite", (latent,), "<b>sky", "unknown", 0.0, NOTHING, NOTHING, 0.0, 0.0, 0.0, 0.0)
    return ca.verify(study, bare, settings=QUICK, progress=False)


@pytest.fixture(scope="module")
def four(study, checked):
    return edited_pictures(study, checked[0], settings=QUICK)


def test_a_prepared_picture_becomes_the_picture_that_it_was(study):
    picture = study.images[5].load().convert("RGB")
    pixels = study.model.prepare(picture)
    again = as_picture(study.model, pixels)
    torch.testing.assert_close(study.model.prepare(again), pixels, atol=0.05, rtol=0)


def test_four_pictures_are_edits_of_what_was_measured(study, checked, four):
    told = checked[0].evidence["pixels"]
    assert [one.what for one in four] == ["before", "without", "elsewhere", "pasted"]
    before, without, control, pasted = four
    assert before.source == without.source == control.source in told["pictures"]
    assert pasted.source in told["others"]
    whole, gone, moved = (np.asarray(one.picture).astype(int) for one in (before, without, control))
    assert (whole != gone).any() and (whole != moved).any() and (gone != moved).any()
    measure = Measure(study)
    column = measure.column("kite")
    row = study.images.index_of(before.source)
    assert before.contrast == pytest.approx(float(measure.embeddings[row] @ column), abs=1e-4)
    # Only a pasted picture stands alone, so only it says what a control patch does in its place.
    assert [one.control is None for one in four] == [True, True, True, False]
    assert f"with a control patch instead {points(pasted.control)}" in caption(pasted)
    assert "control patch" not in caption(before)


def test_what_was_not_verified_is_refused_with_advice(study):
    bare = Finding("kite", (1,), None, "unknown", 0.0, NOTHING, NOTHING, 0.0, 0.0, 0.0, 0.0)
    with pytest.raises(DataError, match="call clipattr.verify first"):
        edited_pictures(study, bare)
    assert verification_html(study, bare) == ""


def test_the_report_says_the_verdict_and_shows_four_pictures(study, checked, monkeypatch):
    import clipattr.discovery.pixels.pictures as module

    real = module.edited_pictures
    monkeypatch.setattr(
        module, "edited_pictures", lambda study, finding: real(study, finding, settings=QUICK)
    )
    block = verification_html(study, checked[0])
    assert len(re.findall(r'<img src="data:image/jpeg', block)) == 4
    assert checked[0].evidence["pixels"]["verdict"] in block and "removal" in block
    assert "<img" not in verification_html(None, checked[0])


def test_pictures_that_cannot_be_made_are_a_sentence(study, checked):
    told = {**checked[0].evidence["pixels"], "pictures": ["<nowhere>"]}
    block = verification_html(study, Finding(**{**checked[0].__dict__, "evidence": {"pixels": told}}))
    assert "cannot be shown" in block and "&lt;nowhere&gt;" in block


def test_a_table_of_findings_says_what_pixels_said(checked):
    frame = checked.to_frame()
    told = checked[0].evidence["pixels"]
    assert list(frame["in_pixels"]) == [told["verdict"]]
    assert frame["removal"][0] == pytest.approx(told["removal"]["value"] * 100, abs=0.05)
    assert "in_pixels" not in Findings([]).to_frame()
