"""The one list of a finding's columns: whatever is declared there shows up wherever findings are shown."""

import html
import json

import pytest

from clipattr.discovery import finding as one_finding
from clipattr.discovery.finding import COLUMNS, Column, Finding
from clipattr.discovery.findings import Findings
from clipattr.reporting.page import page
from clipattr.reporting.prompts import csv_text
from clipattr.statistics import Interval
from clipattr_widgets.finding_views import evidence_of
from clipattr_widgets.findings_state import FindingsState, list_columns

EFFECT = Interval(0.05, 0.04, 0.06)
FOUND = Finding("rose", (1234,), "tulip", "companion", 0.8, EFFECT, EFFECT, 0.3, 0.1, 0.6, 0.9)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    ("value", "unit", "text", "cell"),
    [
        (0.123, "points", "+12.3", 12.3),
        (0.123, "percent", "12\u00a0%", 0.12),
        ("<b>", "", "<b>", "<b>"),
        (EFFECT, "points", "+5.0", 5.0),
    ],
)
def test_a_declared_column_is_in_table_csv_json_report_and_panel(
    study, monkeypatch, tmp_path, listed, value, unit, text, cell
):
    new = Column("novelty", "novel <i>value</i>", lambda f: value, "how new it is", unit, listed=listed)
    monkeypatch.setattr(one_finding, "COLUMNS", (*COLUMNS, new))
    found = Findings([FOUND])
    assert found.to_frame()["novelty"].tolist() == [cell]
    header, row = csv_text(found).splitlines()[:2]
    assert "novelty" in header.split(",") and str(cell) in row.split(",")

    said = json.loads(found.to_json(tmp_path / "f.json"))["findings"][0]["novelty"]
    assert said == ({"value": 0.05, "low": 0.04, "high": 0.06} if value is EFFECT else value)
    assert list(Findings.from_json(tmp_path / "f.json")) == [FOUND]

    whole = page(found)
    heading, shown = "novel &lt;i&gt;value", html.escape(text)
    assert "How new it is." in whole and "<i>value" not in whole
    table, section = whole.split('class="summary"')[1].split('id="finding-1"')
    assert (heading in table.split("</table>")[0]) is listed
    assert heading[1:] in section and shown in section

    state = FindingsState(study, [FOUND])
    assert ("novelty" in [column["key"] for column in list_columns()]) is listed
    text = text.replace("\u00a0", " ")
    told = [one["text"] if isinstance(one, dict) else one for one in state.rows[0]["cells"]]
    told = [one.replace("\u00a0", " ") for one in told]
    assert text in (told if listed else [value for _, value, _ in evidence_of(FOUND)])
    state.sort("novelty")
    assert (state.sorted_by == "novelty") is listed


def test_each_column_of_today_is_in_table_json_report_and_panel(study):
    pixels = {"verdict": "confirmed", "reason": "both", "removal": vars(EFFECT), "transplant": vars(EFFECT)}
    full = Finding(**{**vars(FOUND), "evidence": {"doubts": ["a doubt"], "pixels": pixels}})
    table, told, whole = Findings([full]).to_frame(), full.to_dict(), page(Findings([full]))
    state = FindingsState(study, [full])
    cells = [one["text"] if isinstance(one, dict) else one for one in state.rows[0]["cells"]]
    panel = " ".join([*cells, *(value for _, value, _ in evidence_of(full))]).replace("\u00a0", " ")
    for column in COLUMNS:
        assert set(column.headers) <= set(table.columns), column.name
        assert column.name in told or column.evidence in told["evidence"], column.name
        assert column.text(full) in whole, column.name
        assert column.text(full).replace("\u00a0", " ") in panel, column.name


def test_columns_of_pixels_are_left_out_of_a_table_without_any():
    assert "in_pixels" not in Findings([FOUND]).to_frame()
