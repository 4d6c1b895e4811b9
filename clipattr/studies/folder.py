"""Workplace: the folder NAME.building in which a study is built, and recovery after an interruption.

Owns the lock against a second job, the ledger of finished stages with the hashes of their files, and the final rename.
Ignores what the stages compute. Start at `Workplace`.

A finished study appears under its name by one rename. After an interruption, files in NAME.building whose hash matches
the ledger are reused and all others are computed again. Nothing depends on clocks.
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

from clipattr.display.wording import few
from clipattr.errors import StudyError
from clipattr.storage.documents import read_json, write_json
from clipattr.storage.files import PARTIAL, file_digest, json_digest, sweep
from clipattr.storage.locks import locked as file_lock
from clipattr.studies.format import MANIFEST, all_files, read_manifest

LEDGER = "ledger.json"
SCRATCH = ("shards", "training", "words")  # folders that are deleted after the build
ADVICE = "What was finished is kept: free space or mend the folder, and the same call goes on from there."


class Workplace:
    """The folder NAME.building next to the study's folder; open it inside `with locked(folder):`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder.with_name(folder.name + ".building")
        self._aside = folder.with_name(folder.name + ".replaced")

    def recover(self) -> None:
        """Complete or revert an interrupted swap."""
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
        """Keep the files of an interrupted build that the plan would compute again; delete the others."""
        if (self.path / LEDGER).exists():
            known = self._ledger().get("plan", {})
            try:
                self._keep(known, plan)
            except (KeyError, TypeError, AttributeError):  # written by another version
                shutil.rmtree(self.path)
        elif self.path.exists() and any(path.name != LEDGER + PARTIAL for path in self.path.iterdir()):
            raise StudyError(
                f"{str(self.path)!r} exists and is not an interrupted build. Remove it, or choose another path."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        ledger = self._ledger()
        self._write({"plan": plan, "stages": ledger.get("stages", {})})

    def finished(self, stage: str) -> Any:
        """The `about` of a finished stage; None if the stage is not finished or one of its files has changed."""
        known = self._ledger().get("stages", {}).get(stage)
        if known is None:
            return None
        for name, (size, digest) in known["files"].items():
            path = self.path / name
            if not path.is_file() or path.stat().st_size != size or file_digest(path) != digest:
                return None
        return known["about"]

    def finish(self, stage: str, files: list[Path], about: Any = True) -> Any:
        """Record a finished stage with its files and JSON-compatible data about it."""
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
        """Write the manifest and rename the folder to the study's path.

        Raises:
            StudyError: a file has changed since its stage wrote it.
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
                    f"{few(wrong)} in {str(self.path)!r} changed after the stage {stage!r} had written it, by a "
                    "faulty disk or another program. The same call computes it again."
                )
        manifest["files"] = files
        # With the manifest the folder is a study; the following steps can be repeated after an interruption.
        write_json(self.path / MANIFEST, manifest)
        self._swap()

    def _swap(self) -> None:
        (self.path / LEDGER).unlink(missing_ok=True)
        # safetensors files are readable by their owner only; a study gets the permissions of its manifest.
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
            # Where pictures were added, removed or changed, shards of unchanged pictures remain valid.
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
    """Files of a finished study whose hash differs from the manifest; the manifest's own name where it is damaged."""
    try:
        files = read_manifest(folder)["files"]
    except StudyError:
        return [MANIFEST]
    return [name for name, (_, digest) in files.items() if file_digest(folder / name) != digest]


def locked(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Lock a study's folder against other jobs; the lock ends with the process.

    Raises:
        StudyError: another job holds the lock.
    """
    return file_lock(folder.with_name(folder.name + ".lock"), f"building {str(folder)!r}", StudyError)
