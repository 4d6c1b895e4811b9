"""From effects to a verdict."""

import pytest

from clipattr.discovery.pixels.settings import PixelSettings
from clipattr.discovery.pixels.verify import decide
from clipattr.statistics import Interval

SETTINGS = PixelSettings(silenced=0.5, selective=0.25, least_effect=0.15, excluded=0.4)
LARGE, SMALL, NONE = Interval(0.06, 0.04, 0.08), Interval(0.02, -0.01, 0.05), Interval(0.0, -0.004, 0.004)
TINY = Interval(0.01, 0.005, 0.015)


@pytest.mark.parametrize(
    ("silenced", "control", "removal", "transplant", "verdict"),
    [
        (0.9, 0.1, LARGE, LARGE, "confirmed"),
        (0.9, 0.1, LARGE, TINY, "confirmed"),  # each surely above zero
        (0.9, 0.1, LARGE, SMALL, "untestable"),  # pasted in, it may do nothing
        (0.9, 0.1, SMALL, LARGE, "untestable"),  # taken out, it may do nothing
        (0.9, 0.1, NONE, NONE, "contradicted"),
        (0.4, 0.1, LARGE, LARGE, "untestable"),  # the family stays
        (0.9, 0.8, LARGE, LARGE, "untestable"),  # any edit silences it
        (
            0.9,
            0.1,
            SMALL,
            Interval(0.02, -0.04, 0.08),
            "untestable",
        ),  # neither above zero nor below 0.4 spreads
        (0.9, 0.1, LARGE, Interval(-0.02, -0.04, 0.0), "contradicted"),  # they point opposite ways
        (0.9, 0.1, TINY, TINY, "contradicted"),  # above zero, but too small
    ],
)
def test_a_verdict_follows_from_silence_and_effects(silenced, control, removal, transplant, verdict):
    measured = {"silenced": silenced, "control": control, "removal": removal, "transplant": transplant}
    assert decide(SETTINGS, measured, spread=0.1)[0] == verdict
