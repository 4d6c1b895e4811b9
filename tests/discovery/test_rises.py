"""New reliances by the scores of two models on the same pictures."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

import clipattr as ca
from clipattr.discovery import rises as made
from clipattr.discovery.audit.run import Ready, scores
from clipattr.discovery.audit.scores import packed, unpacked
from clipattr.discovery.audit.settings import Settings
from clipattr.discovery.audit.subject import Subject
from clipattr.discovery.findings import Finding, Findings, PromptVerdict
from clipattr.discovery.gate import gate
from clipattr.discovery.rises import Comparison, _combined, compare_scores, compared, rises, told
from clipattr.discovery.scatter import differences, scatter_of
from clipattr.discovery.scored import Pictures, Values, difference
from clipattr.errors import DataError
from clipattr.statistics import Interval

WORDS = ["eagle", "snow", "stamp", *(f"word {n}" for n in range(30))]


def drawn(seed=0, n=800, prompts=24, risen=0.0, scatter=0.02):
    """Two audits of one collection: prompt 0 stands beside "stamp", which the new model has come to rely on."""
    draw = np.random.default_rng(seed)
    seen = draw.random((n, len(WORDS))) < 0.1
    own = [draw.random(n) < 0.1 for _ in range(prompts)]
    seen[own[0], 2] |= draw.random(own[0].sum()) < 0.6
    moves = draw.normal(0, scatter, (prompts, len(WORDS)))  # what any two trainings differ by
    audits = []
    order = [np.flatnonzero(row) for row in seen]
    about = {
        "version": 1, "pictures": n, "ids": packed(np.arange(n, dtype=np.uint64)), "names": list(WORDS),
        "seen": packed(np.array([len(row) for row in order], dtype=np.uint8)),
        "sure": packed(np.array([len(row) for row in order], dtype=np.uint8)),
        "words": packed(np.concatenate(order).astype(np.uint32)), "texts": "t",
    }  # fmt: skip
    base = [draw.normal(0, 0.05, n) + 0.3 * some for some in own]
    for new in (False, True):
        verdicts = []
        for at in range(prompts):
            contrast = base[at] + new * (seen @ moves[at] + (risen * seen[:, 2] if at == 0 else 0))
            bits = packed(np.packbits(own[at]))
            scored = {
                "contrast": packed(contrast.astype(np.float16)),
                "own": bits,
                "clear": bits,
                "shown": bits,
                "same": [],
            }
            verdicts.append(PromptVerdict(f"prompt {at}", "nothing found", scored=scored))
        audits.append(Findings([], None, {"scored": about, "vocabulary": "v", "pictures": n}, verdicts))
    return audits[1], audits[0]


def test_a_word_that_newly_raises_a_prompt_is_named_with_its_rise_and_fails_the_gate():
    now, then = drawn(risen=0.12)
    (one,) = rises(now, then, 5)
    assert (one.prompt, one.word, one.candidate) == ("prompt 0", "stamp", True)
    assert one.rise.low < 0.12 < one.rise.high and one.pictures > 50
    decided = gate(now, 5, then)
    assert decided.outcome == "failed" and decided.rises == (one,)
    assert decided.to_dict()["newly_rests_on"][0]["why"] == one.why
    assert one.why.startswith("newly rests on stamp, +1") and one.why.endswith("] more than before")
    assert not rises(now, then, 20)


@pytest.mark.parametrize(("label", "outcome"), [("stamp", "failed"), ("snow", "passed"), (None, "failed")])
def test_an_unmatched_finding_is_new_only_if_its_word_stands_out_among_all_words(label, outcome):
    now, then = drawn(risen=0.12)
    effect = Interval(0.08, 0.06, 0.1)
    one = Finding("prompt 0", (1,), label, "context", 0.8, effect, effect, 0.4, 0.3, 0.7, 0.9)
    quiet = Findings([one], None, now.about, now.verdicts)
    (judged,) = gate(quiet, 7, then).judgements
    rise = compare_scores(now, then).of("prompt 0", label)
    assert (rise is None) == (label is None)
    assert (judged.outcome == "new") == (outcome == "failed")
    if label == "snow":
        assert rise.low <= 0 and judged.why.endswith(
            "more than in the released model: within two trainings' spread"
        )
        assert rise.points() in judged.why


def test_what_is_told_is_the_comparison_of_its_prompt_and_word():
    compared = compare_scores(*drawn(risen=0.12))
    (one,) = compared.rises(5)
    assert compared.of("prompt 0", "stamp") == one.rise
    assert compared.of("prompt 0", "no such word") is None is compared.of("no such prompt", "stamp")


def test_two_trainings_without_a_change_rarely_turn_a_gate_red():
    red = [bool(rises(*drawn(seed, n=300, prompts=20), 3)) for seed in range(20)]
    assert sum(red) <= 1, red
    now, _ = drawn()
    assert rises(now, now, 0) == []


def test_a_rise_must_stand_out_against_the_scatter_of_the_comparison():
    assert rises(*drawn(risen=0.08), 3) and not rises(*drawn(risen=0.08, scatter=0.1), 3)


def test_the_scatter_is_that_beyond_the_errors():
    draw = np.random.default_rng(1)
    error = draw.uniform(0.01, 0.1, 4000)
    assert scatter_of(draw.normal(0, np.hypot(error, 0.07)), error) == pytest.approx(0.07, rel=0.1)
    assert scatter_of(draw.normal(0, error / 2), error) == 0 == scatter_of(np.full(3, np.nan), error[:3])


def test_differences_are_those_of_means_with_the_sure_pictures_if_there_are_enough():
    draw = np.random.default_rng(2)
    change, among = draw.normal(size=200), draw.random(200) < 0.5
    seen = draw.random((200, 3)) < [0.3, 0.02, 0.4]
    sure = seen & (draw.random((200, 3)) < [0.5, 0.5, 0.0])
    tables = [csr_array(table.astype(float)) for table in (seen, sure)]
    found = differences(change, among, *tables)
    for word in range(3):
        some = sure if (sure[:, word] & among).sum() >= 5 else seen
        one, other = change[among & some[:, word]], change[among & ~seen[:, word]]
        assert found.n[word] == len(one)
        if len(one) < 5:
            assert math.isnan(found.rise[word]) and math.isnan(found.error[word])
            continue
        assert found.rise[word] == pytest.approx(one.mean() - other.mean())
        rest = other.var(ddof=1)
        with_it = ((len(one) - 1) * one.var(ddof=1) + 10 * rest) / (len(one) + 9)
        assert found.error[word] == pytest.approx(math.sqrt(with_it / len(one) + rest / len(other)))


def test_other_names_of_the_prompt_are_no_causes_and_parts_of_its_name_are_candidates():
    n, words = 60, ["hot dog", "dog", "cat"]
    none, table = np.zeros(n, dtype=bool), csr_array((n, 3))
    made = compared("hot dog", np.zeros(n), (none, none), none, none, table, table, words, ["hot dog"])
    assert made.allowed.tolist() == [False, True, True] and made.candidate.tolist() == [False, True, False]
    for some in ([made], []):
        assert told(Comparison(None, None, some, words, *_combined(some, 3)), 0) == []


def test_what_an_audit_keeps_is_what_its_subject_holds(tmp_path):
    study = ca.open_study("picture-world")
    scores(study, ["kite"]).to_json(tmp_path / "scores.json")
    kept = Findings.from_json(tmp_path / "scores.json")
    ready = Ready(study, Settings())
    subject = Subject.of(ready.base, ca.Prompt("kite"))
    about = kept.about["scored"]
    n, scored = about["pictures"], kept.verdicts[0].scored
    order = ready.scored.order
    assert (
        sorted(order.tolist())
        == list(range(n))
        == list(range(len(subject.finding.own) + len(subject.measuring.own)))
    )
    contrast = torch.cat([subject.finding.contrast, subject.measuring.contrast]).numpy()[order]
    assert np.abs(unpacked(scored["contrast"], "f2", n) - contrast).max() < 1e-3
    clear = torch.cat([subject.finding.clear, subject.measuring.clear]).numpy()[order]
    pictures = Pictures.read(about)
    values = Values.read(scored, n, np.arange(n))
    assert (
        values.clear == clear
    ).all() and values.own.sum() == subject.finding.own.sum() + subject.measuring.own.sum()
    # What is seen, the slow way.
    words = study.vocabulary.words
    for half, start in ((ready.base.finding, 0), (ready.base.measuring, len(ready.base.finding))):
        row = int(np.flatnonzero(order == start + 7)[0])
        weight = half.seen.toarray()[7]
        named = {pictures.words[j] for j in np.flatnonzero(pictures.seen[[row]].toarray()[0])}
        surely = {pictures.words[j] for j in np.flatnonzero(pictures.sure[[row]].toarray()[0])}
        assert named == {words[j] for j in np.flatnonzero(weight > 0.02)}
        assert surely == {words[j] for j in np.flatnonzero(weight > 0.1)}
    assert rises(kept, kept, 0) == []


@pytest.mark.parametrize(
    "about, said",
    [
        (None, "the baseline holds no scores"),
        ({"version": 9}, "are of version 9, not 1"),
        ({"texts": "other"}, "the vocabularies of the two audits differ"),
    ],
)
def test_scores_that_cannot_be_compared_are_said_and_change_nothing(about, said):
    now, then = drawn(risen=0.12)
    scored = {**then.about["scored"], **about} if about else None
    other = Findings([], None, then.about | {"scored": scored}, then.verdicts)
    assert said in difference(now, other)
    decided = gate(now, 5, other)
    assert decided.outcome == "passed" and not decided.rises
    assert any(said in remark and "accept that" in remark for remark in decided.remarks)
    with pytest.raises(DataError, match="cannot be compared"):
        rises(now, other, 5)


def test_other_pictures_and_damaged_scores_are_refused():
    now, then = drawn()
    about = then.about["scored"] | {"ids": packed(np.arange(500, 1300, dtype=np.uint64))}
    with pytest.raises(DataError, match="on other pictures: 300 of 800 are in both"):
        rises(now, Findings([], None, then.about | {"scored": about}, then.verdicts), 5)
    for name, value in (("words", "!"), ("ids", packed(np.arange(3))), ("seen", 7), ("pictures", "many")):
        with pytest.raises(DataError, match="Audit again"):
            rises(
                now,
                Findings(
                    [], None, then.about | {"scored": then.about["scored"] | {name: value}}, then.verdicts
                ),
                5,
            )
    with pytest.raises(DataError, match="2 values were promised"):
        unpacked(packed(np.zeros(1000, dtype=np.uint8)), "u1", 2)


@pytest.mark.parametrize("gain, found", [(0.06, 1), (0.0, 0)])
def test_a_prompt_that_reads_more_than_before_is_told(gain, found):
    draw = np.random.default_rng(3)

    def audit(add):
        verdicts = [
            PromptVerdict(
                f"p{n}", "nothing found", inserted=(None, *(draw.normal(add * (n == 0), 0.005, 7).tolist()))
            )
            for n in range(25)
        ]
        return SimpleNamespace(verdicts=verdicts)

    rows = made.told_written(audit(gain), audit(0.0), 3, 0.0)
    assert [(one.prompt, one.written) for one in rows] == [("p0", True)] * found
    assert all("its own name as text" in one.why for one in rows)


def test_the_previous_study_stands_in_for_a_baseline_without_scores(monkeypatch):
    now, then = drawn(risen=0.12)
    now.study = object()
    monkeypatch.setattr("clipattr.discovery.gate.require_same_pictures", lambda *_: None)
    monkeypatch.setattr("clipattr.discovery.gate.Levels", lambda study: None)
    monkeypatch.setattr("clipattr.discovery.gate.Pairing", lambda study: None)
    monkeypatch.setattr("clipattr.discovery.audit.run.scores", lambda study, prompts: then)
    assert [one.word for one in gate(now, 5, previous=object()).rises] == ["stamp"]
