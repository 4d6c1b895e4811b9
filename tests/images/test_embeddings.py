"""Vectors as a source: every file they come in gives the same rows, and what is wrong with them is named."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

import clipattr as ca
from clipattr import DataError
from clipattr.images.vectors import open_vectors

ROWS = np.random.default_rng(0).standard_normal((10, 6)).astype(np.float32)
IDS = [f"row-{number}" for number in range(10)]


def parquet(path, rows=ROWS, group=4, **columns):
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    table = pa.table({"vector": list(rows), **columns})
    write_table(table, path, row_group_size=group)
    return path


def clip_retrieval(folder, ids=IDS):
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    for number, some in enumerate((slice(0, 7), slice(7, 10))):
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", ROWS[some])
        parquet(folder / "metadata" / f"metadata_{number}.parquet", ROWS[some], key=ids[some])
    return folder


@pytest.mark.parametrize(
    "kind", ("array", "tensor", "npy", "npz", "safetensors", "parquet", "clip-retrieval")
)
def test_every_form_gives_the_same_rows(kind, tmp_path):
    if kind == "array":
        source = ROWS
    elif kind == "tensor":
        source = torch.from_numpy(ROWS)
    elif kind == "npy":
        np.save(source := tmp_path / "e.npy", ROWS)
    elif kind == "npz":
        np.savez(source := tmp_path / "e.npz", embeddings=ROWS, id=np.array(IDS))
    elif kind == "safetensors":
        save_file({"embeddings": ROWS}, source := tmp_path / "e.safetensors")
    elif kind == "parquet":
        source = parquet(tmp_path / "e.parquet", id=IDS)
    else:
        source = clip_retrieval(tmp_path / "laion")
    rows = ca.Embeddings(source)
    assert len(rows) == 10 and rows.width == 6
    np.testing.assert_array_equal(rows.read(0, 10), ROWS)
    np.testing.assert_array_equal(rows.read(5, 9), ROWS[5:9])  # across files and row groups
    if kind in ("npz", "parquet", "clip-retrieval"):
        assert rows.images.ids == IDS
    joined = np.concatenate([block for _, block in rows.blocks(3)])
    np.testing.assert_array_equal(joined, ROWS)


def test_a_file_of_numbers_stays_on_disk(tmp_path):
    np.save(tmp_path / "e.npy", ROWS)
    assert isinstance(open_vectors(tmp_path / "e.npy").array, np.memmap)


def test_ids_paths_and_labels_are_columns_or_given(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    file = parquet(tmp_path / "e.parquet", image_path=["a.png"] + [None] * 9, label=["x", ""] * 5, n=IDS)
    rows = ca.Embeddings(file, ids="n")
    assert rows.images.ids == IDS and rows.images.columns["label"][:2] == ["x", None]
    assert rows.images[0].load().size == (4, 4) and rows.images[1].path is None
    plain = ca.Embeddings(ROWS, labels=list("ab") * 5, splits=["holdout"] + [None] * 9)
    assert plain.images.ids[3] == "03" and plain.images[0].split == "holdout"
    with pytest.raises(ca.DataError, match="10 rows of vectors need as many ids; got 9"):
        ca.Embeddings(ROWS, ids=IDS[:9])
    with pytest.raises(ca.DataError, match="names more than one picture"):
        ca.Embeddings(ROWS, ids=["same"] * 10)
    with pytest.raises(ca.DataError, match="ids='nothing' is not a column of the file; it has the columns"):
        ca.Embeddings(file, ids="nothing")


def test_the_state_of_vectors_is_told():
    unit = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
    assert ca.Embeddings(unit).is_normalised and ca.Embeddings(unit.astype(np.float16)).is_normalised
    assert not ca.Embeddings(ROWS).is_normalised and "lengths" in ca.Embeddings(ROWS).state
    whole = np.clip(np.round(unit * 127), -127, 127).astype(np.int8)
    assert "quantised to int8" in ca.Embeddings(whole).state
    cosines = (ca.Embeddings(whole).read(0, 10) * unit).sum(1) / np.linalg.norm(whole / 127, axis=1)
    assert cosines.min() > 0.999
    shifted = ca.Embeddings((whole.astype(np.int16) + 128).astype(np.uint8), zero_point=128)
    np.testing.assert_array_equal(shifted.read(0, 10), ca.Embeddings(whole).read(0, 10))


def changed(row, value):
    rows = ROWS.copy()
    rows[row] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "told"),
    (
        (changed(7, np.nan), "Row 7 of the embeddings .'7'. holds NaN or infinity; 1 of the rows"),
        (changed(3, 0.0), "Row 3 of the embeddings .'3'. is zero everywhere"),
    ),
)
def test_rows_that_are_no_embeddings_are_named(rows, told):
    with pytest.raises(DataError, match=told):
        list(ca.Embeddings(rows, ids=[str(number) for number in range(10)]).blocks())


@pytest.mark.parametrize(
    ("source", "told"),
    (
        (np.zeros(6), r"shape \(rows, width\); got \(6,\)"),
        (np.zeros((0, 6)), "have no rows"),
        (np.zeros((2, 6), np.uint8), "zero_point="),
        (np.array([["a", "b"]]), "Embeddings must be numbers"),
        ("nowhere.npy", "There are no embeddings at"),
        (7, "got int"),
    ),
)
def test_what_holds_no_embeddings_is_refused(source, told):
    with pytest.raises(DataError, match=told):
        ca.Embeddings(source)


def test_files_that_hold_no_embeddings_are_refused(tmp_path):
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY broken")
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=ROWS, b=ROWS)
    (tmp_path / "cut.safetensors").write_bytes(b"12345")
    (tmp_path / "notes.txt").write_text("hello")
    cases = {"cut.npy": "not a readable array", "objects.npy": "not a readable array", "two.npz": "key=NAME",
             "cut.safetensors": "not a readable safetensors", "notes.txt": "embeddings are"}  # fmt: skip
    for name, told in cases.items():
        with pytest.raises(DataError, match=told):
            ca.Embeddings(tmp_path / name)
    np.testing.assert_array_equal(ca.Embeddings(tmp_path / "two.npz", key="b").read(0, 10), ROWS)
    with pytest.raises(DataError, match="not a folder of clip-retrieval"):
        ca.Embeddings(tmp_path)


def test_metadata_out_of_step_is_refused(tmp_path):
    folder = clip_retrieval(tmp_path / "laion")
    parquet(folder / "metadata" / "metadata_1.parquet", ROWS[:2], key=["a", "b"])
    with pytest.raises(DataError, match="has 2 rows, its vectors 3: they are out of step"):
        ca.Embeddings(folder)


def test_rows_of_different_lengths_are_refused(tmp_path):
    with pytest.raises(DataError, match="different lengths"):
        ca.Embeddings(parquet(tmp_path / "e.parquet", [[1.0, 2.0], [1.0], [3.0]]))


def test_other_vectors_have_another_fingerprint():
    one = ca.Embeddings(ROWS).fingerprint
    assert one == ca.Embeddings(ROWS.copy()).fingerprint
    assert one != ca.Embeddings(changed(9, 1.0)).fingerprint != ca.Embeddings(ROWS, ids=IDS).fingerprint
