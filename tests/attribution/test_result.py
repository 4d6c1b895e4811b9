"""`Attribution`: tables by hand-worked numbers, words, files."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from clipattr.attribution import Attribution, attribute
from clipattr.attribution.compute import align_with, labels_of
from clipattr.attribution.targets import Contrast, as_target
from clipattr.dictionaries.codes import SparseCodes
from clipattr.errors import DataError, TargetError


@pytest.fixture
def made():
    """Two pictures, three places, two targets; latent 9 is padding in the second picture."""
    codes = SparseCodes(
        torch.tensor([[4, 7, 2], [7, 4, 9]]).int(), torch.tensor([[1.0, 2, 3], [4, 5, 0]]), 10
    )
    values = torch.zeros(2, 3, 2)
    values[..., 0] = torch.tensor([[0.3, -0.2, 0.1], [0.1, 0.3, 0.0]])
    numbers = torch.tensor([[0.25, 0.0], [0.5, 0.0]])
    return Attribution(
        codes=codes, values=values, y=numbers, error=numbers / 5, bias=-numbers / 10, gap=numbers * 0,
        y_baseline=numbers - values.sum(1), unit="cosine", names=["kite", "bat"], method="integrated_gradients",
        site="image.-1.cls", adds_up=True, pictures=["one.png", "two.png"],
        flagged=torch.zeros(2, 2, dtype=torch.bool), labels={4: "wing", 7: "sky", 2: "wing"}, units=["cosine"] * 2,
    )  # fmt: skip


def test_top_ranks_by_size_keeps_signs_and_shares_positive_evidence(made):
    table = made.top(2)
    assert table["latent"].tolist() == [4, 7] and table["label"].tolist() == ["wing", "sky"]
    assert table["attribution"].tolist() == pytest.approx([0.3, -0.2])
    assert table["activation"].tolist() == [1.0, 2.0]
    assert table["share"].tolist() == pytest.approx([0.75, 0.0])
    assert table["alignment"].isna().all()
    assert list(table.columns) == ["latent", "label", "activation", "attribution", "share", "alignment"]


def test_the_mean_over_pictures_counts_inactive_latents_as_zero(made):
    table = made.top(5, picture=None).set_index("latent")
    assert table["attribution"].to_dict() == pytest.approx({4: 0.3, 7: -0.05, 2: 0.05})
    assert table["activation"].to_dict() == pytest.approx({4: 3.0, 7: 3.0, 2: 1.5})
    assert 9 not in table.index


def test_latents_with_one_label_are_added_up(made):
    table = made.by_label()
    assert table["label"].tolist() == ["wing", "sky"] and table["attribution"].tolist() == pytest.approx(
        [0.4, -0.2]
    )
    assert table["latents"].tolist() == [[2, 4], [7]]


def test_the_frame_has_one_row_per_entry_that_is_not_zero(made):
    frame = made.to_frame()
    assert len(frame) == 5 and set(frame["target"]) == {"kite"}
    assert frame[frame["picture"] == "two.png"]["attribution"].tolist() == pytest.approx([0.1, 0.3])


def test_tokens_of_a_picture_are_reduced_by_sum_and_largest_activation(made):
    from dataclasses import replace

    numbers = made.y[:1]
    one = replace(made, tokens=2, y=numbers, pictures=["one.png"])
    latents, activation, values = one.latents()
    assert latents.tolist() == [2, 4, 7]
    assert activation.tolist() == [3.0, 5.0, 4.0] and values.tolist() == pytest.approx([0.1, 0.6, -0.1])
    assert one.to_frame()["token"].tolist() == [0, 0, 0, 1, 1]
    assert one.values_of(0).shape == (2, 3, 2)


def test_a_waterfall_ends_at_the_target_and_methods_that_do_not_add_up_get_none(made):
    from dataclasses import replace

    steps = made.waterfall(2)
    assert steps["level"].iloc[-1] == pytest.approx(0.25)
    assert steps["step"].tolist() == ["bias and error", "wing", "sky", "other latents", "residual"]
    with pytest.raises(TargetError, match="do not add up"):
        replace(made, adds_up=False, method="exact").waterfall()


def test_the_explanation_names_target_method_and_numbers_in_points(made):
    text = made.explain()
    for part in (
        "one.png: kite is +25.0 points",
        "integrated_gradients",
        "“wing” (latent 4) +30.0",
        "error +5.0",
    ):
        assert part in text


def test_save_then_load_is_the_identity(made, tmp_path):
    path = tmp_path / "kite.safetensors"
    made.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["kite.safetensors"]
    other = Attribution.load(path)
    pd.testing.assert_frame_equal(made.to_frame(), other.to_frame())
    assert made.explain(picture=1) == other.explain(picture=1) and torch.equal(made.y, other.y)
    assert other.pictures == made.pictures and other.labels == made.labels


def test_files_that_hold_no_attribution_are_refused(made, tmp_path):
    path = tmp_path / "codes.safetensors"
    made.codes.save(path)
    with pytest.raises(DataError, match="holds no attribution"):
        Attribution.load(path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(DataError, match="cannot read an attribution"):
        Attribution.load(path)


def test_pictures_and_targets_that_do_not_exist_are_named(made):
    with pytest.raises(IndexError, match="picture 2 was asked for; this result has 2"):
        made.top(picture=2)
    with pytest.raises(IndexError, match="target 2 was asked for; there are 2"):
        made.top(target=2)
    pd.testing.assert_frame_equal(made.top(picture=-1), made.top(picture=1))


def test_results_of_batches_of_different_width_join_by_padding(made):
    from dataclasses import replace

    codes = SparseCodes(made.codes.indices[:, :2], made.codes.values[:, :2], 10)
    narrow = replace(made, codes=codes, values=made.values[:, :2])
    joined = Attribution.cat([made, narrow])
    assert len(joined) == 4 and joined.values.shape == (4, 3, 2)
    assert joined.top(picture=3)["latent"].tolist() == [4, 7]
    with pytest.raises(DataError, match="no picture was attributed"):
        Attribution.cat([])


def test_plot_draws_bars_with_what_is_not_a_latent_below(made):
    chart = made.plot(3)
    texts = [label.get_text() for label in chart.axes[0].get_yticklabels()]
    assert texts[0] == "wing" and texts[-3:] == ["bias", "error", "gap"]


def test_a_study_brings_labels_and_alignment_with_the_prompt(exact_model, directions, pictures, tiny_model):
    means = (
        torch.nn.functional.normalize(torch.randn(80, 48, generator=torch.Generator().manual_seed(0)), dim=1)
        * 0.9
    )
    study = SimpleNamespace(
        model=exact_model, dictionary=directions, site="image.-1.cls", evaluator=tiny_model,
        labels=SimpleNamespace(mean_embedding=means),
        names={79: "my own"},
        latents=pd.DataFrame({"latent": range(80), "label": [f"word {i}" for i in range(80)],
                              "aligned": [False] + [True] * 79}),
    )  # fmt: skip
    result = attribute(study, pictures, Contrast("kite", "bat"))
    table = result.top(3)
    text, empty = tiny_model.encode_text(["kite", ""])
    mean = torch.nn.functional.normalize(means[table["latent"].tolist()], dim=1)
    assert table["alignment"].tolist() == pytest.approx((mean @ (text - empty)).tolist(), abs=1e-5)
    assert table["label"].tolist() == [labels_of(study)[j] for j in table["latent"]]
    assert [labels_of(study)[j] for j in (0, 1, 79)] == ["", "word 1", "my own"] and labels_of(
        exact_model
    ) is None
    assert align_with(study, as_target(torch.ones(48)))([1, 2], 0).isnan().all()


def test_the_waterfall_figure_starts_each_bar_where_the_last_one_ended(made):
    from dataclasses import replace

    axes = made.plot_waterfall(2).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["bias and error", "wing", "sky", "other latents", "residual"]
    bars = axes.patches
    assert bars[2].get_x() == pytest.approx(bars[1].get_x() + bars[1].get_width())
    assert bars[-1].get_x() + bars[-1].get_width() == pytest.approx(25.0)  # the target in points
    with pytest.raises(TargetError, match="do not add up"):
        replace(made, adds_up=False, method="exact").plot_waterfall()
