"""Plans: an estimate is the sum of units that were timed with the experiments' own functions."""

import functools
import importlib
import json
from types import SimpleNamespace

import pytest
import torch

import clipattr as ca
from clipattr.discovery.pixels.settings import PixelSettings
from clipattr.reproduction.experiments import EXPERIMENTS
from clipattr.reproduction.pilot import Line, Pilot, Rates, at_most
from clipattr.reproduction.pilot_units import shape_of
from clipattr.reproduction.times import LOADING, PAGE, STUDIES, TIMES, Spent, Times


def spent(seconds):
    return Spent(seconds, seconds / 2)


def seconds_of(plan):
    return dict(zip(plan.frame["experiment"], plan.frame["seconds"], strict=True))


class Slowed:
    """A clock that stands still but for the functions named here: each call adds what a formula says."""

    def __init__(self, monkeypatch):
        self.monkeypatch, self.now, self.calls = monkeypatch, 0.0, {}
        clock = SimpleNamespace(perf_counter=lambda: self.now, process_time=lambda: self.now / 2)
        monkeypatch.setattr("clipattr.reproduction.times.time", clock)

    def __call__(self, place, cost, instead=None):
        module, *names = place.split(":")
        owner = importlib.import_module(module)
        for name in names[0].split(".")[:-1]:
            owner = getattr(owner, name)
        real = getattr(owner, names[0].rpartition(".")[2])

        @functools.wraps(real)
        def slow(*args, **named):
            self.calls[place] = self.calls.get(place, 0) + 1
            made = real(*args, **named) if instead is None else instead
            self.now += cost(*args, **named) if callable(cost) else cost
            return made

        self.monkeypatch.setattr(owner, names[0].rpartition(".")[2], slow)


@pytest.fixture
def slowed(monkeypatch):
    monkeypatch.setattr("clipattr.reproduction.pilot_units.STEPS", (5, 20))
    monkeypatch.setattr("clipattr.reproduction.pilot_units.FAITHFUL", (1, 2))
    return Slowed(monkeypatch)


def test_each_estimate_is_of_the_experiments_own_functions_times_their_number(slowed, asked, tmp_path):
    slowed("clipattr.reproduction.inputs:load_model", 6.0)
    slowed("clipattr.reproduction.inputs:collect_activations", lambda model, images, *a, **k: len(images))
    slowed("clipattr.reproduction.inputs:build_study", lambda model, images, **k: 5 + len(images) / 10)
    slowed("clipattr.dictionaries.training:_stepped", 0.01)
    slowed("clipattr.discovery.audit.run:Ready.__init__", 3.0)
    slowed("clipattr.discovery.audit.run:audit_prompt", 2.0)
    slowed("clipattr.attribution.faithfulness:faithfulness", lambda study, some, *a, **k: 1 + len(some))
    marks = "clipattr.reproduction.experiments.spurious"
    slowed(f"{marks}:embedded_with_marks", lambda model, images, *a: len(images) / 2)
    slowed(f"{marks}:curves", 4.0)
    slowed("clipattr.discovery.pixels.measure:Measure.maps", 1.04)
    slowed("clipattr.discovery.compare:compare", 8.0)
    slowed("clipattr.studies.cards:study_card", 9.0)
    slowed("clipattr.reproduction.figures:svg", 0.5)
    slowed("clipattr.statistics:bootstrap", 0.001)
    plan = ca.reproduce("paper", out=tmp_path / "out", **asked, plan=True)

    # 96 pictures, of which 67 are fitted on in batches of 32, twice; 2 prompts, 6 pictures of faithfulness.
    study = 5 + 9.6
    trained = study + 2 * 67 / 32 * 0.01
    audit = 3 + 2 * 2.0
    # 4 pictures are changed in 25 places each, and read as they are: 104 of the passes that a finding may take.
    verified = 1.04 * 0.65 * PixelSettings().forwards / 104
    # 0.5 findings are expected, of which one is looked at in a third of all models; it has a control.
    expected = {
        LOADING: 2 * 6.0,
        STUDIES: 96 + trained,
        "counts": audit,
        "null": audit,
        "faithfulness": 1 + 6,
        "spurious": (40 + 20) / 2 + 4 * 1 * 4.0,
        "lesions": 0,
        "variants": 0,
        "dictionaries": 3 * (study + audit) + 9.0,
        "seeds": trained + audit + 8.0,
        "truth": 0,
        "pixels": 2 / 3 * verified,
        PAGE: 7 * 0.5 + 8 * 6 * 3 * 0.001,
    }
    assert seconds_of(plan) == pytest.approx(expected)
    assert plan.seconds == pytest.approx(sum(expected.values()))
    assert list(plan.frame["processor_seconds"]) == pytest.approx(list(plan.frame["seconds"] / 2))
    assert plan.pilot.wall == pytest.approx(slowed.now) and plan.to_dict()["pilot_seconds"] == plan.pilot.wall
    share = f"the pilot took {plan.pilot.wall:.0f} s, {plan.pilot.wall / plan.seconds:.0%} of the estimate"
    assert any(told.startswith(share) for told in plan.assumptions)
    assert not (tmp_path / "out" / "pieces").exists()


def test_forward_passes_of_an_audit_are_those_that_prompts_share_and_those_of_each(slowed, asked, tmp_path):
    from clipattr.discovery.audit.settings import Settings

    settings = Settings()
    passes = "clipattr.discovery.audit.text_insertion:activations_of"

    def each(study, some):
        return 0.01

    slowed(passes, each)
    form = asked["form"].changed({"budget": 40, "faithful_pictures": 2})
    plan = ca.reproduce("paper", out=tmp_path / "out", **asked | {"form": form}, plan=True, only=["counts"])
    looks = 3  # parts of the pictures, encoded one after the other
    shared = looks * (1 + settings.controls) * 0.01
    # Between the first look alone and all of them.
    assert shared + 2 * 0.01 <= seconds_of(plan)["counts"] <= shared + 2 * looks * 0.01
    assert seconds_of(plan)["null"] == 0


def test_lesions_are_drawn_and_their_probes_fitted_as_often_as_in_a_run(slowed, asked, tmp_path):
    slowed("clipattr_data.robustness:material", lambda *a, pool, judged: 2 * (pool + judged) * 0.01)
    slowed("clipattr_data.robustness:curves", 0.5, instead=())
    slowed("clipattr.reproduction.experiments.lesions:repaired", 3.0, instead=())
    plan = ca.reproduce(
        "paper", out=tmp_path / "out", **asked, lesions="lesions", plan=True, only=["lesions"]
    )
    # QUICK: 300 of the pool and 60 to judge on, each drawn twice; six strengths, one draw, seven shortcuts.
    assert seconds_of(plan)["lesions"] == pytest.approx(7 * (2 * 360 * 0.01 + 6 * 0.5 + 3.0))


def test_a_plan_counts_the_experiments_whose_values_are_read(asked, tmp_path, monkeypatch):
    each, one = Line(each=spent(1.0)), spent(1.0)
    rates = Rates(encode=each, study=each, ready=each, prompt=one, null=one, audited_on=24, verified=one)
    monkeypatch.setattr("clipattr.reproduction.plan.piloted", lambda run, names: Pilot({"one": rates}))
    plan = ca.reproduce("paper", out=tmp_path / "out", **asked, plan=True, only=["pixels"])
    assert list(plan.frame["experiment"]) == [LOADING, STUDIES, "counts", "null", "pixels", PAGE]
    # 96 pictures are encoded and studied for a second each. An audit takes as long for what prompts share, and twice as
    # long for each of two prompts, as there are four times as many pictures as in the pilot.
    assert list(plan.frame["seconds"]) == pytest.approx([0, 192, 100, 100, 2 / 3, 0])
    alone = ca.reproduce("paper", out=tmp_path / "out", **asked, plan=True, only=["spurious"])
    assert list(alone.frame["experiment"]) == [LOADING, STUDIES, "spurious", PAGE]


def test_models_of_other_shapes_are_measured_by_themselves(asked, tiny_model, tmp_path, monkeypatch):
    other, seen = ca.load_model("picture-world-b"), []
    assert shape_of(tiny_model) == shape_of(tiny_model) != shape_of(other)

    def measured(run, variant, *args):
        seen.append(variant)
        return Rates(encode=Line(each=spent(len(seen)))), Spent(), (1, 2)

    monkeypatch.setattr("clipattr.reproduction.pilot_units.measured", measured)
    models = {"one": tiny_model, "two": other, "three": tiny_model}
    plan = ca.reproduce("paper", out=tmp_path / "out", **asked | {"models": models}, plan=True, only=["null"])
    assert seen == ["one", "two"] and seconds_of(plan)[STUDIES] == (1 + 2 + 1) * 96
    assert any("2 models in all" in told for told in plan.assumptions)


def test_numbers_of_findings_are_those_of_a_geometric_distribution():
    draws = torch.distributions.Geometric(1 / 3.5).sample((200_000,))
    assert float(draws.mean()) == pytest.approx(2.5, abs=0.03)
    for most in (1, 2, 5):
        assert at_most(2.5, most) == pytest.approx(float(draws.clamp(max=most).mean()), abs=0.02)


def test_what_a_run_took_is_written_beside_what_was_planned(asked, tmp_path, monkeypatch):
    out, each = tmp_path / "out", Line(each=spent(1.0))
    rates = Rates(encode=each, study=each, ready=each, prompt=spent(1.0), null=spent(1.0), audited_on=96)
    made = Pilot({"one": rates}, loading=spent(1.0), figures=each)
    monkeypatch.setattr("clipattr.reproduction.plan.piloted", lambda run, names: made)
    plan = ca.reproduce("paper", out=out, **asked, plan=True, only=["null"])
    ca.reproduce("paper", out=out, **asked, only=["null"])
    held = json.loads((out / TIMES).read_text("utf-8"))
    rows = {row["experiment"]: row for row in held["experiments"]}
    assert set(rows) == {LOADING, STUDIES, "null", PAGE} and set(held["seconds"]) == set(
        held["processor_seconds"]
    )
    for row in plan.rows:
        found, part = (
            rows[row.experiment],
            row.experiment + (" · one" if row.experiment in (STUDIES, "null") else ""),
        )
        for clock, column, planned in (
            ("", "seconds", row.spent.wall),
            ("processor_", "processor_seconds", row.spent.processor),
        ):
            assert found[f"{clock}planned"] == planned
            assert found[f"{clock}measured"] == pytest.approx(held[column][part])
            assert found[f"{clock}measured_over_planned"] == pytest.approx(held[column][part] / planned)
        assert (found["updated"] is None) is (row.experiment != "null")  # no experiment, or part of one
    assert rows["null"]["updated"] == rows["null"]["planned"]  # nothing was measured before
    # A damaged plan is no reason to lose the times.
    (out / "plan.json").write_text("{", "utf-8")
    Times({"null · one": spent(1.0)}).note(out)
    last = {row["experiment"]: row for row in json.loads((out / TIMES).read_text("utf-8"))["experiments"]}
    assert last["null"]["measured"] == 1.0 and last["null"]["planned"] is None
    assert len(EXPERIMENTS) == 10
