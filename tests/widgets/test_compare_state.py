"""Models side by side: aligned latents against attributions made one by one."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import clipattr
from clipattr.discovery.findings import Findings
from clipattr_widgets import ComparePanel, CompareState, ExplorerPanel
from clipattr_widgets.desk import Desk, PanelError
from clipattr_widgets.model_names import reference_of


@pytest.fixture(scope="module")
def other_study(tiny_model, picture_folder, tmp_path_factory):
    """The same pictures in another dictionary of another width."""
    return clipattr.build_study(
        tiny_model, picture_folder, path=tmp_path_factory.mktemp("other") / "small", vocabulary=["red disc", "kite"],
        evaluator=tiny_model, n_latents=20, k=5, examples=6, progress=False, training={"steps": 40}, seed=3,
    )  # fmt: skip


@pytest.fixture
def state(study, other_study):
    made = CompareState({"wide": study, "small": other_study}, picture=4, prompt="kite")
    yield made
    made.close()


def test_every_mark_is_that_models_own_attribution_of_the_matched_latent(state, study, other_study):
    tops = []
    for one in (study, other_study):
        att = clipattr.attribute(one, study.images[4].load(), "kite", method="integrated_gradients")
        tops.append(att.top(100).set_index("latent")["attribution"])
    matches = state.comparison().matches.set_index("latent")["other"]
    assert state.rows and state.names == ["wide", "small"]
    for row, members in zip(state.rows, state._members, strict=True):
        for i, latent in members.items():
            assert row["values"][i] == pytest.approx(100 * tops[i].get(latent, 0.0), abs=1e-3)
            assert (row["texts"][i] == "inactive") == (latent not in tops[i])
        assert row["label"] == state.desks[min(members)].card(members[min(members)]).title
        if len(members) == 2:
            assert matches[members[0]] == members[1] and row["own"] == ""
        else:
            [only] = members
            assert row["own"] == f"{state.names[only]} alone" and row["texts"][1 - only] == "–"
    largest = [max(abs(v) for v in row["values"] if v is not None) for row in state.rows]
    assert largest == sorted(largest, reverse=True)


def test_a_prompt_is_compared_over_each_models_pictures(state, study):
    state.prompt, state.subject = "red disc", "prompt"
    assert state.error == "" and state.rows and "mean over the pictures" in state.note
    assert state.axis.startswith("mean attribution") and len(state.scores) == 2


def test_findings_are_compared_once_there_is_an_audit(study, other_study, finding):
    state = CompareState([study, other_study], subject="findings")
    assert "no audit yet" in state.error and state.rows == []
    made = [
        Findings([finding("kite", (1, 2), effect=0.05)], study),
        Findings([finding("kite", (3,), effect=0.02), finding("bat", (4,), label="plain wall")], other_study),
    ]
    state = CompareState([study, other_study], subject="findings", findings=made)
    by_label = {row["label"]: row for row in state.rows}
    assert by_label["kite ← blue stripe"]["values"] == pytest.approx([5.0, 2.0])
    assert by_label["bat ← plain wall"]["values"][0] is None and by_label["bat ← plain wall"]["own"]


def test_a_chosen_row_shows_both_models_examples(study, other_study):
    panel = ComparePanel([study, other_study], picture=4, prompt="kite")
    assert panel.examples.layout.display == "none"
    panel.dots.set_state({"selected": 0})
    members = panel.state._members[0]
    assert panel.examples.layout.display == ""
    for i, gallery in enumerate(panel.galleries):
        assert bool(gallery.meta["n"]) == (i in members)
    panel.find.set_state({"value": "9"})
    assert panel.state.picture == 9 and panel.state.row == -1
    static = panel.static()
    assert "<table" in static.html and static.png() and len(static.table) == len(panel.state.rows)
    panel.close()


def test_one_study_is_no_comparison_and_two_get_a_tab(study, other_study):
    with pytest.raises(PanelError, match="takes 2 to 5 studies; got 1"):
        CompareState([study])
    panel = ExplorerPanel([study, other_study], tabs=True, prompt="kite")
    panel.tabs.buttons.value = "Compare"
    made = panel.tabs.panels["Compare"]
    assert made.state.prompt == "kite" and np.isfinite(made.state.rows[0]["values"][0] or 0.0)
    panel.state.prompt = "bat"
    assert made.state.prompt == "bat"
    panel.close()


def test_partners_are_those_of_a_whole_comparison_and_kept_with_the_first_study(
    fresh_study, other_study, monkeypatch
):
    import clipattr.discovery.partners as module
    from clipattr.discovery.compare import compare
    from clipattr.discovery.findings import Findings

    none = [Findings([], one) for one in (fresh_study, other_study)]
    table = compare([fresh_study, other_study], findings=none, progress=False).matches
    ours, theirs, value = module.partners(fresh_study, other_study)
    assert ours.tolist() == table["latent"].tolist() and theirs.tolist() == table["other"].tolist()
    monkeypatch.setattr(module, "codes_on_the_same", None)  # what is kept needs no pass
    again = module.partners(fresh_study, other_study)
    assert again[2].tolist() == value.tolist()
    file = next(fresh_study.path.glob("partners-*.npz"))
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(TypeError):  # a damaged file is not read
        module.partners(fresh_study, other_study)


def test_scores_come_before_latents_are_paired_and_no_visitor_writes(study, other_study, monkeypatch):
    from clipattr_widgets.desk import Desk

    seen = []

    class Watched(CompareState):
        def pair(self):  # a thread that pairs would slow the scores down, so they are there before it begins
            seen.append((list(self.scores), self.note, list(self.rows)))
            super().pair()

    def paired(one, other, *, keep, folder, on_pictures):
        seen.append(keep)
        return np.array([1]), np.array([2]), np.array([0.9])

    monkeypatch.setattr("clipattr_widgets.pairing.partners", paired)
    desks = [Desk(study, "one", read_only=True), Desk(other_study, "two")]
    state = Watched(desks, prompt="red disc", threaded=False)
    (scores, note, rows), keep = seen
    assert len(scores) == 2 and note.startswith("pairing") and rows == [] and keep is False
    assert state.rows and state.scores == scores and "pairing" not in state.note
    state.close()


@pytest.fixture
def linked(study, other_study):
    panel = ExplorerPanel([study, other_study], tabs=True, picture=4, prompt="kite")
    yield panel
    panel.close()


def test_the_study_in_hand_comes_first_and_its_picture_is_the_explorers(linked):
    linked.state.desk = 1
    linked.state.picture = 3
    linked.tabs.buttons.value = "Compare"
    state = linked.tabs.in_front.state
    assert state.table is linked.state.desks[1] and state.picture == 3
    linked.state.picture = 6
    assert state.picture == 6
    state.picture = 8
    assert linked.state.picture == 8


def test_a_picture_of_the_other_model_opens_in_its_own_study_with_the_rows_latent(linked):
    linked.tabs.buttons.value = "Compare"
    panel = linked.tabs.in_front
    state = panel.state
    row = next(i for i, members in enumerate(state._members) if 1 in members)
    panel.dots.set_state({"selected": row})
    place, latent = state.shelves[1].places[0], state.latent_of(1)
    panel.galleries[1]._handle_custom_msg({"kind": "pick", "i": 0}, [])
    assert linked.tabs.buttons.value == "Explorer" and linked.state.desk == 1
    assert linked.state.picture == place and linked.state.latent == latent


def test_all_models_are_audited_one_after_the_other_with_progress_and_an_end(
    study, other_study, finding, monkeypatch
):
    asked = []

    def audit(one, prompts, **options):
        asked.append((one, tuple(prompts)))
        return Findings([finding(prompts[0], (1,))], one)

    monkeypatch.setattr(clipattr, "audit", audit)
    state = CompareState([study, other_study], threaded=True)
    seen = []
    state.observe(lambda change: seen.append(change["new"]), "progress")
    state.audit()
    state.settle(60)
    audited = list(dict.fromkeys(one for one, _ in asked))
    assert audited == [study, other_study] and state.subject == "findings" and state.progress == ()
    assert [len(found) for found in state.findings] == [
        sum(one is each for one, _ in asked) for each in audited
    ]
    assert {name for name, *_ in filter(None, seen)} == set(state.names)
    before = state.findings
    state.audit()
    state.cancel_audit()
    state.settle(60)
    assert state.progress == () and state.findings is before
    state.close()


def test_models_of_one_name_are_distinguished_and_a_folder_gives_its_name_alone(study, other_study):
    state = CompareState([study, other_study], picture=4, prompt="kite")
    assert state.names == [f"custom · {study.path.name}", f"custom · {other_study.path.name}"]
    state.close()
    here = SimpleNamespace(manifest={"model": {"reference": "local-dir:/home/someone/models/mine"}})
    assert reference_of(here) == "mine"


def test_a_picture_from_outside_is_compared_itself_until_another_is_chosen(study, other_study):
    panel = ExplorerPanel([study, other_study], tabs=True, picture=4, prompt="kite")
    red = Image.new("RGB", (90, 30), (220, 40, 40))
    panel.state.look_at(red, "red", "red.png")
    panel.tabs.buttons.value = "Compare"
    made = panel.tabs.panels["Compare"]
    scores = [f"{100 * Desk(s).measure(red, Desk(s).target('kite')).y:.2f}" for s in (study, other_study)]
    assert [said.replace("−", "-").split()[0] for said in made.state.scores] == scores
    assert "red" in made.overlay.meta["caption"] and "picture = red.png" in made.state.code()
    made.find.set_state({"value": "4"})
    assert (panel.state.picture, made.state.outside) == (4, None)
    assert made.overlay.meta["caption"].startswith("4 · ")
    panel.close()


def test_pairing_tells_its_pictures_can_be_ended_and_begins_again(study, other_study, monkeypatch):
    import threading

    begun, go, calls = threading.Event(), threading.Event(), []

    def paired(one, other, *, keep, folder, on_pictures):
        calls.append(1)
        on_pictures(64, 128)
        begun.set()
        assert go.wait(20)
        on_pictures(128, 128)  # ends the work that nobody waits for
        calls.append(2)
        return np.array([1]), np.array([2]), np.array([0.9])

    monkeypatch.setattr("clipattr_widgets.pairing.partners", paired)
    state = CompareState({"one": study, "two": other_study}, prompt="red disc", threaded=True)
    panel = ComparePanel(state=state)
    try:
        for _ in range(400):  # the scores are delivered, then the pairing begins
            state.worker._deliver()
            if begun.wait(0.05):
                break
        assert begun.is_set() and state.pairing
        state.worker._deliver()
        assert state.pairing[:3] == ("two", 64, 128)
        assert (
            "pairing with two</bdi>: 64 of 128 pictures" in panel.status.value
            and "<progress" in panel.status.value
        )
        state.prompt = "kite"  # another prompt does not begin it again
        assert calls == [1] and panel.end_pairing.layout.display == ""
        panel.end_pairing.click()
        go.set()
        state.settle(20)
        assert calls == [1] and not state.paired and state.pairing == ()
        assert state.note.endswith("so only their scores are shown") and len(state.scores) == 2
        assert panel.end_pairing.layout.display == "none" and panel.pair.layout.display == ""
        state.prompt = "red disc"  # nor does it begin by itself once it was ended
        state.settle(20)
        assert calls == [1] and state.rows == []
        panel.pair.click()
        state.settle(20)
        assert calls == [1, 1, 2] and state.paired and state.rows and panel.pair.layout.display == "none"
    finally:
        panel.close()


def test_partners_state_how_many_pictures_the_other_model_encoded(study, other_study, monkeypatch):
    from clipattr.discovery import partners

    told = []
    monkeypatch.setattr(partners, "_read", lambda *file: None)  # whatever an earlier test kept
    same = partners.partners(other_study, study, keep=False, on_pictures=lambda *at: told.append(at))
    n = len(study.images)
    assert told == [(0, n), (n, n)]  # the same pictures: their codes are there
    monkeypatch.setattr(type(study.images), "fingerprint", property(lambda images: str(id(images))))
    monkeypatch.setattr("clipattr.discovery.encoded.BATCH", 8)
    told.clear()
    again = partners.partners(other_study, study, keep=False, on_pictures=lambda *at: told.append(at))
    assert [done for done, _ in told] == [0, *range(8, n, 8), n, n] and {of for _, of in told} == {n}
    assert again[0].tolist() == same[0].tolist()

    def stop(done, of):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        partners.partners(other_study, study, keep=False, on_pictures=stop)
