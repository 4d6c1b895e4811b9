"""Long benchmarks in pieces: each is measured once and kept, so that a run that was cut off goes on."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that `Pieces` takes."""
    parser.add_argument("--keep", default=None, metavar="FOLDER", help="keep what is measured; go on from it")
    parser.add_argument(
        "--minutes", type=float, default=None, help="with --keep: start no piece after so many minutes"
    )


class Pieces:
    """Pieces of a long run: measured once, read from a folder afterwards; measured at once without one."""

    def __init__(self, folder: str | None, minutes: float | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.until = None if minutes is None else time.monotonic() + 60 * minutes

    def piece(self, name: str, about: Any, make: Callable[[], Any], *, optional: bool = False) -> Any:
        """What `make` returns, tensors and numbers in plain containers; `about` is everything that decides it.

        None for an optional piece that there is no time left for.

        Raises:
            SystemExit: the time is over before this piece; the same call goes on with it.
        """
        if self.folder is None:
            return make()
        digest = hashlib.blake2b(json.dumps([name, about]).encode(), digest_size=6).hexdigest()
        path = self.folder / f"{digest}.pt"
        if path.exists():
            return torch.load(path, weights_only=True)
        if self.until is not None and time.monotonic() > self.until:
            if optional:
                print(f"left out: {name}")
                return None
            raise SystemExit(f"stopped before {name}: call again to go on")
        start, found = time.monotonic(), make()
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save(found, path)
        print(f"{name}: measured in {time.monotonic() - start:.0f} s", flush=True)
        return found
