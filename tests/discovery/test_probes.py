"""Probes: fitted against scikit-learn by hand, read from files without trust, and audited against the real model."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression

import clipattr as ca
from clipattr.dictionaries import SparseCodes
from clipattr.discovery.probes.audit import audit_probe
from clipattr.discovery.probes.findings import Bounds
from clipattr.discovery.probes.fitting import fit_probe, fit_sparse_probe
from clipattr.discovery.probes.probe import Probe
from clipattr.discovery.repair.repair import repair


def clouds(n=240, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.arange(n) % classes
    raw = 0.5 * torch.randn(n, 12, generator=generator) + 1.2 * torch.eye(12)[numbers]
    return torch.nn.functional.normalize(raw, dim=1), [f"c{number}" for number in numbers.tolist()]


@pytest.fixture(scope="module")
def study():
    return ca.open_study("picture-world")


@pytest.fixture(scope="module")
def two(study):
    """The two commonest labels, and every picture's label where it is one of them."""
    labels = study.images.columns["label"]
    known = [label for label in labels if label]
    common = sorted(sorted(set(known)), key=known.count)[-2:]
    return sorted(common), [label if label in common else None for label in labels]


@pytest.fixture(scope="module")
def audited(study, two):
    groups = ["even" if row % 2 else "odd" for row in range(len(study.images))]
    return audit_probe(study, two[1], groups)


@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_a_probe_of_given_strength_is_scikit_learns(penalty):
    x, labels = clouds()
    ours = fit_probe(x, labels, strength=10.0, penalty=penalty, balanced=False, calibrate=False)
    told = {"l1_ratio": 1.0, "solver": "saga"} if penalty == "l1" else {"l1_ratio": 0.0}
    try:
        theirs = LogisticRegression(C=10.0, max_iter=5000, tol=1e-6, **told)
        theirs.fit(x.double().numpy(), labels)
    except (TypeError, ValueError):  # before scikit-learn 1.8
        theirs = LogisticRegression(
            C=10.0, max_iter=5000, tol=1e-6, penalty=penalty, solver=told.get("solver", "lbfgs")
        )
        theirs.fit(x.double().numpy(), labels)
    ours_p = ours.probabilities(x).numpy()
    np.testing.assert_allclose(ours_p, theirs.predict_proba(x.double().numpy()), atol=0.02)
    assert ours.names == tuple(theirs.classes_)


def test_two_classes_keep_scikit_learns_odds():
    x, labels = clouds(classes=2)
    ours = fit_probe(x, labels, strength=1.0, balanced=False, calibrate=False)
    theirs = LogisticRegression(C=1.0).fit(x.double().numpy(), labels)
    logits = ours.logits(x)
    np.testing.assert_allclose(
        (logits[:, 1] - logits[:, 0]).numpy(), theirs.decision_function(x.double().numpy()), atol=0.02
    )


def test_balancing_counts_a_rare_class_as_much_as_a_common_one():
    x, labels = clouds(classes=2)
    kept = [i for i, label in enumerate(labels) if label == "c0" or i % 20 == 1]
    few, names = x[kept], [labels[i] for i in kept]
    each = [1.0 if name == "c0" else names.count("c0") / names.count("c1") for name in names]
    by_hand = fit_probe(few, names, strength=1.0, balanced=False, calibrate=False, weights=each)
    plain = fit_probe(few, names, strength=1.0, balanced=False, calibrate=False)
    balanced = fit_probe(few, names, strength=1.0, calibrate=False)

    def found(probe):
        return np.mean(
            [p == "c1" for p, label in zip(probe.predict(x), labels, strict=True) if label == "c1"]
        )

    assert found(balanced) > found(plain)
    assert found(balanced) == pytest.approx(found(by_hand), abs=0.02)


def test_strength_is_the_strongest_rule_within_chance_of_the_best_and_calibration_softens():
    x, labels = clouds(n=90)
    probe = fit_probe(x, labels)
    losses = {float(c): loss for c, loss in probe.about["cross_validated_log_loss"].items()}
    chosen, best = probe.about["strength"], min(losses, key=losses.get)
    assert chosen <= best and losses[chosen] <= losses[best] + 0.1
    assert all(losses[c] > losses[chosen] for c in losses if c < chosen)
    unseen, truth = clouds(n=900, seed=5)
    where = torch.tensor([probe.names.index(label) for label in truth])

    def loss(probe):
        return float(torch.nn.functional.cross_entropy(probe.logits(unseen), where))

    raw = fit_probe(x, labels, strength=1e4, calibrate=False)
    assert loss(fit_probe(x, labels, strength=1e4)) < loss(raw)


def test_a_sparse_probe_finds_the_latents_that_tell():
    generator = torch.Generator().manual_seed(0)
    numbers = torch.arange(200) % 2
    dense = (torch.rand(200, 30, generator=generator) < 0.2).float()
    dense[:, 4], dense[:, 7] = 3.0 * (numbers == 0), 0.5 * (numbers == 1)
    codes = SparseCodes.from_dense(dense)
    labels = ["left" if number == 0 else "right" for number in numbers.tolist()]
    probe = fit_sparse_probe(codes, labels, strength=0.3)
    assert {4, 7} <= set(probe.latents) and len(probe.latents) < 15
    assert probe.top("left", 1)[0][0] == 4 and probe.top("right", 1)[0][0] == 7
    slow = dense @ probe.weights.T + probe.bias
    torch.testing.assert_close(probe.logits(codes), slow)


def test_prompts_are_a_probe_like_any_other(study):
    labels = sorted({label for label in study.images.columns["label"] if label})[:5]
    probe = Probe.of_prompts(study.model, labels)
    with torch.no_grad():
        e = study.model.encode_image(study.model.prepare(study.images[0].load())[None])
        slow = study.model.logit_scale * e @ study.model.encode_text(labels).T
    torch.testing.assert_close(probe.logits(e), slow)
    # The target is the margin over the mean of the other classes.
    values = probe.target(labels[2]).values(e, study.model)
    torch.testing.assert_close(values[0, 0], slow[0, 2] - (slow[0].sum() - slow[0, 2]) / 4)


def test_weights_come_from_safetensors_state_dicts_and_folders(tmp_path):
    weights, bias = torch.randn(3, 12), torch.randn(3)
    save_file({"w": weights, "b": bias}, str(tmp_path / "a.safetensors"))
    torch.save(torch.nn.Linear(12, 1).state_dict(), tmp_path / "b.pt")
    one = Probe.open(tmp_path / "a.safetensors", names=["x", "y", "z"])
    assert one.names == ("x", "y", "z") and torch.equal(one.weights, weights) and torch.equal(one.bias, bias)
    binary = Probe.open(tmp_path / "b.pt")
    layer = torch.load(tmp_path / "b.pt", weights_only=True)
    x = clouds()[0]
    logits = binary.logits(x)
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], (x @ layer["weight"].T + layer["bias"])[:, 0])
    again = Probe.open(one.save(tmp_path / "saved"))
    assert again.names == one.names and torch.equal(again.weights, one.weights)


def test_a_pickle_is_opened_only_if_trusted(tmp_path):
    x, labels = clouds()
    made = LogisticRegression().fit(x.numpy(), labels)
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(made))
    with pytest.raises(ca.DataError, match="runs whatever code"):
        Probe.open(tmp_path / "p.pkl")
    trusted = Probe.open(tmp_path / "p.pkl", trust_pickle=True)
    assert trusted.predict(x) == made.predict(x.numpy()).tolist()


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


def test_no_file_runs_code(tmp_path, capsys):
    torch.save({"w": Evil()}, tmp_path / "bad.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 20)
    for name in ("bad.pt", "cut.safetensors"):
        with pytest.raises(ca.DataError, match="safetensors"):
            Probe.open(tmp_path / name)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)}, "one matrix"),
        ({"a": torch.zeros(3)}, "one matrix"),
    ],
)
def test_weights_that_are_no_probe_are_refused(tmp_path, held, message):
    save_file(held, str(tmp_path / "x.safetensors"))
    with pytest.raises(ca.DataError, match=message):
        Probe.open(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"] * 240, "hold 1"),
        ([None] * 240, "none at all"),
        (["a"] * 239 + ["b"], "fewer than 2 pictures"),
        (["a"] * 3, "3 labels"),
        (None, "give labels"),
    ],
)
def test_labels_that_teach_nothing_are_refused(labels, message):
    with pytest.raises(ca.DataError, match=message):
        fit_probe(clouds()[0], labels)


def test_one_in_a_thousand_is_still_a_class():
    x, _ = clouds(n=2002)
    labels = ["common"] * 2000 + ["rare"] * 2
    x[2000:] = torch.nn.functional.normalize(-torch.ones(2, 12), dim=1)
    assert fit_probe(x, labels, strength=1.0).predict(x)[-1] == "rare"


def test_embeddings_that_are_not_finite_are_refused():
    x, labels = clouds()
    x[3, 2] = float("nan")
    with pytest.raises(ca.DataError, match="NaN or infinite"):
        fit_probe(x, labels)


def test_an_audit_counts_what_the_probe_gets_right(study, two, audited):
    names, labels = two
    rows = [row for row in study.holdout_rows.tolist() if labels[row]]
    acts = torch.from_numpy(np.asarray(study.activations[rows], dtype=np.float32))
    e = ca.continue_from(study.model, study.site, acts)
    for column, classifier in (("probe", audited.probe), ("prompt", audited.prompts)):
        right = [p == labels[row] for p, row in zip(classifier.predict(e), rows, strict=True)]
        of_first = [hit for hit, row in zip(right, rows, strict=True) if labels[row] == names[0]]
        assert audited.classes[column][0] == pytest.approx(np.mean(of_first))
        odd = np.mean([hit for hit, row in zip(right, rows, strict=True) if row % 2 == 0])
        even = np.mean([hit for hit, row in zip(right, rows, strict=True) if row % 2])
        assert audited.worst[column] == pytest.approx(min(odd, even))
    assert "worst group" in repr(audited)
    nobody = audit_probe(study, labels, [None] * len(labels), probe=audited.probe)
    assert nobody.groups is None and "nothing is known of the worst one" in repr(nobody)


def test_a_latents_effect_is_the_models_own_ablation(study, two, audited):
    names, labels = two
    line = audited.disagreements(names[1], 1).iloc[0]
    rows = [row for row in study.holdout_rows.tolist() if labels[row] == names[1]]
    acts = torch.from_numpy(np.asarray(study.activations[rows], dtype=np.float32))
    amount = study.codes.rows(torch.tensor(rows)).to_dense()[:, line["latent"]]
    without = acts - amount[:, None] * study.dictionary.decoder[line["latent"]]
    for column, classifier in (("probe", audited.probe), ("prompt", audited.prompts)):
        weights, _ = classifier.margins()
        fall = (
            ca.continue_from(study.model, study.site, acts)
            - ca.continue_from(study.model, study.site, without)
        ) @ weights[:, classifier.names.index(names[1])]
        assert line[f"{column}_effect"] == pytest.approx(fall.mean().item(), abs=1e-3)
        half = 1.96 * fall.std().item() / len(fall) ** 0.5
        assert line[f"{column}_high"] - line[f"{column}_effect"] == pytest.approx(half, rel=0.02, abs=1e-4)


def test_what_an_audit_finds_can_be_repaired(study, audited):
    found = audited.findings(Bounds(compared=-10.0, ablated=-10.0))
    assert all(f.prompt in audited.probe.names and f.evidence["logits_per_cosine"] > 0 for f in found)
    assert len(found)
    fixed = repair(study, found[:1], classifier=audited.probe).classifier()
    other = 1 - fixed.index(found[0].prompt)
    assert torch.equal(fixed.weights[other], audited.probe.weights[other])


def test_what_cannot_be_audited_is_refused(study, audited, two):
    with pytest.raises(ca.StudyError, match="latents come from a study"):
        audit_probe([np.zeros((64, 64, 3), np.uint8)], ["a"])
    with pytest.raises(ca.DataError, match="need as many labels; got 1"):
        audit_probe(study, ["a"])
    with pytest.raises(ca.DataError, match="need as many groups; got 2"):
        audit_probe(study, two[1], ["odd", "even"])
    with pytest.raises(ca.DataError, match="the labels hold 1"):
        audit_probe(study, [label if label == two[0][0] else None for label in two[1]])
    with pytest.raises(ca.DataError, match="no measured picture has a label"):
        audit_probe(study, [None] * len(two[1]), probe=audited.probe)
    alien = Probe(("a", "b"), torch.zeros(2, study.model.embed_dim), torch.zeros(2), "f" * 16)
    with pytest.raises(ca.StudyError, match="f" * 16):
        audit_probe(study, two[1], probe=alien)
    strange = ["zeppelin" if label else None for label in two[1]]
    with pytest.raises(ca.DataError, match="zeppelin"):
        audit_probe(study, strange, probe=audited.probe)


def test_pictures_that_show_one_lesion_are_never_fitted_and_measured(study, tmp_path):
    """Sixty pictures of twenty objects; which object it is decides the class, and nothing else does."""
    generator = np.random.default_rng(0)
    for thing in range(20):
        for view in range(3):
            pixels = generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{thing}-{view}.png")
    names = [f"{thing}-{view}" for thing in range(20) for view in range(3)]
    lines = [f"{name},{'ab'[int(name.split('-')[0]) % 2]},{name.split('-')[0]}" for name in names]
    (tmp_path / "metadata.csv").write_text("\n".join(["image_id,label,lesion_id", *lines]))
    table = ca.open_table(tmp_path, group="lesion_id")
    held = [side == "holdout" for side in table.images.columns["split"]]
    audit = audit_probe(table.images, study=study)
    assert audit.classes["pictures"].sum() == sum(held)
    measured = set(audit.groups["group"])
    assert measured == {name for name, side in zip(table.columns["lesion_id"], held, strict=True) if side}
    everything = audit_probe(table.images, study=study, probe=audit.probe)
    assert everything.classes["pictures"].sum() == 60, "a probe that was brought along is measured everywhere"
