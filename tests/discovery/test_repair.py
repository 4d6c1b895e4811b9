"""Repairs: the arithmetic against slow formulas, the repaired model against the real one, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

import clipattr as ca
from clipattr.discovery.audit.text_insertion import written
from clipattr.discovery.encoded import encoded
from clipattr.discovery.findings import Finding, Findings
from clipattr.discovery.probes.probe import Probe
from clipattr.discovery.repair.directions import factors_of, learning_pictures, own_pictures
from clipattr.discovery.repair.erasure import Factors, direction, erased, spread_within
from clipattr.discovery.repair.evaluation import before_after
from clipattr.discovery.repair.removals import Removal
from clipattr.discovery.repair.repair import repair
from clipattr.statistics import Interval, auc, wilson


@pytest.fixture(scope="module")
def study():
    return ca.open_study("picture-world")


@pytest.fixture(scope="module")
def prompt(study):
    labels = [label for label in study.images.columns["label"] if label]
    return max(sorted(set(labels)), key=labels.count)


@pytest.fixture(scope="module")
def latents(study, prompt):
    """The latents that fire most on the prompt's pictures: surely something to take away."""
    rows = [row for row, label in enumerate(study.images.columns["label"]) if label == prompt][:50]
    codes = study.codes.rows(torch.tensor(rows)).to_dense()
    return codes.sum(0).topk(3).indices.tolist()


@pytest.fixture(scope="module")
def pixels(study):
    return torch.stack([study.model.prepare(study.images[row].load()) for row in range(6)])


def finding(study, prompt, latents):
    nothing = Interval(0.1, 0.1, 0.1)
    return Finding(prompt, tuple(latents), None, "unknown", 1.0, nothing, nothing, 0.5, 0.0, 0.5, 0.9)


def confounded(n=1200, seed=0):
    """Three classes along three axes, a factor along a fourth that nearly always stands beside class 0."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(n) % 3
    chance = torch.where(classes == 0, 0.97, 0.2)
    factor = (torch.rand(n, generator=generator) < chance).float()
    raw = 0.35 * torch.randn(n, 8, generator=generator)
    raw[torch.arange(n), classes] += 1.0
    raw[:, 3] += 1.2 * factor
    return torch.nn.functional.normalize(raw, dim=1), classes, factor


def test_a_direction_is_the_slope_beside_one_constant_for_each_class():
    embeddings, classes, factor = confounded(300)
    among = torch.arange(300) % 5 != 0
    design = torch.cat([factor[:, None], torch.nn.functional.one_hot(classes).float()], 1)[among].double()
    slope = torch.linalg.lstsq(design, embeddings[among].double()).solution[0]
    torch.testing.assert_close(
        direction(embeddings, factor, classes, among).double(), slope, atol=1e-5, rtol=1e-4
    )


def test_the_spread_within_classes_ignores_where_classes_lie():
    embeddings, classes, _ = confounded(300)
    moved = embeddings + 5 * torch.eye(8)[classes]
    slow = sum(
        torch.cov(embeddings[classes == c].T.double(), correction=0) * (classes == c).sum() for c in range(3)
    )
    slow = slow / 300
    ridge = 1e-2 * slow.diagonal().mean() * torch.eye(8).double()
    torch.testing.assert_close(spread_within(moved, classes), slow + ridge, atol=1e-6, rtol=1e-4)


def factors_along(embeddings, classes, factor):
    d = direction(embeddings, factor, classes, classes != 0)
    return Factors(d[:, None], factor[:, None], torch.tensor([0.0]), torch.tensor([1.0]))


def test_erased_weights_ignore_the_factor_and_are_the_nearest_such_on_real_pictures():
    embeddings, classes, factor = confounded()
    weights, bias = torch.randn(3, 8, generator=torch.Generator().manual_seed(1)), torch.zeros(3)
    factors = factors_along(embeddings, classes, factor)
    metric = spread_within(embeddings, classes)
    row, _ = erased(weights, bias, 0, embeddings, classes == 0, factors, metric)
    d = factors.directions[:, 0].double()
    others = weights[1:].mean(0).double()
    assert abs(float(d @ (row.double() - others))) < 1e-5 * float(d.norm())
    # The same by the conditions of a minimum: metric · change + multiplier · d = 0, d · change = −d · margin.
    system = torch.zeros(9, 9, dtype=torch.float64)
    system[:8, :8], system[:8, 8], system[8, :8] = metric, d, d
    right = torch.zeros(9, dtype=torch.float64)
    right[8] = -d @ (weights[0].double() - others)
    slow = weights[0].double() + torch.linalg.solve(system, right)[:8]
    torch.testing.assert_close(row.double(), slow, atol=1e-4, rtol=1e-3)


def test_an_erased_class_is_found_without_its_factor_and_others_are_not_lost():
    embeddings, classes, factor = confounded()
    weights = torch.stack([embeddings[classes == c].mean(0) for c in range(3)]) * 10  # as prompts learn them
    bias = torch.zeros(3)
    factors = factors_along(embeddings, classes, factor)
    row, b = erased(weights, bias, 0, embeddings, classes == 0, factors, spread_within(embeddings, classes))
    test, truth, shown = confounded(6000, seed=9)

    def groups(weights, bias):
        right = (test @ weights.T + bias).argmax(1) == truth
        return [float(right[(truth == c) & (shown == f)].float().mean()) for c in range(3) for f in (0, 1)]

    after_weights, after_bias = weights.clone(), bias.clone()
    after_weights[0], after_bias[0] = row, b
    before, after = groups(weights, bias), groups(after_weights, after_bias)
    assert min(after) > min(before) + 0.1
    assert np.mean(after) > np.mean(before) - 0.01


def test_before_and_after_count_what_a_reader_would_count():
    generator = torch.Generator().manual_seed(0)
    before, after = torch.randn(60, 3, generator=generator), torch.randn(60, 3, generator=generator)
    names = ("a", "b", "c")
    labels = [names[i % 3] if i % 10 else None for i in range(60)]
    groups = ["left" if i < 25 else "right" for i in range(60)]
    result = before_after(
        Probe(names, torch.eye(3), torch.zeros(3)), before, after, labels, groups, repaired=["b"]
    )
    kept = [i for i in range(60) if labels[i]]
    hit = {
        k: [int(names[int(x[i].argmax())] == labels[i]) for i in kept]
        for k, x in (("b", before), ("a", after))
    }
    assert result["accuracy"]["before"] == pytest.approx(np.mean(hit["b"]))
    assert result["accuracy"]["change"] == pytest.approx(np.mean(hit["a"]) - np.mean(hit["b"]))
    left = [j for j, i in enumerate(kept) if i < 25]
    right = [j for j, i in enumerate(kept) if i >= 25]
    assert result["worst group"]["after"] == pytest.approx(
        min(np.mean([hit["a"][j] for j in part]) for part in (left, right))
    )
    called = [int(before[i].argmax() == 1) for i in kept if labels[i] != "b"]
    assert result["others called b"]["before"] == pytest.approx(np.mean(called))
    assert "6 pictures without a label" in repr(result)
    assert {"measure", "before", "after", "change"} <= set(result.frame.columns) and len(result.classes) == 3


def test_wilson_is_wilson():
    for right, n in ((0, 5), (3, 7), (40, 40), (77, 100)):
        slow = binomtest(right, n).proportion_ci(method="wilson")
        assert wilson(right, n) == pytest.approx((slow.low, slow.high), abs=1e-3)


def test_without_groups_it_says_so_and_names_no_worst_one(study, prompt, latents):
    result = repair(study, latents, prompts=prompt).evaluate(labels=None, groups=[None] * len(study.holdout))
    assert "There are no groups" in repr(result) and result.groups is None
    assert "worst group" not in [row["measure"] for row in result.rows]
    assert "There are no groups" in result._repr_html_()


@pytest.mark.parametrize("scope", ["prompts", "model"])
def test_an_ablation_is_the_model_run_without_the_latents(study, prompt, latents, pixels, scope):
    mended = repair(study, latents, prompts=prompt, how="ablate", scope=scope)
    plain = mended.before.logits(study.model.encode_image(pixels))
    with ca.ablate(study, latents):
        without = mended.before.logits(study.model.encode_image(pixels))
    number = mended.before.index(prompt)
    slow = without if scope == "model" else plain.clone()
    slow[:, number] = without[:, number]
    torch.testing.assert_close(mended.scores(pixels), slow, atol=1e-4, rtol=1e-4)
    # Stored activations are half precision.
    stored = mended.logits(encoded(study, rows=np.arange(len(pixels))))
    torch.testing.assert_close(stored, slow, atol=2e-2, rtol=1e-2)


def test_a_repair_reports_the_prompts_done_and_ends_with_what_is_raised_there(study, prompt, latents):
    told = []
    ca.repair(study, latents, prompts=prompt, how="project", on_prompt=lambda *done: told.append(done))
    assert told == [(0, 1), (1, 1)]

    def enough(done, of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ca.repair(study, latents, prompts=prompt, how="project", on_prompt=enough)


def test_a_projection_changes_the_row_of_its_prompt_alone_and_survives_the_file(
    study, prompt, latents, tmp_path
):
    mended = repair(study, latents, prompts=prompt)
    fixed, number = mended.classifier(), mended.before.index(prompt)
    others = torch.arange(len(fixed.names)) != number
    assert torch.equal(fixed.weights[others], mended.before.weights[others]) and not fixed.bias[others].any()
    assert not torch.equal(fixed.weights[number], mended.before.weights[number])
    read = Probe.open(mended.export(tmp_path / "fixed"))
    assert read.names == fixed.names and torch.equal(read.weights, fixed.weights)
    assert read.about["removed"][0]["latents"] == latents
    with pytest.raises(ca.StudyError, match="not the embedding"):
        mended.encode_image(torch.zeros(1, 3, *study.model.image_size))


def test_a_patched_model_opens_anywhere_and_embeds_as_the_repair_does(
    study, prompt, latents, pixels, tmp_path
):
    mended = repair(study, latents, prompts=prompt, scope="model")
    patched = ca.load_model(f"local-dir:{mended.export(tmp_path / 'patched')}")
    with torch.no_grad():
        ours, plain = mended.encode_image(pixels), study.model.encode_image(pixels)
        torch.testing.assert_close(patched.encode_image(pixels), ours, atol=1e-5, rtol=1e-4)
        assert (ours - plain).abs().max() > 1e-3
        torch.testing.assert_close(patched.encode_text([prompt]), study.model.encode_text([prompt]))


def test_the_direction_of_writing_is_what_writing_does_to_pictures_without_any(study):
    pictures = learning_pictures(study)
    names = sorted({label for label in study.images.columns["label"] if label})
    numbers, own = own_pictures(study, pictures, names)
    mine = own[:, names.index("camera")]
    removal = Removal("camera", (0,), "a written word")
    factors = factors_of(study, pictures, [removal], mine, numbers, names)
    has = torch.tensor([picture.scene.word is not None for picture in pictures.images])
    assert auc(factors.presence[:, 0].numpy(), has.numpy()) > 0.95
    # Of one change of 96 pictures, encoded again, most lies along the direction; and it points towards the prompt.
    bare = torch.nonzero(~has & ~mine).flatten()[::20][:96].tolist()
    originals = [pictures.images[place].load() for place in bare]
    before, after = (
        study.model.encode_image(torch.stack([study.model.prepare(picture) for picture in some]))
        for some in (originals, [written(picture, "camera", n) for n, picture in enumerate(originals)])
    )
    moved, level = (after - before).mean(0), factors.present[0] - factors.absent[0]
    found = factors.directions[:, 0] * level
    assert torch.nn.functional.cosine_similarity(found, moved, 0) > 0.9
    assert found.norm() == pytest.approx(moved.norm().item(), rel=0.25)
    text = study.model.encode_text(["camera", *names])
    assert found @ (text[0] - text[1:].mean(0)) > 0.02


def test_pictures_from_elsewhere_give_what_the_stored_ones_give(study, prompt, latents):
    mended = repair(study, latents, prompts=prompt)
    rows = study.holdout_rows[:40]
    chosen = study.images.select(rows)
    pictures = [record.load() for record in chosen]
    stored, fresh = mended.evaluate(chosen), mended.evaluate(pictures, labels=chosen.columns["label"])
    assert torch.equal(stored.correct, fresh.correct)


def test_what_no_weights_can_express_is_not_exported(study, prompt, latents, tmp_path):
    for scope in ("prompts", "model"):
        mended = repair(study, latents, prompts=prompt, how="ablate", scope=scope)
        with pytest.raises(ca.StudyError, match="how='project'"):
            mended.export(tmp_path / scope)


def test_findings_of_another_model_are_refused_by_both_names(study, prompt, latents):
    about = {"model": {**study.manifest["model"], "reference": "ViT-B-32:openai", "hash": "0" * 16}}
    found = Findings([finding(study, prompt, latents)], study, about)
    with pytest.raises(ca.StudyError, match="ViT-B-32:openai.*" + study.manifest["model"]["reference"]):
        repair(study, found)
    with pytest.raises(ca.StudyError, match="dictionary"):
        repair(study, Findings([finding(study, prompt, latents)], study, {"dictionary": "another"}))
    far = replace(finding(study, prompt, latents), latents=(study.dictionary.n_latents,))
    with pytest.raises(ca.StudyError, match=study.path.name):
        repair(study, far)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"how": "erase"}, "how is one of"),
        ({"scope": "all"}, "scope one of"),
        ({"strength": 0}, "strength"),
        ({}, "without the prompts to repair"),
        ({"prompts": "no such class", "classifier": ["a", "b"]}, None),
    ],
)
def test_what_cannot_be_meant_is_refused(study, latents, options, message):
    if message is None:  # a prompt that is no class yet becomes one
        assert "no such class" in repair(study, latents, how="ablate", **options).before.names
        return
    with pytest.raises(ca.TargetError, match=message):
        repair(study, latents, **options)


def test_labels_that_are_no_classes_are_named(study, prompt, latents):
    mended = repair(study, latents, prompts=prompt)
    rows = study.holdout_rows[:3]
    with pytest.raises(ca.DataError, match="zeppelin"):
        mended.evaluate(study.images.select(rows), labels=["zeppelin", None, None])
    with pytest.raises(ca.DataError, match="3 pictures need as many labels; got 2"):
        mended.evaluate(study.images.select(rows), labels=["a", "b"])
    with pytest.raises(ca.DataError, match="no labels"):
        mended.evaluate(study.images.select(rows), labels=[None] * 3)
