"""Studies belong to the pictures they were built from, and are not built where they cannot be put."""

from pathlib import Path

import numpy as np
import pytest

from clipattr import StudyError, open_study
from clipattr.images.collection import Images
from clipattr.images.sources import MemorySource
from clipattr.studies.belonging import folder_for, left_out


def test_other_pictures_under_a_studys_ids_are_refused():
    study = open_study("picture-world")
    some = study.images
    assert open_study("picture-world", images=some).images.ids == some.ids
    noise = np.random.default_rng(0).integers(0, 255, (len(some), 16, 16, 3), dtype=np.uint8)
    others = Images(MemorySource(list(noise)), some.ids)
    with pytest.raises(StudyError, match="pictures compared are not those"):
        open_study("picture-world", images=others)


@pytest.mark.parametrize("path", [".", "..", "./", "../here", ""])
def test_the_current_folder_is_no_place_for_a_study(tmp_path, monkeypatch, path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(StudyError, match="Name a new folder"):
        folder_for(path)
    assert folder_for("s") == Path("s") and folder_for("../s") == Path("../s")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder_for("~/s") == tmp_path / "s"


def test_what_was_left_out_of_a_study_is_said_with_reasons():
    manifest = {
        "images": {"notes": ["a"]},
        "vocabulary": {"notes": []},
        "skipped": [["x.png", "no such file"]],
    }
    assert left_out(manifest) == [
        "a",
        "1 picture could not be read and was left out, first x.png: no such file.",
    ]
