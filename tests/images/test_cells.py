"""Missing values and labels as text: one rule, whatever library the values come from."""

import numpy as np
import pandas as pd
import pytest
import torch

from clipattr.errors import DataError
from clipattr.images.cells import cell_text, class_names, column_texts, is_missing, marker_note, normal_name

MISSING = [
    None,
    float("nan"),
    np.nan,
    np.float32("nan"),
    pd.NA,
    pd.NaT,
    np.datetime64("NaT"),
    "",
    " ",
    "\ufeff",
    np.ma.masked,
]
PRESENT = [0, 0.0, False, np.bool_(False), np.int64(0), "nan", "None", "NA", "0", -1, "-1", b"x"]


@pytest.mark.parametrize("value", MISSING, ids=repr)
def test_missing_values_of_every_library_are_missing(value):
    assert is_missing(value) and cell_text(value) is None


@pytest.mark.parametrize("value", PRESENT, ids=repr)
def test_a_false_value_and_a_class_called_none_are_no_missing_values(value):
    assert not is_missing(value) and cell_text(value) is not None


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pd.Series([1, 2, None]), ["1", "2", None]),
        (pd.array([1, None, 0], dtype="Int64"), ["1", None, "0"]),
        (pd.Series(["a", None, "b"], dtype="category"), ["a", None, "b"]),
        (pd.DataFrame({"y": [True, False, True]}), ["True", "False", "True"]),
        (np.array([[3.0], [np.nan]]), ["3", None]),
        (torch.tensor([0, 5]), ["0", "5"]),
        ([torch.tensor(1), np.int8(2), "x"], ["1", "2", "x"]),
        ([0.5, 1.0], ["0.5", "1.0"]),
        (["cafe\u0301"], ["caf\u00e9"]),
        ([1, 2.0, None], ["1", "2", None]),
        ([b"cat", " dog "], ["cat", "dog"]),
    ],
)
def test_columns_of_every_kind_become_the_same_texts(values, texts):
    assert column_texts(values) == texts


@pytest.mark.parametrize("values", [[[1, 2], [3, 4]], [{"box": 1}], np.eye(3), [(0, 1)], "cats", 3, {"a": 1}])
def test_what_is_no_column_of_scalars_is_refused(values):
    with pytest.raises(DataError):
        column_texts(values)


@pytest.mark.parametrize(
    ("values", "names", "labels"),
    [
        ([0, -1, 1], ["cat", "dog"], ["cat", None, "dog"]),
        (np.array([1.0, np.nan, 0.0]), ["cat", "dog"], ["dog", None, "cat"]),
        ([0, 1], [("tench", "Tinca tinca"), ("goldfish",)], ["tench", "goldfish"]),
        ([0, 1], {"cat": 0, "dog": 1}, ["cat", "dog"]),
        ([0, 1], {0: "cat", 1: "dog"}, ["cat", "dog"]),
        ([0, 1], {"0": "cat", "1": "dog"}, ["cat", "dog"]),
        ([-1, 1, -1], None, ["-1", "1", "-1"]),
        ([-1, 0, 2], None, [None, "0", "2"]),
        ([True, False], ["no", "yes"], ["yes", "no"]),
        (["cat", "dog"], ["x", "y"], ["cat", "dog"]),
        ([7], ["cat"], ["7"]),
    ],
)
def test_class_numbers_get_their_names_and_minus_one_none(values, names, labels):
    found, notes = class_names(values, names)
    assert found == labels
    assert bool(notes) == (7 in list(values) or (-1 in list(values) and None in found))


def test_labels_that_look_like_markers_are_kept_and_noted():
    assert "'None' (2)" in marker_note(["None", "cat", "None"])[0] and not marker_note(["cat", None])


@pytest.mark.parametrize(
    "name",
    ["Image Path", " image_path", "IMAGE-PATH\u200b", "\ufeffimage  path", '"image path"', "Ｉmage path"],
)
def test_names_of_columns_are_compared_without_case_spaces_and_forms(name):
    assert normal_name(name) == "image_path"
