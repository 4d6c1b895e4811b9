"""Strata: effects by group equal a slow count picture by picture, and a stratum without the cause shows it."""

import numpy as np
import pytest
import torch

import clipattr as ca
from clipattr.discovery.audit.base import halves
from clipattr.discovery.findings import Finding, Findings
from clipattr.reporting.page import page
from clipattr.sites import continue_from
from clipattr.statistics import Interval, t_interval, wilson


@pytest.fixture(scope="module")
def study():
    return ca.open_study("picture-world")


@pytest.fixture(scope="module")
def finding(study):
    """A family of two latents that are active on many held-out pictures."""
    active = (study.codes.to_scipy()[halves(study)[1]] > 0).sum(0)
    family = tuple(int(j) for j in np.asarray(active).ravel().argsort()[-2:])
    some = Interval(0.05, 0.04, 0.06)
    return Finding("rabbit", family, "carrot", "companion", 0.9, some, some, 0.2, 0.0, 0.5, 0.9)


def test_effects_and_rates_equal_a_count_picture_by_picture(study, finding):
    names = ["north" if n % 3 else "south" for n in range(len(study.images))]
    names[5] = None
    frame = ca.by_stratum(study, [finding], names).set_index("stratum")
    rows = halves(study)[1]
    words = study.model.encode_text(study.vocabulary.prompts).float()
    target = study.model.encode_text(["rabbit"]).float()[0] - words.mean(0)
    decoder = study.dictionary.decoder
    codes = study.codes.to_scipy()
    for name in ("north", "south"):
        own = [row for row in rows if names[row] == name]
        falls, hits = [], 0
        for row in own:
            amounts = torch.tensor(codes[[row]][:, list(finding.latents)].toarray()[0])
            if not (amounts > 0).any():
                continue
            hits += 1
            if len(falls) < 128:
                acts = torch.from_numpy(np.asarray(study.activations[[row]], np.float32))
                without = acts - amounts @ decoder[list(finding.latents)]
                before, after = (
                    continue_from(study.model, study.site, each)[0] @ target for each in (acts, without)
                )
                falls.append(float(before - after))
        truth, found = t_interval(torch.tensor(falls)), frame.loc[name]
        assert found["pictures"] == len(own) and found["active"] == pytest.approx(hits / len(own))
        assert (found["active_low"], found["active_high"]) == pytest.approx(wilson(hits, len(own)))
        assert found["effect"] == pytest.approx(truth.value, abs=2e-5)
        assert found["low"] == pytest.approx(truth.low, abs=2e-5)


def test_a_stratum_without_the_cause_differs_from_one_with_it(study, finding):
    active = np.asarray(study.codes.to_scipy()[:, list(finding.latents)].sum(1)).ravel() > 0
    draws = np.random.default_rng(0).random(len(active))
    names = ["with" if one and draw > 0.1 else "without" for one, draw in zip(active, draws, strict=True)]
    frame = ca.by_stratum(study, [finding], names).set_index("stratum")
    assert frame.loc["with", "active_low"] > 0.9 > 0.3 > frame.loc["without", "active_high"]


def test_differences_are_against_all_other_strata_and_hold_together(study, finding):
    names = [f"site {n % 4}" for n in range(len(study.images))]
    frame = ca.by_stratum(study, [finding], names)
    assert len(frame) == 4 and (frame["difference_low"] <= frame["difference"]).all()
    assert ((frame["difference_low"] < 0) & (frame["difference_high"] > 0)).all()  # drawn at random


def test_reports_and_json_show_the_strata(study, finding, tmp_path):
    names = ["clinic <b>" if n % 2 else "practice" for n in range(len(study.images))]
    found = ca.with_strata(Findings([finding], study), names)
    assert [row["stratum"] for row in found[0].evidence["strata"]] == ["clinic <b>", "practice"]
    text = page(found)
    assert "by stratum" in text and "clinic &lt;b&gt;" in text and "clinic <b>" not in text
    found.to_json(tmp_path / "f.json")
    assert Findings.from_json(tmp_path / "f.json")[0].evidence["strata"] == found[0].evidence["strata"]


@pytest.mark.parametrize(
    ("strata", "told"),
    [
        (["a"], "need as many strata; got 1"),
        (None, "two with 5"),
        ("all", "two with 5"),
        ("none", "No picture has"),
    ],
)
def test_what_cannot_be_compared_is_refused(study, finding, strata, told):
    if strata == "none":
        strata = [None] * len(study.images)
    elif strata == "all":
        strata = ["one"] * len(study.images)
    elif strata is None:
        strata = [str(n) for n in range(len(study.images))]
    with pytest.raises(ca.DataError, match=told):
        ca.by_stratum(study, [finding], strata)
