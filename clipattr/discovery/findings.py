"""Findings: what an audit returns, and its verdict on each prompt.

Holds and writes values; computes nothing. One finding and the list of its columns are in `finding.py`. Start at
`Findings`; `audit` makes them, reports and panels show them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from clipattr.discovery import finding as one_finding
from clipattr.discovery.cautions import cautions
from clipattr.discovery.finding import KINDS as KINDS
from clipattr.discovery.finding import SCHEMA
from clipattr.discovery.finding import Finding as Finding
from clipattr.discovery.nothing_found import nothing_html
from clipattr.display.wording import counted, least_points, visible
from clipattr.errors import DataError
from clipattr.statistics import Interval as Interval
from clipattr.storage.documents import json_text, read_json, schema_complaint
from clipattr.storage.files import write_text
from clipattr.storage.paths import user_path

if TYPE_CHECKING:
    import pandas as pd

    from clipattr.studies.study import Study


@dataclass(frozen=True)
class PromptVerdict:
    """What an audit says of one prompt, whether or not it found something.

    Attributes:
        prompt: its text. outcome: "found", "nothing found" or "cannot be judged". why: the last one's reason.
        findings: how many. pictures_finding, pictures_measuring: its own pictures in the two halves of the study.
        chosen_by: how they were chosen: by labels, or by the audited model's answers. purity: fraction of them in which
            the evaluator sees the prompt. contrast: mean score of them minus that of the others, raw cosine.
        smallest_effect: raw cosine of a reliance that four of five such audits would have found, provided that a latent
            responds to its cause.
        confused_with: words whose text is so similar to the prompt's that this explains why their pictures score.
        not_asked: why the prompt was not inserted as text, if it was not. forwards: forward passes spent on it.
        rejected: candidates and why each is no finding. did_you_mean: labels or words spelled like a prompt that is
            neither.
        levels: by word, what it adds to the prompt's score where the evaluator does not see the prompt, and where it
            does, raw cosine, whatever the dictionary (see `audit.levels`); every other word's is at most `least_level`.
        written: raw cosine that the prompt, inserted as text into the first pictures, adds; None if it was not asked.
        inserted: what the prompt adds beyond other words on each of those pictures, raw cosine; None where it shows it.
        scored: contrast of every picture, packed, for a gate that compares two models (see `audit.scores`).
        unopened: number of pictures that could not be opened any more; others were taken instead where there were any.
    """

    prompt: str
    outcome: str
    why: str = ""
    findings: int = 0
    pictures_finding: int = 0
    pictures_measuring: int = 0
    chosen_by: str = ""
    purity: float | None = None
    contrast: float | None = None
    smallest_effect: float | None = None
    confused_with: tuple[str, ...] = ()
    not_asked: str = ""
    forwards: int = 0
    rejected: tuple[tuple[str, str], ...] = ()
    did_you_mean: tuple[str, ...] = ()
    levels: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    least_level: float | None = None
    written: float | None = None
    inserted: tuple[float | None, ...] = ()
    scored: Mapping[str, Any] = field(default_factory=dict)
    unopened: int = 0

    @property
    def remark(self) -> str:
        """What the verdict lacks: why the prompt cannot be judged or was not inserted, and missing pictures."""
        missing = (
            "" if self.why or not self.unopened else f"pictures that could not be opened: {self.unopened:,}"
        )
        return "; ".join(told for told in (self.why or self.not_asked, missing) if told)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PromptVerdict:
        """Read one object of `verdicts` in the findings JSON.

        Raises:
            DataError: a field is missing or unknown.
        """
        try:
            rejected = tuple((str(what), str(why)) for what, why in values.get("rejected", ()))
            confused = tuple(str(word) for word in values.get("confused_with", ()))
            meant = tuple(str(word) for word in values.get("did_you_mean", ()))
            levels = {
                str(word): (elsewhere, beside)
                for word, (elsewhere, beside) in values.get("levels", {}).items()
            }
            inserted = tuple(None if one is None else float(one) for one in values.get("inserted", ()))
            lists: dict[str, Any] = {
                "rejected": rejected, "confused_with": confused, "did_you_mean": meant, "levels": levels,
                "inserted": inserted, "scored": dict(values.get("scored", {})),
            }  # fmt: skip
            return cls(**{**values, **lists})
        except (TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not a verdict of schema {SCHEMA}: {error}; got {values!r:.200}") from error

    def sentence(self) -> str:
        """The verdict as one sentence."""
        own = counted(self.pictures_finding + self.pictures_measuring, "picture")
        pictures = f"{own} of its own (by {self.chosen_by})"
        if self.outcome == "cannot be judged":
            meant = f" Did you mean {' or '.join(self.did_you_mean)}?" if self.did_you_mean else ""
            return f"cannot be judged: {self.why}.{meant}"
        told = f"{self.findings} found" if self.findings else "nothing found"
        least = (
            ""
            if self.smallest_effect is None
            else f"; smallest detectable effect, where a latent responds to the cause: "
            f"{least_points(self.smallest_effect)} points"
        )
        confused = (
            f"; the model confuses its text with {', '.join(self.confused_with[:4])}"
            if self.confused_with
            else ""
        )
        missing = f"; {counted(self.unopened, 'picture')} could not be opened" if self.unopened else ""
        return f"{told} in {pictures}{least}{confused}{missing}."


class Findings(Sequence[Finding]):
    """Findings of one audit, strongest first; slices are findings again.

    Attributes:
        verdicts: one for each prompt audited, in the order asked; empty where no audit made these findings.

    >>> import clipattr as ca
    >>> len(ca.Findings([]))
    0
    """

    def __init__(
        self,
        findings: Iterable[Finding],
        study: Study | None = None,
        about: Mapping[str, Any] | None = None,
        verdicts: Iterable[PromptVerdict] = (),
    ):
        self.verdicts = tuple(verdicts)
        self._findings = tuple(findings)
        self.study = study
        self.about = dict(about or {})  # model, dictionary, prompts audited, settings

    def __len__(self) -> int:
        return len(self._findings)

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> Findings: ...
    def __getitem__(self, index: int | slice) -> Finding | Findings:
        if isinstance(index, slice):
            return Findings(self._findings[index], self.study, self.about, self.verdicts)
        return self._findings[index]

    def __repr__(self) -> str:
        of = self.about.get("prompts_audited", "?")
        of = counted(of, "prompt") if isinstance(of, int) else f"{of} prompts"
        return f"Findings({counted(len(self), 'unexpected reliance')} of {of} audited)"

    def _repr_html_(self) -> str:
        said = "".join(f"<p>{escape(visible(one))}</p>" for one in cautions(self.about))
        if self._findings:
            return self.to_frame().to_html(index=False, escape=True) + said
        return nothing_html(self.verdicts) + said

    def to_frame(self) -> pd.DataFrame:
        """One row per finding, in points (cosine × 100) where people read it."""
        import pandas as pd

        columns = [
            column
            for column in one_finding.COLUMNS
            if not column.optional or any(column.value(f) is not None for f in self)
        ]
        return pd.DataFrame(
            [[cell for column in columns for cell in column.cells(f)] for f in self],
            columns=[header for column in columns for header in column.headers],
        )

    def verdict_frame(self) -> pd.DataFrame:
        """One row per prompt audited: outcome, findings, pictures, how they were chosen, smallest effect in points."""
        import pandas as pd

        rows = [
            (
                v.prompt,
                v.outcome,
                v.findings,
                v.pictures_finding + v.pictures_measuring,
                v.chosen_by,
                None if v.purity is None else round(v.purity, 2),
                None if v.smallest_effect is None else round(v.smallest_effect * 100, 2),
                ", ".join(v.confused_with),
                v.remark,
            )
            for v in self.verdicts
        ]
        columns = ["prompt", "outcome", "findings", "pictures", "chosen by", "purity", "smallest effect"]
        return pd.DataFrame(rows, columns=[*columns, "text taken for", "why"])

    def to_json(self, path: str | Path | None = None) -> str:
        """The findings as JSON (raw cosine); written to `path` as well when one is given.

        Raises:
            DataError: a full disk or a place that cannot be written; what was there before is untouched.
        """
        content = {"schema": SCHEMA, "about": self.about, "findings": [f.to_dict() for f in self]}
        if self.verdicts:
            content["verdicts"] = [asdict(verdict) for verdict in self.verdicts]
        text = json_text(content, indent=2) + "\n"
        if path is not None:
            try:
                write_text(user_path(path), text)
            except OSError as error:
                raise DataError(f"{path} could not be written ({error}).") from error
        return text

    @classmethod
    def from_json(cls, source: str | Path, study: Study | None = None) -> Findings:
        """Read what `to_json` wrote, from a file.

        Raises:
            DataError: not JSON, of another schema, or found with another dictionary than the study's.
        """
        try:
            content = read_json(user_path(source))
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read findings from {source}: {error}") from error
        if not isinstance(content, dict) or "schema" not in content:
            raise DataError(f"{source} holds no findings: an object with schema and findings was expected.")
        if told := schema_complaint(
            source, content["schema"], SCHEMA, f"clipattr audit STUDY --json {source}"
        ):
            raise DataError(told)
        listed, about = content.get("findings"), content.get("about", {})
        if not isinstance(listed, list) or not isinstance(about, dict):
            raise DataError(f"{source} holds no list of findings: audit again")
        verdicts = content.get("verdicts", [])
        if not isinstance(verdicts, list):
            raise DataError(f"{source} holds no list of verdicts: audit again")
        own, found = getattr(getattr(study, "dictionary", None), "hash", None), about.get("dictionary")
        if own and found and own != found:
            raise DataError(
                f"{source} names latents of the dictionary {found}; that of the study is {own}. Open findings with the "
                "study that they were found in, or audit this one."
            )
        each = [PromptVerdict.from_dict(item) for item in verdicts]
        return cls([Finding.from_dict(item) for item in listed], study, about, each)

    def report(self, path: str | Path, panels: Mapping[str, Any] | None = None) -> Path:
        """Write one self-contained HTML page.

        Args:
            path: the file.
            panels: {heading: panel, or result of `ca.pairs`}, added at the end as still views.

        Raises:
            DataError: the folder does not exist or cannot be written.
        """
        from clipattr.reporting.page import write_report

        return write_report(self, path, panels)
