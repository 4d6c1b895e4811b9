"""The audit on the bundled study: its numbers against slow formulas, its decisions by hand, its refusals."""

import dataclasses
import math
import types

import pytest
import torch

import clipattr as ca
from clipattr.dictionaries.named import centred, one_name
from clipattr.discovery.audit.base import plain
from clipattr.discovery.audit.candidates import Candidate, Route, Tables, candidates_of
from clipattr.discovery.audit.concepts import Concepts
from clipattr.discovery.audit.decision import (
    WEIGHTS,
    Reason,
    confidence,
    confidence_written,
    judge,
    reads,
    told_once,
)
from clipattr.discovery.audit.evidence import Evidence, measured
from clipattr.discovery.audit.expectations import Prompt, expected_share, most_like, read_prompts
from clipattr.discovery.audit.levels import levels_of
from clipattr.discovery.audit.mediators import Family, families_of
from clipattr.discovery.audit.pictured import doubts, pictured, weights_of
from clipattr.discovery.audit.run import Gathered, Ready, held_of
from clipattr.discovery.audit.settings import Settings
from clipattr.discovery.audit.subject import Subject
from clipattr.discovery.audit.text_insertion import Rise
from clipattr.discovery.cautions import cautions
from clipattr.discovery.findings import Findings, Interval


@pytest.fixture(scope="module")
def ready():
    return Ready(ca.open_study("picture-world-b"), Settings(budget=0))


@pytest.fixture(scope="module")
def watermarked(ready):
    """The family through which a watermark raises the score of trumpets, and its evidence."""
    subject = Subject.of(ready.base, Prompt("trumpet"))
    candidates = candidates_of(ready.base, subject, Tables.of(ready.base))
    families = families_of(ready.base, subject, candidates)
    family = next(f for f in families if f.candidate.label == "a watermark" and not f.instead)
    return subject, family, measured(ready.base, subject, family)


def test_the_contrast_is_taken_against_the_study_s_words(ready):
    study, base = ready.base.study, ready.base
    subject = Subject.of(base, Prompt("trumpet"))
    words = [study.vocabulary.prompts[number] for number in sorted(set(base.concepts.stands.tolist()))]
    text = study.model.encode_text(["trumpet", *words])  # an object with two names counts once
    rows = base.finding.rows[:20]
    acts = torch.from_numpy(study.activations[rows].astype("float32"))
    slow = ca.continue_from(study.model, study.site, acts) @ (text[0] - text[1:].mean(0))
    torch.testing.assert_close(subject.finding.contrast[:20], slow, atol=1e-5, rtol=1e-4)


def test_effect_and_reliance_are_real_ablations(ready, watermarked):
    (subject, family, evidence), base = watermarked, ready.base
    study, rows = base.study, base.measuring.rows[evidence.pictures.numpy()]
    acts = torch.from_numpy(study.activations[rows].astype("float32"))
    codes = study.codes.rows(torch.from_numpy(rows)).to_dense()[:, list(family.latents)]
    directions = study.dictionary.decoder[list(family.latents)]

    def contrast(changed):
        return ca.continue_from(study.model, study.site, changed) @ subject.column

    whole = contrast(acts)
    fall = whole - contrast(acts - codes @ directions)
    assert evidence.causal_effect.value == pytest.approx(fall.mean().item(), abs=1e-5)
    single = sum(whole - contrast(acts - codes[:, [n]] * directions[n]) for n in range(len(directions)))
    assert evidence.reliance.value == pytest.approx(single.mean().item(), abs=1e-5)
    assert judge(family, evidence, subject.unit, Settings()).reason is Reason.HOLDS


def test_saying_what_a_word_means_changes_what_shows_it(ready):
    bare, told = (
        Subject.of(ready.base, prompt) for prompt in (Prompt("kite"), Prompt("kite", means="eagle"))
    )
    eagle = ready.base.study.vocabulary.words.index("eagle")
    assert eagle in told.same and eagle not in bare.same
    assert torch.equal(bare.finding.contrast, told.finding.contrast)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Cats", "cat", True),
        ("a fire-engine", "Fire engine", True),
        ("cherries", "cherry", True),
        ("glass", "glas", False),
        ("bus", "bu", False),
        ("t-shirt", "T_shirt", True),
        ("(hay)", "- hay", True),
        ("HER2+", "HER2-", False),
        ("C", "C++", False),
        ("<5 mm", ">5 mm", False),
        ("-1", "1", False),
        ("😀", "🙁", False),
    ],
)
def test_labels_match_through_case_article_and_plural(one, other, same):
    assert (plain(one) == plain(other)) is same


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([""], "is blank"),
        ([], "no prompt"),
        ([ca.Prompt("bat", means="an animal"), ca.Prompt("bat", means="a club")], "two meanings"),
    ],
)
def test_bad_prompts_are_refused(ready, prompts, message):
    with pytest.raises(ca.TargetError, match=message):
        read_prompts(prompts, ready.base.study)


def test_a_single_text_is_one_prompt(ready):
    assert [p.text for p in read_prompts("bat", ready.base.study)] == ["bat"]


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


def span(value, half=0.01):
    return Interval(value, value - half, value + half)


EVIDENCE = Evidence(
    pictures=torch.arange(10), on_own=True, named=1.0, reliance=span(0.1), causal_effect=span(0.1), thing=span(0.1),
    beside=span(0.1), standing=0.2, by_text=0.0, difference=span(0.8), shown=0.9, shown_elsewhere=0.1, together=0.9,
    kept=0.1, alone=0.9, presence=0.9,
    presence_elsewhere=0.1, share=0.2, clarity=0.6, diversity=0.1, alike=0.2,
)  # fmt: skip


def family(latents=(1, 2, 3), label="lemon", route=Route.WORD, instead=False):
    nowhere = torch.zeros(2, dtype=torch.bool)
    return Family(
        Candidate(route, label, 0, (nowhere, nowhere), (nowhere, nowhere), (), 0.5, 0.001),
        latents,
        0.1,
        instead,
        "",
    )


@pytest.mark.parametrize(
    ("instead", "route", "changes", "reason"),
    [
        (False, Route.WORD, {}, Reason.HOLDS),
        (
            False,
            Route.WORD,
            {"causal_effect": span(0.015), "beside": span(0.02), "thing": span(0.018)},
            Reason.WEAK,
        ),
        (
            False,
            Route.WORD,
            {"causal_effect": span(0.015), "beside": span(0.025, 0.02), "thing": span(0.025, 0.02)},
            Reason.HOLDS,
        ),  # significant and large enough in both places
        (
            False,
            Route.WORD,
            {"causal_effect": span(0.005), "beside": span(0.025, 0.02), "thing": span(0.025, 0.02)},
            Reason.WEAK,
        ),  # but its latents do not lower the score
        (
            False,
            Route.WORD,
            {
                "causal_effect": span(0.015),
                "beside": span(0.025, 0.02),
                "thing": span(0.025, 0.02),
                "on_own": False,
            },
            Reason.WEAK,
        ),  # or not on its own pictures
        (True, Route.WORD, {"standing": 0.8, "causal_effect": span(0.015)}, Reason.WEAK),
        (True, Route.WORD, {"standing": 0.8, "causal_effect": span(0.015), "thing": span(0.3)}, Reason.HOLDS),
        (
            False,
            Route.WORD,
            {"causal_effect": span(0.015), "beside": span(-0.05)},
            Reason.WEAK,
        ),  # one denies it
        (
            False,
            Route.WORD,
            {"causal_effect": span(0.005)},
            Reason.HOLDS,
        ),  # the effect of the concept proves it
        (False, Route.WORD, {"causal_effect": span(-0.05)}, Reason.WEAK),
        (False, Route.WORD, {"kept": 0.9}, Reason.NOT_ITS_OWN),
        (False, Route.WORD, {"difference": span(0.15)}, Reason.ABSENT),
        (False, Route.WORD, {"thing": span(-0.05), "beside": span(0.0)}, Reason.NO_LEVEL),
        (False, Route.LATENTS, {"named": 0.1}, Reason.NAMELESS),
        (True, Route.WORD, {}, Reason.NO_LEVEL),
        (True, Route.WORD, {"standing": 0.8}, Reason.HOLDS),
        (True, Route.WORD, {"standing": 0.8, "by_text": 0.9}, Reason.TEXT),
        (True, Route.PART, {"by_text": 0.9}, Reason.HOLDS),
        (True, Route.PART, {"thing": span(0.01)}, Reason.NO_LEVEL),
    ],
)
def test_evidence_is_compared_with_the_settings(instead, route, changes, reason):
    evidence = dataclasses.replace(EVIDENCE, **changes)
    assert judge(family(route=route, instead=instead), evidence, 0.5, Settings()).reason is reason
    assert judge(family(), None, 0.5, Settings()).reason is Reason.FEW
    assert 0 <= confidence(family(route=route), evidence, 0.5) <= 1


def test_effects_count_in_units_of_the_prompt_s_own_contrast():
    weak = dataclasses.replace(EVIDENCE, causal_effect=span(0.015), thing=span(0.018), beside=span(0.02))
    assert judge(family(), weak, 0.5, Settings()).reason is Reason.WEAK
    assert judge(family(), weak, 0.1, Settings()).reason is Reason.HOLDS
    assert judge(family(), weak, math.nan, Settings()).reason is Reason.WEAK


def test_what_occlusion_chose_is_proved_beside_the_prompt_only_if_its_latents_lower_it():
    seen = dataclasses.replace(EVIDENCE, beside=span(0.1), thing=span(0.0, 0.02))
    for effect, reason in ((0.015, Reason.HOLDS), (0.005, Reason.WEAK)):
        evidence = dataclasses.replace(seen, causal_effect=span(effect))
        chosen = dataclasses.replace(family(), left=0.1)
        assert judge(chosen, evidence, 0.5, Settings()).reason is reason


def test_a_finding_is_told_once():
    def held(**changes):
        return judge(family(**changes), EVIDENCE, 0.5, Settings())

    first = held()
    assert told_once([first, held(latents=(3, 2), label="key")]) == [first]  # by half of its latents
    assert len(told_once([first, held(latents=(9,))])) == 1  # by its word
    assert len(told_once([first, held(latents=(3, 8, 9), label="key")])) == 2
    assert len(told_once([held(latents=(7,), label=None), held(latents=(8,), label=None)])) == 2
    seen, fired = held(latents=(1, 2)), held(latents=(1, 2), label="key", route=Route.LATENTS)
    assert told_once([fired, seen]) == [seen]
    stronger = dataclasses.replace(EVIDENCE, causal_effect=span(0.3))
    occluded = judge(dataclasses.replace(family(latents=(9,)), left=0.1), stronger, 0.5, Settings())
    assert told_once([occluded, seen]) == [seen]  # a few occluded pictures against many


def test_a_family_that_is_left_out_is_no_reason_to_drop_one_that_says_the_same():
    def text(effect, rise):
        one = family(latents=(1,))
        one = dataclasses.replace(one, candidate=dataclasses.replace(one.candidate, text=True))
        evidence = dataclasses.replace(
            EVIDENCE, causal_effect=span(effect), thing=span(rise), beside=span(-0.2)
        )
        return judge(one, evidence, 0.5, Settings())

    unsure, sure = text(0.3, 0.15), text(0.2, 0.45)
    assert told_once([unsure, sure]) == [unsure]  # the larger effect
    limit = Settings().least_confidence
    assert (
        confidence(unsure.family, unsure.evidence, 0.5) < limit < confidence(sure.family, sure.evidence, 0.5)
    )
    subject = types.SimpleNamespace(unit=0.5)
    found = Gathered(subject, (unsure, sure), None, None, True, 0, "", None)
    assert held_of(found, Settings())[0] == [sure]


def test_an_inserted_text_counts_over_other_words_or_where_text_is_pictured():
    rise = Rise(span(0.05), span(0.05), (1,), span(0.05), 0.1, 0.1, 36)
    unspecific = dataclasses.replace(rise, specific=span(0.0))
    assert reads(rise, 0.5, Settings()) and not reads(unspecific, 0.5, Settings())
    assert reads(unspecific, 0.5, Settings(), pictured=True) and not reads(
        None, 0.5, Settings(), pictured=True
    )
    assert not reads(dataclasses.replace(rise, kept=0.9), 0.5, Settings())


def test_inserted_text_is_surer_where_it_lifts_over_other_words_and_never_as_unsure_as_text_beside():
    rise = Rise(span(0.05), span(0.05), (1,), span(0.05), 0.1, 0.1, 36)
    unspecific = dataclasses.replace(rise, specific=span(0.0))
    settings = Settings()
    sure, unsure = (confidence_written(one, 0.5, settings) for one in (rise, unspecific))
    assert unsure == pytest.approx(1 / (1 + math.exp(-0.8)))
    assert sure == pytest.approx(1 / (1 + math.exp(-0.8 - math.log(0.04 / (settings.least_rise * 0.5)))))
    assert settings.least_confidence < unsure < sure


def test_words_that_the_evaluator_does_not_distinguish_are_counted_and_told():
    words = torch.nn.functional.normalize(
        torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1
    )
    words[20:] = words[20].clone()  # twenty words are one to it; three names of one concept are no fault
    words[[1, 2]] = words[0].clone()
    names = [f"word {number:02d}" for number in range(40)]
    concepts = Concepts(words, words, 0.2, 10, one_name(names, centred(words)))
    assert concepts.not_distinguished == list(range(20, 40))
    about = {"words": {"given": 40, "not_distinguished": 20, "first": names[20:24]}}
    (told,) = cautions(about)
    assert "20 of 40 words from many others, e.g. 'word 20' and 'word 21'" in told
    assert told in Findings([], None, about)._repr_html_().replace("&#x27;", "'")
    assert cautions({"words": {"given": 40, "not_distinguished": 0, "first": []}}) == [] == cautions({})


def test_a_finding_is_the_surer_the_more_frequent_its_cause_and_the_less_its_latents_fire_without_it():
    beside, instead = family(), family(instead=True)

    def sure(one, kept, difference):
        return confidence(one, dataclasses.replace(EVIDENCE, kept=kept, difference=span(difference)), 0.5)

    low = span(0.6).low
    constant, replaces, left, more = WEIGHTS
    by_hand = 1 / (1 + math.exp(-(constant + 0.1 * left + more * low)))
    assert sure(beside, 0.3, 0.6) == pytest.approx(by_hand)
    assert sure(beside, 0.3, 0.3) < by_hand < sure(beside, 0.1, 0.6) == sure(beside, math.nan, 0.6)
    # What stands in the object's place need not be frequent.
    assert sure(instead, 0.0, 0.6) == sure(instead, 0.0, math.nan)
    assert sure(instead, 0.0, 0.0) == pytest.approx(1 / (1 + math.exp(-(constant + replaces))))


def test_text_on_a_prompts_pictures_is_the_surer_the_more_it_raises_the_score_in_three_places():
    one = family()
    text = dataclasses.replace(one, candidate=dataclasses.replace(one.candidate, text=True))
    evidence = dataclasses.replace(EVIDENCE, thing=span(0.1), beside=span(0.05))
    low = evidence.thing.low / 0.5, evidence.beside.low / 0.5
    by_hand = 1 / (1 + math.exp(-(0.1 + 2.1 * low[0] + 4.5 * low[1])))
    assert confidence(text, evidence, 0.5) == pytest.approx(by_hand)
    rise = Rise(span(0.05), span(0.0), (1,), span(0.05), 0.1, 0.1, 36)
    assert confidence(text, evidence, 0.5, rise) > by_hand
    assert confidence(text, evidence, 0.5, dataclasses.replace(rise, latents=())) == pytest.approx(by_hand)
    unknown = dataclasses.replace(evidence, beside=Interval(math.nan, math.nan, math.nan))
    without = dataclasses.replace(evidence, beside=span(-0.4))  # limited to -0.2
    assert confidence(text, unknown, 0.5) == pytest.approx(confidence(text, without, 0.5))
    assert confidence(text, unknown, 0.5) < by_hand


def test_large_halves_are_kept_in_half_precision_and_larger_ones_are_read_again(ready, monkeypatch):
    from clipattr.discovery.audit import base as module

    base, half = ready.base, ready.base.measuring
    text = base.concepts.words[3]
    column = base.text(["trumpet"])[0] - base.background
    exact = base.along(half, text), base.scores(half, column)
    size = len(half) * len(column)
    for allowed, kind in ((size, torch.float16), (size - 1, None)):
        monkeypatch.setattr(module, "KEPT_BYTES", allowed)
        monkeypatch.setattr(base, "_cache", {})
        for found, slow in zip((base.along(half, text), base.scores(half, column)), exact, strict=True):
            torch.testing.assert_close(found, slow, atol=1e-4 if kind else 1e-6, rtol=0)
        assert {kept.dtype for kept in base._cache.values()} == ({kind} if kind else set())


def test_a_half_knows_its_columns_its_sums_and_the_main_words_of_its_pictures(ready):
    half = ready.base.measuring
    assert (half.codes_by_latent != half.codes).nnz == 0
    dense = half.codes.toarray()
    assert half.sums[0] == pytest.approx(dense.sum(0, dtype="float64"))
    assert half.sums[1].tolist() == (dense != 0).sum(0).tolist()
    first, second = ready.base.main_words(half)
    for row, weights in enumerate(half.seen.toarray()):
        best = sorted(
            (word for word in range(len(weights)) if weights[word]), key=lambda word: -weights[word]
        )
        assert [first[row], second[row]] == (best + [-1, -1])[:2]


def test_pictures_shown_for_a_cause_are_active_and_clearly_show_it(ready, watermarked):
    base, (_, family, _) = ready.base, watermarked
    told = pictured(base, "trumpet", family.latents, "a watermark", weights_of(base, "a watermark"))
    study, word = base.study, base.study.vocabulary.words.index("a watermark")
    best = []
    for half in (base.finding, base.measuring):
        weight = half.seen.toarray()[:, word]
        codes = half.codes.toarray()[:, list(family.latents)].sum(1)
        best += [(w, c, study.images.ids[row]) for w, c, row in zip(weight, codes, half.rows, strict=True)]
    bar = 0.6 * sum(sorted((w for w, _, _ in best), reverse=True)[:20]) / 20
    slow = sorted((-w, name) for w, c, name in best if c > 0 and w > bar)[:8]
    assert set(told["cause_examples"]) == {name for _, name in slow} and len(slow) == 8
    strongest = sorted(best, key=lambda one: -one[1])[:12]
    assert told["strongest_shown"] == sum(w > 0.02 for w, _, _ in strongest) and len(told["strongest"]) == 12
    marked = [study.images[study.images.ids.index(name)].scene.watermark for name in told["cause_examples"]]
    assert all(marked)


def test_doubts_name_latents_of_another_label_of_the_prompt_and_pictures_without_the_cause():
    assert doubts("rose", "tulip", [3, 4], ["tulip", None], (9, 12), 8) == ()
    told = doubts("rose", "tulip", [3, 4], ["Roses", "key"], (6, 12), 0)
    assert told == (
        "none of the 2 latents is labelled tulip; by themselves they are labelled Roses, key",
        "latent 3 is labelled rose, the prompt itself",
        "the evaluator sees tulip in 6 of the 12 strongest pictures of the family",
        "hardly any picture of the family clearly shows tulip",
    )


def test_levels_are_differences_of_mean_scores_between_pictures_that_the_evaluator_separates(
    ready, watermarked
):
    base, (subject, _, _) = ready.base, watermarked
    told = levels_of(base, subject)
    for name, levels in list(told.words.items())[::7]:
        word = base.study.vocabulary.words.index(name)
        for prompt, level in zip((False, True), levels, strict=True):
            with_it, without = [], []
            for half, side in ((base.finding, subject.finding), (base.measuring, subject.measuring)):
                for seen, shown, score in zip(
                    half.seen.toarray()[:, word], side.shown, side.contrast, strict=True
                ):
                    if bool(shown) is prompt:
                        (with_it if seen > 0.02 else without).append(float(score))
            if level is None:
                assert min(len(with_it), len(without)) < 5
            else:
                slow = sum(with_it) / len(with_it) - sum(without) / len(without)
                assert level == pytest.approx(slow, abs=2e-5)
    assert told.words["a watermark"][0] > 0.05 and "trumpet" not in told.words
    assert len(told.words) <= 64 and told.least >= 0.02 * subject.unit - 1e-5


def test_lines_of_a_file_are_prompts_and_files_and_bytes_are_not(tmp_path):
    assert [p.text for p in read_prompts(["bat\n", "hot  dog", "bat"], None)] == ["bat", "hot dog"]
    (tmp_path / "p.txt").write_text("bat")
    for wrong in (3, b"bat", tmp_path / "p.txt", [None], [float("nan")], [b"bat"], [str(tmp_path / "p.txt")]):
        with pytest.raises(ca.TargetError, match="(?i)prompt"):
            read_prompts(wrong, None)
