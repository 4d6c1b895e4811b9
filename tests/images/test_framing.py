"""What a model sees of a picture: the described rectangle against one measured with ramps and by hand."""

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from clipattr.display.framing import Frame, frame_of
from clipattr.errors import DataError


class Prepared:
    """A preprocessing without a model."""

    def __init__(self, mode, size=(64, 64), described=True):
        config = {"size": list(size), "resize_mode": mode}
        self.transform = image_transform_v2(PreprocessCfg(**config), is_train=False)
        self.preprocess_id = (
            f'{{"resize_mode": "{mode}", "size": {list(size)}}}' if described else "custom:0123"
        )

    def prepare(self, picture):
        return self.transform(picture)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(300, 100), (96, 240), (64, 64), (320, 80)])
def test_the_described_frame_is_the_one_that_ramps_come_back_in(mode, size):
    described, measured = frame_of(Prepared(mode), size), frame_of(Prepared(mode, described=False), size)
    wide = 1 if mode != "longest" else 4  # margins are extrapolated
    for name in ("left", "top", "right", "bottom"):
        assert getattr(described, name) == pytest.approx(getattr(measured, name), abs=0.03 * wide)


def near(frame, *edges):
    assert (frame.left, frame.top, frame.right, frame.bottom) == pytest.approx(edges, abs=1e-12)


def test_a_centre_crop_of_a_wide_picture_is_its_middle_third():
    near(frame_of(Prepared("shortest"), (300, 100)), 1 / 3, 0, 2 / 3, 1)
    near(frame_of(Prepared("longest"), (300, 100)), 0, -1, 1, 2)
    near(frame_of(Prepared("squash"), (300, 100)), 0, 0, 1, 1)


def test_an_oblong_input_crops_to_its_own_proportions():
    near(frame_of(Prepared("shortest", (64, 128)), (400, 100)), 0.25, 0, 0.75, 1)  # twice as wide as tall


def test_a_preprocessing_that_mirrors_is_refused():
    class Mirrored(Prepared):
        def prepare(self, picture):
            return self.transform(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))

    with pytest.raises(DataError, match="mirrors"):
        frame_of(Mirrored("squash", described=False), (60, 40))
    with pytest.raises(DataError, match="Pass the model"):
        frame_of("custom:0123", (60, 40))


def test_an_overlay_draws_in_the_frame_and_greys_the_rest():
    from clipattr.display.plots import overlay

    white = Image.new("RGB", (90, 30), "white")
    painted = np.asarray(overlay(white, np.ones((2, 2)), frame=Frame(1 / 3, 0, 2 / 3, 1))).astype(int)
    assert (painted[:, 30:60, 2] < 200).all()  # warm in the middle
    assert np.ptp(painted[:, :30], axis=-1).max() == 0 and painted[:, :30].max() < 255  # grey at the sides
    padded = np.asarray(overlay(white, np.array([[0.0, 0], [1, 1]]), frame=Frame(0, -1, 1, 2))).astype(int)
    assert (padded[-1, :, 0] > padded[-1, :, 2]).all()
