"""Collections: the same pictures in the same order from any kind of source."""

import io
import json
import tarfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipattr.errors import DataError
from clipattr.images.collection import Images, hold_out
from clipattr.images.decoding import PictureError


def save(path, colour=(10, 20, 30), size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
    for name in ("cat/a.png", "dog/a.png", "dog/b b.PNG", "dog/ü<b>.jpg"):
        save(tmp_path / name)
    (tmp_path / "readme.txt").write_text("not a picture")
    return tmp_path


def test_a_nested_folder_is_read_in_the_order_of_names_and_labelled_by_folder(folder):
    images = Images.open(folder)
    assert images.ids == ["cat/a.png", "dog/a.png", "dog/b b.PNG", "dog/ü<b>.jpg"]
    assert images.columns["label"] == ["cat", "dog", "dog", "dog"]
    assert images["dog/a.png"].load().size == (8, 6)
    assert "1 file that is not a picture was left out" in images.notes[0]


def test_a_flat_folder_has_no_labels(tmp_path):
    save(tmp_path / "x.png")
    assert Images.open(str(tmp_path))[0].label is None


def test_missing_empty_and_unreadable_folders_are_three_different_errors(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        Images.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match="No pictures in the folder"):
        Images.open(tmp_path)
    (tmp_path / "a.jpg").write_text("text")
    with pytest.raises(DataError, match=r"None of the 1 pictures .* can be read.*a\.jpg: not a picture"):
        Images.open(tmp_path)


def test_broken_pictures_are_skipped_counted_and_listed(folder):
    (folder / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (folder / "dog" / "zero.png").touch()
    images = Images.open(folder)
    read = [place for place, value in images.stream(lambda p: p.size, workers=2) if value == (8, 6)]
    assert read == [0, 2, 3, 5]
    assert [name for name, _ in images.skipped] == ["cat/broken.jpg", "dog/zero.png"]
    assert "0 bytes" in dict(images.skipped)["dog/zero.png"]


def test_a_stream_keeps_order_and_never_runs_far_ahead(tmp_path):
    items = [np.full((2, 2, 3), value, dtype=np.uint8) for value in range(50)]
    images, prepared = Images.open(items), []

    def prepare(picture):
        prepared.append(1)
        return int(np.asarray(picture)[0, 0, 0])

    for count, (place, value) in enumerate(images.stream(prepare, workers=3, ahead=5), 1):
        assert place == value == count - 1
        assert len(prepared) <= count + 5


def test_a_table_gives_labels_groups_and_splits(folder):
    table = pd.DataFrame(
        {
            "path": ["cat/a.png", "dog/a.png"],
            "label": ["cat", None],
            "group": [1, 2],
            "split": ["train", "holdout"],
        }
    )
    images = Images.open(table, root=folder)
    assert [r.label for r in images] == ["cat", None]
    assert [r.group for r in images] == ["1", "2"]
    table.to_csv(folder / "table.csv", index=False)
    from_file = Images.open(folder / "table.csv")
    assert from_file.fingerprint == images.fingerprint
    assert images.frame.split.tolist() == ["train", "holdout"]
    with pytest.raises(DataError, match="column 'path'"):
        Images.open(pd.DataFrame({"thing": ["a"]}))
    with pytest.raises(DataError, match="1 row has no path, first row 1"):
        Images.open(pd.DataFrame({"path": ["cat/a.png", None]}), root=folder)


def test_the_same_path_twice_is_refused(folder):
    with pytest.raises(DataError, match="names more than one picture"):
        Images.open([folder / "cat/a.png", folder / "cat/a.png"])


def test_pictures_in_memory_and_arrays_are_a_collection():
    items = [Image.new("RGB", (4, 4), "red"), np.zeros((4, 4, 3), dtype=np.uint8)]
    assert len(Images.open(items)) == 2
    assert Images.open(np.zeros((3, 4, 4, 3), dtype=np.uint8))[2].id == "picture-000002"
    with pytest.raises(DataError, match="either paths or pictures"):
        Images.open([items[0], "a.png"])
    with pytest.raises(DataError, match="Cannot read pictures from a int"):
        Images.open(7)


def test_a_fingerprint_changes_with_names_labels_and_sizes(folder):
    first = Images.open(folder).fingerprint
    assert Images.open(folder).fingerprint == first
    save(folder / "cat" / "a.png", size=(300, 200))
    assert Images.open(folder).fingerprint != first
    one = Images.open([np.zeros((4, 4, 3), dtype=np.uint8)])
    other = Images.open([np.ones((4, 4, 3), dtype=np.uint8)])
    assert one.fingerprint != other.fingerprint


def test_a_selection_keeps_ids_and_finds_its_own_places(folder):
    images = Images.open(folder)
    dogs = images.select(np.array([label == "dog" for label in images.columns["label"]]))
    assert dogs.ids == images.ids[1:] and dogs[0].index == 0 and dogs[0].path == images[1].path
    assert images[2:].ids == images.ids[2:] and images[-1].id == images.ids[-1]
    with pytest.raises(IndexError):
        images[4]
    with pytest.raises(DataError, match="No picture with the id 'x'"):
        images["x"]


def test_tar_shards_are_read_in_place_with_their_labels(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (5, 5), "blue").save(buffer, "PNG")
    for shard in range(2):
        with tarfile.open(tmp_path / f"shard-{shard}.tar", "w") as tar:
            for name, data in (("s0.png", buffer.getvalue()), ("s0.cls", b"7"), ("s1.png", b"broken")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    images = Images.open(sorted(str(p) for p in tmp_path.glob("*.tar")))
    assert images.ids == ["shard-0/s0.png", "shard-0/s1.png", "shard-1/s0.png", "shard-1/s1.png"]
    assert images[2].label == "7" and np.asarray(images[2].load())[0, 0].tolist() == [0, 0, 255]
    with pytest.raises(PictureError):
        images[1].load()


def test_a_torchvision_data_set_gives_pictures_and_class_names():
    class Fake:
        classes, targets = ["cat", "dog"], [1, 0]

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return Image.new("RGB", (3, 3)), self.targets[index]

    images = Images.open(Fake())
    assert images.columns["label"] == ["dog", "cat"] and images[0].load().size == (3, 3)


def test_a_hugging_face_data_set_is_understood_by_its_features():
    class ClassLabel:
        names = ["cat", "dog"]

    class Image_:
        pass

    Image_.__name__ = "Image"

    class Fake:
        features = {"photo": Image_(), "kind": ClassLabel()}
        rows = [{"photo": Image.new("RGB", (3, 4)), "kind": 1}]

        def __len__(self):
            return 1

        def __getitem__(self, key):
            return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]

    images = Images.open(Fake())
    assert images[0].label == "dog" and images[0].load().size == (3, 4)


def test_scenes_are_rendered_when_asked_for(tmp_path):
    pytest.importorskip("clipattr_data.scene")
    line = {"id": "s", "label": "dog", "split": "holdout", "scene": {"main": "dog", "seed": 3}}
    (tmp_path / "scenes.jsonl").write_text(json.dumps(line) + "\n\n")
    images = Images.open(f"scenes:{tmp_path / 'scenes.jsonl'}")
    assert images[0].load().size == (64, 64)
    assert np.array_equal(images[0].scene.render(), np.asarray(images[0].load()))
    assert images[0].split == "holdout"
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="line 1 is not a scene"):
        Images.open(tmp_path / "bad.jsonl")


def test_batches_leave_broken_pictures_out_and_decode_once_for_equal_preprocessing(tiny_model):
    good = np.full((40, 40, 3), 200, dtype=np.uint8)
    items = [good, np.zeros((1, 900, 3), dtype=np.uint8), good, good]
    images = Images.open(items)
    batches = list(images.batches([tiny_model, tiny_model], batch=2))
    assert [places.tolist() for places, _ in batches] == [[0, 2], [3]]
    places, (first, second) = batches[0]
    assert first.shape == (2, 3, 32, 32) and (first == second).all()
    assert (first[0] == tiny_model.prepare(Image.fromarray(good))).all()
    assert [name for name, _ in images.skipped] == ["picture-000001"]


def test_holding_out_is_a_matter_of_seed_and_not_of_order():
    images = Images.open([np.full((2, 2, 3), v, dtype=np.uint8) for v in range(20)])
    held = {r.id for r in hold_out(images, 0.25, seed=1) if r.split == "holdout"}
    turned = {r.id for r in hold_out(images[::-1], 0.25, seed=1) if r.split == "holdout"}
    assert held == turned and len(held) == 5
    with pytest.raises(DataError, match="between 0 and 1"):
        hold_out(images, 1.0)


def test_fifty_broken_files_among_ten_thousand_are_skipped_counted_and_listed():
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    items = [buffer.getvalue()] * 10_000
    broken = list(range(7, 10_000, 200))
    for number, index in enumerate(broken):
        items[index] = (b"", b"text", buffer.getvalue()[:30])[number % 3]
    images = Images.open(items)
    good = sum(value == (2, 2) for _, value in images.stream(lambda picture: picture.size))
    assert good == 9_950
    assert [name for name, _ in images.skipped] == [f"picture-{index:06d}" for index in broken]
