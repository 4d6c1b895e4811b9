"""Folders with a metadata file: the layouts of the ISIC archive and HAM10000, and what may be wrong with them."""

import csv
import itertools
import math
import random

import pytest
from PIL import Image

from clipattr import HAM10000_CLASSES, Images, open_table
from clipattr.errors import DataError
from clipattr.images.splits import split_by_unit, units_of


def picture(path, size=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (120, 80, 60)).save(path)


def write(path, rows, encoding="utf-8", delimiter=","):
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def ham(count=12):
    """Rows as in HAM10000_metadata.csv: two pictures a lesion, a third of the lesions melanomas."""
    return [
        {
            "lesion_id": f"HAM_{n // 2:07d}",
            "image_id": f"ISIC_{n:07d}",
            "dx": "mel" if n // 2 % 3 == 0 else ("nv", "bkl")[n // 2 % 2],
            "dx_type": "histo",
            "age": f"{20 + 5 * n}.0",
            "sex": ("male", "female")[n // 2 % 2],
            "localization": "back",
        }
        for n in range(count)
    ]


@pytest.fixture
def ham_folder(tmp_path):
    rows = ham()
    for n, row in enumerate(rows):
        picture(tmp_path / f"HAM10000_images_part_{1 + n % 2}" / f"{row['image_id']}.jpg")
    write(tmp_path / "HAM10000_metadata.csv", rows)
    return tmp_path


def test_ham10000_is_read_from_its_own_layout(ham_folder):
    table = open_table(ham_folder, labels=HAM10000_CLASSES, group="sex")
    assert table.images.ids == [row["image_id"] for row in ham()]
    expected = ["malignant" if row["dx"] == "mel" else "benign" for row in ham()]
    assert table.images.columns["label"] == expected
    assert table.images.columns["group"] == [row["sex"] for row in ham()]
    assert table.ages[:3] == [20, 25, 30] and not table.missing
    assert table.images[3].load().size == (4, 4)
    assert isinstance(Images.open(table.images), Images)
    assert list(table.frame["localization"]) == ["back"] * 12


def test_the_isic_archive_is_read_by_its_names_for_the_same_columns(tmp_path):
    rows = [
        {
            "isic_id": f"ISIC_{n:04d}",
            "patient_id": f"IP_{n // 3}",
            "lesion_id": f"IL_{n}",
            "age_approx": "45",
            "benign_malignant": ("benign", "malignant")[n // 3 % 2],
            "diagnosis": "nevus",
        }
        for n in range(12)
    ]
    for row in rows:
        picture(tmp_path / f"{row['isic_id']}.jpg")
    write(tmp_path / "metadata.csv", rows)
    table = open_table(tmp_path)
    assert set(table.images.columns["label"]) == {"benign", "malignant"}
    assert table.units == [n // 3 for n in range(12)], "pictures of one patient stay together"


@pytest.mark.parametrize("seed", range(5))
def test_no_lesion_is_ever_on_both_sides_and_each_class_is_on_either(ham_folder, seed):
    table = open_table(ham_folder, labels=HAM10000_CLASSES, seed=seed, holdout=0.5)
    sides = table.images.columns["split"]
    by_unit = {}
    for unit, side, name in zip(table.units, sides, table.images.columns["label"], strict=True):
        assert by_unit.setdefault(unit, side) == side
        by_unit.setdefault((side, name), True)
    assert {
        ("train", "benign"),
        ("train", "malignant"),
        ("holdout", "benign"),
        ("holdout", "malignant"),
    } <= set(by_unit)


def test_units_are_the_connected_parts_of_who_shares_what():
    draws = random.Random(4)
    for _ in range(30):
        columns = [[draws.choice([None, *"abcdef"]) for _ in range(12)] for _ in range(2)]
        units = units_of(12, columns)
        linked = [
            [a == b or any(c[a] is not None and c[a] == c[b] for c in columns) for b in range(12)]
            for a in range(12)
        ]
        for middle, a, b in itertools.product(range(12), repeat=3):  # reachability, by Warshall
            linked[a][b] |= linked[a][middle] and linked[middle][b]
        assert [[units[a] == units[b] for b in range(12)] for a in range(12)] == linked


def test_one_melanoma_in_a_thousand_is_on_both_sides_and_noted(tmp_path):
    classes = ["benign"] * 2000 + ["malignant"] * 2
    sides = split_by_unit(classes, list(range(2002)), 0.3, 0)
    assert sorted(sides[-2:]) == ["holdout", "train"]
    assert sides[:2000].count("holdout") == 600
    with pytest.raises(DataError, match="at least two are needed"):
        split_by_unit(classes[:-1], list(range(2001)), 0.3, 0)
    rows = [{"image": f"{n}.png", "label": "rare" if n < 2 else "usual"} for n in range(50)]
    for row in rows:
        picture(tmp_path / row["image"])
    notes = " ".join(open_table(tmp_path, write(tmp_path / "a.csv", rows)).notes)
    assert "Only 2 pictures are 'rare' against 48 'usual'" in notes


def test_rows_without_file_or_label_are_left_out_counted_and_listed(ham_folder):
    rows = ham()
    rows[4]["dx"], rows[5]["dx"] = "", "wart"
    rows.append({**rows[0], "image_id": "ISIC_gone"})
    table = open_table(ham_folder, write(ham_folder / "other.csv", rows), labels=HAM10000_CLASSES)
    assert table.missing == ("ISIC_gone",) and len(table.images) == 10
    notes = " ".join(table.notes)
    assert "1 of 11 rows has no file" in notes
    assert "2 rows without a known label were left out" in notes and "'wart' (1)" in notes
    assert "2 pictures in the folder have no row" in notes


@pytest.mark.parametrize(
    ("encoding", "delimiter"), [("utf-8-sig", ","), ("utf-16", "\t"), ("cp1252", ";"), ("utf-8", ";")]
)
def test_encodings_and_separators_are_recognised(tmp_path, encoding, delimiter):
    rows = [{"image": f"{n}.png", "label": ("nævus", "mélanome")[n % 2], "sex": "f"} for n in range(6)]
    for row in rows:
        picture(tmp_path / row["image"])
    table = open_table(tmp_path, write(tmp_path / "meta.csv", rows, encoding, delimiter))
    assert table.images.columns["label"] == ["nævus", "mélanome"] * 3


def test_ages_that_are_no_numbers_count_as_unknown(ham_folder):
    rows = ham()
    for row, age in zip(rows, ("85+", "unknown", "", "-3", "40", "1e9"), strict=False):
        row["age"] = age
    table = open_table(
        ham_folder, write(ham_folder / "other.csv", rows), labels=HAM10000_CLASSES, group="age"
    )
    assert [math.isnan(age) for age in table.ages[:6]] == [True, True, True, True, False, True]
    assert table.images.columns["group"][4] == "30 to 49" and table.images.columns["group"][0] is None
    assert any("3 ages are no numbers" in note for note in table.notes)
    assert any("5 pictures have no group" in note for note in table.notes)


def test_a_group_without_one_of_the_classes_is_noted(ham_folder):
    rows = ham()
    for row in rows:
        row["sex"] = "other" if row["dx"] == "nv" else "male"
    table = open_table(ham_folder, write(ham_folder / "other.csv", rows), labels=HAM10000_CLASSES)
    notes = " ".join(table.grouped_by("sex").notes)
    assert "No picture of the group 'other' is 'malignant'" in notes
    with pytest.raises(DataError, match="empty everywhere"):
        table.grouped_by([None] * len(table.images))
    with pytest.raises(DataError, match=r"one name per picture \(12\); got 3"):
        table.grouped_by(["a", "b", "c"])


def test_a_split_that_leaks_a_lesion_is_refused_by_name(ham_folder):
    rows = [{**row, "fold": "test" if n % 2 else "train"} for n, row in enumerate(ham())]
    file = write(ham_folder / "other.csv", rows)
    with pytest.raises(DataError, match=r"6 pictures .* first 'ISIC_0000000' and 'ISIC_0000001'"):
        open_table(ham_folder, file, labels=HAM10000_CLASSES, split="fold")
    rows = [{**row, "fold": "test" if n >= 6 else "train"} for n, row in enumerate(ham())]
    table = open_table(ham_folder, write(file, rows), labels=HAM10000_CLASSES, split="fold")
    assert table.images.columns["split"] == ["train"] * 6 + ["holdout"] * 6


def test_what_cannot_be_read_says_what_to_do(ham_folder, tmp_path_factory):
    one = write(ham_folder / "one.csv", [row for row in ham() if row["dx"] == "mel"])
    with pytest.raises(DataError, match="one class"):
        open_table(ham_folder, one)
    with pytest.raises(DataError, match="no column 'diagnosis' for the labels; it has"):
        open_table(ham_folder, one, label="diagnosis")
    with pytest.raises(DataError, match="No row .* has a label that is known"):
        open_table(ham_folder, one, labels={"x": "y"})
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match=r"There is no \.csv"):
        open_table(empty)
    with pytest.raises(DataError, match="None of the 12 pictures"):
        open_table(empty, ham_folder / "HAM10000_metadata.csv")
    (empty / "a.csv").write_bytes(b"\x00\x01\x02")
    with pytest.raises(DataError, match="not text"):
        open_table(empty)
    (empty / "a.csv").write_text("image,label\n1.png,a,b\n")
    with pytest.raises(DataError, match="Row 2 .* has 3 cells, its header 2"):
        open_table(empty)
    (empty / "a.csv").write_text("image,label\n1.png,a\n1.png,b\n")
    with pytest.raises(DataError, match="both 'a' and 'b'"):
        open_table(empty)
    (empty / "b.csv").write_text("")
    with pytest.raises(DataError, match="is ambiguous"):
        open_table(empty)


def test_two_different_files_of_one_name_are_refused_and_copies_are_not(ham_folder):
    for part in (1, 2):
        picture(ham_folder / f"HAM10000_images_part_{part}" / "ISIC_0000000.jpg")
    assert open_table(ham_folder, labels=HAM10000_CLASSES).images.ids[0] == "ISIC_0000000"
    picture(ham_folder / "HAM10000_images_part_2" / "ISIC_0000000.jpg", size=40)
    with pytest.raises(DataError, match="2 different files"):
        open_table(ham_folder, labels=HAM10000_CLASSES)


def test_a_name_that_leads_out_of_the_folder_finds_nothing(ham_folder):
    picture(ham_folder.parent / "outside.png")
    rows = ham()
    rows[0]["image_id"] = "../outside.png"
    table = open_table(ham_folder, write(ham_folder / "other.csv", rows), labels=HAM10000_CLASSES)
    assert table.missing == ("../outside.png",)
