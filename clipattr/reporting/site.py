"""Site: a study as static pages of latents, findings, prompts and words, which need no kernel and no network.

Owns the folder of pages (`templates/site.html`, `templates/site.css`) and their content. Computes nothing: numbers come
from the study, `studies.collected` and the findings. The template engine escapes foreign text.
Start at `write_site`.
"""

from __future__ import annotations

import io
import math
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from clipattr.display.progress import Progress
from clipattr.display.wording import NO_LABEL, kind_word, points, signed, span
from clipattr.errors import ClipattrError, DataError
from clipattr.reporting.page import section_html
from clipattr.reporting.pictures import FindingPictures, PagePictures
from clipattr.reporting.rendering import environment
from clipattr.storage.paths import user_path
from clipattr.studies.collected import Collected

if TYPE_CHECKING:
    from clipattr.discovery.findings import Finding

PAGE_BYTES = 300_000  # largest size of a page, for quick loading
LISTED = 500  # latents on one page of the list: about 100 kB
SIDE = 84  # side of a thumbnail in px
EXAMPLES, PER_BAND, COLUMNS = 12, 6, 6
FIRST = 8  # findings and latents on the first page
PROMPTS = 400  # prompts with a page of their own
RESTS_ON = 20


def write_site(
    study: Any,
    out: str | Path,
    findings: Sequence[Finding] = (),
    *,
    latents: int | None = None,
    progress: bool = True,
) -> Path:
    """Write a study as a folder of static pages; open its `index.html` or put the folder on any web server.

    Args:
        study: a `Study`. Without its model's weights the pages lack prompts and what they rest on.
        out: the folder; created if it does not exist. It must be empty or hold an earlier site.
        findings: of an audit of this study.
        latents: number of latents with a page, by triage; None: all live ones.

    Returns:
        The folder.

    Raises:
        DataError: the folder holds other files, or is not writable.
    """
    out = user_path(out)
    mark = out / "site.css"
    if out.exists() and any(out.iterdir()) and not mark.exists():
        raise DataError(f"{out} holds files that no site was written with; name an empty or a new folder.")
    try:
        for folder in ("latents", "findings", "prompts", "words", "pictures"):
            (out / folder).mkdir(parents=True, exist_ok=True)
        maker = _Site(study, findings, latents)
        for name, data in maker.files(progress):
            part = out / f"{name}.part"
            part.write_bytes(data)
            part.replace(out / name)
    except OSError as error:
        raise DataError(
            f"The site could not be written to {out} ({error}). Choose another folder, or free space."
        ) from error
    return out


class _Site:
    def __init__(self, study: Any, findings: Sequence[Finding], latents: int | None) -> None:
        from clipattr import __version__

        self.study, self.collected = study, Collected(study)
        self.findings = sorted(findings, key=lambda f: -f.causal_effect.value)
        frame = study.latents
        live = frame[np.asarray(frame["frequency"], np.float64) > 0]
        order = live.sort_values("triage", ascending=False, kind="stable") if "triage" in live else live
        self.frame = order if latents is None else order.iloc[:latents]
        self.numbers = [int(j) for j in self.frame["latent"]]
        self.rows = {int(row.latent): row for row in self.frame.itertuples()}
        self.names = {int(row.latent): _title(int(row.latent), study, row) for row in frame.itertuples()}
        held = study.examples
        self.pictured = set() if held is None else {j for j in self.numbers if (held.indices[j] >= 0).any()}
        self.said = FindingPictures(study, self.findings)
        self.finding_rows = [self._finding_row(number, f) for number, f in enumerate(self.findings, 1)]
        self.words = self._by_word()
        self.prompts = self._prompts()
        made = environment(plain=_plain, percent=lambda value: f"{_plain(value * 100, 1)} %", anchor=_anchor)
        self.template = made.get_template("site.html")
        model = (getattr(study, "manifest", None) or {}).get("model")
        self.about = {
            "study": study.path.name, "model": str(model.get("reference")) if isinstance(model, Mapping) else "a CLIP",
            "site": str(study.site), "latents": len(self.numbers), "pictures": len(study.images),
            "findings": len(self.findings), "prompts": len(self.prompts), "version": __version__,
            "letters": sorted(self.words),
        }  # fmt: skip

    def files(self, progress: bool) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of every file."""
        yield "site.css", _resource("site.css").encode()
        title = f"Latents of {self.about['study']}"
        first = {"rows": [self.rows[j] for j in self.numbers[:FIRST]], "found": self.finding_rows[:FIRST]}
        yield "index.html", self._page("index", "", title, **first)
        yield from self._lists()
        for key, rows in self.words.items():
            yield f"words/{key}.html", self._page("words", "../", f"words: {key}", rows=rows)
        yield from self._found()
        for text, file in Progress(self.prompts, desc="site", unit="prompt", disable=not progress):
            yield from self._prompt(text, file)
        if self.prompts:
            yield "prompts.html", self._page("prompts", "", "prompts", rows=self.prompts)
        for place, latent in enumerate(
            Progress(self.numbers, desc="site", unit="latent", disable=not progress)
        ):
            yield from self._latent(place, latent)

    def _page(self, kind: str, root: str, title: str, **values: Any) -> bytes:
        text = self.template.render(
            kind=kind,
            root=root,
            title=title,
            about=self.about,
            names=self.names,
            paged=self.rows,
            pictured=self.pictured,
            **values,
        )
        return text.encode("utf-8", "backslashreplace")

    def _lists(self) -> Iterator[tuple[str, bytes]]:
        pages = max(1, math.ceil(len(self.numbers) / LISTED))
        for page in range(1, pages + 1):
            rows = [self.rows[j] for j in self.numbers[(page - 1) * LISTED : page * LISTED]]
            yield (
                f"latents-{page}.html",
                self._page("latents", "", "latents", rows=rows, page=page, pages=pages),
            )

    def _by_word(self) -> dict[str, list[tuple[str, list[int]]]]:
        """Words grouped by their first letters, so that each group fits one page."""
        words: dict[str, list[int]] = {}
        for j in self.numbers:
            for text in {_text(getattr(self.rows[j], "label", None)), _text(self.study.names.get(j))} - {""}:
                words.setdefault(text, []).append(j)
        return _split(sorted(words.items()))

    def _prompts(self) -> list[tuple[str, str]]:
        """Label words with a page, and its file name; empty if the study's site or weights do not allow scores."""
        try:
            words = self.collected.label_words[:PROMPTS]
            self.collected.check_site()
        except (ClipattrError, OSError):
            return []
        return [(word, f"{number:04}.html") for number, word in enumerate(sorted(words))]

    def _prompt(self, text: str, file: str) -> Iterator[tuple[str, bytes]]:
        from clipattr.attribution import Similarity

        try:
            found = self.collected.rests_on(text, Similarity(text))
        except ClipattrError as error:
            yield (
                f"prompts/{file}",
                self._page("prompt", "../", text, rows=[], n=0, how=str(error), strips=[]),
            )
            return
        few = zip(found.latents[:RESTS_ON].tolist(), found.means, found.present, strict=False)
        rows = [(j, float(mean), float(share)) for j, mean, share in few]
        picture = f"p{file.removesuffix('.html')}.jpg"
        places = found.rows[:EXAMPLES].tolist()
        strip, data = self._strip(places, picture, f"pictures {found.chosen_by}", [])
        yield f"pictures/{picture}", data
        values = {"rows": rows, "n": len(found.rows), "how": found.chosen_by, "strips": [strip]}
        yield f"prompts/{file}", self._page("prompt", "../", f"what “{text}” rests on", **values)

    def _found(self) -> Iterator[tuple[str, bytes]]:
        if not self.findings:
            return
        for number, f in enumerate(self.findings, 1):
            # The report's section escapes foreign text itself.
            section = section_html(number, f, PagePictures(self.study, [f]))
            section = Markup(section.replace("#glance", "../findings.html"))
            values = {"section": section, "latents": [int(j) for j in f.latents]}
            yield (
                f"findings/{number}.html",
                self._page("finding", "../", f"{f.prompt} rests on {f.label or NO_LABEL}", **values),
            )
        yield "findings.html", self._page("findings", "", "findings", rows=self.finding_rows)

    def _finding_row(self, number: int, f: Finding) -> dict[str, Any]:
        effect, verdict = f.causal_effect, self.said.verdict_of(f).choice
        told = f"{points(effect.value)} ({span(effect.low, effect.high)})"
        return {"number": number, "prompt": f.prompt, "label": f.label or NO_LABEL, "kind": kind_word(f.kind),
                "effect": told, "verdict": "" if verdict == "open" else verdict}  # fmt: skip

    def _latent(self, place: int, latent: int) -> Iterator[tuple[str, bytes]]:
        study, collected = self.study, self.collected
        strips = []
        held = study.examples
        top = np.zeros(0, np.int64) if held is None else np.asarray(held.indices[latent])
        for name, title, rows, values in (
            ("a", "strongest pictures", top[top >= 0][:EXAMPLES].tolist(), []),
            ("b", f"from strong to weak, {PER_BAND} pictures of each quarter of its activation",
             *(part.tolist() for part in collected.bands(latent, PER_BAND))),
        ):  # fmt: skip
            if rows:
                file = f"{latent:06}{name}.jpg"
                strip, data = self._strip(rows, file, title, values)
                strips.append(strip)
                yield f"pictures/{file}", data
        heights, largest = _bars(collected.active_rows(latent)[1])
        try:
            users = collected.users(latent)
        except (ClipattrError, OSError):
            users = []
        found = [(n, f"{f.prompt} rests on {f.label or NO_LABEL}") for n, f in enumerate(self.findings, 1)
                 if latent in f.latents]  # fmt: skip
        row = self.rows[latent]
        values = {
            "row": row, "fits": bool(getattr(row, "aligned", True)), "strips": strips, "histogram": heights,
            "largest": largest, "words": collected.words(latent), "users": users, "found": found,
            "company": collected.coactive(latent), "nearest": collected.nearest(latent),
            "before": self.numbers[place - 1] if place else None,
            "after": self.numbers[place + 1] if place + 1 < len(self.numbers) else None,
        }  # fmt: skip
        yield f"latents/{latent:06}.html", self._page("latent", "../", self.names[latent], **values)

    def _strip(
        self, rows: Sequence[int], file: str, title: str, values: Sequence[float]
    ) -> tuple[dict[str, Any], bytes]:
        """Thumbnails as one JPEG, and its description for the page."""
        images = self.study.images
        columns = min(COLUMNS if len(rows) > EXAMPLES else EXAMPLES, len(rows))
        page = Image.new("RGB", (columns * SIDE, math.ceil(len(rows) / columns) * SIDE), (238, 239, 241))
        labels = images.columns["label"]
        said = []
        for at, row in enumerate(rows):
            said.append(f"{images.ids[row]}{f', {labels[row]}' if labels[row] else ''}")
            try:
                small = self.study.thumbnail(row).convert("RGB")
            except (ClipattrError, OSError, ValueError):
                continue
            small.thumbnail((SIDE - 4, SIDE - 4))
            page.paste(small, ((at % columns) * SIDE + 2, (at // columns) * SIDE + 2))
        buffer = io.BytesIO()
        page.save(buffer, "JPEG", quality=80, optimize=True)
        strip = {
            "file": file,
            "title": title,
            "width": page.width,
            "height": page.height,
            "alt": "; ".join(said),
        }
        return strip, buffer.getvalue()


def _title(latent: int, study: Any, row: Any) -> str:
    name = _text(study.names.get(latent)) or _text(getattr(row, "label", None))
    return f"{name} · {latent}" if name else f"latent {latent}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _plain(value: float, digits: int = 2) -> str:
    return signed(value, digits).lstrip("+")


def _anchor(word: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", word.lower())


def _split(words: Sequence[tuple[str, list[int]]], length: int = 1) -> dict[str, list[tuple[str, list[int]]]]:
    """Words grouped by first letters; a group that is too large for a page is divided by further letters."""
    pages: dict[str, list[tuple[str, list[int]]]] = {}
    for word, latents in words:
        head = word.lower()[:length]
        plain = bool(head) and all(letter in string.ascii_lowercase + string.digits for letter in head)
        pages.setdefault(head if plain else "other", []).append((word, latents))
    for key in [key for key, rows in pages.items() if key != "other" and _size(rows) > PAGE_BYTES * 0.8]:
        if length < 4:
            finer = _split(pages.pop(key), length + 1)
            rest = finer.pop("other", [])
            pages |= finer
            if rest:
                pages[key] = rest
    return pages


def _size(rows: Iterable[tuple[str, list[int]]]) -> int:
    return sum(2 * len(word) + 60 + 55 * len(latents) for word, latents in rows)


def _bars(values: np.ndarray, bins: int = 24) -> tuple[list[float], float]:
    """Heights (0 to 58) of a histogram of activations, and the largest activation."""
    if not len(values):
        return [], 0.0
    counts, _ = np.histogram(values, bins=bins, range=(0.0, float(values.max())))
    return [round(58 * count / counts.max(), 1) for count in counts.tolist()], float(values.max())


def _resource(name: str) -> str:
    return resources.files("clipattr.reporting").joinpath("templates", name).read_text(encoding="utf-8")
