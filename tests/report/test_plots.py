"""Figures draw the numbers they get, without pyplot, whatever the text."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from clipattr.display import plots
from clipattr.errors import DataError


def bars_of(chart):
    return [round(float(patch.get_width()), 3) for patch in chart.axes[0].patches]


def texts_of(chart):
    axes = chart.axes[0]
    return [text.get_text() for text in (*axes.texts, *axes.get_yticklabels())]


def test_bars_have_the_lengths_of_the_values_and_say_them():
    chart = plots.signed_bars(["sea", "sky"], [3.0, -1.5], rest={"error": 0.25})
    assert bars_of(chart) == [3.0, -1.5, 0.25]
    assert {"+3.0", "−1.5", "+0.2", "sea", "sky", "error"} <= set(texts_of(chart))


def test_negative_bars_differ_by_more_than_colour():
    hatches = [patch.get_hatch() for patch in plots.signed_bars(["a", "b"], [1.0, -1.0]).axes[0].patches]
    assert hatches[0] is None and hatches[1]


def test_no_pyplot_is_loaded():
    code = (
        "import sys; from clipattr.display import plots; plots.signed_bars(['a'], [1.0]).png(); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_same_numbers_give_the_same_bytes():
    one, two = (plots.signed_bars(["a", "b"], [1.0, -1.0]).png() for _ in range(2))
    assert one == two and one.startswith(b"\x89PNG")
    assert plots.signed_bars(["a", "b"], [1.0, -1.0])._repr_png_() == one


def test_text_that_looks_like_mathematics_or_markup_is_drawn_as_it_is():
    chart = plots.signed_bars([r"$\frac{$", "a\u202eb"], [1.0, 2.0], title="$x")
    chart.png()
    assert r"$\frac{$" in texts_of(chart) and "a⟨U+202E⟩b" in texts_of(chart)


def test_names_and_values_of_different_number_are_refused():
    with pytest.raises(DataError, match="2 names need as many values and notes; got 1"):
        plots.signed_bars(["a", "b"], [1.0])
    with pytest.raises(DataError, match="no bar to plot"):
        plots.signed_bars([], [])


def test_an_attribution_is_drawn_in_points_with_what_is_no_latent_below():
    frame = pd.DataFrame({"latent": [7, 9], "label": ["sea", None], "attribution": [0.12, -0.03]})
    attribution = SimpleNamespace(
        unit="cosine",
        units=["cosine"],
        bias=torch.tensor([[0.01]]),
        error=torch.tensor([[-0.02]]),
        gap=torch.tensor([[0.005]]),
        top=lambda n, picture, target: frame[:n],
    )
    chart = plots.attribution_bars(attribution)
    assert bars_of(chart) == [12.0, -3.0, 1.0, -2.0, 0.5]
    assert {"sea", "latent 9", "bias", "error", "gap"} <= set(texts_of(chart))
    attribution.unit = "rank only"
    assert bars_of(plots.attribution_bars(attribution)) == [0.12, -0.03]


def test_every_finding_is_on_the_map_at_its_alignment_and_effect(finding):
    found = [finding(number) for number in range(8)]
    chart = plots.reliance_map(found)
    drawn = {
        tuple(np.round(place, 6))
        for collection in chart.axes[0].collections
        if hasattr(collection, "get_offsets")
        for place in np.atleast_2d(collection.get_offsets())
    }
    assert {(round(f.alignment * 100, 6), round(f.causal_effect.value * 100, 6)) for f in found} <= drawn
    chart.png()


def test_a_kind_without_a_shape_of_its_own_is_on_the_map(finding):
    chart = plots.reliance_map([finding(kind="backdrop")])
    assert any(len(c.get_offsets()) == 1 for c in chart.axes[0].collections if hasattr(c, "get_offsets"))
    assert "backdrop" in [text.get_text() for text in chart.axes[0].get_legend().get_texts()]


def test_one_finding_and_equal_findings_can_be_drawn(finding):
    plots.reliance_map([finding()]).png()
    plots.reliance_map([finding(), finding()]).png()
    with pytest.raises(DataError, match="no finding to plot"):
        plots.reliance_map([])


def test_a_gallery_shows_every_picture_once():
    pictures = [Image.new("RGB", (8, 8), (20 * n, 0, 0)) for n in range(5)]
    chart = plots.gallery(pictures, [f"picture {n}" for n in range(5)], columns=3)
    assert chart._repr_png_() is None and chart._repr_jpeg_().startswith(b"\xff\xd8")
    shown = [axes.images[0].get_array()[0, 0, 0] for axes in chart.axes if axes.images]
    assert shown == [0, 20, 40, 60, 80]
    with pytest.raises(DataError, match="5 pictures need as many captions; got 1"):
        plots.gallery(pictures, ["one"])
