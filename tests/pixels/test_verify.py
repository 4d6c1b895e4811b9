"""Verification of findings: budget, resuming, and the pictures it rests on, on a bundled study."""

from dataclasses import replace

import pytest
import torch

import clipattr as ca
from clipattr.discovery.encoded import summed_codes
from clipattr.discovery.findings import Finding
from clipattr.discovery.pixels import verify as module
from clipattr.discovery.pixels.candidates import choose_pictures
from clipattr.discovery.pixels.measure import Measure
from clipattr.errors import TargetError
from clipattr.sites import continue_from
from clipattr.statistics import Interval

QUICK = ca.PixelSettings(
    strong_pictures=9, weak_pictures=9, windows=2, fractions=(0.25,), kept=(), borders=()
)
NOTHING = Interval(0.0, 0.0, 0.0)


def finding(prompt, *latents):
    return Finding(prompt, latents, None, "unknown", 0.0, NOTHING, NOTHING, 0.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def study():
    return ca.open_study("picture-world")


@pytest.fixture(scope="module")
def items(study):
    often = study.examples.counts.argsort(descending=True).tolist()
    return [finding(prompt, often[n]) for n, prompt in enumerate(["kite", "rose", "lemon"])]


@pytest.fixture(scope="module")
def checked(study, items):
    return ca.verify(study, items, settings=QUICK, progress=False)


def told(findings):
    return [item.evidence["pixels"] for item in findings]


def test_no_finding_takes_more_than_the_stated_forward_passes(checked):
    spent = [one["forwards"] for one in told(checked)]
    assert 0 < max(spent) <= QUICK.forwards
    assert checked.about["pixels"]["forwards"] == sum(spent)


def test_the_budget_is_spent_in_the_order_of_the_findings_and_kept(study, items, checked):
    spent = [one["forwards"] for one in told(checked)]
    budget = spent[0] + QUICK.forwards  # the second one fits only with what the first one left
    some = told(ca.verify(study, items, settings=QUICK, budget=budget, progress=False))
    assert some[:2] == told(checked)[:2]
    assert some[2]["reason"] == f"the budget of {budget} forward passes is used up"
    assert sum(one["forwards"] for one in some) <= budget


def test_a_stopped_verification_goes_on_and_says_the_same(study, items, checked, tmp_path, monkeypatch):
    real, asked = module.examine, []

    def stopping(measure, item, settings):
        if item.prompt == "rose" and "rose" not in asked:
            asked.append("rose")
            raise KeyboardInterrupt
        asked.append(item.prompt)
        return real(measure, item, settings)

    monkeypatch.setattr(module, "examine", stopping)
    with pytest.raises(KeyboardInterrupt):
        ca.verify(study, items, settings=QUICK, progress=False, checkpoint=tmp_path)
    again = ca.verify(study, items, settings=QUICK, progress=False, checkpoint=tmp_path)
    assert asked == ["kite", "rose", "rose", "lemon"]
    assert again.to_json() == checked.to_json()


def test_strong_pictures_are_chosen_by_codes_and_never_by_the_score(study, items):
    measure = Measure(study)
    chosen = choose_pictures(measure, items[0], measure.column("kite"), QUICK)
    other = choose_pictures(measure, items[0], -measure.column("rose"), QUICK)
    assert chosen.finding + chosen.measuring == other.finding + other.measuring
    codes = summed_codes(study.codes, list(items[0].latents))
    assert codes[chosen.finding].min() > codes[chosen.weak].max()
    contrast = measure.embeddings @ measure.column("kite")
    low, high = contrast.quantile(0.15), contrast.quantile(0.85)
    assert ((contrast[chosen.weak] > low) & (contrast[chosen.weak] < high)).all()


def test_what_a_family_carries_is_its_exact_ablation(study, items):
    measure = Measure(study)
    latents, column = list(items[0].latents), measure.column("kite")
    pixels = measure.pixels([3, 4, 5])
    read = measure.read(pixels, latents, column)
    acts = ca.activations(study.model, pixels, study.site).float()
    codes = study.dictionary.encode(acts).to_dense()[:, latents]
    without = acts - codes @ study.dictionary.decoder[latents]
    slow = (
        continue_from(study.model, study.site, acts) - continue_from(study.model, study.site, without)
    ) @ column
    torch.testing.assert_close(read.carried, slow.detach(), atol=1e-5, rtol=1e-3)


def test_a_transplant_s_interval_counts_sources_and_not_copies():
    values = module.by_source(torch.arange(7.0), 3)
    assert values.tolist() == [3.0, 2.5, 3.5]


def test_findings_of_another_dictionary_are_refused(study):
    with pytest.raises(TargetError, match="dictionary has"):
        ca.verify(study, finding("kite", 10**6), progress=False)


def test_a_verdict_enters_the_confidence_once(study, items, checked):
    settings = ca.PixelSettings(confirmed_odds=4.0, contradicted_odds=0.25)
    by_hand = {"confirmed": 0.8, "contradicted": 0.2, "untestable": 0.5}  # of odds 1, times 4, a quarter, 1
    for verdict, expected in by_hand.items():
        told = {**checked[0].evidence["pixels"], "verdict": verdict}
        once = module._with(replace(items[0], confidence=0.5), told, settings)
        assert once.confidence == pytest.approx(expected)
        again = module._with(once, told, settings)
        assert again.confidence == once.confidence
        assert again.evidence["pixels"]["confidence_before"] == 0.5


def test_pictures_of_the_prompt_itself_are_left_out_where_others_show_the_family(study, items, monkeypatch):
    column = Measure(study).column("kite")
    every = choose_pictures(Measure(study), items[0], column, QUICK)
    own = torch.zeros(len(study.images), dtype=torch.bool)
    own[every.finding] = True
    monkeypatch.setattr(Measure, "shows", lambda self, prompt: own)
    chosen = choose_pictures(Measure(study), items[0], column, QUICK)
    assert chosen.alone and not own[chosen.finding + chosen.measuring].any()
    monkeypatch.setattr(Measure, "shows", lambda self, prompt: torch.ones_like(own))
    assert choose_pictures(Measure(study), items[0], column, QUICK) == replace(every, alone=False)


def test_an_evaluator_that_is_the_audited_model_leaves_no_picture_out(study, monkeypatch):
    shows = Measure(study).shows("kite")
    assert 0 < shows.sum() < len(shows) / 4
    monkeypatch.setitem(study.manifest, "evaluator", study.manifest["model"])
    assert not Measure(study).shows("kite").any()
