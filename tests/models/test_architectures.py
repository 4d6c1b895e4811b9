"""One small architecture of each kind through the benchmark of all of them: read, continue, ablate, study, audit."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import towers  # noqa: E402

# What each must have a closed form at, beside the embedding.
KINDS = {
    "RN50": (),
    "MobileCLIP-B": ("image.-1.cls",),
    "ViTamin-S": ("image.-1.patches",),
    "vit_medium_patch16_gap_256": ("image.-1.patches",),
    "PE-Core-T-16-384": (),
}


@pytest.mark.parametrize("name", KINDS)
def test_an_architecture_is_read_continued_ablated_and_audited(name, tmp_path):
    row = towers.check(name, tmp_path)
    assert set(row["closed_form"]) >= {"image.embedding", *KINDS[name]}
    assert row["ablation_error"] < 1e-5 and row["continue_error"] < 1e-5
    assert row["attributed"] == row["sites"] and row["audited"]


def test_every_architecture_of_the_sample_is_one_of_open_clips():
    import open_clip

    assert set(towers.SAMPLE) <= set(open_clip.list_models())
    for name in open_clip.list_models():
        text = open_clip.get_model_config(name)["text_cfg"].get("hf_model_name")
        assert text is None or towers.family_of(text) in towers.FAMILIES
