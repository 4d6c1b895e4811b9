"""Checkpoints: what was finished is not computed again, and a resumed job yields what an undisturbed one yields."""

import errno
import json
import math
from pathlib import Path

import pytest

import clipattr as ca
from clipattr.errors import DataError
from clipattr.execution import checkpoint
from clipattr.execution.checkpoint import resumed
from clipattr.execution.engine import Here
from clipattr.storage.documents import write_json


class Job:
    """Squares numbers, counts what it computed, and stops at one item."""

    def __init__(self, folder, stop=None):
        self.folder, self.stop, self.computed = folder, stop, []

    def square(self, shared, item):
        if item == self.stop:
            raise KeyboardInterrupt
        self.computed.append(item)
        return {"number": item * shared}

    def run(self, items, shared=2.5, **options):
        return list(
            resumed(
                Here(), self.square, shared, items, folder=self.folder, keys=[[shared, item] for item in items],
                pack=dict, unpack=dict, **options,
            )
        )  # fmt: skip


def interrupted(folder):
    with pytest.raises(KeyboardInterrupt):
        Job(folder, stop=3).run(range(6))


def test_an_interrupted_job_computes_only_what_is_missing(tmp_path):
    interrupted(tmp_path)
    again, known = Job(tmp_path), []
    assert again.run(range(6), known=lambda: known.append(len(again.computed))) == Job(None).run(range(6))
    assert again.computed == [3, 4, 5] and known == [0, 0, 0]


def test_results_of_other_settings_are_not_taken(tmp_path):
    interrupted(tmp_path)
    other = Job(tmp_path)
    assert other.run(range(3), shared=4) == [{"number": 0}, {"number": 4}, {"number": 8}]
    assert other.computed == [0, 1, 2]


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b'{"value": {"number": 9}, "sum": "00"}', b"\xff", b"[" * 9999]
)
def test_a_damaged_file_is_computed_again(tmp_path, damage):
    interrupted(tmp_path)
    files = [path for path in tmp_path.iterdir() if path.suffix == ".json"]
    assert len(files) == 3
    files[0].write_bytes(damage)
    again = Job(tmp_path)
    assert again.run(range(6)) == Job(None).run(range(6))
    assert len(again.computed) == 4


def test_two_jobs_cannot_use_one_checkpoint(tmp_path):
    job = Job(tmp_path)
    running = resumed(Here(), job.square, 1, [1, 2], folder=tmp_path, keys=[1, 2], pack=dict, unpack=dict)
    next(running)
    with pytest.raises(DataError, match="Another process is working with the checkpoint"):
        job.run([1])
    assert len(list(running)) == 1


def test_a_place_that_cannot_be_a_folder_is_an_error_with_its_name(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"file.*could not be written"):
        Job(tmp_path / "file").run([1])


def test_an_audit_stopped_anywhere_ends_with_the_same_bytes(tmp_path, monkeypatch):
    from clipattr.discovery.audit import run

    study, prompts = ca.open_study("picture-world"), ["lemon", "rose", "rabbit"]
    whole = ca.audit(study, prompts, budget=0, progress=False).to_json()
    real, asked = run.audit_prompt, []

    def stopping(ready, prompt):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(prompt.text)
        return real(ready, prompt)

    monkeypatch.setattr(run, "audit_prompt", stopping)
    with pytest.raises(KeyboardInterrupt):
        ca.audit(study, prompts, budget=0, progress=False, checkpoint=tmp_path)
    monkeypatch.setattr(
        run, "audit_prompt", lambda ready, prompt: asked.append(prompt.text) or real(ready, prompt)
    )
    again = ca.audit(study, prompts, budget=0, progress=False, checkpoint=tmp_path)
    assert asked == prompts
    assert again.to_json() == whole
    assert json.loads(whole)["findings"] and not math.isnan(again[0].causal_effect.value)


def full(monkeypatch, after):
    """A disk with room for so many results."""
    written = []

    def write(file, value, **options):
        if len(written) == after:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(file)
        write_json(file, value, **options)

    monkeypatch.setattr(checkpoint, "write_json", write)


def test_a_full_disk_keeps_what_was_finished_and_says_so(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        full(patch, 4)
        with pytest.raises(
            DataError, match="No space left on device.*is kept there: make room, and the same call"
        ):
            Job(tmp_path).run(range(6))
    again = Job(tmp_path)
    assert again.run(range(6)) == Job(None).run(range(6)) and again.computed == [4, 5]


def test_a_lock_that_cannot_be_written_is_an_error_with_its_name(tmp_path, monkeypatch):
    def touch(path, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "touch", touch)
    with pytest.raises(DataError, match=r"\.lock' could not be written"):
        Job(tmp_path).run([1])


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")]
)
def test_lack_of_memory_keeps_what_was_finished_and_says_so(tmp_path, error):
    job = Job(tmp_path)
    whole = job.square

    def poor(shared, item):
        if item == 2:
            raise error
        return whole(shared, item)

    job.square = poor
    with pytest.raises(DataError, match="ran out of memory.*is kept there"):
        job.run(range(4))
    again = Job(tmp_path)
    assert again.run(range(4)) == Job(None).run(range(4)) and again.computed == [2, 3]
