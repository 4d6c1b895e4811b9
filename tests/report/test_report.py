"""The report is one safe, whole page that says what the findings hold."""

import base64
import dataclasses
import hashlib
import html.parser
import math
import re

import numpy as np
import pytest
from PIL import Image

from clipattr.discovery.finding import columns
from clipattr.discovery.findings import KINDS, Findings, PromptVerdict
from clipattr.errors import DataError
from clipattr.images.collection import Images
from clipattr.reporting import page as report
from clipattr.reporting import pictures as report_pictures
from clipattr.reporting.names import striking
from clipattr.reporting.prompts import csv_text
from clipattr.statistics import Interval

VOID = {"meta", "img", "br", "hr", "link", "input", "rect", "line", "circle"}


class Page(html.parser.HTMLParser):
    """Reads a page: tags with attributes, text outside style, and whether every tag is closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.words, self.open, self.faults = [], [], [], []
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)


def rows_of(page):
    table = re.search(r"<tbody>(.*?)</tbody>", page, re.S).group(1)
    return [" ".join(Page(row).text.split()) for row in table.split("</tr>") if row.strip()]


def test_every_tag_is_closed_in_order(findings):
    read = Page(report.page(findings))
    assert read.faults == [] and read.open == []


def test_the_table_is_sorted_by_causal_effect_and_holds_every_number(findings, finding):
    mixed = Findings([findings[5], findings[0], findings[3]], findings.study, findings.about)
    rows = rows_of(report.page(mixed))
    assert [row.split()[2] for row in rows] == ["0", "3", "5"]
    f = finding(0)
    for told in (f.prompt, f.label, "another sense", "+30.0", "25.0 to 35.0", "+24.0", "−1.0", "90 %"):
        assert told in rows[0], told


def test_nothing_is_fetched_from_anywhere(findings):
    page = report.page(findings)
    read = Page(page)
    for tag, attributes in read.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/jpeg;base64,", "#")), (tag, name)
        assert tag not in {"iframe", "object", "embed", "link", "base", "form"}
    assert "url(" not in page and "@import" not in page
    policy = next(a["content"] for _, a in read.tags if a.get("http-equiv") == "Content-Security-Policy")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy and policy.endswith(f"script-src 'sha256-{digest}'")


def test_links_lead_to_sections_that_exist(findings):
    read = Page(report.page(findings))
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    links = [attributes["href"][1:] for tag, attributes in read.tags if tag == "a"]
    assert len(ids) == len(set(ids)) and set(links) <= set(ids) and links.count("glance") == len(findings) + 1


ODD = "</style><script>alert(1)</script><img src=x onerror=alert(1)> \"'& \u202etxt.exe \x00 $title"


def test_odd_text_anywhere_is_shown_as_text(findings, finding, study):
    study.images.ids[0] = ODD + "id"
    study.images.columns["label"][0] = ODD
    odd = finding(
        prompt=ODD,
        label=ODD,
        kind_probability=0.5,
        examples=(ODD + "id", ODD + "path"),
        evidence={ODD: ODD, "nested": {ODD: [ODD, {"value": ODD, "low": 1, "high": 2}]}},
    )
    page = report.page(Findings([odd], study, {ODD: ODD, "model": ODD, "settings": {ODD: ODD}}))
    read = Page(page)
    assert read.faults == [] and read.open == []
    assert [tag for tag, _ in read.tags].count("script") == 1  # the page's own
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
    assert all(a["src"].startswith("data:") for tag, a in read.tags if tag == "img")
    assert read.text.count("<script>alert(1)</script>") >= 8
    assert "\u202e" not in page and "\x00" not in page and "⟨U+202E⟩" in read.text
    assert "$title" in read.text


def test_a_text_of_ten_thousand_characters_stays_readable_and_whole(finding):
    page = report.page(Findings([finding(prompt="x" * 10_000)]))
    assert "… (10,000 characters)" in page
    assert "x" * 10_000 in page
    assert max(len(row) for row in rows_of(page)) < 400


def test_pictures_shown_are_the_examples_and_those_of_the_prompt(study, finding):
    page = report.page(Findings([finding(examples=("000002", "000005"))], study))
    shown = [a["title"] for tag, a in Page(page).tags if tag == "img" and a.get("title")]
    assert shown == [f"{n:06d}, labelled object {n % 4}" for n in (2, 5, 0, 4, 8)]
    assert all(a["alt"] for tag, a in Page(page).tags if tag == "img" and a.get("title"))


def test_pictures_that_the_audit_measured_on_win_over_labels(study, finding):
    evidence = {"prompt_examples": ["000009", "000010"], "concerns": "other pictures that show it"}
    page = report.page(Findings([finding(examples=("000002",), evidence=evidence)], study))
    shown = [a["title"][:6] for tag, a in Page(page).tags if tag == "img" and a.get("title")]
    assert shown == ["000002", "000009", "000010"]
    text = Page(page).text
    assert "Measured on other pictures" in text and "000009" not in text


def test_pictures_of_the_cause_are_shown_and_the_others_counted(study, finding):
    evidence = {"reason": "co-occurrence", "concerns": "the prompt's own pictures", "clear": 1, "doubts": [],
                "prompt_examples": ["000009", "000010"], "cause_examples": ["000004"], "strongest_shown": 1,
                "strongest": ["000001", "000004", "000006"], "latents_named": 1,
                "latent_labels": ["cause 0", "key"]}  # fmt: skip
    sure = finding(evidence=evidence)
    read = Page(report.page(Findings([sure], study)))
    assert [a["title"][:6] for tag, a in read.tags if tag == "img" and a.get("title")] == ["000004", "000009"]
    for told in ("The word “cause 0” comes from the evaluator, which sees it on pictures of “object 0”",
                 "Where the family is active and the evaluator sees “cause 0”",
                 "sees “cause 0” in 1 of the 3 strongest pictures of the family; the other 2 are not shown here",
                 "Measured on pictures of “object 0” where the evaluator sees “cause 0”",
                 "0 cause 0 , 100 key"):  # fmt: skip
        assert told in read.text, told
    assert "may be wrong" not in read.text


def test_the_page_can_be_sorted_filtered_and_folded_and_says_where_everything_is(findings):
    text = report.page(findings)
    read = Page(text)
    heads = [a["data-sort"] for tag, a in read.tags if tag == "th" and "data-sort" in a]
    assert heads == ["ascending"] * 4 + ["descending"] * 5
    rows = [a for tag, a in read.tags if tag == "tr" and "data-section" in a]
    assert [row["data-kind"] for row in rows] == [f.kind for f in findings] and len(rows) == len(findings)
    assert [a["value"] for tag, a in read.tags if tag == "option" and a.get("value") in KINDS] == list(KINDS)
    assert sum(tag == "details" and a.get("class") == "more" for tag, a in read.tags) == len(findings)
    assert '<div class="tools" hidden>' in text  # nothing that does not work without the script
    for part in ("At a glance", "How to read this page", "Findings with pictures", "What was audited"):
        assert f">{part}</a>" in text


def test_a_family_that_is_labelled_otherwise_is_doubted_alike_in_page_table_and_json(study, finding):
    doubts = ["none of the 2 latents is labelled cause 0; by themselves they are labelled key"]
    evidence = {"cause_examples": ["000004"], "strongest": ["000001", "000006"], "strongest_shown": 1,
                "latents_named": 0, "latent_labels": ["key", "key"], "doubts": doubts}  # fmt: skip
    found = Findings([finding(evidence=evidence)], study)
    read = Page(report.page(found))
    assert [a["title"][:6] for tag, a in read.tags if tag == "img" and a.get("title")][:2] == [
        "000001",
        "000006",
    ]
    assert "The name may be wrong: " + doubts[0] in read.text
    assert "The strongest pictures of the family" in read.text and "not shown here" not in read.text
    assert found.to_frame()["doubts"].tolist() == doubts and doubts[0] in found.to_json()
    assert doubts[0] in csv_text(found)


def test_a_word_that_was_inserted_is_not_doubted_for_what_else_its_latents_respond_to(study, finding):
    evidence = {"reason": "written", "strongest": ["000001"], "strongest_shown": 0, "latents_named": 0,
                "latent_labels": ["ferry", "key"], "doubts": ["none of the latents is labelled so"]}  # fmt: skip
    found = Findings([finding(kind="typography", evidence=evidence, clarity=0.0)], study)
    text = Page(report.page(found)).text
    assert "may be wrong" not in text and "The evaluator sees" not in text and found[0].doubts == ()
    assert {column.name: column.text(found[0]) for column in columns(listed=False)}["clarity"] == ""


def test_an_example_named_by_its_path_is_found(tmp_path, finding):
    for name in ("a", "b"):
        Image.new("RGB", (16, 16), "teal").save(tmp_path / f"{name}.png")
    images = Images.open(tmp_path)
    study = type("S", (), {"images": images, "thumbnail": staticmethod(lambda i: images[i].thumbnail(16))})
    page = report.page(Findings([finding(examples=(str(tmp_path / "b.png"),))], study))
    assert [a["title"] for tag, a in Page(page).tags if a.get("title")] == [images.ids[1]]


def test_a_picture_that_is_gone_is_named_and_the_rest_shown(study, finding):
    whole = study.thumbnail

    def thumbnail(index):
        if index == 3:
            raise OSError("no such file")
        return whole(index)

    study.thumbnail = thumbnail
    page = Page(report.page(Findings([finding(examples=("000003", "000001", "elsewhere"))], study)))
    assert "No longer readable: 000003 , elsewhere" in page.text
    assert any(a.get("title", "").startswith("000001") for _, a in page.tags)


def test_without_a_study_examples_are_named(finding):
    text = Page(report.page(Findings([finding(examples=("000003",))]))).text
    assert "No study was given" in text and "000003" in text


def test_fifty_findings_with_hard_pictures_stay_below_ten_megabytes(finding):
    draw = np.random.default_rng(0)
    images = Images.open([draw.integers(0, 256, (128, 128, 3), dtype=np.uint8) for _ in range(60)])
    images.columns["label"] = [f"object {n % 5}" for n in range(60)]
    study = type("S", (), {"images": images, "thumbnail": staticmethod(lambda i: images[i].load())})
    many = [
        finding(
            n % 10, prompt=f"object {n % 5}", examples=tuple(images.ids[(7 * n + i) % 60] for i in range(20))
        )
        for n in range(50)
    ]
    page = report.page(Findings(many, study))
    assert 2_000_000 < len(page.encode()) < 10_000_000
    assert page.count("<img") == 50 * (1 + 2 * report_pictures.SHOWN_PICTURES)


def test_very_many_findings_show_fewer_pictures_each(study, findings, monkeypatch):
    monkeypatch.setattr(report_pictures, "PICTURE_BYTES", 30_000)
    page = report.page(findings)
    assert 0 < page.count("<img") < 8 * 5
    assert len(page) < 150_000


def test_beyond_a_hundred_findings_the_rest_are_in_the_table_only(study, finding):
    page = report.page(Findings([finding(n % 10, prompt=f"prompt {n}") for n in range(120)], study))
    read = Page(page)
    assert len(rows_of(page)) == 120 and read.faults == []
    links = [attributes["href"][1:] for tag, attributes in read.tags if tag == "a"]
    ids = {attributes["id"] for _, attributes in read.tags if "id" in attributes}
    assert len(links) == 203 and set(links) <= ids and "The 100 strongest are described below" in read.text


def test_an_audit_without_findings_says_so(study):
    page = Page(report.page(Findings([], study, {"prompts_audited": 40})))
    assert "No unexpected reliance was found" in page.text and page.faults == []


def test_every_prompt_has_its_verdict_and_silence_is_not_praise(finding):
    verdicts = [
        PromptVerdict("object 0", "found", findings=1, pictures_finding=9, smallest_effect=0.02),
        PromptVerdict(
            "<b>yak", "nothing found", pictures_finding=8, pictures_measuring=6, smallest_effect=0.031
        ),
        PromptVerdict("kitte", "cannot be judged", "no <pictures>", did_you_mean=("kite",)),
    ]
    read = Page(report.page(Findings([finding(0)], None, {"prompts_audited": 3}, verdicts)))
    assert read.faults == [] and read.open == []
    assert "1 of 3 prompts cannot be judged." in read.text and "2 of them judged" in read.text
    assert "<b>yak nothing found 14" in read.text and "3.1" in read.text
    assert "no <pictures> ; Did you mean kite ?" in read.text
    silent = Page(report.page(Findings([], None, {"prompts_audited": 1}, verdicts[2:])))
    assert "None of the 1 audited prompts could be judged, so this page makes no statement" in silent.text
    assert "No unexpected reliance" not in silent.text


def test_effects_below_zero_and_numbers_that_are_missing_are_told(finding):
    nan = float("nan")
    odd = finding(label=None, causal_effect=Interval(-0.1, -0.2, 0.05), alignment=nan, clarity=nan, share=nan)
    text = Page(report.page(Findings([odd]))).text
    wide = report.page(
        Findings(
            [
                finding(reliance=Interval(0.1, -math.inf, math.inf)),
                finding(causal_effect=Interval(0.1, -math.inf, math.inf)),
            ]
        )
    )
    assert "inf" not in Page(wide).text.replace("inference", "") and 'x1="nan' not in wide
    assert "rises by 10.0 points" in text and "nan" not in text.lower() and "(no word for it)" in text


def test_a_finding_by_writing_says_what_writing_adds_and_no_other_does(finding):
    evidence = {"reason": "written", "concerns": "other pictures with the prompt written on them"}
    by_writing = finding(evidence=evidence, kind="typography")
    page = report.page(Findings([by_writing]))
    assert by_writing.by_writing and not finding().by_writing
    assert page.count("rises by 30.0 points") == 2 == page.count("the prompt is written on other pictures")
    assert (
        "become active when the prompt is written" in page and "The evaluator names its examples" not in page
    )
    assert "are ablated inside the model" not in page and "when this family is ablated" not in page
    plain = report.page(Findings([finding(kind="typography")]))
    assert plain.count("falls by 30.0 points") == 2 and "is written on pictures" not in plain


def test_a_finding_that_only_pictures_prove_says_so_and_with_which_effect(finding):
    evidence = {
        "thing": {"value": 0.2, "low": 0.15, "high": 0.25},
        "beside": {"value": 0.1, "low": -0.02, "high": 0.22},
    }
    weak = finding(causal_effect=Interval(0.002, -0.001, 0.005), evidence=evidence)
    assert weak.by_pictures and not finding().by_pictures
    page = report.page(Findings([weak]))
    assert "score 20.0 points higher than pictures of neither (15.0 to 25.0)" in Page(page).text
    assert "than its other pictures" not in page and page.count("by pictures only") == 1
    assert "by pictures only" not in report.page(Findings([finding()]))
    bare = report.page(Findings([dataclasses.replace(weak, evidence={})]))
    assert "does not prove it" in bare and "points higher" not in bare


def test_what_was_audited_is_listed_in_a_fixed_order(findings):
    findings.about["model"] = {"reference": "tiny", "hash": "0123"}
    findings.about["settings"] = {"seed": 3, "least_effect": 0.02}
    text = Page(report.page(findings)).text
    about = text[text.index("What was audited") :]
    told = (
        "model tiny , weights 0123",
        "weights 0123456789abcdef",
        "pictures 12",
        "prompts audited 40",
        "settings seed 3",
    )
    places = [about.index(each) for each in told]
    assert places == sorted(places) and "0.02" in about


def test_the_page_is_the_same_every_time(findings):
    assert report.page(findings) == report.page(findings)


def test_a_report_is_written_whole_or_not_at_all(findings, tmp_path, monkeypatch):
    target = tmp_path / "audit.html"
    assert findings.report(target) == target
    before = target.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(DataError, match="disk full"):
        findings.report(target)
    assert target.read_bytes() == before and list(tmp_path.iterdir()) == [target]


def test_a_place_that_cannot_be_written_is_named(findings, tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        findings.report(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        findings.report(tmp_path / "nowhere" / "audit.html")


def test_striking_findings_are_named_agree_with_their_pictures_and_differ_in_kind(finding, study):
    study.images.columns["label"] = ["drum" if n < 3 else "cause" for n in range(12)]
    several = [
        finding(0, label=None, examples=()),
        finding(1, label="kite", examples=("000000", "000001", "000002")),  # its pictures are drums
        finding(2, label="cause", prompt="cause", examples=()),  # the prompt itself
        finding(3, kind="context", examples=()),
        finding(4, kind="context", examples=()),
        finding(5, kind="companion", examples=()),
    ]
    assert [f.prompt for f in striking(Findings(several, study))] == ["object 3", "object 5", "object 4"]
    assert striking(Findings([])) == []


def test_a_table_of_pairs_stands_in_the_report_with_foreign_text_escaped():
    import torch

    from clipattr.attribution.pairs import Pairs, Side
    from clipattr.reporting.page import ROWS, _views

    def side(n, label):
        return Side("", torch.arange(n), torch.eye(n), (label,) * n)

    made = Pairs(side(8, "<b>palm</b>"), side(6, "tree"), torch.arange(48.0).view(8, 6), 1128.0)
    ((heading, page),) = _views({"palm": made})
    assert heading == "palm"
    assert page.count("<tr") == ROWS + 1 and ">47.0" in page and ">27.0" not in page
    assert "<b>" not in page and "&lt;b&gt;palm" in page


def test_every_value_of_an_audits_evidence_is_explained_or_shown_in_another_way():
    from dataclasses import fields

    from clipattr.discovery.audit.evidence import Evidence
    from clipattr.discovery.audit.kinds import Witness
    from clipattr.discovery.audit.telling import SEPARATE
    from clipattr.reporting.values import EVIDENCE, SHOWN_ELSEWHERE

    told = {field.name for kind in (Evidence, Witness) for field in fields(kind)} - set(SEPARATE) - {"kin"}
    told |= {
        "reason",
        "instead",
        "unit",
        "effect_in_units",
        "clear",
        "latents_named",
        "latent_labels",
        "doubts",
    }
    plain = {"pictures"}  # its name says it
    assert {key for key in told - SHOWN_ELSEWHERE - plain if not EVIDENCE.get(key, ("", "", ""))[2]} == set()
