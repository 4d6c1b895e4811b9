"""A reproduction runs whole without a hand step, resumes to the same bytes, and says what it did otherwise."""

import csv
import json
import os
import random
import re
from types import SimpleNamespace

import pytest

import clipattr as ca
from clipattr.reproduction.experiment import NOT_SUPPORTED, SUPPORTED, UNDECIDED, decide
from clipattr.reproduction.experiments import EXPERIMENTS
from clipattr.reproduction.experiments.checks import BY_NAME, RENDERED, TRUTH
from clipattr.reproduction.inputs import named_models
from clipattr.reproduction.page import page
from clipattr.reproduction.reopen import pack, reopened
from clipattr.reproduction.times import TIMES, Spent, Times
from clipattr.statistics import Interval

KILLS = 50


def contents(folder):
    """Bytes of every file of the results: pages, tables, figures and pieces, but not the times."""
    kept = [
        folder / "index.html",
        folder / "about.json",
        *folder.glob("experiments/*"),
        *folder.glob("pieces/*"),
    ]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(kept)}


def test_every_experiment_has_its_files_and_a_verdict(finished):
    for experiment in EXPERIMENTS:
        stored = json.loads((finished.folder / "experiments" / f"{experiment.name}.json").read_text("utf-8"))
        assert stored["outcome"] in (SUPPORTED, NOT_SUPPORTED, UNDECIDED) and stored["sentence"]
        with (finished.folder / "experiments" / f"{experiment.name}.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(stored["rows"])
        if stored["units"]:
            assert rows or not stored["rows"]
            for name, estimate in stored["figures"].items():
                assert name and set(estimate) == {"value", "low", "high"}
        else:
            assert "Not measured" in stored["sentence"]
    assert list(finished.frame["experiment"]) == [experiment.name for experiment in EXPERIMENTS]


def test_the_page_stands_alone_and_holds_every_claim_hash_and_deviation(finished, tiny_model):
    text = finished.page.read_text("utf-8")
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text) and "<script" not in text
    about = json.loads((finished.folder / "about.json").read_text("utf-8"))
    assert tiny_model.weights_hash in text and about["code"] in text and about["inputs"]["images"] in text
    for experiment in EXPERIMENTS:
        assert f'id="{experiment.name}"' in text
    for told in (
        "latents of the dictionary: 24 in place of 30,000",
        "models left out: ",
        "other models: one",
    ):
        assert told in text and any(told in deviation for deviation in finished.deviations)


def test_names_are_escaped_on_the_page(asked, tmp_path):
    hostile = {"<img src=x onerror=alert(1)>": asked["models"]["one"]}
    made = ca.reproduce("paper", out=tmp_path / "o", **{**asked, "models": hostile}, only=["null"])
    text = made.page.read_text("utf-8")
    assert "<img src=x" not in text and "&lt;img src=x" in text


def test_killed_at_fifty_random_moments_it_ends_with_the_same_bytes(asked, finished, tmp_path, monkeypatch):
    # Every file is written under a temporary name and synced before it is renamed: fail at a random one of those syncs.
    out, draws, real = tmp_path / "out", random.Random(0), os.fsync
    left, kills = [0], 0

    class Killed(BaseException):
        pass

    def sync(handle):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        real(handle)

    monkeypatch.setattr(os, "fsync", sync)
    while kills < KILLS:
        left[0] = draws.randrange(0, 12)
        try:
            ca.reproduce("paper", out=out, **asked)
        except Killed:
            kills += 1
            continue
        # It finished: remove one result at random, so that there is something to interrupt again.
        draws.choice(sorted((out / "pieces").glob("*.json"))).unlink()
    left[0] = 10**9
    made = ca.reproduce("paper", out=out, **asked)
    assert contents(made.folder) == contents(finished.folder)


def test_a_second_call_measures_nothing_again(asked, finished, monkeypatch):
    monkeypatch.setattr("clipattr.reproduction.experiments.surprises.audit", None)
    again = ca.reproduce("paper", out=finished.folder, **asked)
    assert repr([r.conclusion for r in again.results]) == repr([r.conclusion for r in finished.results])


def test_a_damaged_piece_is_measured_again(asked, finished, tmp_path):
    import shutil

    out = tmp_path / "copy"
    shutil.copytree(finished.folder, out)
    piece = next((out / "pieces").glob("null-*.json"))
    before = piece.read_bytes()
    piece.write_bytes(before.replace(b'"judged":', b'"jadged":'))
    ca.reproduce("paper", out=out, **asked, only=["null"])
    assert piece.read_bytes() == before


def test_a_part_is_not_charged_for_the_parts_inside_it(monkeypatch):
    clock, slower = iter([0.0, 1.0, 5.0, 6.0]), iter([0.0, 2.0, 10.0, 12.0])
    clocks = SimpleNamespace(perf_counter=lambda: next(slower), process_time=lambda: next(clock))
    monkeypatch.setattr("clipattr.reproduction.times.time", clocks)
    times = Times()
    with times.of("outer"), times.of("inner"):
        pass
    assert times.spent == {"inner": Spent(8.0, 4.0), "outer": Spent(4.0, 2.0)}


def test_the_estimate_follows_what_earlier_experiments_took(tmp_path):
    names = ("studies", "null", "counts", "pixels")
    plan = {"experiments": [{"experiment": name, "seconds": 10.0} for name in names]}
    (tmp_path / "plan.json").write_text(json.dumps(plan), "utf-8")
    times = Times({"studies · a": Spent(40.0), "null · a": Spent(20.0), "null · b": Spent(20.0)})
    assert times.update(tmp_path, "null") == 40.0 and times.updated == {"null": 10.0}
    times.note(tmp_path)
    # Two experiments took four times as long, and one more counts as planned: 16 ** (1 / 3).
    left = times.update(tmp_path, "counts")
    assert times.updated["counts"] == pytest.approx(10 * 16 ** (1 / 3)) and left == pytest.approx(
        2 * times.updated["counts"]
    )
    times.note(tmp_path)
    held = {
        row["experiment"]: row["updated"]
        for row in json.loads((tmp_path / TIMES).read_text("utf-8"))["experiments"]
    }
    assert held == {"studies": None, "null": 10.0}
    assert times.update(tmp_path, "unplanned") is None


def test_a_raw_folder_of_photographs_is_read_with_words_and_remarks(asked, drawings, tmp_path):
    folder = tmp_path / "raw"
    names = {"circle": "big_circle", "square": "square"}
    for number, record in enumerate(drawings[:40]):
        place = folder / names[str(drawings.columns["label"][number])]
        place.mkdir(parents=True, exist_ok=True)
        record.load().save(place / f"{number}.png")
    (folder / "square" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "README.md").write_text("where they come from")
    truth = [{"prompt": "big_circle", "cause": "red"}]
    given = {**asked, "images": folder, "prompts": ["big_circle", "square"], "truth": truth}
    made = ca.reproduce("paper", out=tmp_path / "out", **given, only=["null", "truth"])
    about = json.loads((made.folder / "about.json").read_text("utf-8"))
    assert about["prompts"] == ["big circle", "square"]
    (verdicts,) = [
        row["planted"]
        for row in json.loads((made.folder / "experiments" / "truth.json").read_text("utf-8"))[
            "values"
        ].values()
    ]
    assert verdicts[0]["prompt"] == "big circle"
    for told in (
        "big_circle as big circle",
        "1 file that is not a picture was left out",
        "1 picture could not be read",
    ):
        assert any(told in note for note in about["notes"]), told
        assert told in made.page.read_text("utf-8")


def test_pictures_without_labels_are_told_and_what_cannot_be_judged_has_no_numbers(asked, drawings, tmp_path):
    from clipattr.images.collection import Images

    bare = Images(drawings.source, drawings.ids)[:24]
    words = ["red", "blue", "noise"]
    made = ca.reproduce(
        "paper",
        out=tmp_path / "out",
        **{**asked, "images": bare, "vocabulary": words},
        only=["null", "spurious", "seeds"],
    )
    notes = json.loads((made.folder / "about.json").read_text("utf-8"))["notes"]
    assert any("have no labels, so words of the vocabulary" in note for note in notes)
    assert made["spurious"].conclusion.sentence.startswith("Not measured: it takes labelled pictures")
    for name in ("null", "seeds"):
        assert made[name].conclusion.outcome == UNDECIDED and "–" not in made[name].conclusion.sentence


def test_two_runs_in_one_folder_are_refused(asked, tmp_path):
    from clipattr.storage.locks import locked

    out = tmp_path / "out"
    with (
        locked(out / ".lock", "testing", ca.StudyError),
        pytest.raises(ca.StudyError, match="Another process is reproducing"),
    ):
        ca.reproduce("paper", out=out, **asked)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"protocol": "another"}, "no protocol 'another'; there is paper"),
        ({"form": "huge"}, "no form 'huge'; there are paper, small, quick"),
        ({"sizes": {"latents": 3}}, "no size 'latents'; there are pictures, n_latents"),
        ({"sizes": {"k": 1.5}}, "The size k is a whole number, above 0; got 1.5"),
        ({"sizes": {"lesion_seeds": 0}}, "The size lesion_seeds is a whole number, above 0; got 0"),
        ({"sizes": {"budget": -1}}, "The size budget is a whole number, 0 or more; got -1"),
        ({"only": ["count"]}, "no experiment 'count'; there are counts"),
        ({"models": []}, "no model to test"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(asked, tmp_path, changes, told):
    with pytest.raises(ca.StudyError, match=re.escape(told)):
        ca.reproduce(out=tmp_path / "out", **{**asked, **changes})


def test_a_folder_that_is_missing_is_told_as_one(asked, tmp_path):
    with pytest.raises(
        ca.DataError, match="no pictures at 'nowhere': no file or folder, and no bundled study"
    ):
        ca.reproduce(out=tmp_path / "out", **{**asked, "images": "nowhere"})


def test_a_verdict_needs_the_whole_interval_on_one_side():
    assert decide(Interval(1.0, 0.0, 2.0)) == UNDECIDED
    assert decide(Interval(float("nan"), float("nan"), float("nan"))) == UNDECIDED
    assert decide(Interval(0.6, 0.51, 0.7), 0.5) == SUPPORTED


def test_the_times_are_the_only_file_that_differs_between_runs(finished):
    assert (finished.folder / TIMES).exists() and "seconds" not in (finished.folder / "about.json").read_text(
        "utf-8"
    )


def test_the_command_takes_tables_strata_and_causes_by_model(tmp_path, monkeypatch, capsys):
    from PIL import Image

    from clipattr.cli.main import main

    (tmp_path / "skin").mkdir()
    rows = ["image_id,dx,sex"]
    for number in range(8):
        Image.new("RGB", (16, 16), (30 * number, 9, 9)).save(tmp_path / "skin" / f"p{number}.png")
        rows.append(f"p{number},{('mel', 'nv')[number % 2]},{('male', 'female')[number // 4]}")
    table, causes = tmp_path / "all.csv", tmp_path / "a=b.json"
    table.write_text("\n".join(rows))
    causes.write_text(
        json.dumps([{"prompt": "mel", "cause": "ruler"}, {"prompt": "x", "cause": "y", "learnt": False}])
    )
    given = {}

    def read(protocol, **arguments):
        given.update(arguments)
        raise ca.StudyError("enough")

    monkeypatch.setattr("clipattr.reproduction.run.reproduce", read)
    command = f"reproduce paper --models m --out {tmp_path / 'o'} --images {tmp_path / 'skin'} --table {table} --quick"
    lesions = f" --lesions {tmp_path / 'skin'} --lesions-table {table} --strata sex"
    assert main([*(command + lesions).split(), "--truth", f"m={causes}"]) == 2
    assert set(given["images"].images.columns["label"]) == {"mel", "nv"}
    assert set(given["lesions"].images.columns["label"]) == {"malignant", "benign"}
    assert set(given["lesions"].images.columns["group"]) == {"male", "female"}
    assert given["truth"] == {"m": [{"prompt": "mel", "cause": "ruler"}]}
    assert f"--table {table}" in given["command"] and "--strata sex" in given["command"]
    assert main([*command.split(), "--truth", str(causes)]) == 2
    assert given["truth"] == [{"prompt": "mel", "cause": "ruler"}]
    capsys.readouterr()
    for extra, told in (
        ("--strata sex", "give the folder of lesions"),
        (f"--truth {causes} --truth m={causes}", "Give --truth FILE once"),
    ):
        assert main([*command.split(), *extra.split()]) == 2 and told in capsys.readouterr().err


def test_causes_by_name_can_support_a_precision_and_not_refute_it():
    def values(found, said):
        planted = [{"prompt": "p", "cause": str(n), "kind": "companion", "found_as": "companion" if n < found else None,
                    "right_kind": True if n < found else None} for n in range(20)]  # fmt: skip
        return {
            "m": {
                "planted": planted,
                "said": [{"right": right} for right in said],
                "how": BY_NAME,
                "simpler": {},
            }
        }

    assert TRUTH.conclude(values(18, [True] * 18)).outcome == SUPPORTED
    assert TRUTH.conclude(values(18, [True] * 18 + [False] * 100)).outcome == UNDECIDED
    assert TRUTH.conclude(values(2, [True] * 2)).outcome == NOT_SUPPORTED
    rendered = {"m": {**values(18, [True] * 18 + [False] * 100)["m"], "how": RENDERED}}
    assert TRUTH.conclude(rendered).outcome == NOT_SUPPORTED
    assert "lower bound" in TRUTH.conclude(values(18, [True] * 18)).sentence


def test_models_in_folders_are_shown_under_their_last_name(tmp_path):
    (tmp_path / "one").mkdir()
    assert list(named_models([f"local-dir:{tmp_path / 'one'}", "ViT-B-32:openai"])) == [
        "one",
        "ViT-B-32:openai",
    ]


def test_packed_values_give_the_same_page(finished, tmp_path):
    pack(finished.folder, tmp_path)
    assert page(*reopened(tmp_path)) == finished.page.read_text("utf-8")
    (tmp_path / "about.json").unlink()
    with pytest.raises(ca.DataError, match="holds no finished reproduction"):
        reopened(tmp_path)
