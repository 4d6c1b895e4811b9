"""Plans: hours and bytes are the arithmetic of measured rates, and follow pictures and workers as they should."""

import inspect
import json

import pytest
import torch

from clipattr.cli.main import main
from clipattr.errors import DataError
from clipattr.studies.plan import JPEG, THUMBNAIL, plan_study

RATES = {
    "decode": 50.0,
    "encode": 20.0,
    "evaluate": 20.0,
    "alter": 200.0,
    "codes": 1000.0,
    "examples": 2000.0,
    "train": 500.0,
    "texts": 100.0,
    "judge_texts": 25.0,
    "disk_bytes": 1e8,
}


@pytest.fixture
def measured(monkeypatch):
    """Rates as if measured: encoding both models 10 pictures a second."""
    monkeypatch.setattr("clipattr.studies.plan.calibrated", lambda *models, **sizes: RATES)


def rows(plan):
    return {row.stage: row for row in plan.table.itertuples()}


def test_hours_and_bytes_follow_from_the_rates(tiny_model, measured):
    plan = plan_study(tiny_model, pictures=36_000, n_latents=1000, k=10, words=100, steps=50, examples=5)
    found = rows(plan)
    encoded = 36_000 * (2 * 64 + 2 * 48 + 8 + THUMBNAIL)
    assert found["decode and encode"].hours == pytest.approx(1.0)  # 36,000 / (1 / (1/20 + 1/20)) seconds
    assert found["decode and encode"].network_gb == pytest.approx((36_000 * JPEG + encoded) / 1e9)
    assert found["join shards"].hours == pytest.approx(2 * encoded / 1e8 / 3600)
    assert found["codes"].disk_gb == pytest.approx(36_000 * 10 * 4 / 1e9)
    assert found["codes"].hours == pytest.approx(36 / 3600) and found["examples"].hours == pytest.approx(
        18 / 3600
    )
    # 50 steps of 4,096 activations; 1,000 latents compared with 100 words, which the evaluator embeds.
    assert found["train the dictionary"].hours * 3600 == pytest.approx(50 * 4096 / 500)
    assert found["labels"].hours * 3600 == pytest.approx(1000 * 100 * 48 * 8 / 1e10 + 100 / 25)
    assert plan.seconds == pytest.approx(sum(row.hours for row in found.values()) * 3600)
    assert plan.disk == pytest.approx(sum(row.disk_gb for row in found.values()) * 1e9)


def test_workers_share_what_can_be_spread_and_nothing_else(tiny_model, measured):
    one, ten = (rows(plan_study(tiny_model, pictures=10**6, workers=workers)) for workers in (1, 10))
    for stage in ("decode and encode", "codes", "examples"):
        assert one[stage].hours == pytest.approx(10 * ten[stage].hours) and ten[stage].workers == 10
    for stage in ("join shards", "train the dictionary", "labels"):
        assert one[stage].hours == ten[stage].hours and ten[stage].workers == 1


def test_memory_does_not_grow_with_the_pictures_but_time_does(tiny_model, measured):
    few, many = (rows(plan_study(tiny_model, pictures=pictures)) for pictures in (10**6, 10**9))
    for stage, row in few.items():
        # An audit holds the codes of its pictures.
        assert row.memory_gb == many[stage].memory_gb or stage == "audit", stage
    assert many["codes"].hours == pytest.approx(1000 * few["codes"].hours)
    assert few["train the dictionary"].hours == many["train the dictionary"].hours


def test_rates_are_those_of_the_functions_of_a_build(tiny_model, monkeypatch):
    from types import SimpleNamespace

    from clipattr.dictionaries import joined, training
    from clipattr.studies import rates

    clock = [0.0]
    monkeypatch.setattr(rates, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def slowed(owner, name, cost):
        real = getattr(owner, name)

        def slow(*args, **named):
            clock[0] += cost
            return real(*args, **named)

        monkeypatch.setattr(owner, name, slow)

    slowed(training, "_stepped", 0.25)
    slowed(joined, "readings", 2.0)
    assert rates._train_rate(8, 16, 2, rows=32, seconds=0.1) == pytest.approx(32 / 0.25)
    assert rates._read_rate(8, 4, ["cat", "dog"]) == pytest.approx(rates.READ_ROWS / 2)


def test_nothing_to_plan_is_refused(tiny_model):
    for wrong in (
        {"pictures": 0},
        {"pictures": 10, "workers": 0},
        {"pictures": 10, "n_latents": 4, "k": 5},
        {"pictures": 10, "words": 0},
    ):
        with pytest.raises(DataError, match="A plan needs at least 1"):
            plan_study(tiny_model, **wrong)


def test_a_plan_is_measured_and_told_by_the_command_line(tmp_path, capsys, monkeypatch):
    real = plan_study

    def hasty(*models, **settings):
        return real(*models, **{**settings, "seconds": 0.01, "batch": 2})

    monkeypatch.setattr("clipattr.studies.plan.plan_study", hasty)
    told = tmp_path / "plan.json"
    arguments = [
        "plan",
        "picture-world-a",
        "--pictures",
        "10000000",
        "--latents",
        "256",
        "--k",
        "8",
        "--workers",
        "16",
    ]
    assert main([*arguments, "--json", str(told)]) == 0
    plan = json.loads(told.read_text())
    assert plan["pictures"] == 10**7 and set(plan["rates_per_second"]) == set(RATES)
    assert all(rate > 0 for rate in plan["rates_per_second"].values())
    shown = capsys.readouterr().out
    assert "decode and encode" in shown and "network GB" in shown and "Estimates" in shown
    assert "audit of 882 prompts with about 19 forward passes each" in shown
    assert "dictionary of 256 latents, 8 active (sizes as given), 2,000 training steps of 4,096" in shown


def test_a_plan_is_of_what_a_study_does_by_default(tiny_model, measured):
    from clipattr.cli.parser import parser
    from clipattr.dictionaries import train_sae
    from clipattr.dictionaries.choosing import default_schedule
    from clipattr.discovery.audit.settings import Settings
    from clipattr.meaning import Vocabulary
    from clipattr.studies.plan import FORWARDS
    from clipattr.studies.start import build_study

    ours, theirs = (inspect.signature(function).parameters for function in (plan_study, build_study))
    shared = set(ours) & set(theirs) - {"model", "workers"}
    assert shared >= {"evaluator", "n_latents", "k", "examples", "vocabulary", "batch", "site"}
    assert {name: ours[name].default for name in shared} == {name: theirs[name].default for name in shared}
    lines = (["plan", "m", "--pictures", "9"], ["study", "m", "i", "--out", "o"])
    planned, studied = (vars(parser().parse_args(line)) for line in lines)
    for name in ("latents", "k", "steps", "examples", "vocabulary", "batch", "site"):
        assert planned[name] == studied[name], name
    assert Settings().budget >= FORWARDS
    acts = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    made = train_sae(acts, steps=2, progress=False)
    words, steps = len(Vocabulary.open("general")), default_schedule(4000).steps
    how, about, audit = plan_study(tiny_model, pictures=4000).assumptions[:3]
    assert (
        how.startswith(f"dictionary of {made.n_latents:,} latents, {made.k} active") and f"{steps:,}" in how
    )
    assert f"{words:,} words; 20 examples" in about and "the model itself names latents" in about
    assert audit.startswith(f"audit of {words:,} prompts")
    more = plan_study(tiny_model, pictures=4000, prompts=2 * words)
    assert rows(more)["audit"].hours > rows(plan_study(tiny_model, pictures=4000))["audit"].hours


def test_the_audit_costs_its_forward_passes_and_the_words_of_the_pictures(tiny_model, measured):
    plan = plan_study(tiny_model, pictures=1000, words=50, prompts=7)
    n = 7 * 19 + 324  # what prompts ask for, and what is made once for all of them
    forwards, products = n / 20 + n / 200, 1000 * 48 * (50 / 3e10 + 64 * 64 / 1e10)
    texts = (50 + 7) / 100 + 7 / 25  # words and prompts by the model, prompts by the evaluator
    assert rows(plan)["audit"].hours * 3600 == pytest.approx(
        forwards + texts + products + 7 * (0.03 + 0.0015)
    )


def test_the_audit_s_share_of_a_plan_is_that_of_its_settings():
    from clipattr.discovery.audit.settings import Settings
    from clipattr.studies import plan

    settings = Settings()
    assert settings.budget >= plan.FORWARDS
    assert settings.inserted * (1 + settings.controls + 2) == plan.SHARED
