"""Partners: which latents of one study pair up with which of another, kept on disk, since finding them takes a pass.

Owns the kept file in the first study's folder. Pairing itself is `discovery.compare.pairs`. Start at `partners`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipattr.discovery.compare import PICTURES, codes_on_the_same, pairs
from clipattr.storage.files import written

if TYPE_CHECKING:
    from clipattr.studies.study import Study

LEAST_HASH = 16  # digits of a study's hash in the file's name


def partners(
    first: Study,
    other: Study,
    *,
    keep: bool = True,
    folder: Path | None = None,
    on_pictures: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents of two studies that rise and fall together over the first one's pictures.

    Args:
        keep: write the answer to the first study's folder, where it can be written, for the next time.
        folder: where it is written and looked for instead, whatever `keep` says.
        on_pictures: called with pictures done and pictures asked while the other model encodes, and with all done
            before the latents are paired; what it raises ends the work, of which nothing is kept.

    Returns:
        latent of the first (m,), latent of the other (m,), Pearson correlation (m,); each latent at most once.
    """
    name = f"partners-{first.hash[:LEAST_HASH]}-{other.hash[:LEAST_HASH]}.npz"
    file = (folder or first.path) / name
    for place in dict.fromkeys((first.path / name, file)):
        if (kept := _read(place, first.dictionary.n_latents, other.dictionary.n_latents)) is not None:
            return kept
    rows = np.arange(len(first.images))[:: -(-len(first.images) // PICTURES)]
    told = on_pictures or (lambda done, of: None)
    told(0, len(rows))
    codes = codes_on_the_same([first, other], rows, lambda done: told(done, len(rows)))
    told(len(rows), len(rows))
    found = pairs(*codes)
    if keep or folder is not None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, latent=found[0], other=found[1], correlation=found[2])
        try:
            with written(file) as partial:
                partial.write_bytes(buffer.getvalue())
        except OSError:
            pass  # a folder of others: it is found again the next time
    return found


def _read(file: Path, n: int, n_other: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """What was kept, or None where it is lacking or damaged."""
    try:
        with np.load(file, allow_pickle=False) as held:
            latent, other, value = (held[name] for name in ("latent", "other", "correlation"))
        whole = latent.shape == other.shape == value.shape and latent.ndim == 1
        inside = latent.dtype.kind == other.dtype.kind == "i" and value.dtype.kind == "f"
        if not whole or not inside or len(latent) and not (latent.min() >= 0 and latent.max() < n):
            return None
        if len(other) and not (other.min() >= 0 and other.max() < n_other):
            return None
    except (OSError, ValueError, KeyError, EOFError):
        return None
    except Exception as error:  # zipfile and zlib have errors of their own
        if type(error).__module__ not in ("zipfile", "zlib"):
            raise
        return None
    return latent, other, value
