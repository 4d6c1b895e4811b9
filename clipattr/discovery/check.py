"""Check: in a minute, whether a model, pictures, words and an evaluator go together, before hours are spent on them.

Owns the questions and their answers: each is one line with an outcome. Runs the models on a sample of the pictures for
a stated time. Ignores dictionaries and findings; whether an audit keeps its laws on a study is `laws.py`. Start at
`check`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor

from clipattr.discovery.audit.base import plain
from clipattr.discovery.audit.settings import Settings
from clipattr.discovery.sampled import BATCH, Sample, encoded_sample, texts_of
from clipattr.display.wording import counted
from clipattr.images.collection import Images
from clipattr.meaning.vocabulary import Vocabulary
from clipattr.models.loading import Model, load_model
from clipattr.statistics import auc

GOOD, LOOK, BAD = "good", "look", "bad"
SAMPLE = 1000  # pictures looked at
SECONDS = 40.0  # for the forward passes, so that the whole check takes a minute
CHANCE = 0.6  # AUC of labels below which a model reads pictures and texts no better than chance
POOR = 0.8  # AUC below which the evaluator names pictures unreliably
SAME_TEXT = 0.9995  # cosine of two words from which the tokenizer or the text tower does not distinguish them
SAME_PICTURE = 0.999  # cosine of two pictures of equal hash from which they are duplicates
FAR = 5.0  # robust deviations below the median similarity to the nearest pictures; from there one is unlike the rest
NEIGHBOURS = 5  # nearest pictures


@dataclass(frozen=True)
class Line:
    """One answer. outcome: "good", "look" (a person should look at it) or "bad"; figures: its numbers by name."""

    about: str
    outcome: str
    text: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """All answers of a check. `is_usable` is False if one of them is "bad"; `check["evaluator"]` is one line.

    Attributes:
        lines: one `Line` per question, with its outcome, "good", "look" (a person should look at it) or "bad".

    Raises:
        KeyError: on reading a line that the check does not have.

    >>> import clipattr as ca
    >>> from clipattr.discovery.check import Line
    >>> made = ca.Check((Line("pictures", "good", "5,000, all with a label"), Line("labels", "look", "3 are no words")))
    >>> made.is_usable, made["labels"].text
    (True, '3 are no words')
    >>> print(made)
    good  pictures: 5,000, all with a label
    look  labels: 3 are no words
    """

    lines: tuple[Line, ...]

    @property
    def is_usable(self) -> bool:
        """Whether no line of the check is a failure."""
        return all(line.outcome != BAD for line in self.lines)

    def __getitem__(self, about: str) -> Line:
        for line in self.lines:
            if line.about == about:
                return line
        raise KeyError(about)

    def __str__(self) -> str:
        return "\n".join(f"{line.outcome:5} {line.about}: {line.text}" for line in self.lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        lines = [{"about": o.about, "outcome": o.outcome, "text": o.text, **o.figures} for o in self.lines]
        return {"usable": self.is_usable, "lines": lines}


def check(
    model: Any,
    images: Any,
    *,
    vocabulary: Any = "general",
    evaluator: Any = None,
    prompts: Sequence[str] | None = None,
    holdout: float = 0.3,
    pictures: int = SAMPLE,
    seconds: float = SECONDS,
) -> Check:
    """Check a model and pictures before a study is built of them.

    Args:
        model, images, vocabulary, evaluator: as for `build_study`. prompts: to be audited; by default the labels, or
            the vocabulary.
        holdout: share of pictures that will be held out.
        pictures: largest number of pictures to encode, evenly spread.
        seconds: time for the forward passes; if it does not suffice, fewer pictures are encoded.

    Returns:
        A `Check`, one line per question; `is_usable` is False if a line is bad.

    Raises:
        ModelError, DataError: a model cannot be loaded, or no picture can be read.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> found = ca.check(study.model, study.images, vocabulary=study.vocabulary, evaluator=study.evaluator, pictures=64)
    >>> found.is_usable, found["evaluator"].outcome
    (True, 'good')
    """
    audited, collection = load_model(model), Images.open(images)
    judge = audited if evaluator is None else load_model(evaluator)
    words = Vocabulary.open(vocabulary)
    sample, rate = encoded_sample(audited, judge, collection, pictures, seconds)
    texts = [texts_of(one, words.prompts) for one in (audited, judge)]
    lines = [
        _about_pictures(collection, sample),
        _about_preprocessing(audited),
        _about_words(audited, words, texts[0]),
        _about_model(audited, judge, sample, texts),
        _about_evaluator(audited, judge, sample),
        _about_duplicates(collection, sample),
        _about_outliers(collection, sample),
    ]
    if (matched := _about_labels(collection, words)) is not None:
        lines.append(matched)
    judged = _about_audit(collection, sample, words, texts[1], prompts, holdout)
    lines.append(judged)
    lines.append(_about_cost(audited, judge, len(collection), len(words), judged.figures["prompts"], rate))
    return Check(tuple(lines))


def _about_pictures(images: Images, sample: Sample) -> Line:
    bad = images.skipped
    labelled = sum(label is not None for label in images.columns["label"])
    text = f"{len(images):,}, {labelled:,} with a label; {len(sample.places):,} sampled"
    if bad:
        text += f"; {len(bad):,} cannot be read, first {bad[0][0]!r}: {bad[0][1]}"
    return Line(
        "pictures",
        LOOK if bad else GOOD,
        text,
        {"pictures": len(images), "labelled": labelled, "unreadable": len(bad)},
    )


def _about_preprocessing(model: Model) -> Line:
    """What the model does with a picture, and whether open_clip's entry for its tag says the same."""
    try:
        done = json.loads(model.preprocess_id)
    except ValueError:
        return Line("preprocessing", LOOK, f"{model.reference}: given by the caller ({model.preprocess_id})")
    size = " x ".join(str(side) for side in model.image_size)
    text = (
        f"{size}, {done.get('resize_mode')}, {done.get('interpolation')}, mean {_rounded(done.get('mean'))}"
    )
    figures = {"reference": model.reference, "size": list(model.image_size), "preprocess": done}
    name, _, tag = model.reference.partition(":")
    cfg = open_clip.get_pretrained_cfg(name, tag.rpartition("@")[2] or tag) if tag else {}
    if not cfg:
        return Line("preprocessing", GOOD, f"{text}, as its configuration says", figures)
    said = {
        "mean": cfg.get("mean") or open_clip.OPENAI_DATASET_MEAN,
        "std": cfg.get("std") or open_clip.OPENAI_DATASET_STD,
    }
    same = all(np.allclose(done.get(part) or (), values, atol=1e-6) for part, values in said.items())
    if same:
        return Line("preprocessing", GOOD, f"{text}, as the tag says", figures)
    return Line("preprocessing", BAD, f"{text}; the tag says mean {_rounded(said['mean'])}", figures)


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 3) for value in values or ()]


def _about_words(model: Model, words: Vocabulary, texts: Tensor) -> Line:
    """Words whose texts the model does not distinguish: unknown to its tokenizer, or cut off."""
    same: list[str] = []
    for start in range(0, len(texts), 1024):
        near = texts[start : start + 1024] @ texts.T >= SAME_TEXT
        alone = torch.arange(len(near))
        near[alone, alone + start] = False
        same += [words.words[start + int(row)] for row in near.any(1).nonzero()[:, 0]]
    share = len(same) / max(1, len(texts))
    text = f"{counted(len(texts), 'word')}; the model distinguishes all of them"
    if same:
        text = (
            f"the model does not distinguish {len(same):,} of {counted(len(texts), 'word')} from others, for instance "
            f"{same[:4]}"
        )
    outcome = BAD if share > 0.5 else LOOK if share > 0.02 else GOOD
    return Line("words", outcome, text, {"words": len(texts), "not_told_apart": len(same)})


def _about_model(model: Model, judge: Model, sample: Sample, texts: Sequence[Tensor]) -> Line:
    """Whether pictures and texts of the audited model belong together."""
    value, names = _label_auc(model, sample.model, sample.labels)
    if value is not None:
        outcome = BAD if value < CHANCE else GOOD
        text = f"zero-shot AUC of {counted(len(names), 'label')} {value:.2f} (chance 0.50)"
        if outcome == BAD:
            text += ": weights, tokenizer or preprocessing do not belong together, or the labels are codes"
        return Line("model", outcome, text, {"label_auc": value, "labels": len(names)})
    if judge is not model:
        ours, theirs = (
            vectors @ words.T for vectors, words in zip((sample.model, sample.evaluator), texts, strict=True)
        )
        ours, theirs = ours - ours.mean(0), theirs - theirs.mean(0)
        value = float(torch.stack([ours.flatten(), theirs.flatten()]).corrcoef()[0, 1])
        outcome = BAD if value < 0.05 else GOOD
        return Line(
            "model",
            outcome,
            f"no labels; its scores and the evaluator's correlate by {value:.2f} over pictures and words (chance 0)",
            {"correlation_with_evaluator": value},
        )
    return Line("model", LOOK, "no labels and no evaluator: whether its texts fit its pictures is not known")


def _about_evaluator(model: Model, judge: Model, sample: Sample) -> Line:
    if judge.weights_hash == model.weights_hash:
        return Line(
            "evaluator",
            LOOK,
            "the audited model itself, which has the same confusions; give an independent CLIP (--evaluator)",
        )
    value, names = _label_auc(judge, sample.evaluator, sample.labels)
    if value is None:
        return Line("evaluator", LOOK, "no labels, so it cannot be tested on these pictures")
    outcome = BAD if value < CHANCE else LOOK if value < POOR else GOOD
    text = f"AUC of {len(names):,} labels {value:.2f}" + (
        " is weak: expect missed causes" if outcome == LOOK else ""
    )
    return Line("evaluator", outcome, text, {"label_auc": value, "labels": len(names)})


def _label_auc(model: Model, vectors: Tensor, labels: Sequence[str | None]) -> tuple[float | None, list[str]]:
    """Mean over labels of the AUC with which a model's text of the label finds its pictures; None below two labels."""
    counts = Counter(label for label in labels if label)
    names = [name for name, count in sorted(counts.items()) if count >= 2]
    if len(counts) < 2 or not names:
        return None, names
    scores = vectors @ texts_of(model, [name.replace("_", " ") for name in names]).T
    scores = scores - scores.mean(1, keepdim=True) if len(names) > 1 else scores
    own = np.array(labels, dtype=object)
    values = [auc(scores[:, column].numpy(), own == name) for column, name in enumerate(names)]
    return float(np.mean(values)), names


def _about_duplicates(images: Images, sample: Sample) -> Line:
    first: dict[int, int] = {}
    pairs = []
    for row, value in enumerate(sample.hashes):
        other = first.setdefault(value, row)
        if other != row and float(sample.evaluator[row] @ sample.evaluator[other]) >= SAME_PICTURE:
            pairs.append((images.ids[sample.places[other]], images.ids[sample.places[row]]))
    share = len(pairs) / len(sample.places)
    text = "none among those looked at"
    if pairs:
        text = f"{len(pairs):,} of {len(sample.places):,} copy another one, first {pairs[0][1]!r} of {pairs[0][0]!r}"
    return Line(
        "duplicates", LOOK if share > 0.05 else GOOD, text, {"duplicates": len(pairs), "share": share}
    )


def _about_outliers(images: Images, sample: Sample) -> Line:
    """Pictures whose nearest neighbours are far, in robust deviations of the evaluator's cosines."""
    vectors = sample.evaluator
    if len(vectors) < 4 * NEIGHBOURS:
        return Line("unlike the rest", LOOK, f"too few pictures to say: {len(vectors)}")
    cosine = vectors @ vectors.T
    cosine.fill_diagonal_(-2)
    near = cosine.topk(NEIGHBOURS, dim=1).values.mean(1)
    middle = near.median()
    spread = float((near - middle).abs().median()) * 1.4826
    far = (near < middle - FAR * max(spread, 1e-6)).nonzero()[:, 0].tolist()
    names = [images.ids[sample.places[row]] for row in sorted(far, key=lambda row: float(near[row]))]
    text = f"{counted(len(names), 'picture')}, first {names[:3]}" if names else "none among those looked at"
    return Line("unlike the rest", LOOK if names else GOOD, text, {"unlike": names[:20], "count": len(names)})


def _about_labels(images: Images, words: Vocabulary) -> Line | None:
    labels = sorted({str(label) for label in images.columns["label"] if label})
    if not labels:
        return None
    known = {plain(word) for word in words.words} | {plain(str(name)) for name in words.ids if name}
    missing = [label for label in labels if plain(label) not in known]
    text = f"all {len(labels):,} are words of the vocabulary"
    if missing:
        text = (
            f"{len(missing):,} of {len(labels):,} are not in the vocabulary, for instance {missing[:4]}; if they are "
            "codes, give their meaning as labels"
        )
    return Line(
        "labels", LOOK if missing else GOOD, text, {"labels": len(labels), "not_in_vocabulary": missing[:50]}
    )


def _about_audit(
    images: Images,
    sample: Sample,
    words: Vocabulary,
    texts: Tensor,
    prompts: Sequence[str] | None,
    holdout: float,
) -> Line:
    """For how many prompts an audit will have enough pictures in both halves."""
    few = Settings().few
    counts = Counter(plain(str(label)) for label in images.columns["label"] if label)
    by = "labels"
    if not counts:
        by = "the evaluator's best word"
        best = (sample.evaluator @ (texts - texts.mean(0)).T).argmax(1).tolist()
        scale = len(images) / len(sample.places)
        counts = Counter()
        for word, count in Counter(best).items():
            counts[plain(words.words[word])] += round(count * scale)
    asked = [plain(prompt) for prompt in prompts] if prompts else sorted(counts) if by == "labels" else None
    asked = [plain(word) for word in words.words] if asked is None else asked
    needed = few / min(max(holdout, 0.01), 0.99, 1 - holdout if holdout < 1 else 0.01)
    able = sum(counts[name] >= needed for name in asked)
    silent = [name for name in asked if counts[name] < needed]
    text = f"{able:,} of {counted(len(asked), 'prompt')} will have the {needed:.0f} pictures that are needed, by {by}"
    if silent:
        text += f"; not {', '.join(silent[:4])}"
    outcome = BAD if not able else LOOK if silent else GOOD
    return Line("audit", outcome, text, {"judged": able, "prompts": len(asked), "pictures_needed": needed})


def _about_cost(model: Model, judge: Model, pictures: int, words: int, prompts: int, rate: float) -> Line:
    """Hours, disk and memory of a study by default, encoding at the rate that was measured."""
    from clipattr.studies.plan import plan_study

    made = plan_study(model, judge, pictures=pictures, words=words, prompts=prompts, seconds=1.0, batch=BATCH)
    stages = {row.stage: row for row in made.table.itertuples()}
    encoding = pictures / rate / 3600
    audit = float(stages["audit"].hours)
    rest = made.seconds / 3600 - float(stages["decode and encode"].hours) - audit
    memory = max(stage.memory for stage in made.stages) / 1e9
    text = (
        f"study {_time(encoding + rest)} (encoding {_time(encoding)} at {rate:.1f} pictures/s), audit {_time(audit)}, "
        f"disk {made.disk / 1e9:,.2f} GB, memory {memory:,.1f} GB; {'; '.join(made.assumptions[:3])}"
    )
    return Line(
        "cost",
        GOOD,
        text,
        {
            "study_hours": encoding + rest,
            "audit_hours": audit,
            "disk_gb": made.disk / 1e9,
            "memory_gb": memory,
        },
    )


def _time(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:,.1f} min"
