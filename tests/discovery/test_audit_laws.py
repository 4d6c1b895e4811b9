"""What must leave an audit unchanged, on a small part of the bundled study: laws that need no truth."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import clipattr as ca
from clipattr.dictionaries.named import ONE_NAME
from clipattr.discovery.audit.run import audit
from clipattr.discovery.audit.settings import Settings
from clipattr.discovery.audit.telling import _word_for_text
from clipattr.discovery.findings import Findings
from clipattr.images.collection import Images
from clipattr.meaning.vocabulary import Vocabulary

PROMPTS = ["tiger", "trumpet", "pine apple", "house", "cow"]
EVERY = 2  # of the study's pictures


def part(study, rows, names=None):
    """The same study with some of its pictures, in this order and under these names."""
    some = copy.copy(study)
    some.__dict__ = dict(study.__dict__)
    images = study.images
    ids = [images.ids[row] for row in rows] if names is None else list(names)
    columns = {name: [values[row] for row in rows] for name, values in images.columns.items()}
    some.__dict__ |= {
        "images": Images(images.source, ids, columns, rows=images.rows[rows]),
        "activations": np.asarray(study.activations)[rows],
        "evaluator_embeddings": np.asarray(study.evaluator_embeddings)[rows],
        "codes": study.codes.rows(torch.from_numpy(np.asarray(rows))),
        "repeats": np.zeros(len(rows), dtype=bool),
        "sees": np.ones(len(rows), dtype=bool),
        "had": np.ones(len(rows), dtype=bool),
        "examples": SimpleNamespace(
            counts=study.examples.counts, values=study.examples.values, of=lambda latent: []
        ),
    }
    return some


def with_words(study, words, embeddings, **columns):
    some = copy.copy(study)
    some.__dict__ = dict(study.__dict__) | {
        "vocabulary": Vocabulary(words, **columns),
        "vocabulary_embeddings": embeddings,
    }
    return some


@pytest.fixture(scope="module")
def study():
    whole = ca.open_study("picture-world-b")
    assert whole.labels is not None and whole.vocabulary_embeddings is not None
    return part(whole, np.arange(0, len(whole.images), EVERY))


def asked(study, prompts=PROMPTS, **settings):
    return audit(study, prompts, settings=Settings(budget=0, **settings), progress=False)


@pytest.fixture(scope="module")
def findings(study):
    return asked(study)


def what(findings, *without):
    """Findings as plain values, without some fields, in an order of their own."""
    rows = []
    for finding in findings:
        values = dataclasses.asdict(finding)
        rows.append({key: value for key, value in values.items() if key not in without})
    return sorted(rows, key=lambda row: (row["prompt"], row["latents"]))


def close(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert (left["prompt"], left["latents"], left["label"]) == (
            right["prompt"],
            right["latents"],
            right["label"],
        )
        for field in ("causal_effect", "reliance"):
            assert left[field] == pytest.approx(right[field], rel=1e-4, abs=1e-6)


def test_something_is_found_and_every_prompt_has_a_verdict(findings):
    assert {f.label for f in findings} >= {"meadow", "apple", "brick wall"}
    assert [verdict.prompt for verdict in findings.verdicts] == PROMPTS
    for verdict in findings.verdicts:
        assert verdict.outcome in ("found", "nothing found", "cannot be judged")
        assert (verdict.outcome == "found") == (verdict.findings > 0)
        assert verdict.sentence() and (verdict.outcome != "nothing found" or verdict.smallest_effect > 0)


@pytest.mark.parametrize("prompt", ["tiger", "pine apple", "house"])
def test_a_prompt_alone_is_told_what_it_is_told_among_others(study, findings, prompt):
    alone = asked(study, [prompt])
    assert what(alone) == what(f for f in findings if f.prompt == prompt)
    assert alone.verdicts == tuple(v for v in findings.verdicts if v.prompt == prompt)


def test_every_picture_twice_changes_nothing(study, findings):
    rows = np.arange(len(study.images))
    twice = np.concatenate([rows, rows])
    names = [*study.images.ids, *(f"~{name}" for name in study.images.ids)]
    assert what(asked(part(study, twice, names))) == what(findings)


def test_the_order_of_pictures_words_and_prompts_changes_nothing(study, findings):
    order = np.random.default_rng(0).permutation(len(study.images))
    words = np.random.default_rng(1).permutation(len(study.vocabulary)).tolist()
    known = study.vocabulary
    shuffled = with_words(
        part(study, order),
        [known.words[word] for word in words],
        study.vocabulary_embeddings[words],
        ids=[known.ids[word] for word in words],
        groups=[known.groups[word] for word in words],
    )
    close(what(asked(shuffled, PROMPTS[::-1])), what(findings))


def test_groups_may_be_called_anything_or_be_missing(study, findings):
    known = study.vocabulary
    renamed = [None if group is None else f"sort {sum(map(ord, group))}" for group in known.groups]
    for groups, kinds in ((renamed, True), (None, False)):
        other = with_words(study, known.words, study.vocabulary_embeddings, ids=known.ids, groups=groups)
        found = what(asked(other), "kind", "kind_probability")
        assert found == what(findings, "kind", "kind_probability")
        if kinds:
            assert what(asked(other)) == what(findings)


def test_without_labels_the_same_causes_are_found(study, findings):
    bare = part(study, np.arange(len(study.images)))
    bare.images.columns["label"] = [None] * len(bare.images)
    found = asked(bare)
    assert all(verdict.chosen_by != "labels" for verdict in found.verdicts)
    known = {(f.prompt, f.label) for f in findings if f.kind in ("compound", "watermark", "context")}
    assert len(known & {(f.prompt, f.label) for f in found}) >= 0.8 * len(known)


def test_more_names_for_every_word_add_no_finding_and_take_none(study, findings):
    known, evaluator = study.vocabulary, study.evaluator
    more = [f"{article}{word}" for article in ("the ", "one ") for word in known.words]
    embeddings = torch.cat([study.vocabulary_embeddings, evaluator.encode_text(more).float().cpu()])
    found = asked(with_words(study, [*known.words, *more], embeddings))
    assert {(f.prompt, f.label) for f in found} == {(f.prompt, f.label) for f in findings}


def test_an_audit_and_a_dictionary_merge_the_same_names():
    assert Settings().one_name == ONE_NAME  # a copy: settings are read without torch


def test_written_words_are_called_by_the_word_that_stands_for_the_others():
    words = ["one written word", "written word", "dog"]
    base = SimpleNamespace(
        concepts=SimpleNamespace(stands=torch.tensor([1, 1, 2]), words=torch.eye(3)),
        study=SimpleNamespace(vocabulary=Vocabulary(words)),
    )
    assert (
        _word_for_text(base, SimpleNamespace(of={"text": torch.tensor([0.99, 0.98, 0.0])})) == "written word"
    )
    assert _word_for_text(base, SimpleNamespace(of={"text": torch.tensor([0.5, 0.4, 0.0])})) is None


def test_pictures_that_do_not_belong_to_their_codes_give_no_finding(study):
    mixed = part(study, np.arange(len(study.images)))
    order = np.random.default_rng(2).permutation(len(study.images))
    mixed.__dict__["activations"] = np.asarray(study.activations)[order]
    mixed.__dict__["codes"] = study.codes.rows(torch.from_numpy(order))
    assert len(asked(mixed)) == 0


def test_a_prompt_nobody_pictured_is_told_so(study):
    found = asked(study, ["zebra crossing"])
    assert found.verdicts[0].outcome == "cannot be judged" and not len(found)
    few = asked(study, few=10_000)
    assert {v.outcome for v in few.verdicts} == {"cannot be judged"} and "pictures of it" in few.verdicts[
        0
    ].why


def test_a_prompt_whose_text_equals_another_words_cannot_be_judged(study):
    # The tokenizer reads character references, so that this is the token of "trumpet" under another spelling.
    known, other = asked(study, ["trumpet", "&#116;rumpet"]).verdicts
    assert known.outcome == "nothing found" and known.smallest_effect is not None
    assert other.outcome == "cannot be judged" and other.smallest_effect is None
    assert "same text embedding for it and for trumpet" in other.why


def test_a_vocabulary_of_one_word_and_five_pictures_give_verdicts(study):
    one = with_words(study, ["tiger"], study.vocabulary_embeddings[:1])
    assert len(asked(one, ["tiger"]).verdicts) == 1
    assert asked(part(study, np.arange(5)), ["tiger"]).verdicts[0].outcome == "cannot be judged"


def test_findings_and_verdicts_survive_json(findings, tmp_path):
    findings.to_json(tmp_path / "f.json")
    read = Findings.from_json(tmp_path / "f.json")
    assert list(read) == list(findings) and read.verdicts == findings.verdicts
    assert list(findings.verdict_frame()["prompt"]) == PROMPTS
