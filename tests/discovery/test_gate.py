"""Which findings stop a release."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import clipattr as ca
from clipattr.discovery.findings import Finding, Findings, PromptVerdict
from clipattr.discovery.gate import accept, gate, require_comparable
from clipattr.discovery.pairing import Levels, _with_text, require_same_pictures
from clipattr.errors import DataError
from clipattr.reporting.pull_request import markdown
from clipattr.statistics import Interval
from clipattr.studies.study import Study


@pytest.fixture
def finding():
    """Makes a finding of the given causal effect (raw cosine); keyword arguments replace its values."""

    def make(effect=0.2, **changes):
        values = {
            "prompt": "kite",
            "latents": (3, 7),
            "label": "eagle",
            "kind": "polysemy",
            "kind_probability": 0.8,
            "reliance": Interval(effect, effect, effect),
            "causal_effect": Interval(effect, effect - 0.02, effect + 0.02),
            "share": 0.4,
            "alignment": 0.01,
            "clarity": 0.7,
            "confidence": 0.9,
        }
        return Finding(**{**values, **changes})

    return make


FOUND = PromptVerdict("kite", "found", findings=1)
SILENT = PromptVerdict("bat", "nothing found")
UNJUDGED = PromptVerdict("kitte", "cannot be judged", "no pictures", did_you_mean=("kite",))


@pytest.mark.parametrize(
    "effect, verdicts, outcome",
    [
        (0.2, [FOUND, SILENT], "failed"),
        (0.2, [FOUND, UNJUDGED], "failed"),
        (0.04, [FOUND, SILENT], "passed"),
        (0.04, [FOUND, UNJUDGED], "cannot be judged"),
    ],
)
def test_a_gate_passes_only_if_every_prompt_was_judged(finding, effect, verdicts, outcome):
    decided = gate(Findings([finding(effect)], verdicts=verdicts), 5)
    assert decided.outcome == outcome == decided.to_dict()["outcome"]
    assert len(decided.over) == (effect > 0.05) and decided.judged + len(decided.unjudged) == 2


def test_findings_without_verdicts_are_no_ground_for_a_decision(finding):
    with pytest.raises(DataError, match="hold no verdicts"):
        gate(Findings([finding(0.01)]), 5)


def decided(found, above, before=None, about=None, **options):
    verdicts = [FOUND, PromptVerdict("bat", "found", findings=1)]
    baseline = None if before is None else Findings(before, None, about or {}, verdicts)
    return gate(
        Findings(found, options.pop("study", None), about or {}, verdicts), above, baseline, **options
    )


def test_without_a_baseline_all_above_the_limit_stop_strongest_first(finding):
    found = [finding(0.05), finding(0.2), finding(0.3)]
    assert [f.causal_effect.value for f in decided(found, 5).over] == [0.3, 0.2]
    assert decided(found, 30).over == ()


@pytest.mark.parametrize(
    "known, outcome",
    [
        ({}, "known"),
        ({"prompt": "bat"}, "new"),
        ({"label": "bird"}, "new"),
        ({"latents": (90,)}, "known"),  # other dictionary: latent numbers mean nothing
        ({"causal_effect": Interval(0.15, 0.1, 0.19)}, "known"),  # grown, but the intervals meet
        ({"causal_effect": Interval(0.1, 0.08, 0.12)}, "known"),  # grown as another dictionary may
        ({"causal_effect": Interval(0.05, 0.04, 0.06)}, "larger"),
        ({"causal_effect": Interval(0.5, 0.4, 0.6)}, "known"),  # fallen
    ],
)
def test_a_baseline_excuses_the_same_prompt_and_word_unless_it_has_clearly_grown(finding, known, outcome):
    (one,) = decided([finding(0.2)], 5, [finding(0.2, **known)]).judgements
    assert one.outcome == outcome


@pytest.mark.parametrize("known, outcome", [({"latents": (7, 8)}, "known"), ({"latents": (90,)}, "new")])
def test_with_the_same_dictionary_shared_latents_decide(finding, known, outcome):
    about = {"dictionary_hash": "0123456789abcdef"}
    (one,) = decided([finding(0.2)], 5, [finding(0.2, label="something else", **known)], about).judgements
    assert one.outcome == outcome


def test_without_labels_the_kind_decides(finding):
    found = finding(0.2, label=None, kind="unknown")
    assert decided([found], 5, [found]).outcome == "passed"
    assert decided([found], 5, [finding(0.2, label=None, kind="context")]).outcome == "failed"


class Names(list):
    @property
    def ids(self):
        return list(self)


def pictures(vectors):
    """A study of which only ids and the evaluator's embeddings are known."""
    return SimpleNamespace(
        images=Names(f"p{n}" for n in range(len(vectors))),
        seen=lambda rows: torch.tensor(vectors)[torch.as_tensor(rows)],
    )


def test_causes_with_other_words_are_one_if_their_examples_look_alike(finding):
    # Pictures 0 and 1 look one way, 2 and 3 the other way, around a common centre.
    study = pictures([[1.0, 5.0], [1.1, 5.0], [-1.0, 5.0], [-1.1, 5.0]])
    now = finding(0.2, examples=("p0",))
    for examples, outcome in ((("p1",), "known"), (("p3",), "new")):
        (one,) = decided([now], 5, [finding(0.2, label="hawk", examples=examples)], study=study).judgements
        assert one.outcome == outcome
    assert one.why == "no accepted finding has this prompt and cause"


def test_causes_measured_on_the_same_other_pictures_are_one(finding):
    def measured(names, instead=True):
        return {"instead": instead, "prompt_examples": list(names)}

    now = finding(0.2, evidence=measured("abcdef"))
    for names, instead, outcome in (
        ("abcxyz", True, "known"),
        ("abuvxyz", True, "new"),
        ("abcdef", False, "new"),  # the prompt's own pictures are the same for every cause
    ):
        (one,) = decided([now], 5, [finding(0.2, label="hawk", evidence=measured(names, instead))]).judgements
        assert one.outcome == outcome


class Scored:
    """Stands for `Levels`: what the pictures of a cause score in one model."""

    def __init__(self, study):
        self.study = study

    def of(self, _):
        return self.study.level


@pytest.mark.parametrize(
    "rise, outcome", [(0.0, "known"), (0.09, "known"), (0.11, "new"), (-0.3, "known"), (float("nan"), "new")]
)
def test_a_finding_is_new_only_if_its_pictures_score_higher_than_before(finding, monkeypatch, rise, outcome):
    monkeypatch.setattr("clipattr.discovery.gate.Levels", Scored)
    monkeypatch.setattr("clipattr.discovery.gate.require_same_pictures", lambda *_: None)
    study = pictures([[1.0], [2.0]])
    study.level = 0.3 + rise
    (one,) = decided([finding(0.2)], 5, study=study, previous=SimpleNamespace(level=0.3)).judgements
    assert one.outcome == outcome


@pytest.mark.parametrize(
    "now, then, outcome",
    [
        (0.2, 0.2, "known"),
        (0.2, 0.15, "known"),
        (0.2, 0.05, "new"),
        (-0.1, -0.1, "known"),
        (-0.1, -0.2, "new"),
    ],
)
def test_writing_is_new_only_if_it_adds_more_than_before(finding, monkeypatch, now, then, outcome):
    monkeypatch.setattr("clipattr.discovery.gate.Levels", Scored)
    monkeypatch.setattr("clipattr.discovery.gate.require_same_pictures", lambda *_: None)
    study = pictures([[1.0], [2.0]])
    study.level = now
    written = finding(0.2, evidence={"reason": "written"})
    (one,) = decided([written], 5, study=study, previous=SimpleNamespace(level=then)).judgements
    assert one.outcome == outcome


def leveled(words, written=None, least=0.02):
    verdict = PromptVerdict("kite", "found", findings=1, levels=words, least_level=least, written=written)
    return verdict, PromptVerdict("bat", "nothing found", least_level=least)


SAME = {"pictures": 100, "vocabulary": "abc", "evaluator": {"hash": "e"}}


@pytest.mark.parametrize(
    "now, then, outcome",
    [
        ((0.2, 0.1), {"eagle": (0.2, 0.1)}, "known"),  # another dictionary reports what was there before
        ((0.2, 0.1), {"eagle": (0.16, 0.1)}, "known"),  # 4 points are less than a quarter of 20
        ((0.2, 0.1), {"eagle": (0.14, 0.1)}, "new"),
        ((0.2, 0.1), {"eagle": (0.2, 0.04)}, "new"),  # beside the prompt it adds more
        ((0.2, 0.1), {"eagle": (None, 0.1)}, "known"),
        ((0.2, None), {"eagle": (None, 0.1)}, "new"),  # nothing that can be compared
        ((0.06, None), {}, "known"),  # the unlisted had at most 2 points
        ((0.08, None), {}, "new"),
    ],
)
def test_without_the_previous_study_what_a_word_adds_tells_whether_it_is_new(finding, now, then, outcome):
    found = Findings([finding(0.2)], None, SAME, leveled({"eagle": now}))
    made = gate(found, 5, Findings([], None, SAME, leveled(then)))
    assert [one.outcome for one in made.judgements] == [outcome]
    assert not any("Scores alone" in remark for remark in made.remarks)


@pytest.mark.parametrize("now, then, outcome", [(0.2, 0.16, "known"), (0.2, 0.1, "new"), (-0.1, -0.2, "new"),
                                                (-0.1, -0.1, "known"), (0.2, None, "new")])  # fmt: skip
def test_writing_is_compared_by_what_it_adds_to_the_first_pictures(finding, now, then, outcome):
    written = finding(0.2, label="a written word", evidence={"reason": "written"})
    found = Findings([written], None, SAME, leveled({}, now))
    made = gate(found, 5, Findings([], None, SAME, leveled({}, then)))
    assert [one.outcome for one in made.judgements] == [outcome]


@pytest.mark.parametrize("other", [{"pictures": 99}, {"vocabulary": "xyz"}])
def test_levels_of_other_pictures_or_words_are_not_compared(finding, other):
    found = Findings([finding(0.2)], None, SAME, leveled({"eagle": (0.2, 0.1)}))
    made = gate(found, 5, Findings([], None, SAME | other, leveled({"eagle": (0.2, 0.1)})))
    assert made.outcome == "failed"
    assert any("Scores alone do not show" in remark and "differ" in remark for remark in made.remarks)


def test_levels_are_the_scores_of_the_pictures_above_the_mean(finding):
    study = ca.open_study("picture-world")
    rows = [3, 10, 400, 800, 5000]
    names = tuple(study.images.ids[row] for row in rows)
    model = study.model
    # The slow way: pictures through the whole tower, texts one by one.
    embedded = model.encode_image(torch.stack([model.prepare(study.images[row].load()) for row in rows]))
    texts = torch.cat([model.encode_text([prompt]) for prompt in study.vocabulary.prompts]).double()
    text = model.encode_text(["kite"]).double()[0] - texts.mean(0)
    levels = Levels(study)
    scores = levels.scores("kite")
    assert torch.allclose(scores[rows].double(), embedded.double() @ text, atol=2e-3)
    level = levels.of(finding(examples=names))
    assert level == pytest.approx(float(scores[rows].mean() - scores.mean()), abs=1e-6)
    assert math.isnan(levels.of(finding(examples=names[:4])))


def test_writing_adds_to_a_model_that_reads_and_nothing_to_one_that_is_blind_to_it(monkeypatch):
    study = ca.open_study("picture-world")
    levels = Levels(study)
    monkeypatch.setattr("clipattr.discovery.pairing.WRITTEN", 8)
    assert levels.written("kite") == levels.written("kite")
    with monkeypatch.context() as patch:
        patch.setattr("clipattr.discovery.pairing._with_text", lambda picture, text: picture)
        assert levels.written("kite") == 0.0
    monkeypatch.setattr(Study, "had", property(lambda self: np.zeros(len(self.images), dtype=bool)))
    assert math.isnan(levels.written("kite"))


def test_a_text_is_drawn_inside_the_picture():
    blank = Image.new("RGB", (64, 48), "red")
    changed = np.asarray(_with_text(blank, "a rather long prompt")) != np.asarray(blank)
    assert changed.any() and not changed[:20].any() and blank.getpixel((32, 36)) == (255, 0, 0)


@pytest.mark.parametrize(
    "key, other, said",
    [
        ("site", "image.-2.cls", "another site"),
        ("evaluator", {"hash": "b"}, "another evaluator"),
        ("model", {"hash": "a", "preprocess": "large"}, "another model's preprocessing"),
    ],
)
def test_a_baseline_that_cannot_be_compared_is_refused(finding, key, other, said):
    about = {
        "site": "image.-1.cls",
        "evaluator": {"hash": "a"},
        "model": {"hash": "a", "preprocess": "small"},
    }
    found = Findings([finding()], None, about, [FOUND])
    assert "The audited weights are those of the baseline." in require_comparable(found, found)
    with pytest.raises(DataError, match=said):
        gate(found, 5, Findings([finding()], None, about | {key: other}, [FOUND]))


def test_a_baseline_of_other_pictures_is_refused(finding):
    study = pictures([[1.0], [2.0]])
    with pytest.raises(DataError, match="other pictures: 1 of the 1 that it names"):
        decided([finding()], 5, [finding(examples=("elsewhere",))], study=study)


def test_a_previous_study_of_other_pictures_is_refused_whatever_their_ids():
    one, other = ca.open_study("picture-world"), ca.open_study("picture-world-b")
    require_same_pictures(one, one)
    assert set(one.images.ids[:100]) & set(other.images.ids)
    with pytest.raises(DataError, match="of other pictures: .* look different"):
        require_same_pictures(one, other)


def test_what_is_no_longer_found_is_said_of_judged_prompts_only(finding):
    verdicts = [FOUND, UNJUDGED]
    before = [finding(0.2, label="hawk"), finding(0.3, prompt="kitte"), finding(0.03, label="crow")]
    made = gate(Findings([], verdicts=verdicts), 5, Findings(before, verdicts=verdicts))
    assert [f.label for f in made.gone] == ["hawk"]


def test_several_audits_are_accepted_together(finding):
    about = {"model": {"hash": "a", "preprocess": "p"}}
    audits = [
        Findings([finding(0.1)], None, about | {"dictionary": "one"}, [FOUND, UNJUDGED]),
        Findings([finding(0.2, label="hawk")], None, about | {"dictionary": "two"}, [FOUND, SILENT]),
    ]
    baseline = accept(audits, "both read")
    assert [f.label for f in baseline] == ["eagle", "hawk"] and len(baseline.verdicts) == 3
    assert baseline.about["accepted"] == {"audits": 2, "note": "both read"}
    assert gate(audits[0], 5, baseline).outcome == "cannot be judged"
    assert gate(audits[1], 5, baseline).outcome == "passed"
    other = Findings([], None, {"model": {"hash": "b"}}, [FOUND])
    with pytest.raises(DataError, match="different weights"):
        accept([audits[0], other])


def test_a_pull_request_is_told_the_decision_and_foreign_text_is_inert(finding):
    verdicts = [
        FOUND,
        PromptVerdict("a|b <i>", "cannot be judged", "no *pictures* @me", did_you_mean=("ab",)),
    ]
    odd = finding(0.2, label="<script>|`x`")
    text = markdown(
        gate(Findings([odd, finding(0.3)], verdicts=verdicts), 5, Findings([], verdicts=verdicts))
    )
    assert text.startswith("### clipattr: ❌ failed\n\n2 reliances above 5 points are new")
    row = next(line for line in text.splitlines() if "script" in line)
    assert row == (
        "| kite | &lt;script>\\|\\`x\\` | another sense | +20.0 (18.0 to 22.0) | new: no accepted finding has this "
        "prompt and cause |"
    )
    assert "| a\\|b &lt;i> | no \\*pictures\\* @\u200bme; did you mean ab? |" in text
