"""Files are written whole or not at all, hashed alike everywhere, and locked for one process at a time."""

import hashlib
import subprocess
import sys

import pytest

from clipattr.errors import DataError, StudyError
from clipattr.storage.files import digest, file_digest, json_digest, sweep, written
from clipattr.storage.locks import locked

HOLD = """
import sys, time
from pathlib import Path
from clipattr.errors import DataError
from clipattr.storage.locks import locked
with locked(Path(sys.argv[1]), "writing", DataError):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_file_appears_whole_and_synced_or_the_old_one_stays(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", synced.append)
    target = tmp_path / "a.txt"
    with written(target) as partial:
        partial.write_text("one")
        assert not target.exists()
    assert target.read_text() == "one" and len(synced) == 2  # the file and its folder
    for error in (OSError("disk full"), KeyboardInterrupt()):
        with pytest.raises(type(error)), written(target) as partial:
            partial.write_text("half")
            raise error
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and target.read_text() == "one"


def test_what_killed_writers_leave_is_swept_and_nothing_else(tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("a.bin", "a.bin.partial", ".tmpAb3dE9", "inner/b.json.partial"):
        (tmp_path / name).write_text("x")
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "inner"]
    assert not list((tmp_path / "inner").iterdir())


def test_digests_are_those_of_hashlib(tmp_path):
    data = bytes(range(256)) * 9000
    (tmp_path / "data").write_bytes(data)
    short = hashlib.blake2b(data, digest_size=8).hexdigest()
    assert digest(data) == digest(data[:7], data[7:]) == file_digest(tmp_path / "data") == short
    assert file_digest(tmp_path / "data", "sha256", 64) == hashlib.sha256(data).hexdigest()
    assert json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1}) != json_digest({"a": 2, "b": 1})


def test_a_lock_names_its_holder_keeps_others_out_and_ends_with_its_process(tmp_path):
    file = tmp_path / "folder" / "x.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(StudyError, match=rf"Another process is building 'x' \(process {holder.pid}\)"),
            locked(file, "building 'x'", StudyError),
        ):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with locked(file, "writing", DataError):
        assert file.exists()
        with pytest.raises(DataError, match="Another process"), locked(file, "writing", DataError):
            pass
    assert not file.exists()


def test_a_folder_in_the_place_of_a_lock_is_named_as_what_to_delete(tmp_path):
    (tmp_path / "x.lock").mkdir()
    with (
        pytest.raises(DataError, match=r"is a folder; delete '.*x\.lock'"),
        locked(tmp_path / "x.lock", "", DataError),
    ):
        pass


def test_a_file_system_without_locks_is_warned_about_and_used(tmp_path, monkeypatch):
    import errno

    from filelock import FileLock

    def refuse(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with (
        pytest.warns(UserWarning, match="has no locks.*Run one only"),
        locked(tmp_path / "x.lock", "writing", DataError),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (None, "got NoneType"),
        (3, "got int 3"),
        (b"x", "got bytes"),
        ("", "empty"),
        (" ", "empty"),
        ("x" * 300, "300"),
    ],
)
def test_what_is_no_path_is_named(path, told):
    from clipattr.storage.paths import user_path

    with pytest.raises(DataError, match=told):
        user_path(path)


def test_results_are_written_and_read_with_a_tilde(tmp_path, monkeypatch):
    import clipattr as ca

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    study = ca.open_study("picture-world")
    found = ca.Findings([], about={"study": "s"})
    found.report("~/a.html"), found.to_json("~/a.json"), study.dictionary.save("~/own")
    attribution = ca.attribute(study, "train-00003", "kite")  # the id of a picture
    attribution.save("~/a.safetensors")
    assert ca.Findings.from_json("~/a.json").about == found.about
    assert ca.load_dictionary("~/own").hash == study.dictionary.hash
    assert ca.Attribution.load("~/a.safetensors").pictures == ["train-00003"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.json", "a.safetensors", "own"]
    with pytest.raises(DataError, match="got NoneType"):
        found.report(None)
    with pytest.raises(ca.TargetError, match="findings of an audit, or numbers of latents; got 'kite'"):
        ca.repair(study, ["kite"])
