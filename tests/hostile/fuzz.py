"""Fuzz: every parser fed with anything, and what it may answer: a value, or an error of the documented kinds.

Owns one strategy and one call per parser. Start at `PARSERS`; `tests/hostile` runs a few cases of each,
`benchmarks/faults.py` thousands.
"""

import contextlib
import io
import json
import pickle
import shutil
import struct
import tarfile
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from clipattr.discovery.findings import Findings
from clipattr.errors import ClipattrError
from clipattr.images.collection import Images
from clipattr.meaning import Vocabulary

odd = st.sampled_from(
    ["\0", "\u202e", "\ud800", "\x1b[31m", "👩‍👩‍👧", "<script>alert(1)</script>", "../../etc/passwd", "'\"&", "ﷺ",
     "\r\n", "a\u0301", "%s%n", "{}", "=1+1", "-" * 400, "NaN", "1e999", "C:\\con"]
)  # fmt: skip
texts = st.one_of(st.text(max_size=40), odd, st.lists(odd, max_size=4).map("".join))
numbers = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([2**31, 2**63, -(2**63), 10**30]),
    st.floats(),
    st.booleans(),
    st.none(),
)
values = st.recursive(
    st.one_of(numbers, texts),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
noise = st.binary(max_size=300)


def as_json(value):
    return json.dumps(value).encode("utf-8", "surrogatepass")


@st.composite
def broken(draw, whole):
    """A sound file with some bytes changed, cut off or doubled."""
    data = bytearray(draw(st.sampled_from(whole)) if isinstance(whole, list) else whole)
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        place = draw(st.integers(0, len(data) - 1))
        kind = draw(st.sampled_from(["set", "cut", "insert", "huge"]))
        if kind == "set":
            data[place] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[place : place + draw(st.integers(1, 64))]
        elif kind == "insert":
            data[place:place] = draw(st.binary(max_size=16))
        else:
            data[place : place + 4] = b"\xff\xff\xff\x7f"
    return bytes(data)


@st.composite
def edited(draw, sound):
    """A sound JSON object with a few of its values, at any depth, replaced by anything or taken away."""
    value = json.loads(json.dumps(sound))
    for _ in range(draw(st.integers(1, 3))):
        place = value
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            deeper = isinstance(place[key], (dict, list)) and place[key] and draw(st.booleans())
            if deeper:
                place = place[key]
                continue
            if isinstance(place, dict) and draw(st.integers(0, 4)) == 0:
                del place[key]
            else:
                place[key] = draw(values)
            break
    return as_json(value)


def picture_files():
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 11, 3), dtype=np.uint8))
    files = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        with contextlib.suppress(Exception):
            file = io.BytesIO()
            pixels.save(file, kind)
            files.append(file.getvalue())
    return files


def tar_file():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in (
            ("a.png", picture_files()[0]),
            ("a.cls", b"3"),
            ("b.png", b"x"),
            ("b.json", b'{"label": 1}'),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def torch_file(zipped=True):
    file = io.BytesIO()
    state = {
        "W_enc": torch.randn(6, 4),
        "W_dec": torch.randn(4, 6),
        "b_enc": torch.zeros(4),
        "b_dec": torch.zeros(6),
    }
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


FINDING = {
    "prompt": "kite", "latents": [3, 7], "label": "eagle", "kind": "polysemy", "kind_probability": 0.8,
    "reliance": {"value": 0.1, "low": 0.05, "high": 0.2}, "causal_effect": {"value": 0.1, "low": 0.05, "high": 0.2},
    "share": 0.4, "alignment": 0.01, "clarity": 0.7, "confidence": 0.9, "examples": ["a.png"], "evidence": {"x": 1},
}  # fmt: skip
SCENE = {"id": "a", "label": "kite", "split": "study", "scene": {"main": "kite", "seed": 3}}
CONFIG = {
    "model_cfg": {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 1, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}


class Call:
    """A pickle that would run a command."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (exec, (f"open({str(self.mark)!r}, 'w').close()",))


# What parses: each takes the fuzzed value and a folder of its own.


def vocabulary(data, folder):
    suffix, content = data
    (folder / f"words{suffix}").write_bytes(content)
    made = Vocabulary.open(folder / f"words{suffix}")
    made.save(folder / "again.csv")


def vocabulary_list(words, folder):
    assert len(Vocabulary.open(words).display) == len(Vocabulary.open(words).words)


def picture_table(data, folder):
    for row in range(2):
        (folder / f"{row}.png").write_bytes(picture_files()[0])
    (folder / "table.csv").write_bytes(data)
    list(Images.open(folder / "table.csv"))


def pictures(data, folder):
    (folder / "a.png").write_bytes(data)
    (folder / "b.png").write_bytes(picture_files()[0])
    images = Images.open(folder)
    for record in images:
        with contextlib.suppress(ClipattrError):
            record.thumbnail()


def picture_source(text, folder):
    with contextlib.suppress(OSError, ValueError):
        if Path(text).is_dir():  # the whole disk, for "/"
            return
    Images.open(text)


def scenes(data, folder):
    (folder / "scenes.jsonl").write_bytes(data)
    for record in Images.open(f"scenes:{folder / 'scenes.jsonl'}"):
        with contextlib.suppress(ClipattrError):
            record.load()


def tar(data, folder):
    (folder / "a.tar").write_bytes(data)
    for record in Images.open(folder / "a.tar"):
        with contextlib.suppress(ClipattrError):
            record.load()


def findings(data, folder):
    (folder / "findings.json").write_bytes(data)
    found = Findings.from_json(folder / "findings.json")
    found.to_frame()
    found.to_json(folder / "again.json")


def model_config(data, folder):
    from clipattr.models.weights import find_weights

    (folder / "open_clip_config.json").write_bytes(data)
    (folder / "open_clip_model.safetensors").write_bytes(save({"x": torch.zeros(2)}))
    find_weights(f"local-dir:{folder}")


def dictionary_config(data, folder):
    from clipattr.dictionaries import load_dictionary

    _sound_dictionary(folder)
    (folder / "config.json").write_bytes(data)
    load_dictionary(folder)


def dictionary_weights(data, folder):
    from clipattr.dictionaries import load_dictionary

    _sound_dictionary(folder)
    (folder / "sae.safetensors").write_bytes(data)
    load_dictionary(folder)


def checkpoint(data, folder):
    from clipattr.dictionaries import load_sae

    suffix, content = data
    (folder / f"ae{suffix}").write_bytes(content)
    load_sae(folder / f"ae{suffix}")


def codes(data, folder):
    from clipattr.dictionaries import SparseCodes

    (folder / "codes.safetensors").write_bytes(data)
    SparseCodes.load(folder / "codes.safetensors")


def store(data, folder):
    from clipattr.storage.activations import ActivationStore

    (folder / "manifest.json").write_bytes(data)
    ActivationStore.open(folder)


def first(name, folder):
    """One of the samples of `tests/versions`, unpacked."""
    with zipfile.ZipFile(SAMPLES) as samples:
        for member in samples.namelist():
            if member.split("/")[0] == name:
                samples.extract(member, folder)
    return folder / name


def attribution(data, folder):
    from clipattr.attribution.result import Attribution

    (folder / "a.safetensors").write_bytes(data)
    Attribution.load(folder / "a.safetensors").top(3)


def attributions(data, folder):
    from clipattr.attribution.streaming import Attributions

    place = first("attributions", folder)
    (place / "attributions.json").write_bytes(data)
    for shard in Attributions(place):
        shard.explain()


def probe(data, folder):
    from clipattr.discovery.probes.probe import Probe

    name, content = data
    place = first("probe", folder)
    (place / name).write_bytes(content)
    Probe.open(place).logits(torch.zeros(2, 16))


def training_checkpoint(data, folder):
    from clipattr.dictionaries import train_sae

    (folder / "training.safetensors").write_bytes(data)
    train_sae(_ROWS, checkpoint=folder, **_TRAINING)


def study(data, folder):
    from clipattr.studies.study import open_study

    name, content = data
    place = first("study", folder)
    (place / name).write_bytes(content)
    if name != "study.json":  # a stranger's manifest states the sizes of the files that are there
        manifest = json.loads((place / "study.json").read_text())
        manifest["files"][name][0] = len(content)
        (place / "study.json").write_text(json.dumps(manifest))
    opened = open_study(place)
    opened.latents, opened.codes, opened.activations, opened.repeats, opened.dictionary  # noqa: B018
    opened.vocabulary_embeddings, opened.evaluator_embeddings, opened.names  # noqa: B018
    for row in range(len(opened.images)):
        with contextlib.suppress(ClipattrError):
            opened.thumbnail(row)
            opened.images[row].load()


def prompt(text, folder):
    import open_clip

    from clipattr.models.loading import load_model

    if "model" not in _MADE:
        sizes = CONFIG["model_cfg"] | {"text_cfg": CONFIG["model_cfg"]["text_cfg"] | {"vocab_size": 49408}}
        _MADE["model"] = load_model(open_clip.model.CLIP(**sizes))
    assert torch.isfinite(_MADE["model"].encode_text([text])).all()


def file_name(text, folder):
    """A picture of any name: listed, read, written into a study's table and found again."""
    if "/" in text:
        return
    from clipattr.studies.format import read_pictures, write_pictures

    (folder / "pictures").mkdir()
    try:
        (folder / "pictures" / f"{text}.png").write_bytes(picture_files()[0])
    except (OSError, ValueError):
        return  # no such name can be
    images = Images.open(folder / "pictures")
    write_pictures(images, folder, folder)
    again = read_pictures(folder)
    assert again.ids == images.ids and again[0].load().size == images[0].load().size


def report(text, folder):
    """Any text at every place of a page that a file can reach."""
    finding = FINDING | {
        "prompt": text,
        "label": text,
        "kind": "unknown",
        "examples": [text],
        "evidence": {text: text},
    }
    about = {"model": {"reference": text, "hash": text}, "site": text, "dictionary": text}
    content = {"schema": 1, "about": about, "findings": [finding]}
    (folder / "f.json").write_bytes(as_json(content))
    page = Findings.from_json(folder / "f.json").report(folder / "page.html").read_text("utf-8")
    assert "<script>alert(1)" not in page and "\x1b" not in page


def command(words, folder):
    from clipattr.cli.main import main

    if any(word.startswith("/") or Path(word[:200]).is_dir() for word in words):
        return  # a real place of this machine
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        status = main(words)
    assert status in (0, 1, 2), (status, said.getvalue())


_KEPT: dict[str, bytes] = {}
_MADE: dict[str, object] = {}
_ROWS = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
_TRAINING = {"n_latents": 8, "k": 2, "steps": 3, "batch": 8, "checkpoint_every": 2, "progress": False}
SAMPLES = Path(__file__).parents[1] / "versions" / "first.zip"


def _sample(name):
    with zipfile.ZipFile(SAMPLES) as samples:
        return samples.read(name)


def _sample_files(folder):
    """Relative name -> strategy of broken or edited contents, for every file of a sample."""
    with zipfile.ZipFile(SAMPLES) as samples:
        names = [name for name in samples.namelist() if name.startswith(folder + "/")]
    strategies = []
    for name in names:
        data, inner = _sample(name), name.removeprefix(folder + "/")
        if name.endswith(".json"):
            strategies += [st.tuples(st.just(inner), edited(json.loads(data))) for _ in range(4)]
        strategies.append(st.tuples(st.just(inner), broken(data)))
    return st.one_of(strategies)


def _training_file():
    from clipattr.dictionaries import train_sae

    with tempfile.TemporaryDirectory() as place:
        train_sae(_ROWS, checkpoint=place, **_TRAINING)
        return (Path(place) / "training.safetensors").read_bytes()


def _sound_dictionary(folder):
    from clipattr.dictionaries import random_sae

    if not _KEPT:
        with tempfile.TemporaryDirectory() as place:
            random_sae(torch.randn(64, 6), n_latents=8, k=2).save(place)
            _KEPT.update({path.name: path.read_bytes() for path in Path(place).iterdir()})
    for name, data in _KEPT.items():
        (folder / name).write_bytes(data)
    return _KEPT


def _sound_codes():
    from clipattr.dictionaries import SparseCodes

    with tempfile.TemporaryDirectory() as place:
        SparseCodes.from_dense(torch.randn(5, 8), k=2).save(Path(place) / "c")
        return (Path(place) / "c").read_bytes()


def _dictionary_file(name):
    with tempfile.TemporaryDirectory() as place:
        return _sound_dictionary(Path(place))[name]


def _lines(one):
    return st.lists(one, min_size=1, max_size=4).map(b"\n".join)


def deep(depth=100_000):
    return b"[" * depth


STORE = {
    "schema": 1, "format": "clipattr-store", "model": "m", "model_hash": "0", "preprocess": "p", "dtype": "float16",
    "sites": {"image.-1.cls": {"tokens": 1, "width": 4}}, "pictures": 3, "fingerprint": "f", "batch": 2,
    "shard_pictures": 4,
}  # fmt: skip
VERBS = (
    "study",
    "audit",
    "attribute",
    "faithfulness",
    "encode",
    "train",
    "convert",
    "models",
    "plan",
    "nonsense",
)
OPTIONS = (
    "--out", "--prompts", "--prompt", "--csv", "--json", "--fail-above", "--baseline", "--top", "--batch", "--site",
    "--latents", "--k", "--holdout", "--kind", "--format", "--set", "--seed", "--steps", "--sae", "--evaluator",
)  # fmt: skip


def sound_table():
    return b"id,path,label,group,split\na,0.png,x,,study\nb,1.png,y,,holdout\n"


def parsers():
    """name -> (strategy, function); made on demand, since sound files take a moment."""
    arguments = st.lists(
        st.one_of(st.sampled_from(OPTIONS), texts.filter(lambda t: "\0" not in t)), max_size=6
    )
    return {
        "vocabulary file": (
            st.tuples(
                st.sampled_from([".txt", ".csv", ".tsv"]),
                st.one_of(
                    noise,
                    texts.map(lambda t: t.encode("utf-8", "surrogatepass")),
                    broken(b"word,id,gloss\na,1,b\n"),
                    st.just(b"word\n" + b'"' + b"a" * 200_000),
                ),
            ),
            vocabulary,
        ),
        "vocabulary list": (st.lists(texts, max_size=8), vocabulary_list),
        "picture table": (
            st.one_of(noise, broken(sound_table()), st.just(b'path\n"' + b"a" * 200_000)),
            picture_table,
        ),
        "picture file": (st.one_of(noise, broken(picture_files())), pictures),
        "picture source": (texts, picture_source),
        "scenes": (
            st.one_of(noise, st.just(deep()), _lines(edited(SCENE)), _lines(values.map(as_json))),
            scenes,
        ),
        "tar": (st.one_of(noise, broken(tar_file())), tar),
        "findings": (
            st.one_of(noise, st.just(deep()), edited({"schema": 1, "about": {}, "findings": [FINDING]})),
            findings,
        ),
        "model config": (st.one_of(noise, st.just(deep()), edited(CONFIG)), model_config),
        "dictionary config": (
            st.one_of(noise, st.just(deep()), edited(json.loads(_dictionary_file("config.json")))),
            dictionary_config,
        ),
        "dictionary weights": (
            st.one_of(noise, broken(_dictionary_file("sae.safetensors"))),
            dictionary_weights,
        ),
        "checkpoint": (
            st.tuples(
                st.sampled_from([".pt", ".pkl", ".safetensors", ".gz"]),
                st.one_of(
                    noise,
                    broken([torch_file(), torch_file(False)]),
                    broken(pickle.dumps({"W_enc": [1.0, 2.0]})),
                ),
            ),
            checkpoint,
        ),
        "codes": (st.one_of(noise, broken(_sound_codes())), codes),
        "store": (st.one_of(noise, st.just(deep()), edited(STORE)), store),
        "attribution": (
            st.one_of(noise, broken(_sample("attributions/attributions-00000.safetensors"))),
            attribution,
        ),
        "attributions": (
            st.one_of(noise, edited(json.loads(_sample("attributions/attributions.json")))),
            attributions,
        ),
        "probe": (_sample_files("probe"), probe),
        "training checkpoint": (st.one_of(noise, broken(_training_file())), training_checkpoint),
        "study": (_sample_files("study"), study),
        "prompt": (st.one_of(texts, texts.map(lambda t: t * 500)), prompt),
        "file name": (texts, file_name),
        "report": (texts, report),
        "command": (st.tuples(st.sampled_from(VERBS), arguments).map(lambda p: [p[0], *p[1]]), command),
    }


def attempt(function, value, root):
    """One case. Raises whatever is not a documented error."""
    folder = Path(tempfile.mkdtemp(dir=root))
    try:
        with warnings.catch_warnings(), contextlib.suppress(ClipattrError):
            warnings.simplefilter("ignore")
            function(value, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def zip_bomb():
    """A small archive in torch's layout whose one record unfolds to 256 MB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"W_enc": 1}))
        archive.writestr("archive/data/0", b"\0" * 2**28)
    return file.getvalue()


def lying_safetensors(size):
    """A header that claims a tensor of this many bytes, and nothing behind it."""
    head = json.dumps({"x": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(head)) + head
