"""Probe audit: the effect of every latent on a linear probe, compared with the prompt for the same class.

Owns the measurement of both on the same pictures, and the table of their differences. Ignores fitting (`fitting.py`),
the criteria of a finding (`findings.py`) and repair (`discovery/repair`, which takes the findings). Start
at `audit_probe`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipattr.attribution import ClosedFormTail
from clipattr.discovery.encoded import Encoded, encoded, exact_sums, names_given
from clipattr.discovery.findings import Findings
from clipattr.discovery.probes.findings import Bounds, probe_findings
from clipattr.discovery.probes.fitting import fit_probe
from clipattr.discovery.probes.probe import Probe
from clipattr.display.wording import counted, few
from clipattr.errors import DataError, SiteError, StudyError
from clipattr.images.splits import HELD
from clipattr.meaning import alignment
from clipattr.models.surroundings import unaffected
from clipattr.statistics import Z, wilson

if TYPE_CHECKING:
    import pandas as pd

    from clipattr.studies.study import Study


@dataclass(frozen=True)
class ProbeAudit:
    """A probe and the prompts for its classes, measured on the same pictures.

    Attributes:
        probe, prompts: the two classifiers, with classes in the same order. study: source of the latents.
        classes: one row per class: number of pictures, accuracy of both classifiers with 95 % intervals.
        groups: one row per group; None without groups. worst: the lowest accuracy of a group, by classifier.
        latents: one row per class and latent, sorted by difference: class, latent, name, probe_effect with bounds,
            probe_share, prompt_effect with bounds, prompt_share, difference, alignment. Effects are mean exact
            ablations on the class's own pictures, in logits of its margin over the other classes, positive where the
            latent raises the margin; shares are of the positive effects.

    >>> import clipattr as ca
    >>> made = ca.audit_probe(ca.open_study("lesions"))
    >>> len(made.disagreements(n=3))
    3
    """

    probe: Probe
    prompts: Probe
    study: Study = field(repr=False)
    classes: pd.DataFrame
    groups: pd.DataFrame | None
    worst: Mapping[str, float]
    latents: pd.DataFrame
    _pictures: Encoded = field(repr=False)
    _truth: Tensor = field(repr=False)

    def __repr__(self) -> str:
        right = {name: self.classes[name].mul(self.classes["pictures"]).sum() for name in ("probe", "prompt")}
        n = max(int(self.classes["pictures"].sum()), 1)
        lines = [f"{counted(n, 'picture')}, {counted(len(self.probe.names), 'class', 'classes')}"]
        for name in ("probe", "prompt"):
            worst = f", worst group {self.worst[name]:.1%}" if self.worst else ""
            lines.append(f"{name:>6}: accuracy {right[name] / n:.1%}{worst}")
        if not self.worst:
            lines.append("There are no groups, so nothing is known of the worst one.")
        return "\n".join(lines)

    def disagreements(self, name: str | None = None, n: int = 10) -> pd.DataFrame:
        """The latents whose share of the positive effects differs most between probe and prompt.

        Args:
            name: a class; None for all classes.
            n: number of rows.

        Returns:
            The first rows of `latents`; effects in logits, shares and `difference` as fractions. Positive `difference`:
            the latent has the larger share for the probe.

        Raises:
            TargetError: the probe has no class of that name.
        """
        frame = self.latents
        if name is not None:
            self.probe.index(name)
            frame = frame[frame["class"] == name]
        return frame.head(n)

    def findings(self, bounds: Bounds | None = None) -> Findings:
        """Unexpected reliances of the probe, as `repair` takes them.

        Args:
            bounds: least effects by ablation and by comparison; see `probe_findings`.

        Returns:
            findings, largest comparison first. Their numbers are raw cosines with the direction of the class's margin,
            whose length in logits is `evidence["logits_per_cosine"]`.
        """
        return Findings(
            probe_findings(self.study, self.probe, self._pictures, self._truth, bounds),
            self.study,
            {
                "model": self.study.manifest["model"],
                "dictionary": self.study.dictionary.hash,
                "probe": dict(self.probe.about),
                "prompts_audited": len(self.probe.names),
            },
        )


@unaffected
def audit_probe(
    source: Any,
    labels: Sequence[str | None] | None = None,
    groups: Sequence[str | None] | None = None,
    *,
    study: Study | None = None,
    probe: Probe | None = None,
    prompts: Mapping[str, str] | None = None,
    templates: Sequence[str] = ("{}",),
    seed: int = 0,
) -> ProbeAudit:
    """Measure a probe and the prompts for its classes on the same pictures, latent by latent.

    Args:
        source: a study, whose held-out pictures are measured; or pictures (anything `Images.open` takes: a folder, a
            table) together with `study`.
        study: provides model and dictionary where `source` is pictures; None where `source` is a study.
        labels: the class of each picture of `source`, None to leave it out; default: the collection's.
        groups: group of each picture, for the worst group; default: the collection's.
        probe: the probe to audit; None: fit one on pictures that are not held out and measure on the rest, by the split
            of the study or of `source` (`open_table` splits by lesion and patient), else by random halves.
        prompts: prompt of each class; default: the class's name. templates: texts that contain "{}".
        seed: of the random halves.

    Returns:
        A `ProbeAudit`: accuracies per class and group with 95 % intervals, and effects per class and latent in logits.

    Raises:
        DataError: there are no labels, only one class, or labels that the probe does not have. SiteError: the model or
            site has no closed-form tail. StudyError: pictures without a study, or a probe of another model.

    >>> import clipattr as ca
    >>> made = ca.audit_probe(ca.open_study("lesions"))
    >>> sorted(made.worst)
    ['probe', 'prompt']
    """
    if study is None:
        if not hasattr(source, "dictionary"):
            raise StudyError(
                "a probe's latents come from a study: pass one, or study=... beside the pictures. ca.build_study "
                "makes it."
            )
        study, source = source, None
    if not study.site.is_single or study.site.tail(study.model) is None:
        raise SiteError(
            f"a probe is audited where one vector per picture has a closed-form tail: image.embedding, or image.-1.cls "
            f"where the class token is pooled. This study was built at {study.site}; build one there."
        )
    if probe is not None and probe.model_hash not in (None, study.model.weights_hash):
        raise StudyError(
            f"the probe reads embeddings of the model with weights {probe.model_hash}; the study is of "
            f"{study.model.reference}, weights {study.model.weights_hash}. Fit a probe on this model."
        )
    everything = np.arange(len(study.images))
    pictures = encoded(study, source, rows=everything if source is None else None)
    given, sorts = names_given(labels, pictures, "label"), names_given(groups, pictures, "group")
    if given is None:
        raise DataError("a probe is audited on labelled pictures: give labels, one per picture.")
    measured = _measured(study, pictures, source is None, seed, fitting=probe is None)
    if probe is None:
        seen = ~measured
        chosen = [label for label, here in zip(given, seen.tolist(), strict=True) if here]
        probe = fit_probe(pictures.embeddings[seen], chosen, model_hash=study.model.weights_hash, seed=seed)
    texts = {name: (prompts or {}).get(name, name) for name in probe.names}
    other = Probe.of_prompts(study.model, texts, templates)
    place = _places(probe.names)
    unknown = sorted(
        {
            label
            for label in given
            if label is not None and label not in place and label.casefold() not in place
        }
    )
    if unknown and labels is not None:
        raise DataError(
            f"{len(unknown)} label(s) are not classes of the probe, e.g. {unknown[0]!r}; it has {few(probe.names)}. "
            "Set these labels to None, or fit the probe on them too."
        )
    truth = torch.tensor(
        [-1 if label is None else place.get(label, place.get(label.casefold(), -1)) for label in given]
    )
    kept = torch.nonzero(measured & (truth >= 0)).flatten()
    if not len(kept):
        raise DataError(
            "no measured picture has a label that is a class of the probe. Give labels=[...] of its classes."
        )
    part = Encoded(
        pictures.images.select(kept.numpy()),
        None,
        pictures.acts[kept],
        pictures.codes.rows(kept),
        pictures.embeddings[kept],
        kept.numpy(),
        len(kept),
    )
    truth = truth[kept]
    right = torch.stack([p.logits(part.embeddings).argmax(1) == truth for p in (probe, other)], 1)
    frame, worst = _by_group(right, None if sorts is None else [sorts[row] for row in kept.tolist()])
    return ProbeAudit(
        probe, other, study, _by_class(probe, right, truth), frame, worst,
        _by_latent(study, probe, other, part, truth), part, truth,
    )  # fmt: skip


def _places(names: Sequence[str]) -> dict[str, int]:
    """Number of each class by its name, and by its case-folded name where that is unique."""
    folded = Counter(name.casefold() for name in names)
    place = {name.casefold(): number for number, name in enumerate(names) if folded[name.casefold()] == 1}
    return place | {name: number for number, name in enumerate(names)}


def _measured(study: Study, pictures: Encoded, own: bool, seed: int, *, fitting: bool) -> Tensor:
    """(pictures,) bool: True for pictures to measure on, False for pictures to fit on."""
    if own and len(study.holdout_rows):
        return torch.from_numpy(np.isin(np.asarray(pictures.rows), study.holdout_rows))
    if not fitting:
        return torch.ones(len(pictures), dtype=torch.bool)
    sides = torch.tensor([side in HELD for side in pictures.images.columns["split"]])
    if sides.any() and not sides.all():
        return sides
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))
    half = torch.zeros(len(pictures), dtype=torch.bool)
    half[order[len(order) // 2 :]] = True
    return half


def _by_class(probe: Probe, right: Tensor, truth: Tensor) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for number, name in enumerate(probe.names):
        rows.append((name, *_shares(right[truth == number])))
    columns = ["class", "pictures", "probe", "probe_low", "probe_high", "prompt", "prompt_low", "prompt_high"]
    return pd.DataFrame(rows, columns=columns).fillna({"probe": 0.0, "prompt": 0.0})


def _shares(right: Tensor) -> tuple[float, ...]:
    n = len(right)
    values: list[float] = [n]
    for column in (0, 1):
        hits = int(right[:, column].sum())
        values += [hits / n if n else float("nan"), *wilson(hits, n)]
    return tuple(values)


def _by_group(
    right: Tensor, groups: Sequence[str | None] | None
) -> tuple[pd.DataFrame | None, dict[str, float]]:
    import pandas as pd

    names = sorted({group for group in groups or [] if group})
    if not names:
        return None, {}
    rows = [
        (name, *_shares(right[torch.tensor([group == name for group in groups or []])])) for name in names
    ]
    columns = ["group", "pictures", "probe", "probe_low", "probe_high", "prompt", "prompt_low", "prompt_high"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame, {name: float(frame[name].min()) for name in ("probe", "prompt")}


def _by_latent(study: Study, probe: Probe, prompts: Probe, pictures: Encoded, truth: Tensor) -> pd.DataFrame:
    import pandas as pd

    columns = torch.stack([probe.margins()[0], prompts.margins()[0]], 2)  # (embed, classes, 2)
    tail = ClosedFormTail(study.model, study.dictionary, columns[:, 0], site=study.site)
    meaning = study.labels.mean_embedding.float()
    text = study.evaluator.encode_text(list(prompts.about["prompts"])).float()
    names, frames = study.latents["name"], []
    for number, name in enumerate(probe.names):
        rows = torch.nonzero(truth == number).flatten()
        if not len(rows):
            continue
        aim = tail.aimed_at(columns[:, number].contiguous())
        total, square = exact_sums(aim, pictures.acts[rows], pictures.codes.rows(rows))
        n = len(rows)
        mean = total / n
        half = Z * ((square / n - mean.square()).clamp_min(0) / max(n - 1, 1)).sqrt()
        active = torch.nonzero(square.sum(1) > 0).flatten()
        share = mean.clamp_min(0) / mean.clamp_min(0).sum(0).clamp_min(1e-12)
        aligned = alignment(meaning[active], F.normalize(text[[number]], dim=1), study.empty_embedding)[:, 0]
        made: dict[str, Any] = {
            "class": name,
            "latent": active.numpy(),
            "name": [names[j] for j in active.tolist()],
        }
        for column, which in enumerate(("probe", "prompt")):
            made[f"{which}_effect"] = mean[active, column].numpy()
            made[f"{which}_low"] = (mean - half)[active, column].numpy()
            made[f"{which}_high"] = (mean + half)[active, column].numpy()
            made[f"{which}_share"] = share[active, column].numpy()
        made["difference"] = made["probe_share"] - made["prompt_share"]
        made["alignment"] = aligned.numpy()
        frames.append(pd.DataFrame(made))
    frame = pd.concat(frames, ignore_index=True)
    order = (-frame["difference"].abs()).sort_values(kind="stable").index
    return frame.loc[order].reset_index(drop=True)
