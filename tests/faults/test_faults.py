"""Faults: whatever happens to a long job, what was finished stays and the same call ends with the same bytes.

A fast sample; `python benchmarks/faults.py` runs hundreds.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from clipattr.storage.activations import ActivationStore
from clipattr.studies.study import open_study

SAMPLE = [
    ("study", "kill -9", 1),
    ("study", "cancelled cell", 2),
    ("study", "full disk", 3),
    ("study", "bit flip", 4),
    ("study", "two jobs at once", 5),
    ("study", "clock going back", 6),
    ("encode", "kill -9", 7),
    ("encode", "full disk", 8),
    ("encode", "two jobs at once", 9),
    ("train", "kill -9", 10),
    ("train", "bit flip", 11),
    ("encode", "unreadable file", 16),
    ("encode", "little memory", 17),
    ("attribute", "kill -9", 18),
    ("attribute", "bit flip", 19),
    ("attribute", "two jobs at once", 20),
    ("audit", "kill -9", 21),
    ("audit", "full disk", 22),
    ("audit", "bit flip", 23),
    ("audit", "unreadable file", 24),
    ("audit", "two jobs at once", 25),
    ("audit", "kill", 26),
]


@pytest.mark.parametrize(("verb", "fault", "seed"), SAMPLE)
def test_a_job_survives(jobs, undisturbed, verb, fault, seed):
    root, results = undisturbed
    jobs.survives(verb, fault, root, *results[verb], seed)


def test_a_study_stays_whole_while_another_is_built_over_it(jobs, undisturbed, tmp_path):
    root, _ = undisturbed
    before = root / "study-good" / "out"
    jobs.shutil.copytree(before, tmp_path / "out")
    settings = {"vocabulary": ["owl"], "evaluator": jobs.EVALUATOR, "n_latents": 32, "k": 4, "examples": 5}
    original = jobs.clipattr.studies.build.Workplace.publish

    def killed(*_):
        raise KeyboardInterrupt

    for moment in (killed, original):
        jobs.clipattr.studies.build.Workplace.publish = moment
        try:
            jobs.clipattr.build_study(
                jobs.MODEL, root / "pictures", path=tmp_path / "out", batch=4, workers=1, overwrite=True,
                progress=False, training={"steps": 5}, **settings,
            )  # fmt: skip
        except KeyboardInterrupt:
            assert jobs.digests(tmp_path / "out") == jobs.digests(before)
        finally:
            jobs.clipattr.studies.build.Workplace.publish = original
    assert open_study(tmp_path / "out").vocabulary.words == ["owl"]


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_a_swap_that_was_killed_between_its_renames_is_finished_or_taken_back(
    jobs, undisturbed, tmp_path, moment
):
    from clipattr.studies.folder import Workplace, locked

    root, _ = undisturbed
    old, new = tmp_path / "out", tmp_path / "out.building"
    jobs.shutil.copytree(root / "study-good" / "out", old)
    if moment < 2:
        jobs.shutil.copytree(root / "study-good" / "out", new)
    if moment > 0:
        old.rename(tmp_path / "out.replaced")
    with locked(old):
        Workplace(old).recover()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert jobs.digests(old) == jobs.digests(root / "study-good" / "out")


def test_a_batch_that_memory_does_not_suffice_for_is_halved_and_noted(jobs, undisturbed, tmp_path):
    root, _ = undisturbed
    status, said = jobs.run("study", root, tmp_path / "out", jobs.Setting(memory=2))
    assert status == jobs.DONE, said
    study, other = open_study(tmp_path / "out"), open_study(root / "study-good" / "out")
    assert "did not fit into memory" in study.manifest["images"]["notes"][-1]
    assert not any("Memory" in note for note in other.manifest["images"]["notes"])
    np.testing.assert_allclose(study.activations, other.activations, atol=2e-3)


def test_a_disk_that_is_full_from_the_start_leaves_nothing_in_the_way(jobs, undisturbed):
    root, results = undisturbed
    out = root / "study-full" / "out"
    status, said = jobs.run("study", root, out, jobs.Setting(limit=64))
    assert status == jobs.REFUSED and "could not be written" in said
    assert jobs.run("study", root, out) == (jobs.DONE, "")
    assert jobs.digests(out) == results["study"][0]


def test_a_batch_of_one_that_memory_does_not_suffice_for_is_an_error(jobs, undisturbed, tmp_path):
    root, _ = undisturbed
    status, said = jobs.run("study", root, tmp_path / "out", jobs.Setting(memory=0))
    assert status != jobs.DONE and "memory" in said and not (tmp_path / "out").exists()


def test_a_step_that_memory_does_not_suffice_for_is_an_error_that_keeps_the_checkpoint(
    jobs, tmp_path, monkeypatch
):
    from clipattr.dictionaries import train_sae, trainer

    acts = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    how = {"n_latents": 8, "k": 2, "steps": 8, "batch": 16, "checkpoint_every": 2, "progress": False}
    whole = train_sae(acts, **how)
    plain, steps = trainer.Run.step, []

    def poor(self, x, lr):
        steps.append(len(x))
        if len(steps) == 6:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return plain(self, x, lr)

    monkeypatch.setattr(trainer.Run, "step", poor)
    with pytest.raises(
        jobs.ClipattrError, match="training step of 16 .*smaller batch.* checkpoint .* is whole"
    ):
        train_sae(acts, checkpoint=tmp_path, **how)
    monkeypatch.setattr(trainer.Run, "step", plain)
    assert train_sae(acts, checkpoint=tmp_path, **how).hash == whole.hash


def test_a_batch_is_halved_until_it_fits_and_its_pieces_stay_in_order():
    from clipattr.execution.engine import in_halves

    def work(some):
        if some.stop - some.start > 3:
            raise MemoryError
        return list(range(10))[some]

    pieces, smallest = in_halves(work, 10)
    assert sum(pieces, []) == list(range(10)) and smallest == 3 and max(map(len, pieces)) == 3
    assert in_halves(work, 3) == ([[0, 1, 2]], None)
    with pytest.raises(ZeroDivisionError):
        in_halves(lambda some: 1 / 0, 4)


def test_two_audits_of_one_study_with_checkpoints_of_their_own_do_not_meet(jobs, undisturbed, tmp_path):
    root, results = undisturbed
    places = [tmp_path / name for name in ("one", "other")]
    for place in places:
        place.mkdir()
    both = [jobs.start("audit", root, place / "out") for place in places]
    assert [jobs.finish(*one) for one in both] == [(jobs.DONE, "")] * 2
    assert all(jobs.digests(place / "out") == results["audit"][0] for place in places)


def test_forward_passes_are_halved_until_they_fit_and_one_that_does_not_is_an_error(jobs, monkeypatch):
    from types import SimpleNamespace

    from clipattr.discovery import encoded
    from clipattr.sites import Site

    study = SimpleNamespace(model=jobs.MODEL, site=Site("image.-1.cls"))
    pictures = [Image.new("RGB", (40, 40), (20 * n, 90, 200 - 9 * n)) for n in range(11)]
    whole, plain, sizes = encoded.activations_of(study, pictures), encoded.activations, []

    def poor(model, pixels, site):
        sizes.append(len(pixels))
        if len(pixels) > poor.most:
            raise poor.error
        return plain(model, pixels, site)

    monkeypatch.setattr(encoded, "activations", poor)
    poor.most = 3
    for poor.error in (MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")):
        sizes.clear()
        torch.testing.assert_close(encoded.activations_of(study, pictures), whole)
        assert sum(size for size in sizes if size <= 3) == 11
    poor.most = 0
    with pytest.raises(jobs.ClipattrError, match="a single picture .*CUDA out of memory.*device="):
        encoded.activations_of(study, pictures)
    poor.error = RuntimeError("another")
    with pytest.raises(RuntimeError, match="another"):
        encoded.activations_of(study, pictures)


def test_a_flipped_bit_in_a_finished_store_is_found(jobs, undisturbed, tmp_path):
    root, _ = undisturbed
    jobs.shutil.copytree(root / "store", tmp_path / "store")
    shard = sorted((tmp_path / "store").rglob("*.bin"))[1]
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(jobs.ClipattrError, match="damaged"):
        ActivationStore.open(tmp_path / "store").check()


def test_a_folder_in_the_place_of_an_unfinished_file_is_named_as_what_to_delete(
    jobs, undisturbed, monkeypatch
):
    root, results = undisturbed
    out = root / "study-folder" / "out"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(jobs.clipattr.studies.build.Workplace, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            jobs.JOBS["study"](root, out)
    wrong = out.with_name("out.building") / "activations.npy"
    wrong.unlink()
    wrong.mkdir()
    status, said = jobs.run("study", root, out)
    assert status == jobs.REFUSED and f"is a folder; delete {str(wrong)!r}" in said, said
    wrong.rmdir()
    assert jobs.run("study", root, out) == (jobs.DONE, "")
    assert jobs.digests(out) == results["study"][0]
