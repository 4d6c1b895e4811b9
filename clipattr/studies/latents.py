"""Latents: the table of a study's latents, one row each.

Owns its columns and the display names of latents. Ignores how the numbers are computed. Start at `latents_table`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from clipattr.studies.study import Study

SILENT, UNNAMED = "(silent)", "(no aligned label)"
SCORES = (
    "clarity", "clarity_error", "monosemanticity", "meanings", "mixture", "frequency", "mean_top", "triage",
)  # fmt: skip


def latents_table(study: Study) -> pd.DataFrame:
    """The table `Study.latents`, where its columns are described."""
    import pandas as pd

    labels, scores = study.labels, study.scores
    shown = [*study.vocabulary.display, None]
    best = [shown[word] for word in labels.word_top[:, 0].tolist()]
    columns: dict[str, Any] = {
        "latent": range(len(labels)),
        "label": best,
        "alignment": labels.alignment_top[:, 0].numpy(),
        "margin": labels.margin.numpy(),
        "aligned": (aligned := labels.aligned.tolist()),
        "auc": labels.auc.numpy(),
        "auc_error": labels.auc_error.numpy(),
    }
    columns |= {name: scores[name].numpy() for name in SCORES if name in scores}
    columns |= {name: scores[name][:, 0].numpy() for name in ("nearest", "nearest_cosine")}
    for by in ("evidence", "contrast"):
        columns[f"label_{by}"] = [shown[word] for word in scores[f"word_{by}"].tolist()]
    live, given = (study.examples.counts > 0).tolist(), study.names
    columns["name"] = [
        given.get(latent) or ((label if fits else UNNAMED) if alive else SILENT)
        for latent, (label, fits, alive) in enumerate(zip(best, aligned, live, strict=True))
    ]
    return pd.DataFrame(columns)
