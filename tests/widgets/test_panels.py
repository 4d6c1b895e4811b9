"""The panels as widgets: browser messages in, drawn state out, still views, nothing left after closing."""

import base64
import io
import re
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import ipywidgets as W
import pandas as pd
import pytest
from ipywidgets.widgets.widget import _instances
from PIL import Image

import clipattr_widgets
from clipattr.discovery.findings import Finding
from clipattr.errors import ClipattrError
from clipattr.statistics import Interval
from clipattr_widgets import ExplorerPanel, FindingsPanel, LatentPanel, MapPanel, PromptPanel


def finding(prompt="kite", latents=(1, 2), kind="context", effect=0.05, label="blue stripe", **more):
    values = {
        "prompt": prompt, "latents": latents, "label": label, "kind": kind, "kind_probability": 0.8,
        "reliance": Interval(effect, effect - 0.01, effect + 0.01),
        "causal_effect": Interval(effect, effect - 0.01, effect + 0.01), "share": 0.4, "alignment": -0.02,
        "clarity": 0.7, "confidence": 0.9, "examples": (), "evidence": {"own_pictures": 12, "lift": 0.03},
    }  # fmt: skip
    return Finding(**(values | more))


@pytest.fixture
def panels(study):
    """A function that builds a panel and closes it afterwards."""
    made = []

    def build(kind, *arguments, **options):
        made.append(kind(study, *arguments, **options))
        return made[-1]

    yield build
    for panel in made:
        panel.close()


def test_a_click_on_a_bar_chooses_the_latent_and_its_examples(panels, study):
    panel = panels(ExplorerPanel, prompt="kite", picture=4)
    chosen = panel.bars.rows[2]["id"]
    panel.bars.set_state({"selected": chosen})
    assert panel.state.latent == chosen
    assert panel.gallery.meta["n"] == len(study.examples.of(chosen))
    assert f"latent {chosen}" in panel.card.value


def test_a_click_on_a_switch_shows_the_score_before_and_after(panels):
    panel = panels(ExplorerPanel, prompt="kite", picture=4)
    row = panel.bars.rows[0]
    panel.bars._handle_custom_msg({"kind": "scale", "id": row["id"], "factor": 0}, [])
    assert panel.bars.rows[0]["scale"] == 0
    words = panel.state.score_words()
    assert words["after"] in panel.score.value and words["change"] in panel.score.value
    assert not panel.undo.disabled
    panel.undo.click()
    assert panel.bars.rows[0]["scale"] == 1 and panel.undo.disabled
    panel.bars._handle_custom_msg({"kind": "undo"}, [])


def test_controls_move_the_state_and_follow_it(panels):
    panel = panels(ExplorerPanel, prompt="kite")
    panel.prompt.set_state({"value": "bat"})
    assert panel.state.prompt == "bat"
    panel.forth.click()
    assert panel.state.picture == 1 and panel.number.value == "1"
    panel.number.set_state({"value": "7"})
    assert panel.state.picture == 7 and "7 · " in panel.overlay.meta["caption"]
    panel.gallery._handle_custom_msg({"kind": "pick", "i": 1}, [])
    assert panel.state.picture == panel.state.examples.places[1]
    panel.factor.set_state({"value": 0.5})
    assert panel.state.scales == {panel.state.latent: 0.5}
    panel.state.latent = panel.bars.rows[3]["id"]
    assert panel.factor.value == 1.0


def test_a_picture_compared_with_is_shown_beside_the_first(panels):
    panel = panels(ExplorerPanel, prompt="kite")
    assert panel.second.layout.display == "none"
    panel.compare.set_state({"value": "9"})
    assert panel.second.layout.display == "" and panel.second.meta["caption"].startswith("compared with 9 · ")
    assert "other" in panel.bars.columns and all("other" in row for row in panel.bars.rows)
    assert "compared with picture 9" in panel.static().html and panel.static().png()
    panel.compare.set_state({"value": ""})
    assert panel.second.layout.display == "none"


def test_an_upload_and_a_broken_upload_go_through_the_same_box(panels, study):
    panel = panels(ExplorerPanel, prompt="kite")
    content = Path(study.images[9].path).read_bytes()
    about = {"name": "mine.png", "type": "image/png", "size": len(content), "last_modified": pd.Timestamp(0)}
    panel.upload.value = ({**about, "content": memoryview(content)},)
    assert panel.state.picture == -1 and "mine.png" in panel.overlay.meta["caption"]
    panel.upload.value = ({**about, "name": "<b>x</b>.png", "content": memoryview(b"nonsense")},)
    assert "cannot be used" in panel.notice.value and "<b>x" not in panel.notice.value
    panel.number.set_state({"value": "3"})
    assert panel.state.picture == 3 and panel.notice.value == ""
    panel.upload.value = ({**about, "content": memoryview(content)},)
    assert panel.number.value == "" and panel.state.picture == -1
    panel.number.set_state({"value": "0"})
    assert panel.state.picture == 0
    panel.number.set_state({"value": "many"})
    assert "no number" in panel.notice.value and panel.number.value == "0"


def test_a_picture_from_elsewhere_can_be_given_from_the_start(panels, study):
    path = study.images[4].path
    for outside in (path, Path(path), study.images[4].load()):
        panel = panels(ExplorerPanel, picture=outside, prompt="kite")
        assert panel.state.now == pytest.approx(
            panels(ExplorerPanel, picture=4, prompt="kite").state.now, abs=1e-6
        )
        assert "from outside the study" in panel.overlay.meta["caption"]
        scope = {"picture": outside}  # what the caller holds
        exec(panel.code().replace("ca.open_study", "(lambda _: study)"), scope | {"study": study})
    panel.state.upload(Path(path).read_bytes(), "mine.png")
    assert "picture = 'mine.png'  # uploaded; only its name is known here" in panel.code()
    with pytest.raises(ClipattrError, match=r"nowhere\.png"):
        panels(ExplorerPanel, picture="nowhere.png")


def test_names_prompts_and_labels_with_markup_are_text_everywhere(panels, fresh_study):
    evil = "<img src=x onerror=alert(1)>\u202e" + "y" * 10_000
    fresh_study.rename(0, evil)
    panel = ExplorerPanel(fresh_study, prompt="kite", latent=0)
    panel.state.prompt = "<script>alert(1)</script> kite"
    for latent_panel in (panel, LatentPanel(fresh_study, latent=0)):
        for widget in list(_instances.values()):
            value = getattr(widget, "value", "")
            if isinstance(value, str) and type(widget).__name__ == "HTML":
                assert "<img src=x" not in value and "<script>" not in value and "\u202e" not in value
        html = latent_panel.static().html
        assert "<img src=x" not in html and "<script" not in html and "\u202e" not in html
        assert len(html) < 200_000
        latent_panel.close()


def test_words_with_markup_are_never_suggested(study, panels, monkeypatch):
    monkeypatch.setattr(
        study.vocabulary, "words", ['x"></datalist><img src=x onerror=alert(1)>', "fine", "it's"]
    )
    options = panels(ExplorerPanel, prompt="kite").prompt.options
    assert "fine" in options
    assert not any(set(word) & set('<>"&') for word in options)


BUILDERS = {
    "explorer": lambda study: ExplorerPanel(study, prompt="kite", picture=3),
    "all tabs": lambda study: clipattr_widgets.explore(study, prompt="kite", findings=[finding()]),
    "latent": lambda study: LatentPanel(study, latent=3),
    "prompt": lambda study: PromptPanel(study, prompt="kite", findings=[finding()]),
    "findings": lambda study: FindingsPanel(study, [finding()]),
    "map": lambda study: MapPanel(study, prompt="kite", latent=3),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_closed_panel_leaves_no_widget_behind(name, study):
    before = set(_instances)
    panel = BUILDERS[name](study)
    if name == "all tabs":
        for tab in ("Latent", "Prompt", "Findings", "Map", "Explorer"):
            panel.tabs.buttons.value = tab
    assert set(_instances) - before
    panel.close()
    assert [type(_instances[key]).__name__ for key in set(_instances) - before] == []


def test_changes_make_no_new_widget(panels):
    panel = panels(ExplorerPanel, prompt="kite", n_rows=5)
    before = len(_instances)
    for number in range(12):
        panel.state.picture = number % 20
        panel.state.toggle(panel.bars.rows[0]["id"])
        panel.state.latent = number % 32
    assert len(_instances) == before


@pytest.mark.parametrize("name", BUILDERS)
def test_without_a_kernel_a_picture_and_a_table_remain(name, study):
    panel = BUILDERS[name](study)
    made = panel._repr_mimebundle_()
    bundle = made[0] if isinstance(made, tuple) else made
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).format == "PNG"
    html = bundle["text/html"]
    assert "<table" in html or "<img" in html
    assert all('alt="' in image for image in re.findall(r"<img[^>]*>", html))
    assert "<script" not in html and 'src="http' not in html
    assert (
        "kite" in bundle["text/plain"]
        or "latent" in bundle["text/plain"]
        or "picture" in bundle["text/plain"]
    )
    again = panel.static().bundle()
    assert again["text/html"] == html and again["text/plain"] == bundle["text/plain"]
    panel.close()


def test_a_view_is_saved_as_picture_page_and_table(panels, tmp_path):
    panel = panels(ExplorerPanel, prompt="kite", picture=3)
    for suffix in (".png", ".html", ".csv"):
        assert panel.save(tmp_path / f"view{suffix}").stat().st_size > 100
    table = pd.read_csv(tmp_path / "view.csv")
    assert table["attribution"].to_list() == pytest.approx(panel.state.frame()["attribution"].to_list())
    page = (tmp_path / "view.html").read_text()
    assert "Content-Security-Policy" in page and page.startswith("<!DOCTYPE html>")
    with pytest.raises(ValueError, match=r"saved as \.png, \.html or \.csv; got '\.exe'"):
        panel.save(tmp_path / "view.exe")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["view.csv", "view.html", "view.png"]


def test_a_spreadsheet_does_not_run_a_name(panels, fresh_study, tmp_path):
    fresh_study.rename(0, '=HYPERLINK("http://evil")')
    panel = ExplorerPanel(fresh_study, prompt="kite")
    panel.state.n_rows = 100
    present = next(i for i in range(60) if 0 in fresh_study.codes.rows(i).to_csr().indices.tolist())
    panel.state.picture = present
    text = panel.save(tmp_path / "view.csv").read_text()
    assert "'=HYPERLINK" in text
    panel.close()


def test_the_take_away_menu_offers_code_and_files(panels):
    panel = panels(ExplorerPanel, prompt="kite")
    assert "open_study" in panel.code() and "'kite'" in panel.code()
    panel.take.value = "code"
    assert "open_study" in panel.drawer.value
    panel.state.prompt = "bat"  # what is shown has changed, and so has its code
    assert "bat" in panel.drawer.value and "kite" not in panel.drawer.value
    panel.take.value = "csv"
    assert 'download="clipattr-view.csv"' in panel.drawer.value
    panel.take.value = ""
    assert panel.drawer.value == ""
    panel.take.value = "csv"
    panel.state.prompt = "kite"  # the file was of the earlier prompt
    assert panel.drawer.value == "" and panel.take.value == ""


def test_panels_opened_together_show_the_same_latent_and_prompt(study):
    found = finding(prompt="bat", latents=(5, 6), examples=tuple(study.images.ids[20:23]))
    panel = clipattr_widgets.explore(study, prompt="kite", findings=[found])
    for tab in ("Latent", "Prompt", "Findings"):
        panel.tabs.buttons.value = tab
    made = panel.tabs.panels
    panel.state.latent = 9
    assert made["Latent"].state.latent == 9
    made["Latent"].state.latent = 4
    assert panel.state.latent == 4
    made["Prompt"].state.prompt = "red disc"
    assert panel.state.prompt == "red disc"
    assert panel.state.kinds == {}
    before = (panel.state.prompt, panel.state.latent)
    made["Findings"].state.chosen = -1
    made["Findings"].state.chosen = 0
    assert (panel.state.prompt, panel.state.latent) == before  # looking at a finding disturbs no other panel
    panel.state.against = "bat"
    made["Findings"].explore.click()
    assert (panel.state.prompt, panel.state.against, panel.state.latent) == ("bat", "", 5)
    assert panel.tabs.buttons.value == "Explorer"
    assert panel.state.picture == made["Findings"].state.looked.found.places[0]
    assert panel.state.kinds == {5: "context", 6: "context"}
    made["Latent"].state.rename("")
    panel.close()


def test_two_panels_on_one_study_do_not_disturb_each_other(panels):
    one, two = panels(ExplorerPanel, prompt="kite"), panels(ExplorerPanel, prompt="kite")
    one.state.toggle(one.bars.rows[0]["id"])
    one.state.picture = 5
    assert two.state.scales == {} and two.state.picture == 0
    one.close()
    two.state.prompt = "bat"
    assert two.bars.rows


def test_a_panel_closed_during_work_hears_no_answer(study):
    panel = ExplorerPanel(study, prompt="kite", threaded=True)
    panel.state.settle(30)
    gen = panel.bars.gen
    panel.state.prompt = "bat"
    panel.close()
    panel.state.settle(5)
    assert panel.bars.gen == gen


def test_a_report_holds_the_still_form_of_any_panel(study, tmp_path):
    from clipattr.discovery.findings import Findings

    panel = PromptPanel(study, prompt="<b>kite</b>")
    findings = Findings([finding()], study, {"model": "tiny"})
    shown = {"what <i>kite</i> rests on": panel, "a latent": LatentPanel(study, latent=3).snapshot()}
    page = findings.report(tmp_path / "audit.html", shown).read_text()
    assert page.count('class="view"') == 2 and panel.snapshot().html in page
    assert "<i>kite" not in page and "<b>kite" not in page
    assert page.count("<script") == 1  # the report's own, which sorts and filters
    assert "Content-Security-Policy" in page
    panel.close()


def test_the_site_picker_lists_the_sites_of_the_chosen_model(study, fresh_study, monkeypatch):
    other = clipattr_widgets.ExplorerState([study, fresh_study], prompt="kite")
    first, second = (desk.model_name for desk in other.desks)
    assert first == second
    panel = ExplorerPanel([study, fresh_study], prompt="kite")
    assert [text for text, _ in panel.model.options] == [first] and not panel.site.disabled
    names = [text for text, _ in panel.site.options]
    assert names == [f"image.-1.cls · {s.path.name}" for s in (study, fresh_study)]
    panel.site.value = 1
    assert panel.state.desk == 1 and panel.state.table.study is fresh_study
    panel.close()
    named = ExplorerPanel({"one": study, "two": fresh_study}, prompt="kite")
    assert named.site.disabled and [value for _, value in named.model.options] == ["one", "two"]
    named.model.value = "two"
    assert named.state.desk == 1 and named.site.value == 1
    named.state.desk = 0
    assert named.model.value == "one" and named.site.value == 0
    named.close()


def test_a_panel_that_is_asked_whether_anybody_is_there_answers(panels):
    panel = panels(ExplorerPanel, prompt="kite")
    sent = []
    panel.pulse.send = lambda content: sent.append(content)
    panel.pulse._handle_custom_msg({"kind": "ping", "number": 4}, [])
    assert sent == [{"kind": "pong", "number": 4}]


def test_a_page_that_has_been_made_hears_again_what_was_said_meanwhile(panels, monkeypatch):
    panel = panels(ExplorerPanel, prompt="kite")
    sent = {}
    monkeypatch.setattr(W.Widget, "send_state", lambda self, key=None: sent.update({self.model_id: key}))
    panel.pulse._handle_custom_msg({"kind": "drawn"}, [])
    for control in (panel.score, panel.standing, panel.status):
        assert sent[control.model_id] == {"value"}
    assert sent[panel.method.model_id] == {"index"} and panel.bars.model_id not in sent


def test_a_served_page_writes_nothing_and_says_so(fresh_study):
    before = {path: path.stat().st_mtime_ns for path in fresh_study.path.rglob("*")}
    panel = ExplorerPanel(fresh_study, prompt="kite", findings=[finding()], tabs=True, read_only=True)
    panel.rename.value = "mine"
    assert "read-only" in panel.notice.value
    panel.tabs.buttons.value = "Findings"
    table = panel.tabs.panels["Findings"]
    table.accept.click()
    assert "read-only" in table.notice.value
    table.state.error = ""
    table.audit.click()
    assert "read-only" in table.notice.value
    assert str(fresh_study.path.parent) not in panel.state.code()
    assert {path: path.stat().st_mtime_ns for path in fresh_study.path.rglob("*")} == before
    panel.close()


def test_on_a_read_only_disk_a_name_is_refused_in_words_and_all_else_works(fresh_study, monkeypatch):
    def full(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("clipattr.studies.study.write_json", full)
    panel = ExplorerPanel(fresh_study, prompt="kite")
    panel.rename.value = "mine"
    assert "Read-only file system" in panel.notice.value and panel.bars.rows
    panel.close()


def test_a_repair_shows_accuracy_before_and_after_beside_what_was_taken_out(study, panels, monkeypatch):
    room = import_module("clipattr.discovery.repair.repair")
    row = {"measure": "accuracy", "pictures": 40, "unit": "share", "before": 0.8, "before_low": 0.7,
           "before_high": 0.9, "after": 0.85, "after_low": 0.75, "after_high": 0.95, "change": 0.05,
           "change_low": -0.01, "change_high": 0.11}  # fmt: skip
    worst = {**row, "measure": "worst group", "before": float("nan"), "before_low": float("nan")}
    outcome, asked = SimpleNamespace(rows=(row, worst), notes=("a <b>note</b>",)), []
    done = SimpleNamespace(about="directions projected out", evaluate=lambda: outcome)
    monkeypatch.setattr(room, "repair", lambda *given, **how: asked.append((given, how)) or done)
    found = [finding(), finding(prompt="bat")]
    panel = panels(FindingsPanel, found)
    assert panel.repair.description == "repair this finding"
    panel.how.value = "ablate"
    panel.repair.click()
    [(given, options)] = asked
    assert (
        given == (study, [panel.state.finding]) and options.pop("on_prompt") and options == {"how": "ablate"}
    )
    cells = panel.outcome.rows[0]["cells"]
    assert cells == [
        "accuracy, 40 pictures",
        "80.0 % (70.0 to 90.0)",
        "85.0 % (75.0 to 95.0)",
        "+5.0 (−1.0 to 11.0)",
    ]
    assert panel.outcome.rows[1]["cells"][1] == "–"
    assert "directions projected out" in panel.repaired.value and "<b>" not in panel.repaired.value
    assert "85.0 %" in panel.static().html and "ca.repair" in panel.state.code()


def test_a_thumbnail_anywhere_opens_its_picture_with_latent_and_prompt_kept(study, finding):
    ids = study.images.ids
    measured = finding(prompt="bat", latents=(3,), examples=tuple(ids[20:23]))
    panel = ExplorerPanel(study, picture=4, prompt="kite", findings=[measured], tabs=True)
    tabs, state = panel.tabs, panel.state
    for name, gallery, shelf in (
        ("Latent", lambda p: p.gallery, lambda p: p.state.shelf),
        ("Prompt", lambda p: p.top, lambda p: p.state.top),
        ("Findings", lambda p: p.gallery, lambda p: p.state.looked.found),
        ("Map", lambda p: p.gallery, lambda p: p.state.examples),
    ):
        tabs.buttons.value = name
        inside = tabs.panels[name]
        kept = inside.shown_for()
        places = shelf(inside).places
        assert places, name
        gallery(inside)._handle_custom_msg({"kind": "pick", "i": len(places) - 1}, [])
        assert tabs.buttons.value == "Explorer" and state.picture == places[-1], name
        assert kept[0] < 0 or state.latent == kept[0], name
        assert state.prompt == (kept[1] or state.prompt), name
    assert state.prompt == "bat"
    panel.close()


def test_the_still_view_is_an_output_of_its_own_and_follows_the_tab_in_front(study, monkeypatch):
    import IPython.display

    shown = []

    class Handle:
        def update(self, bundle, raw):
            shown.append(bundle)

    def display(bundle, raw, display_id=None):
        shown.append(bundle)
        return Handle() if display_id else None

    monkeypatch.setattr(IPython.display, "display", display)
    panel = ExplorerPanel(study, picture=4, prompt="kite", tabs=True)
    panel._ipython_display_()
    live, still = shown
    assert "application/vnd.jupyter.widget-view+json" in live and "text/html" not in live
    assert panel.pulse.still in still["text/html"] and "kite" in still["text/html"]
    assert "application/vnd.jupyter.widget-view+json" not in still
    panel.tabs.buttons.value = "Latent"
    panel._still._write()
    assert f"latent {panel.tabs.panels['Latent'].state.latent}" in shown[-1]["text/html"]
    panel.close()


def test_what_is_said_of_changes_and_a_second_enter_reach_the_screen(study):
    panel = ExplorerPanel(study, picture=4, prompt="kite")
    for row in panel.bars.rows[:2]:
        panel.state.toggle(int(row["id"]))
    assert "each change alone gives" in panel.facts.value
    panel.find.set_state({"value": "red_disc"})
    first = panel.state.picture
    panel.find._handle_custom_msg({"event": "submit"}, [])
    assert panel.state.picture > first and "of 20" in panel.found.value
    panel.goto.set_state({"value": "3"})
    panel.goto._handle_custom_msg({"event": "submit"}, [])
    assert panel.state.latent == 3
    panel.close()


def test_words_and_prompts_of_a_latent_and_findings_of_a_prompt_open_what_they_name(study, finding):
    found = [finding(prompt="kite", latents=(1,), effect=0.09), finding(prompt="bat", latents=(2,))]
    panel = ExplorerPanel(study, picture=4, prompt="kite", latent=3, findings=found, tabs=True)
    tabs, state = panel.tabs, panel.state
    for table, texts in (("words", lambda p: p.state.words), ("users", lambda p: p.state.users)):
        tabs.buttons.value = "Latent"
        inside = tabs.panels["Latent"]
        place = len(getattr(inside, table).rows) - 1
        word = texts(inside)[place][0]
        getattr(inside, table).set_state({"selected": place})
        assert (tabs.buttons.value, state.prompt) == ("Prompt", word)
        assert getattr(inside, table).opens and getattr(inside, table).selected == -1
    state.prompt = "bat"
    tabs.panels["Prompt"].found.set_state({"selected": 0})
    assert tabs.buttons.value == "Findings" and tabs.in_front.state.finding.prompt == "bat"
    assert not tabs.in_front.evidence.opens and tabs.in_front.detail.layout.display == ""
    panel.close()


def test_a_study_without_an_audit_shows_no_judging_and_only_words_that_fit_are_listed(study):
    panel = FindingsPanel(study)
    assert panel.detail.layout.display == panel.mending.layout.display == "none"
    assert panel.list.empty_text == "no audit yet"
    panel.close()
    panel = LatentPanel(study, latent=3)
    panel.state.words = [("one", 0.2), ("two", 0.0), ("three", -0.1)]
    assert [row["cells"][0] for row in panel.word_rows()] == ["one"]
    panel.state.words = [("one", -0.2)]
    assert len(panel.word_rows()) == 1
    panel.close()
