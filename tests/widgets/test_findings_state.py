"""The findings panel's view-model: pictures belong to the finding they stand under, whatever else is going on."""

import threading
import time
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import pytest
from PIL import Image

import clipattr
from clipattr.discovery.pixels import pictures
from clipattr.discovery.pixels.pictures import EditedPicture
from clipattr_widgets.findings import FindingsPanel
from clipattr_widgets.findings_state import ROWS_AT_ONCE, FindingsState
from clipattr_widgets.worker import Superseded


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
    go_on = threading.Event()
    monkeypatch.setattr(clipattr, "audit", lambda *_, **__: go_on.wait(30) and two)
    state = FindingsState(study, two, threaded=True)
    try:
        wait_for(state, lambda: "first" in state.looked.found.title)
        state.audit()
        state.chosen = 1
        assert state.looked.found.thumbnails == ()  # not the pictures of the finding before
        wait_for(state, lambda: "second" in state.looked.found.title)
        assert len(state.looked.found.thumbnails) == 4 and not go_on.is_set()
    finally:
        go_on.set()
        state.close()


def test_a_verified_finding_shows_its_four_pictures_and_no_other_finding_does(study, two, monkeypatch):
    made = [
        EditedPicture(what, Image.new("RGB", (96, 96), what_color), contrast, "7")
        for what, what_color, contrast in (
            ("before", "red", 0.2),
            ("without", "green", 0.05),
            ("elsewhere", "blue", 0.19),
            ("pasted", "white", 0.15),
        )
    ]
    monkeypatch.setattr(pictures, "edited_pictures", lambda study, finding: tuple(made))
    effect = {"value": 0.14, "low": 0.1, "high": 0.18}
    told = {
        "verdict": "confirmed",
        "reason": "it falls and rises",
        "edit": "region 0.12",
        "removal": effect,
        "transplant": effect,
    }
    two[0] = replace(two[0], evidence={"pixels": told})
    panel = FindingsPanel(study, two)
    try:
        state = panel.state
        state.settle()
        assert [one.getpixel((0, 0)) for one in state.edited.thumbnails][:2] == [(255, 0, 0), (0, 128, 0)]
        assert state.edited.captions[1] == "+5.0 without it"
        assert panel.edited.layout.display == "" and "confirmed" in state.edited.title
        assert ("in pixels", "confirmed", "it falls and rises") in state.evidence
        state.chosen = 1
        assert state.edited.thumbnails == () and panel.edited.layout.display == "none"
    finally:
        panel.close()


def test_what_a_filter_hides_cannot_be_judged(study, two):
    state = FindingsState(study, two)
    assert state.finding.label == "first"
    state.kind = "typography"
    assert state.finding.label == "second" and [row["id"] for row in state.rows] == [1]
    state.search = "no such finding"
    assert state.finding is None and state.looked.found.thumbnails == ()
    state.judge("accepted")
    assert state.accepted() == []


def test_two_keys_a_finding_judge_a_list_and_undo_takes_back(fresh_study, finding):
    many = [finding(latents=(j,), label=f"cause {j}", effect=0.1 - 0.01 * j) for j in range(5)]
    state = FindingsState(fresh_study, many)
    for key in "arna":
        state.press(key)
    said = [state.verdict_of(f).choice for f in many]
    assert said == ["accepted", "rejected", "open", "accepted", "open"] and state.finding is many[4]
    state.press("u")
    assert state.verdict_of(many[3]).choice == "open"
    state.judge_all("rejected")
    assert [state.verdict_of(f).choice for f in many] == ["accepted", "rejected"] + ["rejected"] * 3
    state.press("u")
    assert [state.verdict_of(f).choice for f in many] == ["accepted", "rejected"] + ["open"] * 3
    # Under the filter for open ones a verdict takes the finding away, and the next takes its place.
    state.verdict = "open"
    assert state.finding is many[4]
    state.chosen = 2
    state.press("a")
    assert state.finding is many[3] and [row["id"] for row in state.rows] == [3, 4]
    assert FindingsState(fresh_study, many).verdict_of(many[2]).choice == "accepted"


def test_a_finding_named_against_its_pictures_says_so(study, finding):
    ids, labels = study.images.ids, study.images.columns["label"]
    discs = [name for name, label in zip(ids, labels, strict=True) if label == "red_disc"][:8]
    state = FindingsState(study, [finding(label="green square", examples=tuple(discs))])
    assert state.looked.check.is_doubtful
    assert "the name may be wrong: 8 of its 8 pictures are labelled red disc" in state.looked.check.words()
    right = FindingsState(study, [finding(label="red disc", examples=tuple(discs))])
    assert not right.looked.check.is_doubtful


def test_the_measured_pictures_show_their_score_with_and_without_the_cause(study, finding):
    rows = [3, 9, 12]
    ids = study.images.ids
    family = tuple(sorted({int(j) for row in rows for j in study.codes.rows(row).to_csr().indices[:3]}))
    measured = finding(
        prompt="kite", latents=family, evidence={"prompt_examples": [ids[row] for row in rows]}
    )
    shelf = FindingsState(study, [measured]).looked.measured
    assert list(shelf.places) == rows
    text = study.model.encode_text(["kite"])[0]
    for row, caption in zip(rows, shelf.captions, strict=True):
        pixels = study.model.prepare(study.images[row].load())[None]
        acts = clipattr.activations(study.model, pixels, study.site)
        codes = study.dictionary.encode(acts).to_dense()
        less = acts - codes[:, list(family)] @ study.dictionary.decoder[list(family)]
        expected = [float(clipattr.continue_from(study.model, study.site, x)[0] @ text) for x in (acts, less)]
        numbers = [float(n.replace("\u2212", "-")) for n in caption.split(" → ")]
        assert numbers == pytest.approx(
            [100 * e for e in expected], abs=0.15
        )  # activations are kept in float16


def test_an_audit_gives_findings_as_they_come_and_can_be_ended(fresh_study, finding, monkeypatch):
    asked = []

    def audit(study, prompts, **options):
        asked.append(list(prompts))
        return [finding(prompt=prompt, effect=0.01 * len(asked)) for prompt in prompts]

    monkeypatch.setattr(clipattr, "audit", audit)
    state = FindingsState(fresh_study, ())
    seen = []
    state.observe(lambda change: seen.append((change["new"], len(state.findings))), "progress")
    state.auditor.start([f"prompt {i}" for i in range(10)])
    assert [len(some) for some in asked] == [4, 4, 2] and len(state.findings) == 10
    assert [progress[:2] for progress, _ in seen] == [(0, 10), (4, 10), (8, 10), (10, 10)]
    assert list(state.audited) == state.findings and not state.auditor.running
    monkeypatch.setattr(
        clipattr, "audit", lambda study, prompts, **o: state.cancel_audit() or audit(study, prompts, **o)
    )
    asked.clear()
    state.auditor.start([f"prompt {i}" for i in range(10)])
    assert len(asked) == 1 and len(state.findings) == 4
    state.close()


def test_an_ended_audit_keeps_earlier_findings_of_prompts_that_were_not_asked(
    fresh_study, finding, monkeypatch
):
    labels = list(dict.fromkeys(label.replace("_", " ") for label in fresh_study.images.columns["label"]))
    asked = [*labels, *(f"prompt {i}" for i in range(5))]
    earlier = [finding(prompt=asked[0], effect=0.09), finding(prompt="kite"), finding(prompt=asked[-1])]
    state = FindingsState(fresh_study, earlier)
    monkeypatch.setattr(state.auditor, "prompts", lambda: asked)

    def audit(study, prompts, **options):
        state.cancel_audit()
        return [finding(prompt=prompt, effect=0.01) for prompt in prompts]

    monkeypatch.setattr(clipattr, "audit", audit)
    state.audit()
    assert [f.prompt for f in state.findings if f.causal_effect.value == 0.01] == asked[:4]
    assert [f for f in state.findings if f.causal_effect.value != 0.01] == earlier[1:]
    assert list(state.audited) == state.findings
    state.close()


def test_a_repair_shows_how_far_it_is_and_can_be_ended(fresh_study, finding, monkeypatch):
    room = import_module("clipattr.discovery.repair.repair")
    reached, go_on, ended = threading.Event(), threading.Event(), []

    def repair(study, findings, *, how, on_prompt):
        on_prompt(0, 2)
        on_prompt(1, 2)
        reached.set()
        go_on.wait(20)
        try:
            on_prompt(2, 2)
        except Superseded:
            ended.append(True)
            raise
        return SimpleNamespace(about="done", evaluate=lambda: SimpleNamespace(rows=(), notes=()))

    monkeypatch.setattr(room, "repair", repair)
    panel = FindingsPanel(state=FindingsState(fresh_study, [finding(), finding(prompt="bat")], threaded=True))
    state, told = panel.state, []
    state.observe(lambda change: told.append(change["new"]), "repairing")
    state.judge_all("accepted")
    state.settle(20)
    panel.repair.click()
    assert reached.wait(20)
    state.worker._deliver()
    assert [one[:2] for one in told[-2:]] == [(0, 2), (1, 2)] and told[-1][2] >= 0
    assert "1 of 2 prompts" in panel.repaired.value and panel.leave.layout.display == ""
    assert panel.repair.disabled
    panel.leave.click()
    assert state.repairing == () and panel.repaired.value == "" and not panel.repair.disabled
    go_on.set()
    state.settle(20)
    assert ended and state.repaired is None and not state.error and state.pending == 0
    panel.repair.click()
    state.settle(20)
    assert state.repaired.about == "done" and state.repairing == ()
    panel.close()


def test_evidence_is_told_in_the_reports_words(study, finding):
    evidence = {"seen": 1.02, "left_covered": None, "standing": 0.4, "odd <b>": [1, 2]}
    rows = FindingsState(study, [finding(evidence=evidence)]).evidence
    said = {name: (value, why) for name, value, why in rows}
    assert "left when occluded" not in said and said["odd <b>"][0] == "1, 2"
    assert said["seen in them"][0].startswith("102") and "evaluator" in said["seen in them"][1]


def test_every_prompt_of_an_audit_has_its_verdict_in_the_panel(study, finding):
    from clipattr.discovery.findings import Findings, PromptVerdict

    verdicts = [
        PromptVerdict("kite", "found", findings=1),
        PromptVerdict("bat", "nothing found", smallest_effect=0.021, chosen_by="labels"),
        PromptVerdict("yak", "cannot be judged", "no pictures of it"),
    ]
    panel = FindingsPanel(study, Findings([finding()], study, {}, verdicts))
    rows = [row["cells"][:3] for row in panel.prompts.rows]
    assert rows == [["yak", "cannot be judged", "–"], ["bat", "nothing found", "2.1"], ["kite", "found", "–"]]
    assert "no pictures of it" in panel.static().bundle()["text/html"]
    panel.search.value = "bat"
    assert [row["cells"][0] for row in panel.prompts.rows] == ["bat"]
    panel.close()


def test_what_the_build_left_out_is_told_in_panels_and_report(fresh_study, finding):
    from clipattr.discovery.findings import Findings
    from clipattr.reporting.page import page

    fresh_study.manifest["skipped"] = [["broken.png", "it is <no> picture"]]
    fresh_study.manifest["images"]["notes"] = ["Two pictures have the class number -1."]
    panel = FindingsPanel(fresh_study, [finding()])
    for text in (panel.static().bundle()["text/html"], page(Findings([finding()], fresh_study))):
        assert "broken.png: it is &lt;no&gt; picture" in text and "class number -1" in text
    panel.close()


def test_a_doubted_name_is_marked_in_the_list_and_a_given_one_heads_the_finding(fresh_study, finding):
    doubt = {"own_pictures": 12, "doubts": ["no latent of the family is labelled so"]}
    panel = FindingsPanel(fresh_study, [finding(evidence=doubt), finding(prompt="bat", effect=0.01)])
    assert [row["cells"][2] for row in panel.list.rows] == ["blue stripe ?", "blue stripe"]
    assert (
        "no latent of the family is labelled so" in panel.about.value and "by hand" not in panel.about.value
    )
    panel.rename.value = "stripes"
    assert "stripes</bdi> <small>named by hand; by the audit: " in panel.about.value
    assert "blue stripe" in panel.about.value
    assert panel.rename.value == ""
    panel.close()


def test_findings_beyond_the_first_rows_come_with_scrolling_with_keys_and_by_a_link(study, finding):
    many = [finding(latents=(i % 32,), effect=0.2 - 1e-4 * i, label=f"word {i}") for i in range(700)]
    panel = FindingsPanel(study, many)
    state = panel.state
    assert len(panel.list.rows) == ROWS_AT_ONCE == 300 and panel.list.more
    assert "400 more fit" in panel.count.value
    panel.list._handle_custom_msg({"kind": "more"}, [])
    assert len(panel.list.rows) == 600 and state.hidden == 100
    state.chosen = 599
    state.press("n")
    assert state.chosen == 600 and len(panel.list.rows) == 700 and not panel.list.more
    panel.close()
    linked = FindingsState(study, many, chosen=450)
    assert linked.chosen == 450 and len(linked.rows) == 600
    linked.close()


def test_a_verdict_for_all_covers_what_the_list_has_yet_to_show_and_says_how_many(
    fresh_study, finding, monkeypatch
):
    monkeypatch.setattr("clipattr_widgets.findings_state.ROWS_AT_ONCE", 3)
    many = [
        finding(latents=(j,), prompt="kite" if j < 8 else "bat", effect=0.1 - 0.005 * j) for j in range(10)
    ]
    state = FindingsState(fresh_study, many, search="kite", limit=3)
    panel = FindingsPanel(state=state)
    state.judge("rejected")
    assert len(state.rows) == 3 and state.hidden == 5
    assert [text for text, _ in panel.all.options] == ["all open …", "accept all 7 open", "reject all 7 open"]
    panel.all.value = "accepted"
    said = [state.verdict_of(one).choice for one in many]
    assert said == ["rejected"] + ["accepted"] * 7 + ["open"] * 2
    assert panel.all.value == "" and panel.all.disabled
    state.undo()
    assert [state.verdict_of(one).choice for one in many] == ["rejected"] + ["open"] * 9
    assert not panel.all.disabled
    panel.close()
