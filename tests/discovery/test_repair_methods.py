"""Methods of repair: the refit against a general optimiser, the choice among methods, and the side of a finding."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib import get_data_path
from PIL import ImageDraw, ImageFont
from scipy.optimize import minimize

import clipattr as ca
from clipattr.discovery.audit.text_insertion import shifts
from clipattr.discovery.findings import Finding
from clipattr.discovery.repair import methods
from clipattr.discovery.repair.directions import (
    embeddings_without,
    learning_pictures,
    own_pictures,
    sharpened,
)
from clipattr.discovery.repair.erasure import Factors, direction, spread_within
from clipattr.discovery.repair.methods import (
    INSERTED,
    KEPT,
    METHODS,
    OTHERS_LOSS,
    PREFERRED,
    Task,
    best,
    reliance,
    sparing_bias,
    worst_group,
)
from clipattr.discovery.repair.refit import refitted
from clipattr.discovery.repair.removals import Removal
from clipattr.discovery.repair.rows import _fade, crossed
from clipattr.errors import StudyError, TargetError
from clipattr.statistics import Interval, auc

FOREIGN_FACE = f"{get_data_path()}/fonts/ttf/DejaVuSansMono-Bold.ttf"  # none that directions are learnt from


@pytest.fixture(scope="module")
def study():
    return ca.open_study("picture-world")


@pytest.fixture(scope="module")
def latents(study):
    """The latents that fire most on pictures of one label."""
    rows = [row for row, label in enumerate(study.images.columns["label"]) if label == "palm"][:50]
    return study.codes.rows(torch.tensor(rows)).to_dense().sum(0).topk(3).indices.tolist()


def finding(prompt, latents, **evidence):
    nothing = Interval(0.1, 0.1, 0.1)
    return Finding(
        prompt, tuple(latents), None, "unknown", 1.0, nothing, nothing, 0.5, 0.0, 0.5, 0.9, (), evidence
    )


def task(n=900, noise=0.35):
    """Three classes along three axes, and a factor along a fourth that nearly always stands beside class 0."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(n) % 3
    factor = (torch.rand(n, generator=generator) < torch.where(classes == 0, 0.97, 0.2)).float()
    raw = noise * torch.randn(n, 8, generator=generator)
    raw[torch.arange(n), classes] += 1.0
    raw[:, 3] += 1.2 * factor
    embeddings = F.normalize(raw, dim=1)
    weights = torch.zeros(3, 8)
    weights[torch.arange(3), torch.arange(3)] = 10.0
    weights[0, 0], weights[0, 3] = 4.0, 8.0  # class 0 relies on the factor
    direction = torch.zeros(8, 1)
    direction[3] = 0.5
    factors = Factors(direction, factor[:, None], torch.zeros(1), torch.ones(1))
    own = classes == 0
    return Task(
        weights, torch.tensor([-3.0, 0.0, 0.0]), 0, embeddings, own, classes, factors, F.normalize(direction, dim=0),
        torch.zeros(8, 0), spread_within(embeddings, classes), 0.75,
    )  # fmt: skip


def test_the_refit_is_the_minimum_that_a_general_optimiser_finds():
    made = task(120)
    ridge = 0.05
    row, bias = refitted(
        made.weights, made.bias, 0, made.embeddings, made.own, made.factors, made.covariance, ridge=ridge
    )
    e, own = made.embeddings.double(), made.own
    d, seen = made.factors.directions[:, 0].double(), made.factors.presence[:, 0].double()
    states = [e, F.normalize(e + (1 - seen)[:, None] * d, dim=1), F.normalize(e - seen[:, None] * d, dim=1)]

    def loss(v):
        v = torch.tensor(v, requires_grad=True)
        total = torch.zeros((), dtype=torch.float64)
        for state in states:
            scores = torch.cat(
                [(state @ v[:-1] + v[-1])[:, None], (state @ made.weights[1:].double().T) + made.bias[1:]], 1
            )
            share = scores.softmax(1)[:, 0]
            total = total - 0.5 * share[own].log().mean() - 0.5 * (1 - share[~own]).log().mean()
        change = v[:-1] - made.weights[0].double()
        total = total + ridge * (change @ made.covariance @ change + 1e-4 * (v[-1] - made.bias[0]) ** 2)
        (slope,) = torch.autograd.grad(total, v)
        return float(total.detach()), slope.numpy()

    start = np.append(made.weights[0].double().numpy(), float(made.bias[0]))
    found = minimize(loss, start, jac=True, tol=1e-10)
    assert loss(np.append(row.double().numpy(), float(bias)))[0] < found.fun + 1e-6 < loss(start)[0]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_finds_the_class_without_its_factor(name):
    made = task()
    row, bias = METHODS[name](made)
    without = made.own & (made.factors.presence[:, 0] == 0)
    logits = made.embeddings @ made.weights.T + made.bias
    before = (logits[without].argmax(1) == 0).double().mean()
    logits[:, 0] = made.embeddings @ row + bias
    assert (logits[without].argmax(1) == 0).double().mean() > before
    assert (logits.argmax(1) == made.classes).double().mean() > 0.9


def test_reliance_is_the_slope_within_classes_times_the_way():
    made = task()
    y = (made.embeddings @ (made.weights[0] - made.weights[1:].mean(0))).double().numpy()
    among = (~made.own).numpy()
    design = np.stack([made.factors.presence[:, 0].numpy(), made.classes == 1, made.classes == 2], 1)[among]
    slope = np.linalg.lstsq(design.astype(float), y[among], rcond=None)[0][0]
    assert reliance(made, made.weights[0]) == pytest.approx(abs(slope), rel=1e-5)
    assert reliance(made, METHODS["combined"](made)[0]) < 0.2 * reliance(made, made.weights[0])


def test_the_method_is_chosen_on_the_pictures_it_was_not_fitted_on(monkeypatch):
    made = task()
    assert best(made) == PREFERRED[0]
    # A method that ruins the class is never chosen; where all do, the row stays as it is.
    seen = []

    def ruin(task):
        seen.append(len(task.embeddings))
        return torch.zeros(8), torch.tensor(-100.0)

    monkeypatch.setitem(METHODS, PREFERRED[0], ruin)
    assert best(made) == PREFERRED[1]
    for name in PREFERRED:
        monkeypatch.setitem(METHODS, name, ruin)
    assert best(made) == KEPT
    assert set(seen) == {450}


def test_the_worst_group_is_that_of_counting_every_picture():
    made = task()
    row, bias = made.weights[0], made.bias[0]
    shares = []
    for level in (1.0, 0.0):  # every picture with the factor, and without it
        change = (level - made.factors.presence) @ made.factors.directions.T
        logits = F.normalize(made.embeddings + change, dim=1) @ made.weights.T + made.bias
        right = [
            int(line.argmax()) == label for line, label in zip(logits, made.classes.tolist(), strict=True)
        ]
        shares += [
            np.mean([hit for hit, own in zip(right, made.own, strict=True) if bool(own) is mine])
            for mine in (True, False)
        ]
    assert worst_group(made, row, bias) == pytest.approx(min(shares))


def test_an_erased_row_ignores_the_directions_and_still_separates_the_class():
    made = task()
    row, _ = METHODS["erased"](made)
    rivals = made.weights[1:].mean(0)
    d = F.normalize(made.factors.directions[:, 0], dim=0)
    assert abs(float((row - rivals) @ d)) < 1e-2 * abs(float((made.weights[0] - rivals) @ d))
    assert worst_group(made, *METHODS["erased"](made)) > worst_group(made, made.weights[0], made.bias[0])


@pytest.mark.parametrize("how", [*METHODS, "measured"])
def test_only_the_prompts_row_changes_and_the_export_loads(how, study, latents, tmp_path):
    repaired = ca.repair(study, latents, prompts="palm", how=how)
    after, before = repaired.classifier(), repaired.before
    number = before.index("palm")
    others = torch.arange(len(before.names)) != number
    assert torch.equal(after.weights[others], before.weights[others])
    taken = after.about["taken"]["palm"]
    assert torch.equal(after.weights[number], before.weights[number]) is (taken == KEPT)
    assert taken in (*METHODS, KEPT) and "row" in repaired.about
    read = ca.Probe.open(repaired.export(tmp_path / how))
    assert torch.equal(read.weights, after.weights)


def test_the_default_is_sharpened_for_prompts_and_a_projection_where_there_is_no_row_of_a_prompt(
    study, latents
):
    given = ca.repair(study, latents, prompts="palm")
    assert given.how == "sharpened" and given.classifier().about["taken"] == {"palm": "sharpened"}
    assert ca.repair(study, latents, prompts="palm", classifier=given.before).how == "project"
    assert ca.repair(study, latents, prompts="palm", scope="model").how == "project"


def test_a_method_of_rows_is_refused_for_the_whole_model(study, latents):
    with pytest.raises(TargetError, match="scope='model' takes how='project'"):
        ca.repair(study, latents, how="refit", scope="model")


def test_crossed_logits_come_from_the_other_half():
    made = task()
    found = crossed(made, "refit")
    for here, there in ((0, 1), (1, 0)):
        row, bias = METHODS["refit"](made.of(torch.arange(here, len(made.embeddings), 2)))
        torch.testing.assert_close(found[there::2], (made.embeddings @ row + bias)[there::2])


def test_several_rows_step_back_to_a_softer_method_before_they_are_given_up(monkeypatch):
    made = task()
    tasks = {number: replace(made, number=number, own=made.classes == number) for number in (0, 1)}
    monkeypatch.setitem(METHODS, "sharpened", lambda given: (torch.zeros(8), torch.tensor(50.0)))
    rows = {number: METHODS["sharpened"](given) for number, given in tasks.items()}
    faded, told = _fade(tasks, dict.fromkeys(tasks, "sharpened"), rows, made.classes)
    assert told["of"] == ["sharpened"] and told["to"] == ["erased"] and told["strength"] < 0.2
    for number, given in tasks.items():
        far, near = rows[number], METHODS["erased"](given)
        torch.testing.assert_close(faded[number][0], torch.lerp(near[0], far[0], told["strength"]))
        level = torch.lerp(near[1], far[1], told["strength"]) + told["shifts"][number]
        torch.testing.assert_close(faded[number][1], level)


# the side of a finding


def test_what_a_wording_leaves_is_what_ablation_says(study, latents):
    found = ca.side(study, finding("palm", latents), glosses=["a tropical tree", "a hand"])
    assert [row["wording"] for row in found.wordings][:2] == ["palm", "a palm"]
    assert found.wordings[0]["left"] == 1.0 and found.side in ("image", "text", "both")
    # By hand, on every second picture: exact ablation of the family, and the wording's contrast to the vocabulary.
    pictures = learning_pictures(study)
    half = torch.arange(len(pictures))[1::2]
    change = pictures.embeddings - embeddings_without(study, pictures, latents)
    active = torch.from_numpy(
        study.codes.rows(torch.from_numpy(pictures.rows)).to_dense()[:, latents].sum(1).numpy() > 0
    )
    wording = found.wordings[-1]["wording"]
    rows = study.model.encode_text(["palm", wording]) - study.model.encode_text(
        study.vocabulary.prompts
    ).mean(0)
    effect = change[half][active[half]].mean(0) @ rows.T
    scores = pictures.embeddings[half] @ rows.T
    assert found.effect == pytest.approx(float(effect[0]), abs=1e-6)
    left = float((effect[1] / scores[:, 1].std()) / (effect[0] / scores[:, 0].std()))
    assert found.wordings[-1]["left"] == pytest.approx(left, abs=1e-4)
    own = own_pictures(study, pictures, ["palm"])[1][:, 0]
    assert found.wordings[0]["auc"] == pytest.approx(auc(scores[:, 0].numpy(), own[half].numpy()))


def test_a_side_is_noted_beside_the_evidence_and_its_wording_is_a_classifier(study, latents, tmp_path):
    given = finding("palm", latents, contrast=0.3)
    found = ca.side(study, given)
    noted = found.noted(given)
    assert noted.evidence["contrast"] == 0.3 and noted.evidence["side"]["side"] == found.side
    assert (
        Finding.from_dict(ca.Findings([noted]).to_json_object()["findings"][0]) == noted
        if hasattr(ca.Findings, "to_json_object")
        else True
    )
    if found.suggestion is not None:
        probe = found.classifier(study, ["palm", "cactus"])
        text = study.model.encode_text([found.suggestion])[0] * study.model.logit_scale
        torch.testing.assert_close(probe.weights[0], text)
    with pytest.raises(TargetError, match="no classifier with another wording"):
        found.classifier(study, ["cactus", "bat"])


def test_a_family_that_never_fires_has_no_side(study):
    fires = torch.zeros(study.dictionary.n_latents)
    codes = study.codes.to_csr()
    fires.index_add_(0, codes.indices.long(), (codes.values > 0).float())
    silent = int(fires.argmin())
    if fires[silent] > 4:
        pytest.skip("every latent of this study fires")
    with pytest.raises(StudyError, match="are needed to measure an effect"):
        ca.side(study, finding("palm", [silent]))


def test_a_sparing_bias_is_the_largest_that_counting_every_picture_allows():
    made = task()
    row, bias = METHODS["refit"](made)
    showing = (made.factors.presence[:, 0] > 0.5) & ~made.own

    def lost(level, group):
        """Accuracy that a group of other pictures loses, picture by picture."""
        total = 0
        for place in torch.nonzero(group).flatten().tolist():
            logits = made.embeddings[place] @ made.weights.T + made.bias
            before = int(logits.argmax()) == int(made.classes[place])
            logits[0] = made.embeddings[place] @ row + level
            total += before - (int(logits.argmax()) == int(made.classes[place]))
        return total / int(group.sum())

    for start in (bias, bias + 6):
        found = sparing_bias(made, row, start)
        assert found <= start
        assert max(lost(found, ~made.own), lost(found, showing)) <= OTHERS_LOSS
        higher = [level for level in torch.linspace(-20, float(start), 60) if level > found + 1e-3]
        assert all(max(lost(level, ~made.own), lost(level, showing)) > OTHERS_LOSS for level in higher)
    assert found < bias + 6  # the limit was reached


def test_pictures_of_the_class_that_are_not_its_own_have_no_part_in_a_sparing_bias():
    made = task()
    own = made.own & (torch.arange(len(made.own)) % 9 == 0)  # most of its pictures have no label
    row, bias = METHODS["refit"](made)
    few = replace(made, own=own)
    kept = own | (made.classes != 0)
    alone = made.of(torch.nonzero(kept).flatten())
    assert sparing_bias(few, row, bias + 6) == sparing_bias(alone, row, bias + 6) < bias + 6


def test_a_direction_is_sharpened_where_few_pictures_show_the_concept_strongly():
    generator = torch.Generator().manual_seed(0)
    n, width = 4000, 24
    classes = torch.arange(n) % 5
    true, false = torch.eye(width)[0], torch.eye(width)[1]
    strong = (torch.arange(n) % 40 == 0).float()
    misled = torch.randn(n, generator=generator)
    embeddings = 0.3 * torch.randn(n, width, generator=generator) + strong[:, None] * true
    embeddings += misled[:, None] * false
    presence = 5 * strong + misled  # nearly all of its variation is of something else
    slope = direction(embeddings, presence, classes, torch.ones(n, dtype=torch.bool))
    factors = Factors(
        slope[:, None].repeat(1, 2), presence[:, None].repeat(1, 2), torch.zeros(2), torch.ones(2)
    )
    added = F.normalize(true + 0.5 * torch.eye(width)[2], dim=0)[:, None].repeat(1, 2)
    better = sharpened(factors, ["watermark", "companion"], added, embeddings, classes, torch.ones(n).bool())
    near = F.cosine_similarity(better.directions, true[:, None], dim=0)
    assert near[0] > F.cosine_similarity(slope, true, dim=0) + 0.2
    torch.testing.assert_close(better.directions[:, 1], slope)  # an object keeps its own
    torch.testing.assert_close(better.directions[:, 0].norm(), slope.norm())


def test_directions_of_inserted_text_hold_what_text_in_another_face_does(study, monkeypatch):
    """Shifts by a face that was not learnt from lie along them more than along the mean shift."""
    pictures = learning_pictures(study)
    removals = [Removal("camera", (0,), "a written word", "typography")]
    own = torch.tensor([label == "camera" for label in pictures.images.columns["label"]])
    single = shifts(study, pictures, "camera", ~own)
    monkeypatch.setattr(methods, "shifts", lambda *given: single)
    _, found = methods._insertions(study, pictures, removals, own)
    torch.testing.assert_close(found.T @ found, torch.eye(INSERTED), atol=1e-4, rtol=0)
    mean = F.normalize(single.mean(0), dim=0)
    bare = torch.nonzero(~own).flatten()[::200][:24].tolist()
    originals = [pictures.images[place].load().convert("RGB") for place in bare]
    for picture in (copies := [picture.copy() for picture in originals]):
        font = ImageFont.truetype(FOREIGN_FACE, picture.height // 5)
        ImageDraw.Draw(picture).text((1, picture.height // 3), "camera", "red", font)
    before, after = (
        study.model.encode_image(torch.stack([study.model.prepare(picture) for picture in some])).float()
        for some in (originals, copies)
    )
    moved = F.normalize((after - before).mean(0), dim=0)
    assert float((found.T @ moved).norm()) > abs(float(mean @ moved)) + 0.3
