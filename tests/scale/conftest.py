"""What the tests of scaling out share."""

import pytest

from clipattr.discovery.audit.run import Settings


@pytest.fixture
def everything_counts() -> Settings:
    """Settings under which any suspicion becomes a finding, for tests of how findings are computed."""
    return Settings(
        least_effect=-1, least_rise=-1, least_difference=-1, discovery_rate=2, passes=-9, part_effect=-9, by_text=9,
        few=2, budget=0,
    )  # fmt: skip
