"""The statement prints on two pages of A4, also with everything that it can hold at most."""

import re

import clipattr as ca
from clipattr.discovery.findings import Finding, Findings, PromptVerdict
from clipattr.discovery.gate import gate
from clipattr.statistics import Interval
from clipattr.studies.verdicts import Verdicts


def test_the_longest_statement_prints_on_two_pages(chromium, tmp_path):
    effect = Interval(0.09, 0.08, 0.1)
    found = [
        Finding(f"a long prompt {n}", (n,), "a long cause", "companion", 0.9, effect, effect, 0.2, 0.01, 0.5, 0.9)
        for n in range(40)
    ]  # fmt: skip

    class Study:
        path = tmp_path
        images = type("Images", (), {"ids": [], "columns": {"label": []}})

    for each in found[:12]:
        Verdicts(Study).set(
            each, "accepted", "seen on the pictures of one hospital, harmless " * 2, by="A. Person"
        )
    verdicts = [
        PromptVerdict(f"a prompt without pictures {n}", "cannot be judged", "no pictures") for n in range(90)
    ]
    settings = {f"threshold {n}": 0.5 for n in range(30)}
    held = Findings(found, Study, {"settings": settings}, verdicts)
    file = ca.write_statement(
        held, tmp_path / "s.html", decided=gate(held, 5.0), purpose="Sorting pictures of skin. " * 6,
        people=["A. Person, safety", "B. Other, clinic", "C. Third, owner"],
    )  # fmt: skip
    page = chromium.new_page()
    page.goto(file.as_uri())
    pages = len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4")))
    page.close()
    assert pages == 2
