"""What the tests of scaling out share."""

import pytest

from clipattr.discovery.audit.run import Settings


@pytest.fixture
def everything_counts() -> Settings:
    """Settings under which any suspicion becomes a finding, for tests of how findings are computed."""
    return Settings(
        expected=2,
        followed=2,
        least_surprise=-9,
        least_effect=-1,
        least_reliance=-1,
        least_separation=0,
        least_lift=-1,
        discovery_rate=2,
    )
