"""Text tables: every dialect and encoding gives the same rows, or an error with the cause."""

import csv
import io
import itertools

import pytest

from clipattr.errors import DataError
from clipattr.images.delimited import parse_table, read_table, sniff

ROWS = [["1.png", "café; crème", "train"], ["2.png", 'a "b", c', "test"], ["3.png", "", ""]]
HEADER = ["path", "label", "split"]


def written(delimiter, ending="\n", header=HEADER, rows=ROWS):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=ending).writerows([header, *rows])
    return text.getvalue()


@pytest.mark.parametrize(
    ("delimiter", "encoding"),
    [
        *itertools.product(",;\t|", ["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
        (",", "utf-32"),
        (";", "utf-16-be"),
    ],
)
def test_every_separator_and_encoding_gives_the_same_table(tmp_path, delimiter, encoding):
    file = tmp_path / "t.csv"
    file.write_bytes(written(delimiter).encode(encoding))
    table = read_table(file)
    assert (table.header, table.rows) == (HEADER, ROWS)
    assert ["western" in note for note in table.notes] == [True] * (encoding == "cp1252")


@pytest.mark.parametrize("ending", ["\r\n", "\r", "\n"])
@pytest.mark.parametrize(
    "header", [[" path", "label ", "split"], ["\ufeffPath", "LABEL", "Split"], ['"path"', "label", "split"]]
)
def test_line_endings_and_headers_of_other_systems(ending, header):
    table = parse_table(written(",", ending, header), "t.csv")
    assert table.names == HEADER and table.column("Label ") == [row[1] for row in ROWS]


def test_excels_line_about_its_separator_is_no_row():
    assert parse_table("sep=;\npath;label\na.png;x, y\n", "t").rows == [["a.png", "x, y"]]


def test_short_rows_are_noted_and_long_ones_refused():
    table = parse_table("path,label,split\na.png,x\nb.png\n", "t.csv")
    assert table.rows == [["a.png", "x", ""], ["b.png", "", ""]] and "rows 2, 3" in table.notes[0]
    with pytest.raises(DataError, match="Row 2 .* has 3 cells, its header 2"):
        parse_table("path,label\na.png,x,y\n", "t.csv")
    assert parse_table("path,label,\na.png,x,\n", "t.csv").header == ["path", "label"]


@pytest.mark.parametrize("header", ["path,Path", "label, label", "a-b,a_b"])
def test_two_columns_of_one_name_are_refused(header):
    with pytest.raises(DataError, match="names a column twice"):
        parse_table(f"{header}\n1,2\n", "t.csv")


@pytest.mark.parametrize("text", ["", "path\n", "\n\n"])
def test_no_rows_is_an_error(text):
    with pytest.raises(DataError, match="no rows below its header"):
        parse_table(text, "t.csv")


def test_bytes_that_are_no_text_and_unknown_encodings_are_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\x00\x01\x02\x03")
    with pytest.raises(DataError, match="not text"):
        read_table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes("path\nä\n".encode())
    with pytest.raises(DataError, match="is not an encoding"):
        read_table(tmp_path / "t.csv", "klingon")


def test_a_decimal_comma_does_not_win_over_semicolons():
    assert sniff("path;score\na.png;0,5\nb.png;0,7\n") == ";"


def test_a_cell_may_be_long_and_hold_lines():
    text = 'path,label\na.png,"' + "x" * 300_000 + '\ny"\n'
    assert len(parse_table(text, "t").rows[0][1]) == 300_002


def test_a_quote_that_is_never_closed_is_refused_and_one_closed_late_is_noted():
    with pytest.raises(DataError, match="never closed, in row 2: 'nail'"):
        parse_table('path,label\na.png,"nail\nb.png,cat\n', "t.csv")
    table = parse_table('path,label\na.png,"nail\nb.png,x"\nc.png,cat\n', "t.csv")
    assert len(table.rows) == 2 and "several lines, first row 2" in table.notes[0]


@pytest.mark.parametrize("above", ["# exported by a tool\n", "#one\n# two\n"])
def test_lines_of_comment_above_the_header_are_left_out(above):
    table = parse_table(above + "path;label\na.png;cat\n", "t.csv")
    assert table.header == ["path", "label"] and "left out as a comment" in table.notes[0]
    assert parse_table("#path;label\na.png;cat\n", "t.csv").header == ["#path", "label"]


def test_a_pointer_in_place_of_a_table_is_no_table(tmp_path):
    (tmp_path / "t.csv").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12\n")
    with pytest.raises(DataError, match="git lfs pull"):
        read_table(tmp_path / "t.csv")
