"""Pictures that vanished or broke after the study was built are replaced, counted, and never end an audit."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clipattr as ca
from clipattr.discovery.audit.base import digest
from clipattr.discovery.audit.run import Ready
from clipattr.discovery.audit.settings import Settings
from clipattr.discovery.cautions import cautions
from clipattr.discovery.findings import Findings
from clipattr.discovery.laws import _part
from clipattr.discovery.opened import TRIED, Opener
from clipattr.discovery.pixels.measure import Measure
from clipattr.discovery.pixels.pictures import edited_pictures
from clipattr.images.collection import ImageRecord, Images
from clipattr.images.decoding import PictureError
from clipattr.images.sources import FileSource
from clipattr.reporting.page import page
from clipattr.studies.vectors import pictures_had, pictures_there

FEW = Settings(inserted=12, first=6, controls=2, occluded=2)
LITTLE = ca.PixelSettings(
    strong_pictures=9, fewest=4, weak_pictures=4, windows=2, fractions=(0.2,), kept=(), borders=()
)
PROMPTS = ["rose", "house"]


@pytest.fixture(scope="module")
def whole():
    """A third of the bundled study."""
    study = ca.open_study("picture-world")
    made = _part(study, np.arange(0, len(study.images), 3))
    made.__dict__["had"] = np.ones(len(made.images), dtype=bool)
    return made


@pytest.fixture
def broken(whole, monkeypatch):
    """The study, and the set of the ids of pictures that cannot be opened any more."""
    ids, load = set(), ImageRecord.load

    def broken_load(record, draft=None):
        if record.id in ids:
            raise PictureError("no such file")
        return load(record, draft)

    monkeypatch.setattr(ImageRecord, "load", broken_load)
    return whole, ids


def test_others_take_the_place_of_pictures_that_cannot_be_opened(monkeypatch):
    asked = []

    def load(record, draft=None):
        asked.append(record.index)
        if record.index < 30:
            raise PictureError("no such file")

        return Image.new("RGB", (4, 4))

    monkeypatch.setattr(ImageRecord, "load", load)
    opener = Opener(Images(FileSource([Path(f"{n}.png") for n in range(40)]), [str(n) for n in range(40)]))
    assert opener.first(range(40), 3) == [] and asked == list(range(TRIED * 3))
    assert [place for place, _ in opener.first([1, 31, 2, 33, 34], 2)] == [1, 3]
    assert asked == [*range(TRIED * 3), 31, 33], "a missing picture is not looked for again"
    assert opener.gone == {str(row): "no such file" for row in range(TRIED * 3)}


def test_pictures_that_never_were_and_pictures_that_vanished_are_distinguished(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"")
    images = Images(FileSource([tmp_path / "a.png", tmp_path / "c.png", tmp_path]), ["a", "c", "none"])
    there = pictures_there(images)
    assert there.tolist() == [True, False, False]
    assert pictures_had(images, there).tolist() == [True, True, False]


def test_an_audit_goes_on_with_other_pictures_and_counts_the_missing_ones(broken, tmp_path):
    study, gone = broken
    used = Ready(study, FEW)
    rows = used.base.measuring.rows
    order = sorted((study.images.ids[row] for row in rows), key=digest)
    assert [study.images.ids[row] for row in rows[used.insertion.numbers]] == order[:12]
    gone |= set(order[:5])
    again = Ready(study, FEW)
    assert [study.images.ids[row] for row in rows[again.insertion.numbers]] == order[5:17]
    found = ca.audit(study, PROMPTS, settings=FEW, progress=False, checkpoint=tmp_path / "kept")
    first = dict.fromkeys(sorted(gone), "no such file")
    assert found.about["missing_pictures"] == {"asked_for": 5, "first": first}
    assert [verdict.unopened for verdict in found.verdicts] == [5, 5]
    assert [verdict.outcome for verdict in found.verdicts] == ["found", "nothing found"]
    assert all(verdict.forwards for verdict in found.verdicts)
    # Table, JSON, report.
    assert "pictures that could not be opened: 5" in found.verdict_frame()["why"].iloc[0]
    assert "5 pictures could not be opened" in found.verdicts[1].sentence()
    found.to_json(tmp_path / "a.json")
    stored = Findings.from_json(tmp_path / "a.json")
    assert stored.verdicts == found.verdicts
    (told,) = cautions(stored.about)
    assert told.startswith("5 pictures could not be opened, first") and told in page(found)
    # What a checkpoint kept says the same.
    again = ca.audit(study, PROMPTS, settings=FEW, progress=False, checkpoint=tmp_path / "kept")
    assert again.to_json() == found.to_json()


def test_without_pictures_nothing_found_is_no_verdict(broken):
    study, gone = broken
    gone |= set(study.images.ids)
    found = ca.audit(study, PROMPTS, settings=FEW, progress=False)
    assert [verdict.outcome for verdict in found.verdicts] == ["found", "cannot be judged"]
    silent = found.verdicts[1]
    assert "could not be opened, first" in silent.why and "too few for text insertion" in silent.why
    assert silent.unopened == TRIED * FEW.inserted and silent.smallest_effect is None
    plain = ca.audit(study, ["house"], budget=0, settings=FEW, progress=False)
    assert plain.verdicts[0].outcome == "nothing found", "without forward passes no picture is needed"


def test_a_verification_takes_other_pictures_and_says_so(broken):
    study, gone = broken
    finding = ca.audit(study, ["rose"], budget=0, progress=False)[0]

    def verified():
        (made,) = ca.verify(study, finding, settings=LITTLE, progress=False)
        return made, made.evidence["pixels"]

    _, before = verified()
    gone |= {*before["pictures"][:2], before["others"][1]}
    made, told = verified()
    assert before["unopened"] == 0 and told["unopened"] == 3
    assert len(told["pictures"]) == len(before["pictures"]) and len(told["others"]) == len(before["others"])
    gone.add(told["pictures"][0])
    shown = edited_pictures(study, made, settings=LITTLE)
    assert len(shown) == 4 and shown[0].source in told["pictures"][1:]
    gone |= set(study.images.ids)
    _, told = verified()
    assert told["verdict"] == "untestable" and "could not be opened, first" in told["reason"]
    with pytest.raises(ca.errors.DataError, match="could not be opened"):
        Measure(study).pixels([0])
    with pytest.raises(ca.errors.DataError, match="could not be opened"):
        edited_pictures(study, made, settings=LITTLE)
