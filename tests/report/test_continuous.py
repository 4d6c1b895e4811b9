"""JUnit XML, SARIF and the statement say what the gate decided, and hold hostile text without harm."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

import clipattr as ca
from clipattr.cli.releases import told_gate
from clipattr.discovery.findings import Finding, Findings, PromptVerdict
from clipattr.discovery.gate import gate
from clipattr.discovery.rises import Rise
from clipattr.display.wording import SAME_TEXT
from clipattr.reporting.continuous import junit, sarif
from clipattr.reporting.pull_request import markdown
from clipattr.reporting.statement import write_statement
from clipattr.statistics import Interval
from clipattr.studies.verdicts import Verdicts

HOSTILE = "kite\x00\x1b[31m]]><script>alert(1)</script>\u202e&"


def finding(prompt, points, label="string", kind="companion"):
    effect = Interval(points / 100, points / 100 - 0.01, points / 100 + 0.01)
    return Finding(prompt, (3, 5), label, kind, 0.9, effect, effect, 0.2, 0.01, 0.5, 0.95)


@pytest.fixture
def findings():
    verdicts = [
        PromptVerdict("kite", "found", findings=2, smallest_effect=0.01, chosen_by="labels"),
        PromptVerdict("bat", "nothing found", smallest_effect=0.02, chosen_by="labels"),
        PromptVerdict("yak", "cannot be judged", "there are no pictures of it"),
        PromptVerdict(HOSTILE, "found", findings=1),
    ]
    listed = [finding("kite", 9.0), finding("kite", 2.0, None), finding(HOSTILE, 1.0, HOSTILE)]
    about = {
        "model": {"reference": "ViT <b>", "hash": "abc"},
        "settings": {"least_effect": 0.04},
        "pictures": 900,
    }
    return Findings(listed, None, about, verdicts)


def test_junit_fails_what_the_gate_fails(findings):
    root = ElementTree.fromstring(junit(findings, gate(findings, 5.0)))
    cases = {case.get("name"): case for case in root.iter("testcase")}
    assert len(cases) == 4 and root.attrib["tests"] == "4"
    assert (root.attrib["failures"], root.attrib["errors"], root.attrib["skipped"]) == ("1", "1", "0")
    assert (
        "+9.0 points" in cases["kite"].find("failure").text
        and "+2.0" in cases["kite"].find("system-out").text
    )
    assert "no pictures" in cases["yak"].find("error").get("message") and len(cases["bat"]) == 0


def test_junit_without_a_gate_fails_nothing(findings):
    root = ElementTree.fromstring(junit(findings))
    assert root.attrib["failures"] == root.attrib["errors"] == "0" and root.attrib["skipped"] == "1"


def test_sarif_has_what_its_readers_require(findings):
    made = json.loads(
        sarif(findings, gate(findings, 5.0), file="a b/prompts.txt", lines=["bat", "kite", "yak"])
    )
    assert made["version"] == "2.1.0" and made["$schema"].endswith("sarif-2.1.0.json")
    (run,) = made["runs"]
    rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert run["tool"]["driver"]["name"] == "clipattr"
    for result in run["results"]:
        assert result["ruleId"] in rules and result["level"] in ("none", "note", "warning", "error")
        assert result["message"]["text"] and result["partialFingerprints"]["reliance/v1"]
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "a%20b/prompts.txt" and place["region"]["startLine"] >= 1
    assert [result["level"] for result in run["results"]] == ["error", "note", "note", "error"]
    assert run["results"][0]["locations"][0]["physicalLocation"]["region"]["startLine"] == 2
    assert {result["level"] for result in json.loads(sarif(findings))["runs"][0]["results"]} == {"warning"}


def test_the_same_reliance_keeps_its_fingerprint(findings):
    one = json.loads(sarif(findings))["runs"][0]["results"][0]["partialFingerprints"]
    larger = Findings([finding("kite", 11.0)], None, {}, [PromptVerdict("kite", "found", findings=1)])
    assert json.loads(sarif(larger))["runs"][0]["results"][0]["partialFingerprints"] == one


def test_a_new_reliance_that_no_finding_reports_is_in_every_form(findings, tmp_path, capsys):
    rise = Rise("bat", HOSTILE, Interval(0.082, 0.05, 0.114), 5.0, True, 40)
    decided = replace(gate(findings, 50), outcome="failed", rises=(rise,))
    suite = ElementTree.fromstring(junit(findings, decided)).find("testsuite")
    (failure,) = [case.find("failure") for case in suite if case.get("name") == "bat"]
    assert (
        failure.get("message") == "1 unexpected reliance above 50 points"
        and "+8.2 points [5.0, 11.4]" in failure.text
    )
    results = json.loads(sarif(findings, decided))["runs"][0]["results"]
    (told,) = [one for one in results if one["ruleId"] == "newly-rests-on"]
    assert told["level"] == "error" and "newly rests on kite" in told["message"]["text"]
    page = markdown(decided)
    assert "0 reliances above 50 points are new" in page and "| bat | kite" in page and "<script>" not in page
    assert "no longer found, and 1 word newly raises a prompt; " in page
    assert told_gate(decided, sys.stdout) == 1
    assert "no longer found, and 1 word newly raises a prompt." in capsys.readouterr().out
    write_statement(findings, tmp_path / "statement.html", decided=decided)
    text = (tmp_path / "statement.html").read_text("utf-8")
    assert "0 findings over the limit" in text and "newly rests on kite" in text and "<script>" not in text


def test_prompts_that_cannot_be_judged_are_told_what_they_lack(capsys):
    verdicts = [
        PromptVerdict("kite", "cannot be judged", "it has no pictures"),
        PromptVerdict(
            "bat",
            "cannot be judged",
            "its own pictures do not score",
            pictures_finding=40,
            pictures_measuring=30,
        ),
        PromptVerdict("yak", "cannot be judged", "2 pictures cannot be opened", unopened=2),
        PromptVerdict(
            "okpi", "cannot be judged", f"{SAME_TEXT} mosaic and negative: it knows none of these words"
        ),
    ]
    assert told_gate(gate(Findings([], verdicts=verdicts), 5), sys.stdout) == 3
    said = capsys.readouterr().out
    assert (
        "4 of 4 prompts cannot be judged, so they have not passed" in said
        and "0 findings above 5 points are" in said
    )
    assert [
        said.count(start)
        for start in (
            "Add pictures",
            "Reword or leave out",
            "Bring back the pictures",
            "that the model reads like",
        )
    ] == [1, 2, 1, 1]
    told_gate(gate(Findings([], verdicts=verdicts[1:2]), 5), sys.stdout)
    said = capsys.readouterr().out
    assert "1 of 1 prompt cannot be judged, so it has not passed" in said and "Add pictures" not in said


def test_hostile_text_stays_text(findings, tmp_path):
    for text in (junit(findings), sarif(findings)):
        assert "\x1b" not in text and "\x00" not in text and "\u202e" not in text
    assert "<script" not in junit(findings)
    page = ca.write_statement(findings, tmp_path / "s.html", purpose=HOSTILE, people=[HOSTILE]).read_text(
        "utf-8"
    )
    assert "<script" not in page and "ViT &lt;b&gt;" in page


def test_the_statement_says_what_was_decided_what_is_missing_and_by_whom(findings, tmp_path):
    class Study:
        path = tmp_path
        images = type("Images", (), {"ids": [], "columns": {"label": []}})

    Verdicts(Study).set(findings[0], "accepted", "known, harmless", by="A. Person")
    held = Findings(findings, Study, findings.about, findings.verdicts)
    page = ca.write_statement(
        held, tmp_path / "s.html", decided=gate(findings, 5.0), people=["B. Other, safety"]
    )
    text = page.read_text("utf-8")
    for told in (
        "<strong>failed</strong>", "accepted by A. Person: known, harmless", "B. Other, safety", "least effect 0.04",
        "1 of 4 prompts could not be judged, so the audit makes no statement about them: yak.", "below 1.5 points",
        "No finding was confirmed",
    ):  # fmt: skip
        assert told in text, told
    assert "http:" not in text and "https:" not in text


def test_the_statement_fits_two_pages_of_print(findings, tmp_path):
    # 12 findings and 30 prompts by name at most: about 110 lines of 10 point text on two pages of A4.
    many = [finding(f"prompt {n}", 9.0 - n / 10) for n in range(60)]
    verdicts = [PromptVerdict(f"yak {n}", "cannot be judged", "no pictures") for n in range(500)]
    text = Path(ca.write_statement(Findings(many, None, {}, verdicts), tmp_path / "s.html")).read_text(
        "utf-8"
    )
    assert text.count("<tr") <= 20 and "48 smaller findings" in text and "488 more" in text


def test_findings_without_verdicts_make_no_statement(tmp_path):
    with pytest.raises(ca.DataError, match="hold no verdicts"):
        ca.write_statement(Findings([]), tmp_path / "s.html")
