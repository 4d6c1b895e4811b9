"""The README's pictures of the panels: made by `tests/browser/capture.py`, of the study that is bundled."""

import re
from pathlib import Path

from PIL import Image

import clipattr

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "notebooks" / "pictures"
DESCRIPTION = 0x010E  # Exif's ImageDescription


def test_pictures_of_the_panels_show_the_bundled_dictionary():
    expected = clipattr.open_study("picture-world").dictionary.hash
    for name in ("explorer.png", "map.png", "panels.webp"):
        with Image.open(PICTURES / name) as picture:
            said = picture.info.get("dictionary") or picture.getexif().get(DESCRIPTION)
        assert said == expected, f"{name} is of another dictionary: run tests/browser/capture.py"


def test_every_picture_of_the_readme_is_there_and_has_words():
    found = re.findall(
        r"!\[([^\]]*)\]\((notebooks/pictures/[^)]+)\)", (ROOT / "README.md").read_text("utf-8")
    )
    assert len(found) >= 5
    for alt, name in found:
        assert len(alt) > 30 and (ROOT / name).exists(), name
