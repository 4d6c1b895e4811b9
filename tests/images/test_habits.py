"""What people really have: folders, tables, shards and data sets, read as they meant them or with a word about it."""

import importlib.util
import io
import json
import os
import random
import sys
import tarfile
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from clipattr.errors import DataError
from clipattr.images.collection import Images
from clipattr.images.decoding import PictureError
from clipattr.images.embeddings import Embeddings
from clipattr.images.splits import split_name
from clipattr.images.tables import open_table

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
_spec = importlib.util.spec_from_file_location(
    "files_benchmark", Path(__file__).parents[2] / "benchmarks" / "files.py"
)
generated = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generated)


def save(path, grey=9, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), (grey,) * 3).save(path, **options)
    return path


@pytest.mark.parametrize(
    "kind", [generated.table, generated.folder, generated.shard], ids=lambda kind: kind.__name__
)
@settings(max_examples=70, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_picture_has_its_label_and_split_or_a_note(kind, seed):
    with tempfile.TemporaryDirectory() as place:
        assert generated.losses(kind, random.Random(seed), Path(place)) == []


# folders


def test_links_are_followed_once_and_circles_cut(tmp_path):
    save(tmp_path / "disk" / "cat" / "1.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "disk" / "cat")
    (tmp_path / "set" / "again").symlink_to(tmp_path / "disk" / "cat")
    (tmp_path / "disk" / "cat" / "up").symlink_to(tmp_path / "set")
    images = Images.open(tmp_path / "set")
    assert len(images) == 1 and "links to folders" in " ".join(images.notes)


@pytest.mark.parametrize(
    ("places", "labels", "splits"),
    [
        (["train/cat/1", "test/dog/1"], ["dog", "cat"], ["holdout", "train"]),
        (["images/train/1", "images/val/1"], [None, None], ["train", "holdout"]),
        (["cat/train/1", "dog/test/1"], ["cat", "dog"], ["train", "holdout"]),
        (["TRAIN/1", "Valid/1"], [None, None], ["train", "holdout"]),
        (["train2017/1", "val2017/1"], [None, None], ["train", "holdout"]),
        (["train/1", "bus/1"], ["bus", "train"], [None, None]),
        (["train/1", "test/1", "unlabeled/1"], [None] * 3, ["holdout", "train", "unlabeled"]),
        (["test/cat/1", "test/dog/1"], ["cat", "dog"], [None, None]),
    ],
)
def test_folders_named_after_splits_are_splits(tmp_path, places, labels, splits):
    for place in places:
        save(tmp_path / f"{place}.png")
    images = Images.open(tmp_path)
    assert (images.columns["label"], images.columns["split"]) == (labels, splits)
    assert bool(images.notes) == (set(splits) != {None} or "test/cat/1" in places)


@pytest.mark.parametrize(
    "name", ["cat", "vault", "trainer", "testament", "developer", "evening", "bus", "values"]
)
def test_classes_whose_names_begin_like_splits_are_classes(name):
    assert split_name(name) is None


@pytest.mark.parametrize("ending", [".heic", ".HEIF", ".cr2", ".jxl", ".psd", ".tga", ".svg"])
def test_pictures_in_other_formats_are_named(tmp_path, ending):
    (tmp_path / f"a{ending}").write_bytes(b"x")
    with pytest.raises(DataError, match=f"(?i)formats that are not read.*{ending}"):
        Images.open(tmp_path)
    save(tmp_path / "a.png")
    assert ending.lower() in " ".join(Images.open(tmp_path).notes)


def test_hidden_files_tables_and_strangers_are_noted_and_companions_are_not(tmp_path):
    save(tmp_path / "a.png"), save(tmp_path / ".b.png"), save(tmp_path / ".cache" / "c.png")
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "__MACOSX/._a.png", "@eaDir/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "labels.csv").write_text("path,label\na.png,cat\n")
    images = Images.open(tmp_path)
    assert images.ids == ["a.png"]
    told = " ".join(images.notes)
    assert (
        "2 hidden pictures" in told
        and "labels.csv" in told
        and "1 file that is not a picture was left out" in told
    )


@pytest.mark.parametrize("way", ["metadata.csv", "metadata.jsonl", "train/metadata.csv"])
def test_a_folders_own_metadata_gives_labels(tmp_path, way):
    top = tmp_path / "set"
    inside = (top / way).parent
    save(inside / "a.png"), save(inside / "b.png")
    rows = [{"file_name": "a.png", "label": "cat"}, {"file_name": "gone.png", "label": "dog"}]
    if way.endswith("csv"):
        pd.DataFrame(rows).to_csv(top / way, index=False)
    else:
        (top / way).write_text("\n".join(map(json.dumps, rows)))
    images = Images.open(top)
    assert images.columns["label"] == ["cat", None]
    told = " ".join(images.notes)
    assert "gone.png" in told and "b.png" in told


# tables


@pytest.mark.parametrize(
    "written",
    [
        "sub/Bild é.png",
        "./sub/Bild é.png",
        "sub\\Bild é.png",
        "SUB/BILD É.PNG",
        "sub/Bild é",
        "Bild é.png",
        " sub/Bild é.png",
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_both_readers_of_tables_find_files_however_they_are_spelled(tmp_path, written, form):
    for number, name in enumerate(("Bild é", "b", "c", "d")):
        save(tmp_path / "sub" / f"{unicodedata.normalize(form, name)}.png", grey=number * 20)
    rows = [(written, "x"), ("sub/b.png", "y"), ("sub/c.png", "x"), ("sub/d.png", "y")]
    (tmp_path / "t.csv").write_text(
        "Image;Label\n" + "".join(f"{a};{b}\n" for a, b in rows), encoding="utf-8"
    )
    images, table = Images.open(tmp_path / "t.csv"), open_table(tmp_path)
    assert images.columns["label"] == table.images.columns["label"] == ["x", "y", "x", "y"]
    for one, other in zip(images, table.images, strict=True):
        assert one.load().tobytes() == other.load().tobytes()


@pytest.mark.parametrize("split", ["test", "Val", "validation", "HOLDOUT", "dev", "val2017", "test_set"])
def test_every_name_of_held_out_pictures_holds_out_in_both_readers(tmp_path, split):
    for number in range(8):
        save(tmp_path / f"{number}.png")
    rows = [f"{n}.png,{'ab'[n % 2]},{split if n < 4 else 'train'}" for n in range(8)]
    (tmp_path / "t.csv").write_text("path,label,split\n" + "\n".join(rows))
    expected = ["holdout"] * 4 + ["train"] * 4
    assert Images.open(tmp_path / "t.csv").columns["split"] == expected
    assert open_table(tmp_path, split="Split").images.columns["split"] == expected


def test_repeated_rows_are_left_out_and_contradictions_refused(tmp_path):
    save(tmp_path / "a.png"), save(tmp_path / "b.png")
    (tmp_path / "t.csv").write_text("path,label\na.png,x\nb.png,y\n./a.png,x\n")
    images = Images.open(tmp_path / "t.csv")
    assert images.ids == ["a.png", "b.png"] and "1 row of t.csv" in " ".join(images.notes)
    (tmp_path / "t.csv").write_text("path,label\na.png,x\na.png,y\n")
    with pytest.raises(DataError, match="both 'x' and 'y'"):
        Images.open(tmp_path / "t.csv")


def test_missing_files_and_unread_columns_are_noted(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("path,label,score\na.png,None,3\ngone.png,cat,4\n")
    told = " ".join(Images.open(tmp_path / "t.csv").notes)
    assert "1 of 2 rows name files that do not exist, first 'gone.png'" in told
    assert "['score']" in told and "'None' (1)" in told


def test_parquet_keeps_pictures_and_names_of_classes(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    data = save(tmp_path / "x.png").read_bytes()
    table = pa.table({"image": [{"bytes": data, "path": f"{n}.png"} for n in range(3)], "label": [1, 0, -1]})
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    parquet.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "t.parquet"
    )
    images = Images.open(tmp_path / "t.parquet")
    assert images.ids == ["0.png", "1.png", "2.png"] and images.columns["label"] == ["dog", "cat", None]
    assert images[0].load().size == (4, 3)


@pytest.mark.parametrize(
    "made",
    [
        lambda p: {"path": p, "label": ["a", "b"]},
        lambda p: pd.DataFrame({"Path": p, " Label": ["a", "b"]}),
        lambda p: list(zip(p, ["a", "b"], strict=True)),
        lambda p: [{"file_name": path, "label": label} for path, label in zip(p, ["a", "b"], strict=True)],
        lambda p: {"a": p[:1], "b": p[1:]},
        lambda p: {"image": [Image.open(path) for path in p], "label": ["a", "b"]},
    ],
)
def test_tables_in_memory_of_every_form(tmp_path, made):
    paths = [str(save(tmp_path / f"{n}.png")) for n in range(2)]
    assert Images.open(made(paths)).columns["label"] == ["a", "b"]


# data sets


class Data:
    def __init__(self, targets, n=None, **more):
        self.targets, self.n = targets, len(targets) if n is None else n
        self.__dict__.update(more)

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if index >= self.n:
            raise IndexError(index)
        return Image.new("RGB", (3, 3), (index,) * 3), 0


def test_targets_of_every_form_are_labels_or_a_note():
    assert Images.open(Data([0, -1, 1], classes=["a", "b"])).columns["label"] == ["a", None, "b"]
    assert Images.open(Data(torch.tensor([[1], [0]]), classes=["a", "b"])).columns["label"] == ["b", "a"]
    for targets in (np.eye(3), [{"box": 1}] * 3, [[1, 2]] * 3, torch.zeros(3, 4)):
        images = Images.open(Data(targets))
        assert images.columns["label"] == [None] * 3 and "no labels" in images.notes[0]
    assert "3 samples and 2 targets" in Images.open(Data([0, 1], n=3)).notes[0]


def test_subsets_and_joined_data_sets_keep_their_labels():
    from torch.utils.data import ConcatDataset, Subset

    one, two = Data([0, 1], classes=["a", "b"]), Data([0, 1], classes=["c", "d"])
    assert Images.open(Subset(one, [1])).columns["label"] == ["b"]
    assert Images.open(ConcatDataset([one, Subset(two, [1, 0])])).columns["label"] == ["a", "b", "d", "c"]


def test_splits_by_name_are_one_collection():
    images = Images.open({"train": Data([0, 1], classes=["a", "b"]), "test": Data([1], classes=["a", "b"])})
    assert images.ids == ["train/0000000", "train/0000001", "test/0000000"]
    assert images.columns["split"] == ["train", "train", "holdout"]
    assert images.columns["label"] == ["a", "b", "b"] and images[2].load().getpixel((0, 0)) == (0, 0, 0)


def test_streams_are_refused_with_what_to_do():
    with pytest.raises(DataError, match="streams its pictures"):
        Images.open(Image.new("RGB", (2, 2)) for _ in range(3))


def test_another_data_set_of_the_same_length_has_another_fingerprint():
    class Other(Data):
        def __getitem__(self, index):
            return Image.new("RGB", (3, 3), (index + 1,) * 3), 0

    one, other = Images.open(Data([0] * 50)), Images.open(Other([0] * 50))
    assert one.fingerprint != other.fingerprint and one.signature(0) != other.signature(0)
    assert one.fingerprint == Images.open(Data([0] * 50)).fingerprint
    assert one.content_hash() != other.content_hash()


def test_a_file_replaced_by_another_of_its_size_is_seen_and_a_copy_is_not(tmp_path):
    for side in (16, 400):  # read whole, and sampled
        noise = [np.random.default_rng(n).integers(0, 255, (side, side, 3), dtype=np.uint8) for n in range(2)]
        Image.fromarray(noise[0]).save(tmp_path / "a.bmp")
        before, time = Images.open(tmp_path / "a.bmp").fingerprint, (tmp_path / "a.bmp").stat().st_mtime_ns
        import os

        os.utime(tmp_path / "a.bmp", ns=(time, time + 10**9))
        assert Images.open(tmp_path / "a.bmp").fingerprint == before
        Image.fromarray(noise[1]).save(tmp_path / "a.bmp")
        os.utime(tmp_path / "a.bmp", ns=(time, time))
        assert Images.open(tmp_path / "a.bmp").fingerprint != before


# shards


def shard(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return str(path)


def test_dotted_names_companions_and_upper_case_in_shards(tmp_path):
    data = generated.PICTURE
    file = shard(
        tmp_path / "s.tar",
        [("1.jpg", data), ("1.seg.png", data), ("1.CLS", b"cat"), ("img.7.png", data), ("img.7.cls", b"dog"),
         ("img.8.png", data), ("._1.jpg", b"x"), ("notes.xml", b"x")],
    )  # fmt: skip
    images = Images.open(file)
    assert dict(zip(images.ids, images.columns["label"], strict=True)) == {
        "1.jpg": "cat",
        "img.7.png": "dog",
        "img.8.png": None,
    }
    assert ".seg.png" in " ".join(images.notes).replace("'seg.png'", ".seg.png") and "xml" in " ".join(
        images.notes
    )


def test_shards_of_one_name_are_distinguished_and_named_by_braces(tmp_path):
    for side in ("train", "val"):
        for number in range(2):
            shard(tmp_path / side / f"{number:03d}.tar", [("a.png", generated.PICTURE), ("a.cls", b"-1")])
    both = Images.open([str(tmp_path / side / "000.tar") for side in ("train", "val")])
    assert both.ids == ["train/000/a.png", "val/000/a.png"] and both.columns["split"] == ["train", "holdout"]
    assert both.columns["label"] == [None, None]
    assert len(Images.open(str(tmp_path / "train" / "{000..001}.tar"))) == 2
    assert len(Images.open(str(tmp_path / "*" / "000.tar"))) == 2
    assert len(Images.open(tmp_path)) == 4
    with pytest.raises(DataError, match="1 of the 3 shards"):
        Images.open(str(tmp_path / "train" / "{000..002}.tar"))
    with pytest.raises(DataError, match="given twice"):
        Images.open([str(tmp_path / "train" / "000.tar")] * 2)


# pictures


def test_text_and_profiles_in_a_png_cost_no_picture(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 1_500_000, zip=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.png", pnginfo=text, exif=exif)
    save(tmp_path / "b.png", icc_profile=bytes(1_500_000))
    sizes = [record.load().size for record in Images.open(tmp_path)]
    assert sizes == [(3, 4), (4, 3)]


def test_a_picture_prepares_alike_by_path_and_in_a_collection(tmp_path, tiny_model):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(np.dstack([noise, noise[:, :, 0]])).save(tmp_path / "clear.png")
    Image.fromarray(noise[:, :, 0].astype(np.uint16) * 200).save(tmp_path / "deep.png")
    Image.fromarray(noise).convert("CMYK").save(tmp_path / "press.jpg")
    Image.fromarray(noise).convert("P").save(tmp_path / "palette.gif")
    for record in Images.open(tmp_path):
        given = [record.path, Path(record.path), Image.open(record.path)]
        for source in given:
            assert torch.equal(tiny_model.prepare(source), tiny_model.prepare(record.load())), record.id


def test_a_jpeg_beyond_the_limit_is_read_smaller_in_both_ways(tmp_path, monkeypatch):
    from clipattr.images import decoding

    monkeypatch.setattr(decoding, "MAX_PIXELS", 5_000)
    Image.new("RGB", (100, 80)).save(tmp_path / "a.jpg")
    assert decoding.read_picture(tmp_path / "a.jpg").size == (50, 40)
    assert decoding.read_picture(tmp_path / "a.jpg", draft=20).size == (25, 20)


def test_one_picture_is_a_collection_in_every_form(tmp_path):
    path = save(tmp_path / "a.png")
    picture = Image.open(path)
    for form in (path, picture, np.asarray(picture), path.read_bytes()):
        assert Images.open(form)[0].load().tobytes() == picture.convert("RGB").tobytes()


@pytest.mark.parametrize("name", ["{0..9}.png", "[x].png", "100%.png", "a?.png", "#1.png"])
def test_names_with_signs_of_patterns_are_files_first(tmp_path, name):
    assert len(Images.open(save(tmp_path / name))) == 1


def test_a_name_that_is_no_utf8_is_shown_in_the_frame(tmp_path):
    save(tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    images = Images.open(tmp_path)
    assert images.frame["path"][0].endswith("\\xff.png") and images[0].load()


@pytest.mark.parametrize(
    ("name", "told"),
    [("list.txt", "not read as lists"), ("coco.json", "not read as lists"), ("t.csv.gz", "Unpack it")],
)
def test_lists_and_archives_are_not_called_broken_pictures(tmp_path, name, told):
    (tmp_path / name).write_text("a.png 0")
    with pytest.raises(DataError, match=told):
        Images.open(tmp_path / name)


def test_addresses_are_refused_as_such():
    for source in ("https://example.org/a.jpg", "s3://bucket/{00..03}.tar"):
        with pytest.raises(DataError, match="(?i)network"):
            Images.open(source)


def test_a_folder_in_a_table_is_called_a_folder(tmp_path):
    save(tmp_path / "a.png"), (tmp_path / "b").mkdir()
    (tmp_path / "t.csv").write_text("path\na.png\nb\n")
    images = Images.open(tmp_path / "t.csv")
    with pytest.raises(PictureError, match="^a folder, not a picture$"):
        images["b"].load()


def test_held_out_pictures_of_data_sets_and_vectors_are_held_out_as_in_tables():
    class Rows:
        features = {"image": None, "split": None}
        kept = {"image": [np.zeros((4, 4, 3), np.uint8)] * 3, "split": ["train", "test", "val2017"]}

        def __len__(self):
            return 3

        def __getitem__(self, key):
            return self.kept[key] if isinstance(key, str) else {name: v[key] for name, v in self.kept.items()}

    vectors = Embeddings(np.eye(3, dtype=np.float32), splits=Rows.kept["split"], labels=[1.0, None, pd.NA])
    for images in (Images.open(Rows()), vectors.images):
        assert images.columns["split"] == ["train", "holdout", "holdout"] and "held out" in images.notes[0]
    assert vectors.images.columns["label"] == ["1", None, None]


def test_a_shard_that_was_cut_short_or_is_compressed_is_called_so(tmp_path):
    import gzip

    for number in range(3):
        save(tmp_path / f"{number}.png")
    with tarfile.open(tmp_path / "whole.tar", "w") as tar:
        for number in range(3):
            tar.add(tmp_path / f"{number}.png", f"{number}.png")
    data = (tmp_path / "whole.tar").read_bytes()
    assert Images.open(tmp_path / "whole.tar").notes == []
    with tarfile.open(tmp_path / "whole.tar") as tar:
        second = tar.getmembers()[1].offset
    (tmp_path / "cut.tar").write_bytes(data[: second + 100])
    images = Images.open(tmp_path / "cut.tar")
    assert len(images) == 1 and "cut short" in images.notes[0]
    (tmp_path / "packed.tar").write_bytes(gzip.compress(data))
    with pytest.raises(DataError, match="compressed: unpack it first"):
        Images.open(tmp_path / "packed.tar")
