"""A study as static pages: small, whole, linked, harmless, and with the numbers that the library gives."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

import clipattr
from clipattr.discovery.findings import Finding
from clipattr.errors import DataError
from clipattr.reporting.site import PAGE_BYTES, _split, write_site
from clipattr.statistics import Interval
from clipattr.studies.collected import Collected

HOSTILE = "<img src=x onerror=alert(1)> \u202e & 'q' {{ 7*7 }}"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A copy of the bundled study with a hostile name."""
    import shutil

    import clipattr_data

    folder = tmp_path_factory.mktemp("site") / "picture-world"
    shutil.copytree(clipattr_data.studies_dir() / "picture-world", folder)
    study = clipattr.open_study(folder)
    study.rename(855, HOSTILE)
    return study


@pytest.fixture(scope="module")
def site(study, tmp_path_factory):
    span = Interval(0.06, 0.05, 0.07)
    found = Finding("tractor", (855, 695), HOSTILE, "context", 0.8, span, span, 0.4, -0.4, 0.6, 0.9,
                    tuple(study.images.ids[:4]), {"pictures": 12})  # fmt: skip
    import clipattr.reporting.site as module

    kept, module.PROMPTS = module.PROMPTS, 4
    out = write_site(study, tmp_path_factory.mktemp("out") / "site", [found], latents=24, progress=False)
    module.PROMPTS = kept
    return out


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.links, self.tags, self.text = [], [], ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        for name, value in attributes:
            if name in ("href", "src") and value and not value.startswith(("data:", "#")):
                self.links.append(value)

    def handle_data(self, data):
        self.text += data


def pages(site):
    return sorted(site.rglob("*.html"))


def test_every_page_is_small_and_needs_no_network_and_every_link_leads_somewhere(site):
    assert len(pages(site)) > 32
    for path in pages(site):
        assert path.stat().st_size < PAGE_BYTES, path.name
        page = Page(path)
        for link in page.links:
            assert "://" not in link and (path.parent / link.split("#")[0]).exists(), f"{path.name}: {link}"
        for tag, attributes in page.tags:
            assert not any(name.startswith("on") for name in attributes), (tag, attributes)
            assert tag != "img" or attributes.get("alt") is not None
        assert "\u202e" not in path.read_text("utf-8")
        assert "content=\"default-src 'none'" in path.read_text("utf-8").replace("&#39;", "'")


def test_a_latents_page_says_what_the_library_says(site, study):
    latent = int(sorted(site.glob("latents/*.html"))[10].stem)
    text = Page(site / "latents" / f"{latent:06}.html").text
    collected = Collected(study)
    for word, value in collected.words(latent)[:3]:
        assert word in text and f"{100 * value:+.1f}".replace("-", "−") in text
    rows, values = collected.active_rows(latent)
    assert f"0 to {values[0]:.2f}" in text
    other, share, more = collected.coactive(latent, 1)[0]
    codes = study.codes
    active = {j: set(Collected(study).active_rows(j)[0].tolist()) for j in (latent, other)}
    assert len(codes) == len(study.images)
    both = len(active[latent] & active[other])
    assert share == pytest.approx(both / len(active[latent]))
    outside = (len(active[other]) - both) / (len(study.images) - len(active[latent]))
    assert more == pytest.approx(share - outside)
    band_rows, band_values = collected.bands(latent, 6)
    assert len(band_rows) <= 24 and (np.diff(band_values) <= 0).all() and set(band_rows) <= set(rows)


def test_findings_prompts_and_words_lead_to_their_latents(site, study):
    finding = Page(site / "findings" / "1.html")
    assert (
        "tractor" in finding.text
        and "{{ 7*7 }}" in finding.text
        and "49" not in finding.text.split("q")[1][:20]
    )
    index = Page(site / "index.html").links
    assert "findings/1.html" in index and sum(link.startswith("latents/") for link in index) == 8
    peeks = [link for link in Page(site / "latents-1.html").links if link.startswith("pictures/")]
    assert len(peeks) > 20 and peeks[0] in index  # beside each latent its strongest pictures
    prompts = Page(site / "prompts.html").links
    first = next(link for link in prompts if link.startswith("prompts/"))
    rests = Page(site / first)
    text = next(t for t, f in [(m.group(1), 0) for m in re.finditer("what “(.+?)” rests on", rests.text)])
    found = Collected(study).rests_on(text, clipattr.Similarity(text))
    assert f"{100 * found.means[0]:+.1f}".replace("-", "−") in rests.text
    letters = [path.stem for path in (site / "words").glob("*.html")]
    assert letters and all(link for key in letters for link in Page(site / "words" / f"{key}.html").links)


def test_words_are_divided_until_every_page_is_small():
    words = [(f"s{a}{b} thing {n}", list(range(9))) for a in "abcd" for b in "xyz" for n in range(120)]
    split = _split([*words, ("ünder", [1]), ("s", [2])])
    assert sum(len(rows) for rows in split.values()) == len(words) + 2
    assert {"sa", "sd", "other"} <= set(split) or {"sax"} <= set(split)


def test_a_folder_with_other_files_is_refused(study, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match="that no site was written with"):
        write_site(study, tmp_path, progress=False)
    assert (tmp_path / "thesis.tex").read_text() == "x"
