"""The findings panel's view-model: pictures belong to the finding they stand under, whatever else is going on."""

import threading
import time

import pytest

from clipattr_widgets.findings_state import FindingsState


def wait_for(state, true, seconds=20):
    """Deliver answers until something holds, without waiting for work that goes on."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        state.worker._deliver()
        time.sleep(0.01)


@pytest.fixture
def two(study, finding):
    ids = study.images.ids
    return [
        finding(latents=(1,), label="first", effect=0.06, examples=tuple(ids[:3])),
        finding(latents=(2,), label="second", effect=0.05, kind="typography", examples=tuple(ids[10:14])),
    ]


def test_during_an_audit_a_finding_shows_its_own_pictures_at_once(study, two, monkeypatch):
    import clipattr

    go_on = threading.Event()
    monkeypatch.setattr(clipattr, "audit", lambda *_, **__: go_on.wait(30) and two)
    state = FindingsState(study, two, threaded=True)
    try:
        wait_for(state, lambda: "first" in state.shelf.title)
        state.audit()
        state.chosen = 1
        assert state.shelf.thumbnails == ()  # not the pictures of the finding before
        wait_for(state, lambda: "second" in state.shelf.title)
        assert len(state.shelf.thumbnails) == 4 and not go_on.is_set()
    finally:
        go_on.set()
        state.close()
