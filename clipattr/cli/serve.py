"""Serve: the panels of a study as a web page, for people who have no notebook.

Owns the page's notebook, the settings of the server (Voila), the token, and the life of its process. Every visitor gets
a kernel of his own, so that nobody sees what another chooses; kernels run nothing but the page's one cell, since the
server passes on no code from browsers. Ignores what the panels show. Start at `serve`.

Decisions: loopback unless another address is asked for, since the token travels unencrypted. The token lies in a
settings file that only the owner reads, not on a command line that every user of the machine can list. The server's own
file route is closed; the page is one notebook, so there is no listing of folders either.
"""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from clipattr.errors import DataError

PORT = 8866
START_SECONDS = 180.0  # a cold disk or a busy machine takes its time
SHORTEST_TOKEN = 12
IDLE_SECONDS = 1800  # after which the kernel of a visitor who has left is ended
_CELL = """\
from clipattr_widgets.served import served

served({study!r}, findings={findings!r}, write={write!r})
"""
# Voila's own page asks a public server for the style of icons that the panels bring along: no visitor shall be told of
# to others, and none without a network shall wait.
_PAGE = """\
{%- extends 'voila/templates/lab/index.html.j2' -%}
{%- block notebook_css -%}
{{ super() | replace('https://cdn.jsdelivr.net/', 'data:text/css,') }}
{%- endblock notebook_css -%}
"""


@contextmanager
def serving(
    study: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    token: str | None = None,
    write: bool = False,
    findings: str | os.PathLike[str] | None = None,
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Serve a study while the block runs.

    Args:
        study: a folder, or a bundled name.
        host: address to listen at; anything but loopback is reachable from other machines, unencrypted.
        port: where to listen.
        token: what a visitor must know; drawn at random where None.
        write: whether visitors may rename latents and judge findings; else nothing is written to the study.
        findings: JSON of an audit, to be listed from the start.

    Yields:
        The address with its token, to give to visitors; and the server's process.

    Raises:
        DataError: Voila is not installed, the port is taken, the token is too short, or the server does not start.
        StudyError: there is no such study.
    """
    if find_spec("voila") is None:
        raise DataError("Serving needs Voila, which is not installed: pip install 'clipattr[serve]'")
    token = secrets.token_urlsafe(24) if token is None else token
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise DataError(
            f"A token has at least {SHORTEST_TOKEN} characters, plain ones without spaces; leave it out and a good one "
            "is drawn."
        )
    _check_free(host, port)
    from clipattr.studies.study import open_study  # after the checks: loading it takes seconds

    place = open_study(study).path.resolve()
    found = None if findings is None else str(Path(findings).resolve())
    with tempfile.TemporaryDirectory(prefix="clipattr-serve-") as folder:
        home = Path(folder)
        notebook = _write(home, {"study": str(place), "findings": found, "write": write}, host, port, token)
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


def serve(study: str | os.PathLike[str], *, say: Any = print, **options: Any) -> None:
    """Serve a study until interrupted; `options` as for `serving`. Says where, through `say`.

    Raises:
        DataError: as for `serving`, or the server ended by itself.
    """
    with _ended_like_interrupted(), serving(study, **options) as (address, server):
        mode = "visitors may name and judge" if options.get("write") else "read-only"
        say(f"serving {study} ({mode}); give this address to visitors, and end with Ctrl-C:\n  {address}")
        if not _is_loopback(options.get("host", "127.0.0.1")):
            say("warning: other machines can reach this address, and what they send and see is not encrypted")
        status = server.wait()
    raise DataError(f"the server ended by itself, with status {status}")


@contextmanager
def _ended_like_interrupted() -> Iterator[None]:
    """A request to end (`kill`, a service manager) takes the server and its kernels down too, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return

    def end(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def settings(host: str, port: int, token: str) -> dict[str, Any]:
    """What the server is told."""
    return {
        "Voila": {"ip": host, "port": port, "port_retries": 0, "token": token, "open_browser": False},
        "VoilaConfiguration": {
            "file_allowlist": [],
            "file_denylist": [".*"],
            "template": "clipattr",
            "allow_template_override": "NO",
            "show_tracebacks": False,
            "strip_sources": True,
            # What else is installed for JupyterLab has no business on the page, and may not fit Voila.
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
    """The page's notebook in a folder of its own, and the settings beside it."""
    config = home / "config"
    for folder in (config, home / "page", home / "data", home / "runtime", home / "ipython"):
        folder.mkdir(mode=0o700)
    with os.fdopen(os.open(config / "voila.json", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        json.dump(settings(host, port, token), file)
    template = home / "data" / "voila" / "templates" / "clipattr"
    template.mkdir(parents=True)
    (template / "conf.json").write_text('{"base_template": "lab"}')
    (template / "index.html.j2").write_text(_PAGE)
    cell: dict[str, Any] = {
        "cell_type": "code", "id": "panels", "metadata": {}, "execution_count": None, "outputs": [],
        "source": _CELL.format(**page),
    }  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    content = {"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": [cell]}
    notebook = home / "page" / "clipattr.ipynb"
    notebook.write_text(json.dumps(content), encoding="utf-8")
    return notebook


def _environment(home: Path) -> dict[str, str]:
    """The user's own Jupyter settings have no say: one of them might switch the token off."""
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
                f"{host}:{port} cannot be listened at ({error.strerror}); choose another --port"
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
            return  # it answers
        except OSError:
            time.sleep(0.1)
    told = log.read_text("utf-8", errors="replace").strip().splitlines()[-3:]
    raise DataError(f"the server did not start: {' / '.join(told) or 'it said nothing'}")


def _end(server: subprocess.Popen[bytes]) -> None:
    """The server and its kernels, which are of its session."""
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
