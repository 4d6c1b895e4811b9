"""A real audit from the command line, and the panel on its findings: nothing is replaced by a stand-in."""

import json

import numpy as np
import pytest
from PIL import Image

import clipattr
from clipattr.cli.main import main
from clipattr.discovery.audit.base import Base
from clipattr.discovery.audit.settings import Settings
from clipattr.display.framing import frame_of
from clipattr_widgets.findings_state import FindingsState


@pytest.fixture(scope="module")
def study():
    return clipattr.open_study("picture-world")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The JSON of `clipattr audit picture-world --prompt rabbit --budget 0`."""
    out = tmp_path_factory.mktemp("audit") / "audit.json"
    status = main(
        ["audit", "picture-world", "--prompt", "rabbit", "--budget", "0", "--json", str(out), "--quiet"]
    )
    assert status == 0
    return out


def test_the_command_line_audits_and_writes_what_it_found(written):
    findings = clipattr.Findings.from_json(written)
    assert len(findings) >= 1 and {finding.prompt for finding in findings} == {"rabbit"}
    assert [verdict.prompt for verdict in findings.verdicts] == ["rabbit"]
    assert json.loads(written.read_text("utf-8"))


def test_the_panel_lists_the_findings_of_the_audit_with_its_numbers(study, written):
    findings = clipattr.Findings.from_json(written)
    state = FindingsState(study, findings)
    try:
        assert sorted(row["id"] for row in state.rows) == list(range(len(findings)))
        shown = state.frame().sort_values("reliance")["reliance"].to_numpy()
        np.testing.assert_array_equal(shown, np.sort(findings.to_frame()["reliance"]))
        exact = np.sort([finding.reliance.value for finding in findings])
        np.testing.assert_allclose(shown, 100 * exact, atol=0.05)  # points, to one decimal
    finally:
        state.close()


def test_an_audit_embeds_prompts_under_the_templates_of_the_study(study):
    templated = clipattr.open_study("picture-world")
    templated.manifest["plan"]["meaning"]["templates"] = ["a photo of a {}", "a drawing of a {}"]
    plain, base = (Base(one, Settings()).text(["kite"]) for one in (study, templated))
    expected, _ = clipattr.Similarity("kite", templates=["a photo of a {}", "a drawing of a {}"]).linear(
        study.model
    )
    np.testing.assert_allclose(base[0], expected[:, 0], atol=1e-6)
    assert not np.allclose(plain[0], base[0], atol=1e-3)


def test_a_picture_of_224_pixels_is_attributed_like_its_own_reduction(study):
    rng = np.random.default_rng(0)
    large = Image.fromarray(rng.integers(0, 255, (224, 224, 3), dtype=np.uint8))
    pixels = study.model.prepare(large)
    assert pixels.shape == study.model.pixel_shape
    one, other = (clipattr.attribute(study, given, "kite") for given in (large, pixels))
    np.testing.assert_array_equal(one.values, other.values)
    frame = frame_of(study.model, large.size)
    assert frame.box(large.size) == (0, 0, 224, 224)


@pytest.mark.parametrize("text", ["кошка", "猫", "قطة", "बिल्ली", "γάτα"])
def test_prompts_in_other_scripts_are_attributed_under_their_own_name(study, text):
    att = clipattr.attribute(study, study.images[0], text)
    assert att.names == [text] and bool(att.values.isfinite().all())
    assert clipattr.Vocabulary([text, "cat"]).words == [text, "cat"]
