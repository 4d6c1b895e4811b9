"""The pages that need no kernel, report, site, statement and reproduction, as a browser and axe-core see them."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

PAGES = (
    "index.html", "latents-1.html", "latents/*.html", "findings.html", "findings/1.html", "prompts.html",
    "prompts/*.html", "words/*.html", "report.html", "statement.html",
)  # fmt: skip


@pytest.fixture(scope="module")
def pages(study_folder, tmp_path_factory):
    """A small site of the bundled study, a report and a statement of the same findings."""
    import clipattr
    import clipattr.reporting.site as site
    from clipattr.discovery.findings import Finding, Findings, PromptVerdict
    from clipattr.discovery.gate import gate
    from clipattr.statistics import Interval

    study = clipattr.open_study(study_folder)
    span = Interval(0.06, 0.05, 0.07)
    found = Finding("tractor", (855, 695), "meadow", "context", 0.8, span, span, 0.4, -0.4, 0.6, 0.9,
                    tuple(study.images.ids[:4]), {"pictures": 12})  # fmt: skip
    verdicts = [PromptVerdict("tractor", "found", findings=1), PromptVerdict("kite", "nothing found")]
    out = tmp_path_factory.mktemp("pages") / "site"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site, "PROMPTS", 2)
        site.write_site(study, out, [found], latents=3, progress=False)
    about = {"model": "tiny", "prompts_audited": 2, "pictures": 12}
    audited = Findings([found], study, about, verdicts=verdicts)
    audited.report(out / "report.html")
    clipattr.write_statement(
        audited, out / "statement.html", decided=gate(audited, 5.0), purpose="sorting", people=["A. Person"]
    )
    return out


def test_axe_finds_nothing_in_any_page(pages, chromium, violations, theme, width):
    context = chromium.new_context(color_scheme=theme, viewport={"width": width, "height": 900})
    page = context.new_page()
    found = {}
    for name in PAGES:
        page.goto(next(pages.glob(name)).as_uri())
        if broken := violations(page):
            found[name] = broken
    context.close()
    assert found == {}


def test_axe_finds_nothing_in_the_page_of_a_reproduction(chromium, violations, theme, width, tmp_path):
    from clipattr.reproduction.page import page as written
    from clipattr.reproduction.reopen import reopened

    file = tmp_path / "index.html"
    file.write_text(written(*reopened(Path(__file__).parents[2] / "docs" / "reproduction")), "utf-8")
    context = chromium.new_context(color_scheme=theme, viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto(file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    found = violations(page)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    figure = page.evaluate("getComputedStyle(document.querySelector('figure img')).filter")
    context.close()
    assert found == []
    # Figures are drawn on white, so a dark page inverts them.
    assert (background, figure == "none") == (
        ("rgb(255, 255, 255)", True) if theme == "light" else ("rgb(21, 23, 26)", False)
    )


def test_no_page_of_the_site_is_too_large_and_the_report_is_below_a_megabyte(pages):
    sizes = {str(path.relative_to(pages)): path.stat().st_size for path in pages.rglob("*.html")}
    report = sizes.pop("report.html")
    findings = {name: size for name, size in sizes.items() if name.startswith("findings/")}
    assert max(size for name, size in sizes.items() if name not in findings) < 300_000
    assert max(findings.values()) < 1_000_000 and report < 1_000_000
