"""Compare: several models, or variants of one, on the same pictures: what they share, and what is one model's own.

Owns the matching of latents across models and of findings across audits. Latents are matched one to one by how their
codes rise and fall together over the same pictures; a finding is another model's too if that model has one about the
same prompt with the same word, or with a family that fires on the same pictures. Ignores how findings are made
(`audit/run.py`). Start at `compare`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clipattr.discovery.encoded import encoded
from clipattr.discovery.findings import Finding, Findings
from clipattr.display.wording import NO_LABEL, counted, visible
from clipattr.errors import DataError, StudyError
from clipattr.models.surroundings import unaffected

if TYPE_CHECKING:
    import pandas as pd

    from clipattr.discovery.audit.expectations import Prompt
    from clipattr.display.plots import Chart
    from clipattr.studies.study import Study

LEAST = 0.3  # correlation from which two latents may be a pair
SAME_CAUSE = 0.5  # correlation of two families' summed codes from which they are one cause
CANDIDATES = 16  # partners looked at for each latent
PICTURES = 20_000  # compared on, at most
LATENTS = 1024  # whose correlations are held at once
MARKS = "osD^vP*X"
SHOWN = 24  # causes drawn


@dataclass(frozen=True)
class Comparison:
    """What several studies share.

    Attributes:
        names: of the studies, no two alike. pictures: how many were compared on.
        matches: one row for each latent of the first study and other study that pair up: latent, study, other,
            correlation, name, other_name.
        rows: one for each prompt and cause: its findings by study name.
        findings: each study's, by name.

    >>> import pandas as pd
    >>> import clipattr as ca
    >>> len(ca.Comparison(("old", "new"), 2000, pd.DataFrame(), (), {}))
    0
    """

    names: tuple[str, ...]
    pictures: int
    matches: pd.DataFrame
    rows: tuple[tuple[str, str, dict[str, Finding]], ...]
    findings: Mapping[str, Findings] = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        counts = [sum(set(found) == {name} for _, _, found in self.rows) for name in self.names]
        own = ", ".join(f"{count} of {name} alone" for name, count in zip(self.names, counts, strict=True))
        shared = sum(len(found) == len(self.names) for _, _, found in self.rows)
        return (
            f"<Comparison of {', '.join(self.names)} on {counted(self.pictures, 'picture')}: "
            f"{counted(len(self.rows), 'unexpected reliance')}, {shared} of all, {own}; "
            f"{counted(len(self.matches), 'latent')} paired>"
        )

    def _repr_html_(self) -> str:
        return self.frame.to_html(index=False, escape=True)

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each prompt and cause, shared ones first, in points (cosine × 100).

        Columns: prompt, rests on, kind, models (how many), and for each study its effect with bounds. It is empty where
        the study's audit found none, which does not prove independence.
        """
        import pandas as pd

        rows = []
        for prompt, cause, found in self.rows:
            row: dict[str, Any] = {
                "prompt": prompt, "rests on": cause, "kind": next(iter(found.values())).kind, "models": len(found),
                "only": next(iter(found)) if len(found) == 1 else "",
            }  # fmt: skip
            for name in self.names:
                effect = found[name].causal_effect if name in found else None
                row[name] = None if effect is None else round(effect.value * 100, 1)
                row[f"{name} low"] = None if effect is None else round(effect.low * 100, 1)
                row[f"{name} high"] = None if effect is None else round(effect.high * 100, 1)
            rows.append(row)
        bounds = [f"{name}{end}" for name in self.names for end in ("", " low", " high")]
        return pd.DataFrame(rows, columns=["prompt", "rests on", "kind", "models", "only", *bounds])

    def only(self, name: str) -> list[Finding]:
        """Findings of one study that no other has."""
        return [found[name] for _, _, found in self.rows if set(found) == {name}]

    def shared(self) -> list[dict[str, Finding]]:
        """Findings that all studies have, by study name."""
        return [found for _, _, found in self.rows if len(found) == len(self.names)]

    def plot(self, n: int = SHOWN, *, title: str | None = None) -> Chart:
        """Causal effects with their intervals, one line per prompt and cause, one mark per study, the largest first.

        Raises:
            DataError: no study has a finding.
        """
        from clipattr.display import plots

        if not self.rows:
            raise DataError(
                "there is nothing to plot: none of the studies has a finding. `frame` has no rows either."
            )
        shown = sorted(self.rows, key=lambda row: -max(f.causal_effect.value for f in row[2].values()))[:n]
        chart = plots.Chart(7.6, 1.1 + 0.3 * len(shown))
        axes = chart.add_subplot()
        colours = (plots.BLUE, plots.ORANGE, plots.GREY, plots.INK)
        for number, name in enumerate(self.names):
            found = [(place, row[2][name].causal_effect) for place, row in enumerate(shown) if name in row[2]]
            offset = 0.16 * (number - (len(self.names) - 1) / 2)
            value = [effect.value * 100 for _, effect in found]
            low = [max(effect.value - effect.low, 0) * 100 for _, effect in found]
            high = [max(effect.high - effect.value, 0) * 100 for _, effect in found]
            axes.errorbar(
                value, [place + offset for place, _ in found], xerr=[low, high], linestyle="none", markersize=6,
                marker=MARKS[number % len(MARKS)], color=colours[number % len(colours)], elinewidth=0.9,
                label=visible(name, 30),
            )  # fmt: skip
        labels = [f"{visible(prompt, 18)} ← {visible(cause, 18)}" for prompt, cause, _ in shown]
        axes.set_yticks(range(len(shown)), labels=labels, fontsize=9, parse_math=False)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.axvline(0, color=plots.INK, linewidth=0.8, zorder=1)
        axes.set_xlabel(
            "causal effect, points; a missing mark: nothing reported", fontsize=9, color=plots.INK
        )
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
        for edge in ("top", "right", "left"):
            axes.spines[edge].set_visible(False)
        axes.spines["bottom"].set_color(plots.FAINT)
        axes.tick_params(length=0, labelsize=8.5, colors=plots.INK)
        axes.grid(axis="x", color=plots.FAINT, linewidth=0.7, alpha=0.8)
        axes.set_axisbelow(True)
        if title:
            axes.set_title(visible(title, 90), fontsize=10.5, color=plots.INK, loc="left", parse_math=False)
        return chart


@unaffected
def compare(
    studies: Sequence[Study] | Mapping[str, Study],
    prompts: Sequence[str | Prompt] | None = None,
    *,
    findings: Sequence[Findings] | None = None,
    progress: bool = True,
) -> Comparison:
    """Compare models on one collection.

    Args:
        studies: two or more, of different models, dictionaries or seeds; with names of your own as a mapping. The first
            one's pictures are those compared on; a study of other pictures encodes them with its own model.
        prompts: audited in every study; default the labels of the first one's pictures, else its vocabulary.
        findings: audits that were made already, one per study; nothing is audited then.
        progress: show bars.

    Returns:
        A `Comparison`: matched latents with correlations, and findings by cause and study.

    Raises:
        DataError: fewer than two studies, or another number of findings. StudyError: findings of another study.

    >>> import clipattr as ca
    >>> study = ca.open_study("picture-world")
    >>> found = ca.Findings([], study, {})
    >>> ca.compare({"now": study, "again": study}, findings=[found, found], progress=False).names
    ('now', 'again')
    """
    named = _named(studies)
    names, opened = tuple(named), list(named.values())
    first = opened[0]
    if prompts is None and findings is None:
        labels = sorted({label for label in first.images.columns["label"] if label})
        prompts = labels or list(first.vocabulary.words)
    made = _findings(opened, names, prompts, findings, progress)
    rows = np.arange(len(first.images))[:: -(-len(first.images) // PICTURES)]
    codes = codes_on_the_same(opened, rows)
    matches = [
        _matched(codes[0], codes[number], first, opened[number], names[number])
        for number in range(1, len(opened))
    ]
    import pandas as pd

    return Comparison(
        names,
        codes[0].shape[0],
        pd.concat(matches, ignore_index=True),
        tuple(_causes(names, made, codes)),
        dict(zip(names, made, strict=True)),
    )


def _named(studies: Any) -> dict[str, Study]:
    if isinstance(studies, Mapping):
        named = {str(name): study for name, study in studies.items()}
    else:
        named = {}
        for study in studies:
            name, number = study.path.name, 2
            while name in named:
                name, number = f"{study.path.name} ({number})", number + 1
            named[name] = study
    if len(named) < 2:
        raise DataError(f"a comparison needs two studies or more; got {len(named)}.")
    return named


def _findings(
    studies: Sequence[Study],
    names: Sequence[str],
    prompts: Sequence[str | Prompt] | None,
    findings: Sequence[Findings] | None,
    progress: bool,
) -> list[Findings]:
    if findings is None:
        from clipattr.discovery.audit.run import audit

        return [audit(study, prompts, progress=progress) for study in studies]
    made = list(findings)
    if len(made) != len(studies):
        raise DataError(
            f"{len(studies)} studies need as many audits; got {len(made)}. Give one per study, in the same order."
        )
    for study, name, found in zip(studies, names, made, strict=True):
        there = found.about.get("dictionary", study.dictionary.hash)
        if there != study.dictionary.hash:
            raise StudyError(
                f"the findings given for {name!r} are of the dictionary {there}, the study's is "
                f"{study.dictionary.hash}. Give one audit per study, in the same order."
            )
    return made


def codes_on_the_same(
    studies: Sequence[Study], rows: np.ndarray, on_pictures: Callable[[int], None] | None = None
) -> list[Any]:
    """Codes of the first study's pictures in every study, scipy CSR (pictures, latents) each.

    Pictures that one of the models cannot read are left out for all. `on_pictures` as for `encoded`.
    """
    first = studies[0]
    wanted = first.images.select(rows)
    parts, kept = [], np.ones(len(rows), dtype=bool)
    for study in studies:
        if study.images.fingerprint == first.images.fingerprint:
            parts.append((study.codes.rows(torch.from_numpy(rows)).to_scipy(), np.arange(len(rows))))
            continue
        seen = encoded(study, wanted, on_pictures=on_pictures)
        there = np.zeros(len(rows), dtype=bool)
        there[seen.places] = True
        kept &= there
        parts.append((seen.codes.to_scipy(), seen.places))
    return [codes[np.isin(places, np.flatnonzero(kept))] for codes, places in parts]


def correlations(
    one: Any, other: Any, candidates: int = CANDIDATES
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The strongest correlations between the columns of two sparse matrices over the same rows.

    Args:
        one, other: scipy CSR (pictures, latents), not negative. candidates: kept for each column of `one`.

    Returns:
        latent of one, latent of the other, Pearson correlation; only pairs active together somewhere. No more than
        `LATENTS` columns of the product exist at a time.
    """
    n = one.shape[0]
    mean_a, deviation_a = _moments(one)
    mean_b, deviation_b = _moments(other)
    columns, b = one.tocsc(), other.tocsr()
    found = []
    for start in range(0, one.shape[1], LATENTS):
        product = (columns[:, start : start + LATENTS].T.tocsr() @ b).tocoo()
        left, right = product.row + start, product.col
        value = (product.data / n - mean_a[left] * mean_b[right]) / (deviation_a[left] * deviation_b[right])
        good = np.isfinite(value)
        left, right, value = left[good], right[good], value[good]
        order = np.lexsort((-value, left))
        left, right, value = left[order], right[order], value[order]
        best = np.arange(len(left)) - np.searchsorted(left, left) < candidates
        found.append((left[best], right[best], value[best]))
    if not found:
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0)
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))  # type: ignore[return-value]


def _moments(codes: Any) -> tuple[np.ndarray, np.ndarray]:
    n = codes.shape[0]
    mean = np.asarray(codes.sum(0)).ravel().astype(np.float64) / n
    square = np.asarray(codes.multiply(codes).sum(0)).ravel().astype(np.float64) / n
    deviation = np.sqrt(np.clip(square - mean**2, 0, None))
    return mean, np.where(deviation > 1e-12, deviation, np.nan)


def pairs(one: Any, other: Any, least: float = LEAST) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents matched one to one so that the correlations add up to the most, none below `least`.

    Args:
        one, other: as for `correlations`.

    Returns:
        latent of one (rising), latent of the other, correlation.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    left, right, value = correlations(one, other)
    good = value >= least
    left, right, value = left[good], right[good], value[good]
    if not len(left):
        return left, right, value
    # Every latent may also stay alone, at the cost of a pair that is just good enough.
    alone = np.arange(one.shape[1])
    rows = np.concatenate([left, alone])
    columns = np.concatenate([right, other.shape[1] + alone])
    costs = np.concatenate([2.0 - value, np.full(len(alone), 2.0 - least + 1e-9)])
    graph = coo_array((costs, (rows, columns)), shape=(one.shape[1], other.shape[1] + one.shape[1])).tocsr()
    row, column = min_weight_full_bipartite_matching(graph)
    paired = column < other.shape[1]
    row, column = row[paired], column[paired]
    return row, column, 2.0 - np.asarray(graph[row, column]).ravel()


def _matched(one: Any, other: Any, first: Study, study: Study, name: str) -> pd.DataFrame:
    import pandas as pd

    left, right, value = pairs(one, other)
    ours, theirs = first.latents["name"], study.latents["name"]
    return pd.DataFrame(
        {
            "latent": left, "study": name, "other": right, "correlation": value,
            "name": [ours[latent] for latent in left], "other_name": [theirs[latent] for latent in right],
        }
    )  # fmt: skip


def _causes(
    names: Sequence[str], findings: Sequence[Findings], codes: Sequence[Any]
) -> list[tuple[str, str, dict[str, Finding]]]:
    """Findings of all studies by prompt and cause: those that most studies have first, then by effect."""
    rows: list[tuple[str, str, dict[str, Finding], np.ndarray]] = []
    for number, name in enumerate(names):
        for finding in findings[number]:
            fires = np.asarray(codes[number][:, list(finding.latents)].sum(1)).ravel()
            for prompt, cause, found, others in rows:
                if prompt != finding.prompt or name in found:
                    continue
                same_word = finding.label is not None and finding.label.casefold() == cause.casefold()
                if same_word or _correlation(fires, others) >= SAME_CAUSE:
                    found[name] = finding
                    break
            else:
                rows.append((finding.prompt, finding.label or NO_LABEL, {name: finding}, fires))
    rows.sort(
        key=lambda row: (-len(row[2]), -max(f.causal_effect.value for f in row[2].values()), row[0], row[1])
    )
    return [(prompt, cause, found) for prompt, cause, found, _ in rows]


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    if one.std() < 1e-12 or other.std() < 1e-12:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
