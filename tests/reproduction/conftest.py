"""A reproduction small enough to run dozens of times: random CLIPs and pictures of two coloured shapes."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

import clipattr as ca
from clipattr.images.collection import Images
from clipattr.reproduction.sizes import QUICK

SIZES = QUICK.changed(
    {
        "pictures": 0, "n_latents": 24, "k": 4, "epochs": 2, "prompts": 2, "budget": 0, "faithful_pictures": 6,
        "faithful_prompts": 2, "faithful_masks": 4, "spurious_pictures": 40, "spurious_seeds": 1, "verified": 1,
    }
)  # fmt: skip


@pytest.fixture(scope="session")
def drawings():
    """96 pictures, 32 px: a shape in one of two classes at a random place."""
    draws, pictures, labels = np.random.default_rng(0), [], []
    for number in range(96):
        picture = Image.fromarray(draws.integers(0, 90, (32, 32, 3), dtype=np.uint8))
        left, top = draws.integers(2, 18, 2).tolist()
        shape = ImageDraw.Draw(picture)
        box, colour = (left, top, left + 11, top + 11), tuple(draws.integers(150, 255, 3).tolist())
        (shape.rectangle if number % 2 else shape.ellipse)(box, fill=colour)
        pictures.append(picture)
        labels.append("square" if number % 2 else "circle")
    opened = Images.open(pictures)
    return Images(opened.source, opened.ids, {"label": labels})


@pytest.fixture(scope="session")
def asked(tiny_model, drawings):
    """Arguments of `reproduce` without `out`."""
    return {
        "models": {"one": tiny_model}, "images": drawings, "evaluator": tiny_model, "progress": False, "form": SIZES,
        "vocabulary": ["circle", "square", "red", "blue", "noise", "dark"],
    }  # fmt: skip


@pytest.fixture(scope="session")
def finished(asked, tmp_path_factory):
    """A whole reproduction; tests do not change its folder."""
    return ca.reproduce("paper", out=tmp_path_factory.mktemp("whole") / "out", **asked)


@pytest.fixture(scope="session")
def study(finished, tiny_model):
    """The study that the reproduction built."""
    (path,) = (finished.folder / "studies").glob("*-trained-0-*.study")
    return ca.open_study(path, model=tiny_model, evaluator=tiny_model)
