"""Files: no silent loss in generated tables, folders and shards, and the time that a table of many rows takes.

Each generated input has a truth: which picture has which label and split. A picture counts as lost in silence where it
is missing, or has another label or split, and neither a note nor an error says anything.

    python benchmarks/files.py [--quick] [--inputs 5000] [--rows 1000000]
"""

import argparse
import csv
import io
import json
import random
import tarfile
import tempfile
import time
import unicodedata
from collections import Counter
from pathlib import Path

import pandas as pd
from PIL import Image
from results import write_results

import clipattr as ca
from clipattr.errors import ClipattrError

LABELS = ("cat", "dog", "0", "1", "None", "nan", "False", "café", "naïve zebra", "a, b", "c;d", "-1", "")
SPLITS = {"train": "train", "Train": "Train", "test": "holdout", "Test": "holdout", "val": "holdout",
          "holdout": "holdout", "validation": "holdout", "": None}  # fmt: skip
HEADERS = {
    "path": ("path", "Path", " path", "PATH ", "file_name", "image", "Image Path", "\u200bpath"),
    "label": ("label", "Label", " label", "LABEL", "label "),
    "split": ("split", "Split", " split"),
}


def pixels() -> bytes:
    """The bytes of a PNG of 3 × 2 pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (9, 8, 7)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = pixels()


def table(draw: random.Random, top: Path):
    """(what to open, truth) of a table: a file in any dialect, or a frame."""
    count = draw.randint(2, 9)
    encoding = draw.choice(["utf-8", "utf-8-sig", "utf-16", "cp1252", "utf-16-le"])
    folder = draw.choice(["", "sub", "Sub dir"])
    truth, rows = {}, []
    for number in range(count):
        name = draw.choice(["p{}.png", "P{}.PNG", "bild-é{}.png", "my photo {}.png"]).format(number)
        if encoding == "utf-16-le" and not name.isascii():
            name = f"p{number}.png"
        on_disk = unicodedata.normalize(draw.choice(["NFC", "NFD"]), name)
        (top / folder).mkdir(exist_ok=True)
        (top / folder / on_disk).write_bytes(PICTURE)
        written = "/".join(part for part in (folder, name) if part)
        way = draw.choice(["as it is", "./", "backslash", "case", "no ending"])
        if way == "./":
            written = f"./{written}"
        elif way == "backslash":
            written = written.replace("/", "\\")
        elif way == "case":
            written = written.upper()
        elif way == "no ending":
            written = written.rpartition(".")[0]
        label, split = draw.choice(LABELS), draw.choice(list(SPLITS))
        if encoding == "utf-16-le" and not label.isascii():
            label = "cat"
        truth[f"{folder}/{on_disk}".lstrip("/")] = (label or None, SPLITS[split])
        rows.append({"path": written, "label": label, "split": split})
    if draw.random() < 0.3:
        rows.append(dict(draw.choice(rows)))  # a repeated row
    if draw.random() < 0.3:
        (top / "._t.csv").write_bytes(b"\x00\x05\x16\x07 Mac OS X")
    names = {column: draw.choice(spellings) for column, spellings in HEADERS.items()}
    if encoding in ("cp1252", "utf-16-le"):
        names = {column: name.replace("\u200b", "") for column, name in names.items()}
    if names["path"] == "Image Path":
        names["path"] = "Image_Path"
    columns = list(names)
    draw.shuffle(columns)
    if draw.random() < 0.3:
        frame = pd.DataFrame(
            {names[column].strip(): [row[column] or None for row in rows] for column in columns}
        )
        frame = frame.convert_dtypes() if draw.random() < 0.5 else frame
        if draw.random() < 0.3:
            frame[names["label"].strip()] = frame[names["label"].strip()].astype("category")
        return (frame, {"root": top}), truth
    text = io.StringIO()
    writer = csv.writer(text, delimiter=draw.choice(",;\t|"), lineterminator=draw.choice(["\n", "\r\n"]))
    writer.writerow([names[column] for column in columns])
    for row in rows:
        cells = [row[column] for column in columns]
        while len(cells) > 1 and not cells[-1] and draw.random() < 0.3:
            cells.pop()
        writer.writerow([draw.choice(["", " "]) + cell for cell in cells] if draw.random() < 0.2 else cells)
    (top / "t.csv").write_bytes(text.getvalue().encode(encoding))
    return (top / "t.csv", {}), truth


def folder(draw: random.Random, top: Path):
    """(what to open, truth) of a folder: classes, splits, links, hidden and foreign files."""
    truth = {}
    sides = draw.choice(
        [[], ["train", "test"], ["Train", "val"], ["train2017", "val2017"], ["training_set", "test_set"]]
    )
    classes = draw.choice([[], ["cat", "dog"], ["0", "1"], ["None", "nan"]])
    above = draw.choice([[], ["images"]]) if sides else []
    (top / "set").mkdir()
    for side in sides or [None]:
        for name in classes or [None]:
            parts = [*above, *([side] if side else []), *([name] if name else [])]
            place = top.joinpath("set", *parts)
            if draw.random() < 0.3 and parts:
                real = top.joinpath("disk", "-".join(parts))
                real.mkdir(parents=True)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(real)
            place.mkdir(parents=True, exist_ok=True)
            for number in range(draw.randint(1, 3)):
                base = f"{number}{draw.choice(['.png', '.PNG', '.jpeg'])}"
                (place / base).write_bytes(PICTURE)
                split = None if side is None else "train" if side.lower().startswith("train") else "holdout"
                truth["/".join([*parts, base])] = (name, split)
    if draw.random() < 0.3:
        (top / "set" / "._0.png").write_bytes(b"\x00\x05\x16\x07")
    if draw.random() < 0.3:
        (top / "set" / "round").symlink_to(top / "set")
    if draw.random() < 0.3:
        (top / "set" / "IMG.HEIC").write_bytes(b"ftypheic")
        truth["IMG.HEIC"] = ("said", "said")
    return (top / "set", {}), truth


def shard(draw: random.Random, top: Path):
    """(what to open, truth) of webdataset shards."""
    truth, files = {}, []
    several = draw.randint(1, 3)
    same = draw.random() < 0.5
    for number in range(several):
        place = top / ("abc"[number] if same else "") / f"{0 if same else number:05d}.tar"
        place.parent.mkdir(exist_ok=True)
        with tarfile.open(place, "w") as tar:

            def add(name, data, tar=tar):
                about = tarfile.TarInfo(name)
                about.size = len(data)
                tar.addfile(about, io.BytesIO(data))

            style = draw.choice(["{:04d}", "img.{:03d}", "dir/{:04d}", "./{:04d}"])
            for sample in range(draw.randint(1, 4)):
                stem = style.format(sample)
                ending = draw.choice(["png", "PNG", "jpg"])
                label = draw.choice(["3", "cat", "0", None])
                way = draw.choice(["cls", "CLS", "json"])
                members = [(f"{stem}.{ending}", PICTURE)]
                if label is not None:
                    data = json.dumps({"label": label}) if way == "json" else label
                    members.append((f"{stem}.{way}", data.encode()))
                if draw.random() < 0.2 and "img." not in style:
                    members.append((f"{stem}.seg.png", PICTURE))
                if draw.random() < 0.2:
                    base = stem.rpartition("/")[2]
                    members.append((f"{stem[: len(stem) - len(base)]}._{base}.{ending}", b"\x00\x05\x16\x07"))
                draw.shuffle(members)
                for name, data in members:
                    add(name, data)
                truth[(number, f"{stem.removeprefix('./')}.{ending}")] = (label, None)
        files.append(str(place))
    return (files if several > 1 else files[0], {}), truth


def losses(kind, draw: random.Random, top: Path, refused: Counter | None = None) -> list[str]:
    """What was lost in silence in one generated input; `refused` counts inputs that ended with an error."""
    (source, options), truth = kind(draw, top)
    try:
        images = ca.Images.open(source, **options)
    except ClipattrError as error:
        if refused is not None:
            refused[f"{kind.__name__}: {str(error).replace(str(top), '')[:80]}"] += 1
        return []
    told = " ".join(images.notes) + " ".join(f"{name} {reason}" for name, reason in images.skipped)
    found = Counter()
    lost = []
    for record in images:
        if kind is shard:
            where = record.id.split("/", 1)[1] if len(images.source.files) > 1 else record.id
            key = (
                images.source.places[record._row][0],
                where.split("/", 1)[1] if where.startswith("00000/") else where,
            )
        else:
            base = top / "set" if kind is folder else top
            key = Path(record.path).relative_to(base).as_posix()
        found[key] += 1
        if key not in truth:
            lost.append(f"{key} is no picture of the input")
        elif truth[key] != (record.label, record.split):
            lost.append(f"{key} is {truth[key]}, read as {(record.label, record.split)}")
    for key in truth:
        if not found[key] and str(key).rpartition(".")[2].lower() not in told.lower():
            lost.append(f"{key} is missing")
    return lost


def read_times(rows: int) -> dict[int, float]:
    """Seconds of processor to open a table of so many rows and of a quarter of them, by number of rows."""
    seconds = {}
    for count in (rows // 4, rows):
        with tempfile.TemporaryDirectory() as place:
            for number in range(100):
                (Path(place) / f"{number}.png").write_bytes(PICTURE)
            file = Path(place) / "t.csv"
            with file.open("w") as out:
                out.write("id,path,label,split\n")
                for row in range(count):
                    split = "test" if row % 5 == 0 else "train"
                    out.write(f"r{row:07d},{row % 100}.png,{row % 1000},{split}\n")
            begun = time.process_time()
            images = ca.Images.open(file)
            seconds[count] = time.process_time() - begun
            if len(images) != count:
                raise RuntimeError(f"{len(images)} of {count} rows were read")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    inputs, rows = (150, 20_000) if arguments.quick else (arguments.inputs, arguments.rows)
    counts, examples, refused = Counter(), [], Counter()
    for number in range(inputs):
        kind = (table, folder, shard)[number % 3]
        with tempfile.TemporaryDirectory() as place:
            lost = losses(kind, random.Random(f"{arguments.seed} {number}"), Path(place), refused)
        counts[kind.__name__] += 1
        if lost:
            examples.append({"input": number, "kind": kind.__name__, "lost": lost[:3]})
    few, many = read_times(rows).values()
    figures = {
        **{f"{kind}s": count for kind, count in counts.items()},
        "refused": sum(refused.values()),
        "silent_losses": len(examples),
        "rows": rows,
        "seconds_of_processor": many,
        "ratio_for_4_times_the_rows": many / few,
    }
    for name, value in figures.items():
        print(f"{name:28} {value:12.4g}")
    write_results("files", figures, examples, quick=arguments.quick)


if __name__ == "__main__":
    main()
