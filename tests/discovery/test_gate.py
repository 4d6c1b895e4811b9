"""Which findings stop a release."""

import pytest

from clipattr.discovery.findings import Finding, Findings, PromptVerdict
from clipattr.discovery.gate import gate, over_limit
from clipattr.errors import DataError
from clipattr.statistics import Interval


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


def effects(found):
    return [round(f.causal_effect.value, 3) for f in found]


def test_without_a_baseline_all_above_the_limit_stop_strongest_first(finding):
    found = Findings([finding(0.05), finding(0.2), finding(0.3)])
    assert effects(over_limit(found, 5)) == [0.3, 0.2]
    assert over_limit(found, 30) == []


@pytest.mark.parametrize(
    "known, excused",
    [
        ({}, True),
        ({"prompt": "bat"}, False),
        ({"label": "bird"}, False),
        ({"latents": (90,)}, True),  # other dictionary: latent numbers mean nothing
        ({"causal_effect": Interval(0.15, 0.1, 0.19)}, True),  # grown, but the intervals meet
        ({"causal_effect": Interval(0.1, 0.08, 0.12)}, False),  # clearly grown
        ({"causal_effect": Interval(0.5, 0.4, 0.6)}, True),  # fallen
    ],
)
def test_a_baseline_excuses_the_same_prompt_and_label_unless_it_has_clearly_grown(finding, known, excused):
    found, before = Findings([finding(0.2)]), Findings([finding(0.2, **known)])
    assert (over_limit(found, 5, before) == []) is excused


@pytest.mark.parametrize("known, excused", [({"latents": (7, 8)}, True), ({"latents": (90,)}, False)])
def test_with_the_same_dictionary_shared_latents_decide(finding, known, excused):
    about = {"dictionary_hash": "0123456789abcdef"}
    found = Findings([finding(0.2)], None, about)
    before = Findings([finding(0.2, label="something else", **known)], None, about)
    assert (over_limit(found, 5, before) == []) is excused


def test_without_labels_the_kind_decides(finding):
    found = Findings([finding(0.2, label=None, kind="unknown")])
    assert over_limit(found, 5, Findings([finding(0.2, label=None, kind="unknown")])) == []
    assert len(over_limit(found, 5, Findings([finding(0.2, label=None, kind="context")]))) == 1
