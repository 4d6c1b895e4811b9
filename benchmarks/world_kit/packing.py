"""Packs model folders into a few xz archives of about the same size. Start at `pack`."""

from __future__ import annotations

import io
import lzma
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path


def _archive(job: tuple[Path, list[Path]]) -> tuple[str, int]:
    target, folders = job
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in folders:
            for path in sorted(folder.iterdir()):
                tar.add(path, f"{folder.name}/{path.name}")
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 1, "pb": 1}]  # two-byte numbers
    target.write_bytes(lzma.compress(buffer.getvalue(), filters=filters))
    return target.name, target.stat().st_size


def pack(models: Path, out: Path, archives: int = 6) -> list[tuple[str, int]]:
    """Write `models-1.tar.xz` and so on.

    Args:
        models: a folder of finished model folders; unfinished ones (no weights) are passed over.
        out: where the archives go.
        archives: how many.

    Returns:
        names and bytes.
    """
    ready = sorted(p for p in models.iterdir() if (p / "open_clip_model.safetensors").exists())
    out.mkdir(parents=True, exist_ok=True)
    jobs = [
        (out / f"models-{i + 1}.tar.xz", ready[i::archives]) for i in range(archives) if ready[i::archives]
    ]
    with ProcessPoolExecutor(len(jobs)) as pool:
        return list(pool.map(_archive, jobs))
