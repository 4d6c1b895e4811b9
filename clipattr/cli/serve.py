"""Serve: the panels of a study as a web page, for readers without a notebook.

Owns the page's notebook, the settings of the server (Voila), the token, and the server process. Every visitor has a
separate kernel, so visitors do not see each other's choices. Kernels run only the page's single cell, since the server
accepts no code from browsers. Ignores the content of the panels. Start at `serve`.

Decisions: the default address is loopback, since the token is sent unencrypted. The token is in a settings file that
only its owner can read, not on a command line that every user of the machine can list. The server's file route is
disabled, and the page is a single notebook, so folders are not listed.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import HTTPError

from clipattr.cli.terminal import on_termination
from clipattr.display.wording import visible
from clipattr.errors import DataError

PORT = 8866
START_SECONDS = 180.0  # longest wait for the server; long enough for a cold disk and a busy machine
SHORTEST_TOKEN = 12  # characters
IDLE_SECONDS = 1800  # idle time after which a visitor's kernel is ended
_CELL = """\
from clipattr_widgets.served import served

served({studies!r}, findings={findings!r}, write={write!r}, scratch={scratch!r}, moved={moved!r})
"""
# Voila's page loads an icon style from a public server, although the panels include it. This removes the request: it
# would reveal visitors to a third party, and delay the page without a network.
_PAGE = """\
{%- extends 'voila/templates/lab/index.html.j2' -%}
{%- block notebook_css -%}
{{ super() | replace('https://cdn.jsdelivr.net/', 'data:text/css,') }}
{%- if resources.theme != 'dark' -%}
<style>@media (prefers-color-scheme: dark) { {%- raw -%}DARK{%- endraw -%} }</style>
<script>
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => { document.body.dataset.jpThemeLight = String(!dark.matches); };
document.addEventListener("DOMContentLoaded", paint);
dark.addEventListener("change", paint);
</script>
{%- endif -%}
{%- endblock notebook_css -%}
"""


@contextmanager
def serving(
    *studies: str | os.PathLike[str],
    host: str = "127.0.0.1",
    port: int = PORT,
    token: str | None = None,
    write: bool = False,
    findings: Sequence[str | os.PathLike[str]] = (),
    moved: Mapping[str, str | None] | None = None,
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Serve one or more studies while the block runs.

    Args:
        studies: folders, or bundled names; the first is shown, and with several they can be compared.
        host: address to listen on; any address but loopback can be reached from other machines, unencrypted.
        port: port to listen on.
        token: secret that visitors must give; None: a random one.
        write: whether visitors may rename latents and judge findings; otherwise the study is not written to.
        findings: JSON of audits, the first of the first study, and so on; shown when the page opens.
        moved: where model, evaluator or images of the first study are now; None: where the study says.

    Yields:
        The address including the token, and the server's process.

    Raises:
        DataError: Voila is not installed, the port is taken, the token is too short, there are more audits than
            studies, or the server does not start.
        StudyError: there is no such study.
    """
    if find_spec("voila") is None:
        raise DataError("Serving needs Voila, which is not installed: pip install 'clipattr[serve]'")
    token = secrets.token_urlsafe(24) if token is None else token
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise DataError(
            f"A token needs at least {SHORTEST_TOKEN} ASCII characters without spaces. Leave it out to have one drawn "
            "at random."
        )
    if len(findings) > len(studies):
        raise DataError(
            f"There are {len(findings)} files of findings for {len(studies)} studies; give at most one for each study, "
            "in the same order."
        )
    _check_free(host, port)
    from clipattr.discovery.findings import Findings
    from clipattr.studies.study import open_study  # after the checks, because the import takes seconds

    # Opened here so that a wrong place is reported before the server starts; it runs in another folder.
    now = {part: _absolute(place) for part, place in (moved or {}).items() if place is not None}
    opened = [open_study(study, **(now if i == 0 else {})) for i, study in enumerate(studies)]
    places = [str(study.path.resolve()) for study in opened]
    for file, study in zip(findings, opened, strict=False):
        Findings.from_json(Path(file), study)  # of another study: refused here, not on the page
    found = [str(Path(file).resolve()) for file in findings]
    with tempfile.TemporaryDirectory(prefix="clipattr-serve-") as folder:
        home = Path(folder)
        notebook = _write(
            home, {"studies": places, "findings": found, "write": write, "moved": now}, host, port, token
        )
        log = home / "log.txt"
        with log.open("wb") as sink:
            server = subprocess.Popen(
                [sys.executable, "-m", "voila", str(notebook), "--no-browser"],
                cwd=notebook.parent, env=_environment(home), stdout=sink, stderr=sink, start_new_session=True,
            )  # fmt: skip
        shown = f"[{host}]" if ":" in host else host
        try:
            _wait(server, f"http://{shown}:{port}/voila/static/main.js", log)
            yield f"http://{shown}:{port}/?token={token}", server
        finally:
            _end(server)


def _absolute(place: str) -> str:
    """A reference to a model or pictures whose path does not depend on the current folder."""
    head, colon, rest = place.partition(":")
    if colon and Path(rest.partition("@")[0]).exists():
        file, at, tag = rest.partition("@")
        return f"{head}:{Path(file).resolve()}{at}{tag}"
    return str(Path(place).resolve()) if Path(place).exists() else place


def serve(*studies: str | os.PathLike[str], say: Any = print, **options: Any) -> None:
    """Serve studies until interrupted; `options` as for `serving`. Prints the address with `say`.

    Raises:
        DataError: as for `serving`, or the server ended by itself.
    """
    with on_termination(_end_all), serving(*studies, **options) as (address, server):
        mode = "visitors may name and judge" if options.get("write") else "read-only"
        what = ", ".join(map(str, studies))
        say(f"serving {what} ({mode}); give this address to visitors, and end with Ctrl-C:\n  {address}")
        if not _is_loopback(options.get("host", "127.0.0.1")):
            say("warning: other machines can reach this address, and what they send and see is not encrypted")
        status = server.wait()
    raise DataError(f"The server stopped with status {status}; its messages are above.")


def _end_all(number: int, _: Any) -> NoReturn:
    """End the server and its kernels on SIGTERM (`kill`, a service manager) as on Ctrl-C."""
    raise SystemExit(128 + number)


def settings(host: str, port: int, token: str) -> dict[str, Any]:
    """Settings of the server."""
    return {
        "Voila": {"ip": host, "port": port, "port_retries": 0, "token": token, "open_browser": False},
        "VoilaConfiguration": {
            "file_allowlist": [],
            "file_denylist": [".*"],
            "template": "clipattr",
            "allow_template_override": "NO",
            "show_tracebacks": False,
            "strip_sources": True,
            # Other installed JupyterLab extensions are not needed on the page and may not work with Voila.
            "extension_allowlist": [
                "@jupyter-widgets/jupyterlab-manager",
                "@voila-dashboards/widgets-manager8",
                "anywidget",
            ],
        },
        "PasswordIdentityProvider": {"allow_password_change": False},
        "MappingKernelManager": {"cull_idle_timeout": IDLE_SECONDS, "cull_interval": 60},
    }


def _write(home: Path, page: Mapping[str, Any], host: str, port: int, token: str) -> Path:
    """Write the page's notebook in a separate folder, and the server's settings."""
    config = home / "config"
    scratch = home / "scratch"
    for folder in (config, scratch, home / "page", home / "data", home / "runtime", home / "ipython"):
        folder.mkdir(mode=0o700)
    with os.fdopen(os.open(config / "voila.json", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        json.dump(settings(host, port, token), file)
    template = home / "data" / "voila" / "templates" / "clipattr"
    template.mkdir(parents=True)
    (template / "conf.json").write_text('{"base_template": "lab"}')
    (template / "index.html.j2").write_text(_PAGE.replace("DARK", _dark_theme()), encoding="utf-8")
    cell: dict[str, Any] = {
        "cell_type": "code", "id": "panels", "metadata": {}, "execution_count": None, "outputs": [],
        "source": _CELL.format(**page, scratch=str(scratch)),
    }  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    first, *more = (visible(Path(place).name, 60) for place in page["studies"])
    title = f"{first}{f' and {len(more)} more' if more else ''} · clipattr"
    content = {
        "nbformat": 4, "nbformat_minor": 5, "metadata": {**kernel, "title": title}, "cells": [cell],
    }  # fmt: skip
    notebook = home / "page" / "clipattr.ipynb"
    notebook.write_text(json.dumps(content), encoding="utf-8")
    return notebook


def _dark_theme() -> str:
    """Colours of JupyterLab's dark theme, for visitors whose system is dark; stronger than those of the light one.

    "" where nbconvert's files are not found: the page is light then.
    """
    from jupyter_core.paths import jupyter_path

    for folder in jupyter_path("nbconvert", "templates", "lab", "static"):
        file = Path(folder) / "theme-dark.css"
        if file.exists():
            css = re.sub(r"/\*.*?\*/", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
            return css.replace(":root", ":root:root").replace("{%", "").replace("</", "")
    return ""


def _environment(home: Path) -> dict[str, str]:
    """Environment without the user's Jupyter settings, one of which might disable the token."""
    return {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_NO_CONFIG": "", "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_TOKEN": "", "PYTHONWARNINGS": "ignore",
    }  # fmt: skip


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise DataError(
                f"{host}:{port} cannot be opened for listening ({error.strerror}). Choose another --port."
            ) from error


def _wait(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=1).close()
            return
        except HTTPError:
            return  # any answer shows that the server runs
        except OSError:
            time.sleep(0.1)
    told = log.read_text("utf-8", errors="replace").strip().splitlines()[-3:]
    raise DataError(f"The server did not start: {' / '.join(told) or 'it gave no reason'}.")


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and its kernels, which are in its session."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, sign)
        except (ProcessLookupError, PermissionError):
            return
        try:
            server.wait(8)
        except subprocess.TimeoutExpired:
            continue
        if sign == signal.SIGKILL:
            return
