"""Text insertion: how a text is drawn, what it does to its prompt, and what it costs."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

import clipattr as ca
from clipattr.discovery.audit import text_insertion
from clipattr.discovery.audit.base import Base
from clipattr.discovery.audit.expectations import Prompt
from clipattr.discovery.audit.settings import Settings
from clipattr.discovery.audit.subject import Subject
from clipattr.discovery.audit.text_insertion import Insertion, missing_glyphs, written
from clipattr.discovery.pairing import _with_text


@pytest.fixture(scope="module")
def insertion():
    """Twelve pictures of the bundled study, two control words."""
    study = ca.open_study("picture-world-b")
    return Insertion(Base.of(study, Settings(inserted=12, first=12, controls=2)))


def test_the_same_number_writes_the_same_picture_and_words_differ():
    empty = Image.new("RGB", (64, 64), (90, 120, 90))
    one, again = (np.asarray(written(empty, "horse", 5)) for _ in range(2))
    assert (one == again).all() and (np.asarray(written(empty, "ghost", 5)) != one).any()
    changed = [(np.asarray(written(empty, "horse", n)) != np.asarray(empty)).any(-1) for n in range(12)]
    assert all(0.01 < there.mean() < 0.4 for there in changed)
    assert len({there.tobytes() for there in changed}) > 8


def test_a_long_text_stays_inside_the_picture():
    empty = Image.new("RGB", (64, 64), (90, 120, 90))
    there = (np.asarray(written(empty, "umbrella stand", 0)) != np.asarray(empty)).any(-1)
    assert there.any() and not there[:, -1].any()


def test_a_letter_that_no_face_can_draw_is_named():
    assert missing_glyphs("horse") == "" and missing_glyphs("\u99ac") == "\u99ac"


def test_the_rise_is_the_mean_difference_through_the_model(insertion):
    base, prompt = insertion.base, Prompt("dragon")
    subject, model = Subject.of(base, prompt), base.study.model

    def contrast(pictures):
        return (
            model.encode_image(torch.stack([model.prepare(picture) for picture in pictures])) @ subject.column
        )

    changed = [written(picture, "dragon", n) for n, picture in enumerate(insertion.pictures)]
    slow = contrast(changed) - contrast(insertion.pictures)
    tail = subject.tail(base)
    fast = tail.values(insertion.with_text("dragon"))[:, 0] - tail.values(insertion.bare)[:, 0]
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-3)


def test_pictures_and_control_words_do_not_hang_on_the_prompts(insertion):
    again = Insertion(insertion.base)
    assert again.numbers.tolist() == insertion.numbers.tolist() and again.controls == insertion.controls
    assert len(set(insertion.numbers.tolist())) == 12


def test_a_hopeless_prompt_costs_the_first_look_and_one_that_cannot_be_drawn_nothing(insertion):
    subject = Subject.of(insertion.base, Prompt("house"))
    rise, forwards, why, gain, beyond = insertion.ask(subject)
    assert forwards <= 12 and why == "" and rise is None and isinstance(gain, float)
    # The slow way: pictures with the prompt against the mean over pictures with each other word.
    n, words = len(beyond), insertion.base.study.vocabulary.words
    level = subject.tail(insertion.base).values
    others = [level(insertion.with_text(words[at], 0, n))[:, 0] for at in insertion.controls[:2]]
    slow = level(insertion.with_text("house", 0, n))[:, 0] - (others[0] + others[1]) / 2
    shown = (subject.measuring.own | subject.measuring.clear)[insertion.numbers[:n]]
    assert [one is None for one in beyond] == shown.tolist()
    assert [one for one in beyond if one is not None] == pytest.approx(slow[~shown].tolist(), abs=1e-5)
    rise, forwards, why, gain, beyond = insertion.ask(Subject.of(insertion.base, Prompt("\u99ac")))
    assert rise is None and gain is None and beyond == () and forwards == 0 and "no glyph" in why


def test_readers_become_active_with_the_text_and_cause_what_single_ablation_says(insertion):
    base, subject = insertion.base, Subject.of(insertion.base, Prompt("dragon"))
    acts, tail = insertion.with_text("dragon"), subject.tail(insertion.base)
    other = torch.ones(12, dtype=torch.bool)
    level = tail.values(acts)[:, 0]
    rise = insertion._rise(subject, tail, acts, other, level, level)
    after = base.study.dictionary.encode(acts).to_dense()
    before = base.measuring.codes[insertion.numbers].toarray()
    for latent in rise.latents:
        assert before[:, latent].sum() <= 0.5 * float(after[:, latent].sum())
    single = [
        (level - tail.values(acts - after[:, [j]] * base.study.dictionary.decoder[j])[:, 0]).mean().item()
        for j in rise.latents
    ]
    assert sum(single) == pytest.approx(rise.carried.value, rel=1e-3, abs=1e-6)
    assert single == sorted(single, reverse=True) and np.isfinite(rise.share)


def test_a_prompt_is_inserted_from_look_to_look_and_a_hopeless_one_is_given_up(insertion, monkeypatch):
    base = copy.copy(insertion.base)
    base.settings = Settings(inserted=12, first=4, controls=2)
    study, insertion = base.study, Insertion(base)
    subject = Subject.of(insertion.base, Prompt("dragon"))
    made, bars = [], []

    def answer(values, least, final, error):
        made.append(len(values))
        bars.append((least, final, error))
        return len(made) == answer.stop

    monkeypatch.setattr(text_insertion, "hopeless", answer)
    for answer.stop, spent, looked in ((1, 4, 1), (3, 8, 3), (99, 12, 4)):
        made.clear()
        rise, forwards, _, gain, _ = insertion.ask(subject)
        assert (forwards, len(made)) == (spent, looked) and (rise is None) is (spent < 12)
    assert {least for least, _, _ in bars} == {0.02 * subject.unit}
    assert {error for _, _, error in bars} == {0.05 / 2 / 2}
    made.clear(), bars.clear()
    insertion.ask(subject, pictured=True)
    assert len(made) == 2 and bars[0][0] == 0.0 and bars[0][2] == 0.05 / 2
    # What all prompts share is the same in pieces.
    whole = insertion.with_text(study.vocabulary.words[insertion.controls[0]])
    assert torch.allclose(insertion.shared(insertion.controls[0], 12), whole, atol=1e-5)
    assert torch.equal(insertion.shared(None, 6), insertion.bare[:6])


def test_text_of_several_lines_is_drawn_as_one():
    blank = Image.new("RGB", (64, 64), "grey")
    assert written(blank, "hot\ndog", 1).tobytes() == written(blank, "hot dog", 1).tobytes()
    assert _with_text(blank, "hot\ndog").tobytes() == _with_text(blank, "hot dog").tobytes()
