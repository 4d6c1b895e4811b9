"""Attacks: nothing in a file is run, nothing outside a folder written, nothing huge allocated on a header's word."""

import contextlib
import gzip
import io
import json
import os
import pickle
import resource
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from clipattr.dictionaries import load_dictionary, load_sae
from clipattr.discovery.findings import Findings
from clipattr.errors import ClipattrError, DataError, DictionaryError, ModelError, StudyError
from clipattr.images.collection import Images
from clipattr.images.decoding import PictureError, read_picture
from clipattr.meaning import Vocabulary
from clipattr.models.weights import find_weights
from clipattr.reporting.page import write_report
from clipattr.studies.study import open_study

SCRIPT = "<script>alert(1)</script>"


@pytest.mark.parametrize("suffix", [".pt", ".pkl"])
def test_a_pickle_that_would_run_code_is_refused_and_nothing_runs(fuzz, tmp_path, suffix):
    mark = tmp_path / "ran"
    content = {"W_enc": fuzz.Call(mark)}
    if suffix == ".pt":
        torch.save(content, tmp_path / "ae.pt")
    else:
        (tmp_path / "ae.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(DictionaryError, match="refused"):
        load_sae(tmp_path / f"ae{suffix}")
    assert not mark.exists()


def test_weights_that_would_run_code_are_refused_and_nothing_runs(fuzz, tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps(fuzz.CONFIG))
    torch.save({"x": fuzz.Call(tmp_path / "ran")}, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelError):
        find_weights(f"local-dir:{tmp_path}")
    assert not (tmp_path / "ran").exists()


def test_bombs_are_not_unpacked(fuzz, tmp_path):
    (tmp_path / "ae.pt").write_bytes(fuzz.zip_bomb())
    (tmp_path / "ae.gz").write_bytes(gzip.compress(b"\0" * 2**26))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("ae.pt", "ae.gz"):
        with pytest.raises(DictionaryError, match="would unpack to far more"):
            load_sae(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_a_tensor_that_its_file_does_not_hold_is_refused(tmp_path):
    torch.save({"W_enc": torch.zeros(1).expand(10**12)}, tmp_path / "ae.pt")
    with pytest.raises(DictionaryError, match="does not hold the numbers"):
        load_sae(tmp_path / "ae.pt")


def test_an_array_of_absurd_size_is_refused_before_anything_is_allocated(tmp_path):
    class Huge:
        def __reduce__(self):
            return (np.ndarray, ((10**13,), "f8"))

    (tmp_path / "ae.pkl").write_bytes(pickle.dumps({"W_enc": Huge()}))
    with pytest.raises(DictionaryError, match="refused"):
        load_sae(tmp_path / "ae.pkl")


@pytest.mark.parametrize("size", [2**40, 2**62])
def test_a_header_that_lies_about_sizes_is_refused(fuzz, tmp_path, size):
    fuzz._sound_dictionary(tmp_path)
    (tmp_path / "sae.safetensors").write_bytes(fuzz.lying_safetensors(size))
    with pytest.raises(DictionaryError, match="damaged"):
        load_dictionary(tmp_path)


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ("vision_cfg", "width", 10**9),
        ("vision_cfg", "layers", [10**6] * 4),
        ("text_cfg", "vocab_size", 10**12),
        ("text_cfg", "context_length", -1),
        ("vision_cfg", "image_size", 10**6),
    ],
)
def test_a_model_of_absurd_size_is_refused_before_it_is_built(fuzz, tmp_path, place, key, value):
    config = json.loads(json.dumps(fuzz.CONFIG))
    config["model_cfg"][place][key] = value
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "x.safetensors").touch()
    with pytest.raises(ModelError, match=f"{key} must lie between 0 and"):
        find_weights(f"local-dir:{tmp_path}")


def test_a_model_cannot_send_for_another(fuzz, tmp_path):
    config = json.loads(json.dumps(fuzz.CONFIG))
    config["model_cfg"]["vision_cfg"]["timm_model_name"] = "hf-hub:stranger/model"
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "x.safetensors").touch()
    with pytest.raises(ModelError, match="refers to another model"):
        find_weights(f"local-dir:{tmp_path}")


def test_pipes_devices_and_huge_files_are_no_pictures(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(2**40)
    (tmp_path / "text.png").write_text("hello")
    for name in ("pipe.png", "zero.png", "loop.png", "huge.png", "text.png"):
        with pytest.raises(PictureError):
            read_picture(tmp_path / name)
    Image.new("RGB", (4, 4)).save(tmp_path / "fine.png")
    assert len(Images.open(tmp_path)) == 6


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 1)])
def test_a_picture_that_claims_absurd_sizes_is_refused_before_decoding(tmp_path, size):
    import struct
    import zlib

    head = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data += struct.pack(">I", 1000) + b"IDAT" + b"\0" * 1000
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(PictureError, match="too many pixels|too narrow|cannot be"):
        read_picture(tmp_path / "a.png")


def test_an_archive_cannot_reach_out_of_itself(tmp_path):
    """Pictures in a tar are read in place; names that climb, links and sparse members reach nothing."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (4, 4), "red").save(secret)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
        file = io.BytesIO()
        Image.new("RGB", (4, 4), "blue").save(file, "PNG")
        climbing = tarfile.TarInfo("../../../climb.png")
        climbing.size = len(file.getvalue())
        tar.addfile(climbing, io.BytesIO(file.getvalue()))
    images = Images.open(tmp_path / "a.tar")
    assert images.ids == ["../../../climb.png"] and images[0].load().getpixel((0, 0)) == (0, 0, 255)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "secret.png"]


def test_a_tar_that_claims_more_than_it_holds_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        member = tarfile.TarInfo("a.png")
        member.size = 2**50
        tar.fileobj.write(member.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(DataError, match="claims|cannot be read"):
        Images.open(tmp_path / "a.tar")


@pytest.mark.parametrize("depth", [10_000, 1_000_000])
def test_json_nested_without_end_is_an_error_and_no_crash(fuzz, tmp_path, depth):
    (tmp_path / "f.json").write_bytes(fuzz.deep(depth))
    with pytest.raises(DataError, match="nested too deeply"):
        Findings.from_json(tmp_path / "f.json")


def test_markup_in_every_text_of_a_finding_reaches_the_page_as_text(fuzz, tmp_path):
    texts = {
        "prompt": SCRIPT,
        "label": f"\"'>{SCRIPT}",
        "examples": [f"{SCRIPT}.png"],
        "evidence": {SCRIPT: SCRIPT},
    }
    content = {"schema": 1, "about": {"model": {"reference": SCRIPT, "hash": SCRIPT}, "site": SCRIPT},
               "findings": [fuzz.FINDING | texts]}  # fmt: skip
    (tmp_path / "f.json").write_text(json.dumps(content))
    page = write_report(Findings.from_json(tmp_path / "f.json"), tmp_path / "page.html").read_text("utf-8")
    assert SCRIPT not in page and "alert(1)" in page


@pytest.mark.parametrize("text", ["\u202e\x1b[2J\x07" * 50, "👩‍👩‍👧" * 3000, "a" * 10_000_000, "\0\ud800"])
def test_a_prompt_of_any_kind_is_embedded_or_refused(tiny_model, text):
    with contextlib.suppress(ClipattrError):
        assert torch.isfinite(tiny_model.encode_text([text])).all()
    assert len(Vocabulary.open(["a", text])) >= 1


def test_texts_with_every_kind_of_line_end_come_back_from_a_table(tmp_path):
    from clipattr.studies.format import read_pictures, write_pictures

    (tmp_path / "pictures").mkdir()
    for name in ("a\rb", "c\nd", 'e,"f', "\u2028g", "\x1b[31m"):
        Image.new("RGB", (4, 4)).save(tmp_path / "pictures" / f"{name}.png")
    images = Images.open(tmp_path / "pictures")
    write_pictures(images, tmp_path, tmp_path)
    assert read_pictures(tmp_path).ids == images.ids and len(images) == 5
    words = Vocabulary(["a", "b"], glosses=["one\rtwo", 'three "four"\n'], groups=["\r", None])
    words.save(tmp_path / "words.csv")
    assert Vocabulary.open(tmp_path / "words.csv").hash == words.hash


def test_directions_of_writing_and_control_characters_are_shown_as_codes(fuzz, tmp_path):
    content = {"schema": 1, "about": {}, "findings": [fuzz.FINDING | {"label": "\u202egnp.exe\x1b[2J\0"}]}
    (tmp_path / "f.json").write_text(json.dumps(content))
    page = write_report(Findings.from_json(tmp_path / "f.json"), tmp_path / "page.html").read_text("utf-8")
    assert not {"\u202e", "\x1b", "\0"} & set(page) and "gnp.exe" in page


def test_names_that_are_no_unicode_stay_in_studies_and_files_of_results(fuzz, tiny_model, tmp_path):
    from clipattr.cli.main import main
    from clipattr.studies.start import build_study

    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(
            folder / f"{number}.png"
        )
    try:
        (folder / "0.png").rename(os.fsdecode(os.fsencode(folder) + b"/\xff fine.png"))
        with open(os.fsencode(folder) + b"/\xfe broken.png", "wb") as file:
            file.write(b"no picture")
    except OSError:
        pytest.skip("this file system takes Unicode only")
    with pytest.warns(UserWarning, match="shares the model's confusions"):
        study = build_study(
            tiny_model, folder, path=tmp_path / "s", vocabulary=["a", "b"], n_latents=16, k=2, examples=3, batch=8,
            training={"steps": 5}, workers=1, progress=False,
        )  # fmt: skip
    assert study.manifest["skipped"][0][0] == "\\xfe broken.png" and "\\xff fine.png" in study.images.ids
    assert open_study(tmp_path / "s", model=tiny_model).images["\\xff fine.png"].load().size == (9, 9)
    content = {"schema": 1, "about": {"\ud800": 1}, "findings": [fuzz.FINDING | {"prompt": "\udcff"}]}
    (tmp_path / "f.json").write_bytes(fuzz.as_json(content))
    Findings.from_json(tmp_path / "f.json").to_json(tmp_path / "again.json")
    assert Findings.from_json(tmp_path / "again.json")[0].prompt == "\udcff"
    (folder / "1.png").rename(folder / "un\udcffread.png")
    (folder / "un\udcffread.png").write_bytes(b"no picture")
    told = tmp_path / "told.json"
    arguments = ["encode", "picture-world-a", str(folder), "--out", str(tmp_path / "acts"), "--quiet"]
    assert main([*arguments, "--json", str(told)]) == 0
    assert {name for name, _ in json.loads(told.read_text())["skipped"]} == {
        "un\\xffread.png",
        "\\xfe broken.png",
    }


# studies


@pytest.fixture(scope="session")
def study_folder(tiny_model, tmp_path_factory):
    from clipattr.studies.start import build_study

    pictures = [np.random.default_rng(i).integers(0, 255, (40, 48, 3), dtype=np.uint8) for i in range(24)]
    path = tmp_path_factory.mktemp("study") / "s"
    with pytest.warns(UserWarning, match="shares the model's confusions"):
        build_study(
            tiny_model, pictures, path=path, vocabulary=["a", "b", "c"], n_latents=16, k=2, examples=3, batch=8,
            training={"steps": 5}, workers=1, progress=False,
        )  # fmt: skip
    return path


@pytest.fixture
def copied(study_folder, tmp_path):
    return shutil.copytree(study_folder, tmp_path / "s")


def use(folder):
    """Touch everything that a study reads."""
    study = open_study(folder)
    study.latents, study.codes, study.activations, study.evaluator_embeddings, study.repeats  # noqa: B018
    study.examples, study.vocabulary_embeddings, study.empty_embedding, study.dictionary  # noqa: B018
    study.thumbnail(0), study.thumbnail(len(study.images) - 1)
    study.images[0].load()
    return study


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../b", "a\\..\\b"])
def test_a_study_whose_files_lead_out_of_its_folder_is_refused(copied, name):
    manifest = json.loads((copied / "study.json").read_text())
    manifest["files"][name] = [1, "0"]
    (copied / "study.json").write_text(json.dumps(manifest))
    with pytest.raises(StudyError, match="points outside the folder"):
        open_study(copied)


@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/hostname", "a\0b", "", None, 7])
def test_a_stream_whose_shards_lead_out_of_its_folder_is_refused(fuzz, tmp_path, name):
    from clipattr.attribution.streaming import Attributions

    place = fuzz.first("attributions", tmp_path)
    manifest = json.loads((place / "attributions.json").read_text())
    manifest["shards"][0]["file"] = name
    (place / "attributions.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="invalid shard entries"):
        Attributions(place)


def test_an_array_of_objects_is_not_unpickled(fuzz, copied):
    mark = copied.parent / "ran"
    array = np.empty(24, dtype=object)
    array[:] = fuzz.Call(mark)
    np.save(copied / "repeats.npy", array, allow_pickle=True)
    _own_sizes(copied)
    with pytest.raises(StudyError, match="repeats.npy' is damaged"):
        open_study(copied).repeats  # noqa: B018
    assert not mark.exists()


@pytest.mark.parametrize("name", ["codes-indices.npy", "activations.npy", "evaluator.npy", "thumbnails.npy"])
def test_an_array_that_claims_absurd_sizes_is_refused(copied, name):
    with (copied / name).open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f2", "fortran_order": False, "shape": (10**14, 4)}
        )
    _own_sizes(copied)
    with pytest.raises(StudyError, match="damaged"):
        use(copied)


def test_a_header_that_is_no_python_is_refused(copied):
    data = bytearray((copied / "evaluator.npy").read_bytes())
    data[8] = 20  # the header ends in the middle of a word, which numpy reads as a program
    (copied / "evaluator.npy").write_bytes(bytes(data))
    with pytest.raises(StudyError, match="evaluator.npy' is damaged"):
        open_study(copied).evaluator_embeddings  # noqa: B018


def test_indices_beyond_what_a_study_has_are_refused(copied):
    indices = np.load(copied / "codes-indices.npy")
    indices[3, 0] = 16
    np.save(copied / "codes-indices.npy", indices)
    with pytest.raises(StudyError, match="indices from 0 to 16"):
        open_study(copied).codes  # noqa: B018


def test_a_study_with_broken_files_is_used_or_refused(fuzz, study_folder, tmp_path):
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    names = sorted(
        path.relative_to(study_folder).as_posix() for path in study_folder.rglob("*") if path.is_file()
    )

    @settings(
        max_examples=60,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def case(data):
        name = data.draw(st.sampled_from([name for name in names if "pictures/" not in name]))
        whole = (study_folder / name).read_bytes()
        shutil.rmtree(tmp_path / "s", ignore_errors=True)
        shutil.copytree(study_folder, tmp_path / "s")
        if name.endswith(".json"):
            content = data.draw(st.one_of(fuzz.edited(json.loads(whole)), fuzz.broken(whole)))
        else:
            content = data.draw(fuzz.broken(whole))
        (tmp_path / "s" / name).write_bytes(content)
        if name != "study.json":
            _own_sizes(tmp_path / "s")
        with contextlib.suppress(ClipattrError):
            use(tmp_path / "s")

    case()


def _own_sizes(folder):
    """Make the manifest say what lies there: a stranger's manifest does."""
    manifest = json.loads((folder / "study.json").read_text())
    for name, entry in manifest["files"].items():
        entry[0] = (folder / name).stat().st_size
    (folder / "study.json").write_text(json.dumps(manifest))


def test_what_is_written_to_a_device_or_pipe_does_not_replace_it(tmp_path):
    from clipattr.cli.terminal import write

    (tmp_path / "null").symlink_to("/dev/null")
    write("{}", str(tmp_path / "null"))
    assert (tmp_path / "null").is_symlink() and not (tmp_path / "null").is_file()
