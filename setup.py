"""Where the three packages live: `clipattr/` as itself, `widgets/` and `data/` under their import names.

Everything else is in pyproject.toml; only the list of packages is computed, so that a new sub-folder is packaged
without anybody remembering to list it. Folders that hold data alone count too: to setuptools they are packages.
"""

from setuptools import find_namespace_packages, setup

FOLDERS = {"clipattr": "clipattr", "clipattr_widgets": "widgets", "clipattr_data": "data"}

packages = []
for package, folder in FOLDERS.items():
    inner = find_namespace_packages(folder, exclude=["__pycache__", "*.__pycache__"])
    packages += [package, *(f"{package}.{name}" for name in inner)]

setup(packages=packages, package_dir=FOLDERS)
