"""Where the three packages live: `clipattr/` as itself, `widgets/` and `data/` under their import names.

Everything else is in pyproject.toml; only the list of packages is computed, so that a new sub-folder with an
`__init__.py` is packaged without anybody remembering to list it.
"""

from setuptools import find_packages, setup

FOLDERS = {"clipattr": "clipattr", "clipattr_widgets": "widgets", "clipattr_data": "data"}

packages = []
for package, folder in FOLDERS.items():
    packages += [package, *(f"{package}.{sub}" for sub in find_packages(folder))]

setup(packages=packages, package_dir=FOLDERS)
