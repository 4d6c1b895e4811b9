"""The README followed line by line, as somebody with nothing but Python would: a fresh clone, an empty environment.

    CLIPATTR_FOLLOW_README=1 python -m pytest tests/test_readme_followed.py -s

Skipped without that variable, since it installs everything from the package index (minutes, gigabytes); with `all` as
its value `make docs` and `make test` are followed too. What it follows is read from the README: its two commands, its
Python, its blocks of commands, then every row of its table of verbs. After installing, the network is shut off.
Weights that would have to be downloaded are replaced by bundled models, and placeholders by rendered pictures and small
files: `STAND_INS` and `PLACEHOLDERS` are all of it.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ASKED = os.environ.get("CLIPATTR_FOLLOW_README", "")
pytestmark = pytest.mark.skipif(
    not ASKED, reason="installs from the network; CLIPATTR_FOLLOW_README=1 asks for it"
)

STAND_INS = {
    '"ViT-B-32", pretrained="datacomp_xl_s13b_b90k"': '"picture-world-a"',
    "ViT-B-32:datacomp_xl_s13b_b90k": "picture-world-a",
    "ViT-L-14:datacomp_xl_s13b_b90k": "picture-world-evaluator",
}
PLACEHOLDERS = {
    "MODEL": "picture-world-a",
    "IMAGES": "photos",
    "STORE": "encode.out",
    "FILE": "foreign",
    "STUDY": "study.out",
    "PICTURE": "7",
    "PROMPT": "kite",
    "FINDINGS": "audit.json",
}
# Pictures, prompts, and a dictionary in another project's format.
PREPARE = """
import json, pathlib, shutil, torch
from safetensors.torch import save_file
from clipattr_data.scene import Scene
things = ("kite", "bat", "camel", "eagle")
for number in range(96):
    folder = pathlib.Path("photos", things[number % 4])
    folder.mkdir(parents=True, exist_ok=True)
    Scene(main=things[number % 4], seed=number).picture().save(folder / f"{number:03d}.png")
pathlib.Path("classes.txt").write_text("\\n".join(things))
pathlib.Path("foreign").mkdir()
shape = {"architecture": "standard", "d_in": 192, "d_sae": 256, "dtype": "float32", "apply_b_dec_to_input": True,
         "normalize_activations": "none", "reshape_activations": "none", "metadata": {"sae_lens_version": "6.0.0"}}
pathlib.Path("foreign/cfg.json").write_text(json.dumps(shape))
tensors = {"W_enc": torch.randn(192, 256), "W_dec": torch.randn(256, 192)}
tensors |= {"b_enc": torch.zeros(256), "b_dec": torch.zeros(192)}
save_file(tensors, "foreign/sae_weights.safetensors")
"""


def clean(home: Path, *, network: bool) -> dict[str, str]:
    """This process's surroundings without its Python; without a way to the network unless it is asked for."""
    own = Path(sys.prefix)
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    path = [part for part in kept["PATH"].split(os.pathsep) if not Path(part).is_relative_to(own)]
    kept |= {"HOME": str(home), "PATH": os.pathsep.join(path)}
    if not network:
        kept |= {
            name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
        }
        kept |= {"no_proxy": "127.0.0.1,localhost"}
    return kept


def follow(
    words: list[str] | str, place: Path, surroundings: dict[str, str], expected: tuple[int, ...] = (0,)
) -> str:
    """Run one line; say how long it took; return what it printed. `expected`: the exit codes that are fine."""
    shown = words if isinstance(words, str) else shlex.join(words)
    begun = time.monotonic()
    done = subprocess.run(
        words, shell=isinstance(words, str), cwd=place, env=surroundings, capture_output=True, text=True
    )
    said = done.stdout + done.stderr
    print(f"{time.monotonic() - begun:7.1f} s  {done.returncode:3d}  {shown:.150}", flush=True)
    assert done.returncode in expected, f"{shown}\n{said[-4000:]}"
    assert "Traceback" not in said, said[-4000:]
    return said


def serve(words: list[str], place: Path, surroundings: dict[str, str]) -> None:
    """`serve` runs until it is interrupted: wait for its address, or for the sentence that names what it needs."""
    with subprocess.Popen(
        words, cwd=place, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "http://" in line:
                process.send_signal(signal.SIGINT)
                print(f"             {shlex.join(words)}", flush=True)
                return
            said = line
        assert process.wait() == 2 and "pip install" in said, said
    print(f"             {shlex.join(words)}: {said.strip()}", flush=True)


def blocks(text: str, language: str) -> list[str]:
    """The contents of the fenced blocks of a language ("" for those without)."""
    parts = re.split(r"^```(.*)\n", text, flags=re.M)  # text, opening, block, closing, text, …
    return [
        block for opening, block in zip(parts[1::4], parts[2::4], strict=False) if opening.strip() == language
    ]


def replaced(line: str) -> str:
    for real, stand_in in STAND_INS.items():
        line = line.replace(real, stand_in)
    return line


def table_of_verbs(text: str) -> list[list[str]]:
    """The commands of the table, placeholders filled in; what a verb writes goes to VERB.out."""
    found = []
    for line in re.findall(r"^\| `(clipattr [^`]+)` \|", text, re.M):
        words = shlex.split(line)
        found.append([f"{words[1]}.out" if word == "DIR" else PLACEHOLDERS.get(word, word) for word in words])
    return found


def test_somebody_with_an_empty_environment_can_follow_the_readme(tmp_path):
    home, clone, desk = tmp_path / "home", tmp_path / "clone", tmp_path / "desk"
    home.mkdir()
    desk.mkdir()
    online, offline = clean(home, network=True), clean(home, network=False)
    follow(["git", "clone", "-q", str(ROOT), str(clone)], tmp_path, online)
    text = (clone / "README.md").read_text("utf-8")

    made = [line.split("#")[0].strip() for line in blocks(text, "")[0].splitlines()]
    assert made[0] == "make demo"
    said = follow(made[0], clone, online)
    assert "unexpected reliances" in said and (clone / "clipattr-demo.html").stat().st_size > 10_000
    again = follow(made[0], clone, offline)
    assert "unexpected reliances" in again
    for line in made[1:]:
        follow(line if ASKED == "all" else f"{line} --dry-run", clone, online)
    for target in sorted(set(re.findall(r"`make (\w+)`", text))):
        follow(
            f"make {target}" if (ASKED, target) == ("all", "docs") else f"make --dry-run {target}",
            clone,
            online,
        )

    python = clone / ".venv" / "bin" / "python"
    for block in blocks(text, "python"):
        follow([str(python), "-c", block], desk, offline)
        assert (desk / "audit.html").stat().st_size > 10_000
    follow([str(python), "-c", PREPARE], desk, offline)

    program = str(python.with_name("clipattr"))
    lines = [line for block in blocks(text, "")[1:] for line in block.replace("\\\n", " ").splitlines()]
    for line in lines:
        words = shlex.split(replaced(line))
        assert words[0] == "clipattr", line
        follow([program, *words[1:]], desk, offline)
    for block in blocks(text, "py"):
        follow([str(python), "-c", "import clipattr as ca\n" + replaced(block)], desk, offline)

    rows = table_of_verbs((clone / "docs" / "command_line.md").read_text("utf-8"))
    listed = set(re.findall(r"^    (\w+) ", follow([program, "--help"], desk, offline), re.M))
    assert {words[1] for words in rows} == listed, "the table of verbs has all"
    for _, verb, *rest in rows:
        assert "example:" in follow([program, verb, "--help"], desk, offline)
        if verb == "serve":
            serve([program, verb, *rest], desk, offline)
        else:
            # The bundled model does not know most of the general words, which a check rightly calls bad.
            follow([program, verb, *rest], desk, offline, expected=(0, 2) if verb == "check" else (0,))

    (desk / "accepted.json").write_text((desk / "audit.json").read_text("utf-8"))
    gate = re.search(r"`clipattr (audit STUDY --fail-above[^`]+)`", text)
    assert gate is not None
    words = ["photos.study" if word == "STUDY" else word for word in gate[1].split()]
    follow([program, *words, "--prompts", "classes.txt"], desk, offline)
    completion = follow([program, "--completion", "bash"], desk, offline)
    assert "complete -o" in completion
