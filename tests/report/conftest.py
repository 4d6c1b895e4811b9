"""Findings and a study-like object that cost nothing to make."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from clipattr.discovery.findings import KINDS, Finding, Findings
from clipattr.images.collection import Images
from clipattr.statistics import Interval


def make_finding(number=0, **changes):
    effect = 0.3 - 0.02 * number
    values = {
        "prompt": f"object {number}",
        "latents": (number, number + 100),
        "label": f"cause {number}",
        "kind": KINDS[number % len(KINDS)],
        "kind_probability": 0.8,
        "reliance": Interval(effect * 0.8, effect * 0.7, effect * 0.9),
        "causal_effect": Interval(effect, effect - 0.05, effect + 0.05),
        "share": 0.4,
        "alignment": -0.01 + 0.01 * number,
        "clarity": 0.7,
        "confidence": 0.9,
        "examples": (f"{number % 12:06d}", "000003"),
        "evidence": {"sufficiency_auc": 0.93, "necessity": {"value": 0.2, "low": 0.1, "high": 0.3}},
    }
    return Finding(**{**values, **changes})


@pytest.fixture
def finding():
    """Makes a finding; keyword arguments replace its values."""
    return make_finding


@pytest.fixture
def study():
    """Twelve pictures in memory, labelled "object 0" to "object 3", behind the parts of a study that reports use."""
    draw = np.random.default_rng(0)
    images = Images.open(
        [Image.fromarray(draw.integers(0, 256, (48, 64, 3), dtype=np.uint8)) for _ in range(12)]
    )
    images.ids = [f"{number:06d}" for number in range(12)]
    images.columns["label"] = [f"object {number % 4}" for number in range(12)]
    return SimpleNamespace(images=images, thumbnail=lambda index: images[index].thumbnail(64))


@pytest.fixture
def findings(study):
    about = {"model": "tiny", "weights_hash": "0123456789abcdef", "prompts_audited": 40, "pictures": 12}
    return Findings([make_finding(number) for number in range(8)], study, about)
