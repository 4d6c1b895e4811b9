"""The served page without a server: what its address says, and that it leads back."""

import re

import pytest

import clipattr
from clipattr.discovery.findings import Findings
from clipattr_widgets import served as room


@pytest.fixture
def visit(study, fresh_study, finding, tmp_path, monkeypatch):
    """A function that opens the page of two studies at an address; the second one's audit has two findings."""
    folders = {"one": study, "two": fresh_study}
    monkeypatch.setattr(clipattr, "open_study", lambda path: folders[path])
    files = []
    for name, held in folders.items():
        found = [finding(prompt="kite"), finding(prompt="bat", latents=(5, 6))][: 1 + (name == "two")]
        files.append(tmp_path / f"{name}.json")
        Findings(found, held, {}).to_json(files[-1])
    made = []

    def run(query="", **options):
        monkeypatch.setenv("QUERY_STRING", query)
        made.append(room.served(["one", "two"], findings=[str(file) for file in files], **options))
        return made[-1].children

    yield run
    for page in made:
        page.children[-1].close()


def test_an_address_leads_a_colleague_to_the_same_view(visit, fresh_study):
    _, _, panel = visit("token=x")
    panel.state.desk = 1
    panel.state.picture, panel.state.prompt, panel.state.against = 7, "red disc", "plain wall"
    latent = panel.state.rows[1]["id"]
    panel.state.latent = latent
    panel.state.scale(latent, 0.25)
    panel.tabs.buttons.value = "Findings"
    panel.tabs.in_front.state.chosen = 1
    _, picker, again = visit("token=x&" + panel.pulse.address)
    same = ("desk", "picture", "prompt", "against", "latent", "scales", "finding", "after")
    assert {name: getattr(again.state, name) for name in same} == {
        name: getattr(panel.state, name) for name in same
    }
    assert again.tabs.buttons.value == "Findings" and again.tabs.in_front.state.finding.prompt == "bat"
    assert picker.value == 1


def test_the_heading_and_the_findings_are_those_of_the_study_in_hand(visit, study, fresh_study):
    head, picker, panel = visit("finding=7&panel=Findings&study=none")
    assert study.path.name in head.value and panel.tabs.in_front.state.chosen == 0
    picker.value = 1
    assert fresh_study.path.name in head.value and panel.state.desk == 1
    panel.tabs.buttons.value = "Findings"
    assert [f.prompt for f in panel.tabs.in_front.state.findings] == ["kite", "bat"]
    picker.value = 0
    panel.tabs.buttons.value = "Findings"
    assert [f.prompt for f in panel.tabs.in_front.state.findings] == ["kite"]
    assert "Compare" in panel.tabs.buttons.options


def test_visitors_share_the_paired_latents_without_a_write_to_the_study(visit, study, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = sorted(study.path.iterdir())
    _, _, panel = visit("prompt=kite", scratch=str(scratch))
    panel.tabs.buttons.value = "Compare"
    assert panel.tabs.in_front.state.rows
    assert [re.match(r"partners-\w+-\w+\.npz", path.name) is not None for path in scratch.iterdir()] == [True]
    assert sorted(study.path.iterdir()) == before


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("12x0,40x0.5", {12: 0.0, 40: 0.5}),
        ("12x,x3,-1x0,7x9,8xnan,9x1e400,aax1,3x2", {3: 2.0}),
        (",".join(f"{n}x0" for n in range(99)), {n: 0.0 for n in range(room.MAX_CHANGES)}),
        ("", {}),
    ],
)
def test_changes_in_an_address_are_read_with_distrust(said, meant):
    assert room.changes_in(said) == meant
