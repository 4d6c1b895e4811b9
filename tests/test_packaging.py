"""The three folders as packages: everything is in the wheel, and imports work wherever one stands."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

import clipattr

ROOT = Path(__file__).parents[1]
FOLDERS = {"clipattr": "clipattr", "clipattr_widgets": "widgets", "clipattr_data": "data"}
BESIDES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
HERE = "; ".join(f"import {name}; print({name}.__file__)" for name in FOLDERS)


def run(*command, cwd=None):
    """Run it without inherited paths; return what it prints, or fail with all it said."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of what the packages are built from, so that no build folder appears in the checkout."""
    copy = tmp_path_factory.mktemp("sources")
    for folder in FOLDERS.values():
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in BESIDES:
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory):
    target = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", target]
    run(*pip, sources)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture()
def environment(tmp_path):
    """Installs into a fresh environment that sees this one's libraries but not its clipattr; gives its
    python."""

    def install(*arguments):
        home = tmp_path / "environment"
        run(sys.executable, "-m", "venv", "--without-pip", home)
        python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
        site = run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip()
        # A .pth inside a folder that a .pth names is not followed, so an editable install stays out of sight.
        Path(site, "libraries.pth").write_text(sysconfig.get_paths()["purelib"])
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--ignore-installed", "-q"]
        run(*pip, "--no-deps", "--no-build-isolation", *arguments)
        return python

    return install


def test_the_wheel_holds_every_file_of_the_three_folders(wheel, sources):
    expected = set()
    for package, folder in FOLDERS.items():
        files = (path for path in (sources / folder).rglob("*") if path.is_file())
        expected |= {f"{package}/{path.relative_to(sources / folder).as_posix()}" for path in files}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected


def test_the_wheel_carries_the_licence_and_one_version(wheel):
    held = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in held.namelist() if name.endswith("METADATA"))
    assert f"\nVersion: {clipattr.__version__}\n" in held.read(metadata).decode()
    assert any(name.endswith("licenses/LICENSE") for name in held.namelist())


def test_an_installed_wheel_imports_outside_and_inside_the_repository(wheel, environment, tmp_path):
    python = environment(wheel)
    outside = run(python, "-c", HERE, cwd=tmp_path).split()
    assert all(str(tmp_path / "environment") in path for path in outside)
    # Where one stands comes first, so there clipattr is the checkout's; the other two are found all the same.
    inside = run(python, "-c", HERE, cwd=ROOT).split()
    assert inside[1:] == outside[1:] and Path(inside[0]) == ROOT / "clipattr" / "__init__.py"
    script = python.parent / "clipattr"
    assert script.is_file()


def test_an_editable_install_imports_outside_and_inside_and_sees_new_files(sources, environment, tmp_path):
    checkout = tmp_path / "checkout"
    shutil.copytree(sources, checkout)
    python = environment("-e", checkout)
    expected = [str(checkout / folder / "__init__.py") for folder in FOLDERS.values()]
    assert run(python, "-c", HERE, cwd=tmp_path).split() == expected
    assert run(python, "-c", HERE, cwd=checkout).split() == expected
    (checkout / "data" / "later").mkdir()
    (checkout / "data" / "later" / "__init__.py").write_text("here = 5")
    assert run(python, "-c", "from clipattr_data.later import here; print(here)", cwd=tmp_path) == "5\n"


def test_importing_the_package_loads_none_of_the_heavy_libraries(tmp_path):
    code = "import sys, clipattr; print(*(set(sys.modules) & {'torch', 'numpy', 'pandas', 'open_clip', 'sklearn'}))"
    assert run(sys.executable, "-c", code, cwd=ROOT) == "\n"


def test_every_public_name_exists():
    missing = []
    for name in clipattr.CONTENTS:
        try:
            getattr(clipattr, name)
        except (ImportError, AttributeError) as error:
            missing.append(f"{name}: {error}")
    assert not missing, "\n".join(missing)


def test_the_table_of_contents_is_what_dir_and_star_import_show():
    assert set(clipattr.CONTENTS) <= set(dir(clipattr))
    assert set(clipattr.__all__) == {"__version__", *clipattr.CONTENTS}


def test_a_name_that_is_not_there_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        _ = clipattr.load_modle


def test_version_and_dependencies_are_written_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == clipattr.__version__
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## {re.escape(clipattr.__version__)}\b", changes, re.M)
