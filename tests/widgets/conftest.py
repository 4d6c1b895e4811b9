"""A small real study: rendered random pictures, the tiny model, a trained dictionary."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

WORDS = ["red disc", "green square", "blue stripe", "plain wall", "kite", "bat"]


def picture(number: int) -> Image.Image:
    """A coloured shape on a noisy ground, the same for the same number."""
    rng = np.random.default_rng(number)
    ground = rng.integers(90, 160, 3) + rng.integers(-12, 12, (48, 48, 1))
    image = Image.fromarray(np.broadcast_to(ground, (48, 48, 3)).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    left, top, side = (int(n) for n in (*rng.integers(2, 18, 2), rng.integers(14, 26)))
    box = (left, top, left + side, top + side)
    colour = [(220, 40, 40), (40, 180, 60), (50, 80, 220)][number % 3]
    (draw.ellipse, draw.rectangle, draw.rectangle)[number % 3](box, fill=colour)
    return image


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(60):
        kind = WORDS[number % 3].replace(" ", "_")
        (folder / kind).mkdir(exist_ok=True)
        picture(number).save(folder / kind / f"{number:03}.png")
    return folder


@pytest.fixture(scope="session")
def study(tiny_model, picture_folder, tmp_path_factory):
    """60 pictures, 32 latents, 8 active each."""
    import clipattr

    return clipattr.build_study(
        tiny_model, picture_folder, path=tmp_path_factory.mktemp("study") / "tiny", vocabulary=WORDS,
        evaluator=tiny_model, n_latents=32, k=8, examples=10, progress=False, training={"steps": 60},
    )  # fmt: skip


@pytest.fixture
def fresh_study(study, tiny_model, tmp_path):
    """A copy of the study that a test may write to."""
    import shutil

    import clipattr

    folder = tmp_path / "study"
    shutil.copytree(study.path, folder)
    return clipattr.open_study(folder, model=tiny_model, evaluator=tiny_model, images=study.images)


@pytest.fixture(scope="session")
def finding():
    """A function that makes a finding with plausible numbers."""
    from clipattr.discovery.findings import Finding
    from clipattr.statistics import Interval

    def make(prompt="kite", latents=(1, 2), kind="context", effect=0.05, label="blue stripe", **more):
        span = Interval(effect, effect - 0.01, effect + 0.01)
        values = {
            "prompt": prompt, "latents": latents, "label": label, "kind": kind, "kind_probability": 0.8,
            "reliance": span, "causal_effect": span, "share": 0.4, "alignment": -0.02, "clarity": 0.7,
            "confidence": 0.9, "examples": (), "evidence": {"own_pictures": 12, "lift": 0.03},
        }  # fmt: skip
        return Finding(**(values | more))

    return make
