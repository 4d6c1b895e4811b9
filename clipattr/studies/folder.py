"""Workplace: the folder beside a study in which it is built, and what of it survives whatever happens.

Owns the lock that keeps a second job out, the ledger of finished stages with the hashes of their files, and the swap
that puts a finished study in its place. Ignores what the stages compute. Start at `Workplace`.

A study appears under its name in one rename, complete. Until then its parts lie in NAME.building; what the ledger
names and hashes there is used again, everything else is made again. Nothing depends on clocks.
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

from clipattr.errors import StudyError
from clipattr.storage.documents import read_json, write_json
from clipattr.storage.files import PARTIAL, file_digest, json_digest, sweep
from clipattr.storage.locks import locked as file_lock
from clipattr.studies.format import MANIFEST, all_files, read_manifest

LEDGER = "ledger.json"
SCRATCH = ("shards", "training", "words")  # folders that only the build needs
ADVICE = "What was finished is kept: free space or mend the folder, and the same call goes on from there."


class Workplace:
    """NAME.building beside the study's folder; open it inside `with locked(folder):`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder.with_name(folder.name + ".building")
        self._aside = folder.with_name(folder.name + ".replaced")

    def recover(self) -> None:
        """Finish, or take back, a swap that was interrupted."""
        if (self.path / MANIFEST).exists():
            if changed_files(self.path):
                shutil.rmtree(self.path)
            else:
                self._swap()
        if self._aside.exists():
            if self.folder.exists():
                shutil.rmtree(self._aside)
            else:
                os.replace(self._aside, self.folder)

    def open(self, plan: dict[str, Any]) -> None:
        """Keep of an interrupted build what the same plan would compute again, and drop the rest."""
        if (self.path / LEDGER).exists():
            known = self._ledger().get("plan", {})
            try:
                self._keep(known, plan)
            except (KeyError, TypeError, AttributeError):  # not what this version writes
                shutil.rmtree(self.path)
        elif self.path.exists() and any(path.name != LEDGER + PARTIAL for path in self.path.iterdir()):
            raise StudyError(
                f"{str(self.path)!r} is in the way, and no interrupted build. Remove it, or choose another path."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        ledger = self._ledger()
        self._write({"plan": plan, "stages": ledger.get("stages", {})})

    def finished(self, stage: str) -> Any:
        """What `finish` was told about a stage, None if it has to be done: unknown, or a file of it has changed."""
        known = self._ledger().get("stages", {}).get(stage)
        if known is None:
            return None
        for name, (size, digest) in known["files"].items():
            path = self.path / name
            if not path.is_file() or path.stat().st_size != size or file_digest(path) != digest:
                return None
        return known["about"]

    def finish(self, stage: str, files: list[Path], about: Any = True) -> Any:
        """Note that a stage is done, with the files it made and anything JSON can hold about it."""
        ledger = self._ledger()
        ledger.setdefault("stages", {})[stage] = {
            "files": {
                path.relative_to(self.path).as_posix(): (path.stat().st_size, file_digest(path))
                for path in files
            },
            "about": about,
        }
        self._write(ledger)
        return about

    def publish(self, manifest: dict[str, Any]) -> None:
        """Write the manifest and put the folder in its place.

        Raises:
            StudyError: a file is no longer what its stage wrote.
        """
        for name in SCRATCH:
            shutil.rmtree(self.path / name, ignore_errors=True)
        sweep(self.path)
        if (self.folder / "names.json").exists():
            shutil.copy2(self.folder / "names.json", self.path / "names.json")
        files = {name: entry for name, entry in all_files(self.path).items() if name != LEDGER}
        for stage, known in self._ledger().get("stages", {}).items():
            wrong = [name for name, entry in known["files"].items() if list(files.get(name, ())) != entry]
            if wrong:
                raise StudyError(
                    f"{', '.join(wrong)} in {str(self.path)!r} changed after the stage {stage!r} had written it: a "
                    "faulty disk, or another program. The same call makes it again."
                )
        manifest["files"] = files
        # The manifest makes the folder a study: what follows can be done again from any point.
        write_json(self.path / MANIFEST, manifest)
        self._swap()

    def _swap(self) -> None:
        (self.path / LEDGER).unlink(missing_ok=True)
        # safetensors makes its files readable by their owner alone; a study is for whoever may read its manifest.
        mode = (self.path / MANIFEST).stat().st_mode
        for name in read_manifest(self.path)["files"]:
            (self.path / name).chmod(mode)
        if self.folder.exists():
            if self._aside.exists():
                shutil.rmtree(self._aside)
            os.replace(self.folder, self._aside)
        os.replace(self.path, self.folder)
        shutil.rmtree(self._aside, ignore_errors=True)

    def _keep(self, known: dict[str, Any], plan: dict[str, Any]) -> None:
        if {**known["encoding"], "images": ""} != {**plan["encoding"], "images": ""}:
            shutil.rmtree(self.path)
        elif known["encoding"] != plan["encoding"]:
            # Pictures came, went or changed: shards whose pictures are the same are still good.
            for path in self.path.iterdir():
                if path.is_dir() and path.name != "shards":
                    shutil.rmtree(path)
                elif path.is_file():
                    path.unlink()
        elif known["dictionary"] != plan["dictionary"]:
            for name in ("dictionary", "training"):
                shutil.rmtree(self.path / name, ignore_errors=True)
            for file in self.path.glob("codes*"):
                file.unlink()

    def _ledger(self) -> dict[str, Any]:
        try:
            found = read_json(self.path / LEDGER)
            told = found.pop("sum")
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return {}
        return found if told == json_digest(found) else {}

    def _write(self, ledger: dict[str, Any]) -> None:
        write_json(self.path / LEDGER, {**ledger, "sum": json_digest(ledger)})


def changed_files(folder: Path) -> list[str]:
    """Files of a finished study that are not what was written; the manifest's own name where it is damaged."""
    try:
        files = read_manifest(folder)["files"]
    except StudyError:
        return [MANIFEST]
    return [name for name, (_, digest) in files.items() if file_digest(folder / name) != digest]


def locked(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Keep other jobs out of a study's folder; the lock goes with the process, however it ends.

    Raises:
        StudyError: another job is at work on it.
    """
    return file_lock(folder.with_name(folder.name + ".lock"), f"building {str(folder)!r}", StudyError)
