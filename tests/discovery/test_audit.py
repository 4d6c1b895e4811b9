"""The audit on the bundled study: its numbers against slow formulas, its findings against the planted truth."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import clipattr as ca
from clipattr.discovery.audit.expectations import expected_share, most_like, read_prompts
from clipattr.discovery.audit.naming import Family
from clipattr.discovery.audit.presence import shown
from clipattr.discovery.audit.run import Clues, Settings, suspicions, told_already
from clipattr.discovery.findings import Findings

PROMPTS = ["rabbit", "tractor", "kite", "egg plant", "camel", "house"]


@pytest.fixture(scope="module")
def study():
    return ca.open_study("picture-world")


@pytest.fixture(scope="module")
def labels(study):
    return sorted({label for label in study.images.columns["label"] if label})


@pytest.fixture(scope="module")
def findings(study, labels):
    return ca.audit(study, PROMPTS, background=labels, progress=False)


def of(findings, prompt, label):
    return next((f for f in findings if f.prompt == prompt and f.label == label), None)


@pytest.mark.parametrize(
    ("prompt", "label", "kind"),
    [
        ("rabbit", "carrot", "companion"),
        ("tractor", "meadow", "context"),
        ("camel", "desert", "context"),
        ("kite", "eagle", "polysemy"),
        ("egg plant", "egg", "compound"),
    ],
)
def test_a_plant_of_each_kind_is_found_and_named(findings, prompt, label, kind):
    found = of(findings, prompt, label)
    assert found is not None and found.kind == kind


def test_an_unplanted_prompt_has_no_finding_about_its_own_pictures(findings):
    assert not [
        f for f in findings if f.prompt == "house" and f.evidence["concerns"].startswith("the prompt")
    ]


def test_a_finding_about_writing_is_proved_by_writing_and_silent_where_nothing_is_written(study, labels):
    found = ca.audit(study, ["camera", "house"], background=labels, progress=False)
    about = of(found, "camera", "a written word")
    assert about is not None and about.kind == "typography" and of(found, "house", "a written word") is None
    assert about.evidence["before_written"] < 0.5 and about.evidence["writing"]["written"]["low"] > 0.01
    if about.evidence["reason"] == "written":
        assert about.causal_effect.value == about.evidence["writing"]["written"]["value"]


def test_a_companion_that_is_hardly_ever_missing_is_found_by_covering_it(study, labels):
    settings = [Settings(covered_pictures=pictures) for pictures in (8, 0)]
    covering, blind = (
        of(ca.audit(study, ["candle"], settings=some, background=labels, progress=False), "candle", "book")
        for some in settings
    )
    assert covering is not None and covering.kind == "companion" and covering.evidence["reason"] == "covered"
    assert covering.evidence["left_covered"] < 0.5 and covering.causal_effect.low > 0.1
    assert blind is None


def measured(study, finding):
    """Held-back pictures labelled with the prompt that show the family's word and on which it is active."""
    pictures = torch.from_numpy(np.asarray(study.evaluator_embeddings[study.holdout_rows], dtype=np.float32))
    word = study.vocabulary_embeddings[study.vocabulary.words.index(finding.label)].float()
    seen = shown(pictures, torch.nn.functional.normalize(word, dim=0)[None])[:, 0].tolist()
    rows = [
        row
        for row, there in zip(study.holdout_rows.tolist(), seen, strict=True)
        if there and study.images.columns["label"][row] == finding.prompt
    ]
    codes = study.codes.rows(torch.tensor(rows)).to_dense()[:, list(finding.latents)]
    active = codes.sum(1) > 0
    acts = torch.from_numpy(np.asarray(study.activations[np.array(rows)], dtype=np.float32))
    return acts[active], codes[active]


def contrast(study, labels, prompt, acts):
    """The slow way: through the model behind the site, and every label's text."""
    embeddings = ca.continue_from(study.model, study.site, acts)
    text = study.model.encode_text([prompt, *labels])
    return embeddings @ text[0] - (embeddings @ text[1:].T).mean(1)


def test_the_causal_effect_is_the_real_ablation_of_the_whole_family(study, labels, findings):
    finding = of(findings, "rabbit", "carrot")
    acts, codes = measured(study, finding)
    directions = study.dictionary.decoder[list(finding.latents)]
    fall = contrast(study, labels, "rabbit", acts) - contrast(
        study, labels, "rabbit", acts - codes @ directions
    )
    assert finding.evidence["pictures"] == len(acts)
    assert finding.causal_effect.value == pytest.approx(fall.mean().item(), abs=1e-5)
    half = 1.96 * fall.std().item() / len(fall) ** 0.5
    assert finding.causal_effect.high - finding.causal_effect.value == pytest.approx(half, rel=1e-3)


def test_the_reliance_is_the_sum_of_single_ablations(study, labels, findings):
    finding = of(findings, "rabbit", "carrot")
    acts, codes = measured(study, finding)
    before, total = contrast(study, labels, "rabbit", acts), torch.zeros(len(acts))
    for column, latent in enumerate(finding.latents):
        without = acts - codes[:, [column]] * study.dictionary.decoder[latent]
        total += before - contrast(study, labels, "rabbit", without)
    assert finding.reliance.value == pytest.approx(total.mean().item(), abs=1e-5)


def test_the_same_audit_gives_the_same_bytes(study, labels, findings):
    again = ca.audit(study, PROMPTS, background=labels, progress=False)
    assert again.to_json() == findings.to_json()


def test_findings_survive_json_and_stay_within_their_ranges(findings, tmp_path):
    findings.to_json(tmp_path / "f.json")
    read = Findings.from_json(tmp_path / "f.json")
    assert [f.prompt for f in read] == [f.prompt for f in findings]
    assert read[0] == findings[0]
    json.loads(
        (tmp_path / "f.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON")
    )
    for finding in findings:
        assert 0 <= finding.confidence <= 1 and 0 <= finding.share <= 1 and 0 <= finding.kind_probability <= 1
        assert finding.causal_effect.low >= Settings().least_effect
        assert set(finding.examples) <= set(findings.study.images.ids)


def test_saying_what_a_word_means_changes_what_is_expected(study, labels):
    def names(prompt):
        found = ca.audit(study, [prompt], background=labels, progress=False)
        return {f.label for f in found if f.evidence["concerns"].startswith("the prompt")}

    assert "eagle" in names("kite")
    assert "eagle" not in names(ca.Prompt("kite", means="eagle"))


def test_a_word_nobody_pictured_is_audited_on_what_the_evaluator_chooses(study, labels):
    found = ca.audit(study, ["zebra crossing"], background=labels, progress=False)
    assert found.about["prompts_audited"] == 1 and {f.prompt for f in found} <= {"zebra crossing"}


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([""], "is empty"),
        ([], "no prompt"),
        ([ca.Prompt("bat", means="an animal"), ca.Prompt("bat", means="a club")], "two meanings"),
    ],
)
def test_bad_prompts_are_refused(study, prompts, message):
    with pytest.raises(ca.TargetError, match=message):
        read_prompts(prompts, study)


def test_a_single_text_is_one_prompt(study):
    assert [p.text for p in read_prompts("bat", study)] == ["bat"]


def test_expectation_is_relative_to_the_best_word():
    words = torch.eye(4)
    share, aligned = expected_share(words[:1] + 0.5 * words[1:2], words[:3], words[:3], words[3])
    assert share[0].tolist() == pytest.approx([1.0, 0.5, 0.0], abs=1e-6)
    assert aligned[0, 0].item() == pytest.approx(1 / 1.25**0.5)


def test_pictures_of_a_prompt_are_those_that_fit_it_best():
    torch.manual_seed(0)
    prompts = torch.eye(8)[:3]
    pictures = torch.nn.functional.normalize(
        torch.cat([torch.eye(8)[:1].expand(5, 8), torch.eye(8)[3:].repeat(20, 1)])
    )
    first, second, _ = most_like(pictures, prompts, 50)
    assert sorted(first.tolist()) == [0, 1, 2, 3, 4] and not len(second)


def clues(**changes):
    """Three families and two prompts about which nothing is suspicious."""
    nothing, unknown = torch.zeros(3, 2), torch.full((3, 2), float("nan"))
    return dataclasses.replace(Clues(nothing, nothing, unknown, unknown, nothing.bool()), **changes)


def at(row, column, value, rest=0.0):
    table = torch.full((3, 2), float(rest))
    table[row, column] = value
    return table


def test_a_finding_is_told_once():
    first = Family([1, 2, 3], "lemon", None)
    assert told_already(Family([3, 2], "key", None), first)  # by half of its latents
    assert told_already(Family([9], "lemon", None), first)
    assert not told_already(Family([3, 8, 9], "key", None), first)
    assert not told_already(Family([7], None, None), Family([8], None, None))


def test_a_part_of_the_word_is_suspected_if_it_moves_the_prompt():
    part = at(0, 1, 1.0).bool()
    assert suspicions(clues(parts=part), Settings()) == []
    assert suspicions(clues(parts=part, elsewhere=at(0, 1, 0.05)), Settings()) == [(0, 1, "part")]


def test_a_part_may_be_followed_by_the_prompts_text_a_little_more_than_another_word():
    moving = {"elsewhere": at(0, 1, 0.05), "followed": at(0, 1, 0.7)}
    assert suspicions(clues(parts=at(0, 1, 1.0).bool(), **moving), Settings()) == [(0, 1, "part")]
    expected = {**moving, "followed": at(0, 1, 0.85)}
    assert suspicions(clues(parts=at(0, 1, 1.0).bool(), **expected), Settings()) == []


def test_what_stands_out_elsewhere_is_suspected_if_it_moves_the_prompt():
    levels = torch.tensor([[0.0, 0.01], [-0.01, 0.0], [0.9, float("nan")]])
    assert suspicions(clues(levels=levels), Settings()) == []
    assert suspicions(clues(levels=levels, elsewhere=at(2, 0, 0.1)), Settings()) == [(2, 0, "stands out")]
