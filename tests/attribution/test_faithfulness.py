"""Faithfulness measures by hand-worked numbers and laws."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clipattr.attribution import METHODS, ProbeLogit, Splice, register_method, splices
from clipattr.attribution.faithfulness import (
    MEASURES,
    by_size,
    class_values,
    faithfulness,
    group_correlation,
    insertion_curve,
    mean_change,
    mean_drop,
    mean_rise,
    randomisation,
    randomised,
    removal_curve,
)
from clipattr.errors import DataError
from clipattr.statistics import bootstrap, pearson, per_picture, sign_flip, spearman


class Additive:
    """A splice whose target is the sum of its amounts times fixed effects: everything can be worked out by hand."""

    batch, parts, n_targets = 1, 3, 1
    amounts, reference = torch.ones(1, 3), torch.zeros(1, 3)
    effects = torch.tensor([2.0, -1.0, 4.0])
    changes, acts = amounts, amounts
    indices = torch.tensor([[5, 6, 7]])

    def states(self, amounts):
        return (amounts * self.effects).sum(-1, keepdim=True)

    @property
    def y(self):
        return self.states(self.amounts[:, None])[:, 0]


@pytest.fixture
def splice():
    return Additive()


def test_removal_takes_the_largest_value_first_and_averages_the_drops(splice):
    curve = removal_curve(splice, splice.effects[None, :, None])
    assert curve[0, :, 0].tolist() == [5.0, 1.0, -1.0, 0.0]
    assert mean_drop(splice, curve).item() == pytest.approx((4 + 6 + 5) / 3)


def test_insertion_starts_from_the_baseline(splice):
    curve = insertion_curve(splice, splice.effects[None, :, None])
    assert curve[0, :, 0].tolist() == [0.0, 4.0, 6.0, 5.0]
    assert mean_rise(splice, curve).item() == pytest.approx(5.0)


def test_deletion_by_size_counts_rises_as_changes(splice):
    values = torch.tensor([0.5, -9.0, 1.0])[None, :, None]
    curve = removal_curve(splice, values, key=by_size)
    assert curve[0, :, 0].tolist() == [5.0, 6.0, 2.0, 0.0]
    assert mean_change(splice, curve).item() == pytest.approx((1 + 3 + 5) / 3)


def test_parts_that_do_not_change_come_last_and_do_not_count(splice):
    splice.changes = torch.tensor([[1.0, 0.0, 1.0]])
    splice.amounts = torch.tensor([[1.0, 0.0, 1.0]])
    curve = removal_curve(splice, torch.tensor([1.0, 99.0, 2.0])[None, :, None])
    assert curve[0, :, 0].tolist() == [6.0, 2.0, 0.0, 0.0] and mean_drop(splice, curve).item() == 5.0


def test_true_effects_of_an_additive_target_predict_groups_perfectly_and_negated_ones_inversely(splice):
    values = splice.effects[None, :, None]
    assert group_correlation(splice, values).item() == pytest.approx(1)
    assert group_correlation(splice, -values).item() == pytest.approx(-1)


def test_the_class_mean_gives_every_picture_of_a_class_one_order():
    splice = SimpleNamespace(batch=3, indices=torch.tensor([[1, 2], [2, 3], [1, 2]]))
    values = torch.tensor([[1.0, 2.0], [4.0, 6.0], [9.0, 9.0]])[..., None]
    result = class_values(splice, values, ["a", "a", "b"])[..., 0]
    assert result.tolist() == [[0.5, 3.0], [3.0, 3.0], [9.0, 9.0]]
    with pytest.raises(DataError, match="3 pictures need as many classes; got 2"):
        class_values(splice, values, ["a", "a"])


def test_spearman_equals_scipys_with_ties_and_is_undefined_without_variation():
    from scipy.stats import spearmanr

    one, two = torch.tensor([1.0, 2, 2, 4, 7]), torch.tensor([3.0, 1, 4, 4, 9])
    assert spearman(one, two) == pytest.approx(spearmanr(one, two).statistic)
    assert np.isnan(spearman(one, torch.ones(5))) and np.isnan(spearman(one[:1], two[:1]))
    assert pearson(one, two).item() == pytest.approx(np.corrcoef(one, two)[0, 1])


def test_intervals_resample_pictures_not_prompts():
    # Ten pictures with a hundred equal prompts each hold ten observations.
    base = torch.randn(10, 1, generator=torch.Generator().manual_seed(0))
    few, many = bootstrap(base), bootstrap(base.expand(10, 100))
    assert (few.low, few.high) == pytest.approx((many.low, many.high))
    assert few.low < few.value < few.high
    assert per_picture(torch.tensor([[1.0, float("nan")], [float("nan")] * 2])).tolist() == [1.0]
    assert bootstrap(torch.full((2, 1), float("nan"))).value != 0


def test_the_sign_flip_test_is_exact_on_a_case_worked_by_hand():
    # Eight equal differences: only all-equal signs, 2 of 256, are as extreme.
    assert sign_flip(torch.ones(8, 1), draws=40000) == pytest.approx(2 / 256, rel=0.2)
    assert sign_flip(torch.tensor([[1.0], [-1.0]])) == 1.0


def test_the_suite_measures_every_method_and_ranks_the_truth_above_noise(tiny_model, directions, pictures):
    @register_method("my_own")
    def my_own(splice):
        return -splice.ablated()

    try:
        report = faithfulness(
            tiny_model,
            pictures.float(),
            ["kite", "bat"],
            methods=["exact", "patching", "random", "my_own"],
            dictionary=directions,
            batch=3,
        )
    finally:
        del METHODS["my_own"]
    assert len(report.table) == 4 * (len(MEASURES) - 2)  # neither deletion per class nor the randomised model
    scores = {method: report.summary(method, "rank_correlation").value for method in report.methods}
    assert scores["exact"] == pytest.approx(1) and scores["my_own"] == pytest.approx(-1)
    assert scores["patching"] > 0.9
    for measure in ("deletion", "insertion", "group_effects"):
        assert report.summary("exact", measure).value > report.summary("my_own", measure).value
        difference, p = report.compare("exact", "my_own", measure)
        assert difference.value > 0 and 0 < p <= 1
    labels = [label.get_text() for label in report.plot("deletion").axes[0].get_yticklabels()]
    assert labels == ["exact", "patching", "random", "my own"]
    with pytest.raises(DataError, match="'luck' was not measured"):
        report.plot("luck")


def test_deletion_per_class_uses_one_order_for_all_pictures_of_a_class(tiny_model, directions, pictures):
    how = {"dictionary": directions, "methods": ("exact", "energy"), "masks": 4}
    pictures = pictures.float()
    alone = faithfulness(tiny_model, pictures, "kite", classes=list(range(len(pictures))), **how)
    # Classes of one picture have the picture's own order.
    torch.testing.assert_close(
        alone.scores["exact", "deletion_per_class"], alone.scores["exact", "deletion"], atol=1e-6, rtol=1e-4
    )
    together = faithfulness(tiny_model, pictures, "kite", classes=["a"] * len(pictures), batch=1, **how)
    [(_, splice)] = splices(tiny_model, pictures, "kite", dictionary=directions)
    shared = class_values(splice, METHODS["exact"](splice), ["a"] * len(pictures))
    expected = mean_drop(splice, removal_curve(splice, shared))
    torch.testing.assert_close(together.scores["exact", "deletion_per_class"].float(), expected.float())
    assert "deletion_per_class" in set(together.table["measure"])
    with pytest.raises(DataError, match="4 pictures need as many classes; got 2"):
        faithfulness(tiny_model, pictures, "kite", classes=["a", "b"], **how)


def test_attributions_of_a_randomised_model_lose_their_order_but_energy_does_not(
    exact_model, directions, acts, weights
):
    splice = Splice(exact_model, directions, "image.-1.cls", acts, ProbeLogit(weights.T))
    for method in ("exact", "patching"):
        assert randomisation(splice, method).mean().abs() < 0.5
    assert randomisation(splice, "energy").mean() == pytest.approx(1)
    other = randomised(exact_model)
    assert not torch.equal(other.image_projection, exact_model.image_projection)
    assert torch.equal(
        other.image_projection.flatten().sort().values, exact_model.image_projection.flatten().sort().values
    )


def test_the_suite_reports_the_randomised_model_where_asked(tiny_model, directions, pictures):
    how = {"dictionary": directions, "methods": ("patching", "energy"), "masks": 4}
    report = faithfulness(tiny_model, pictures.float(), ["kite", "bat"], randomise=True, batch=3, **how)
    [(_, splice)] = splices(tiny_model, pictures.float(), ["kite", "bat"], dictionary=directions)
    expected = randomisation(splice, "patching")
    torch.testing.assert_close(report.scores["patching", "randomised_model"], expected, atol=1e-6, rtol=0)
    assert report.summary("energy", "randomised_model").value == pytest.approx(1)
    assert len(report.plot("randomised_model").axes) == 1


def test_a_registered_method_is_measured_without_being_asked_for(tiny_model, directions, pictures):
    @register_method("my_own")
    def my_own(splice):
        return splice.changes[..., None] * splice.slopes()

    try:
        report = faithfulness(tiny_model, pictures.float(), "kite", dictionary=directions, masks=4)
    finally:
        del METHODS["my_own"]
    assert report.methods[-1] == "my_own" and "shapley" not in report.methods
    same = report.scores["my_own", "deletion"] - report.scores["patching", "deletion"]
    assert same.abs().max() == 0
