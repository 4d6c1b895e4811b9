"""Opening: studies and pictures from the arguments of panels.

Owns the reading of arguments. Start at `opened`.
"""

from pathlib import Path
from typing import Any

from PIL import Image

from clipattr.errors import DataError
from clipattr.images.decoding import read_picture
from clipattr_widgets.desk import PanelError
from clipattr_widgets.text import shown


def picture_from_elsewhere(picture: Any) -> tuple[Image.Image, str, str]:
    """A path or picture as a picture, its name, and the code that gives it to others."""
    given = isinstance(picture, Image.Image)
    name = "picture" if given else Path(picture).name
    code = "picture  # the PIL.Image that explore() was given" if given else repr(str(picture))
    try:
        return read_picture(picture), name, code
    except DataError as error:
        raise PanelError(
            f"picture={shown(str(picture), 120)} cannot be used: {error}. Give a number of the study, the path of a "
            "picture, or a PIL.Image."
        ) from error


def opened(study: Any) -> tuple[list[Any], list[str] | None]:
    """Studies and their names from what `explore` takes."""
    import clipattr

    def one(item: Any) -> Any:
        if isinstance(item, str) or hasattr(item, "__fspath__"):
            return clipattr.open_study(item)
        if not hasattr(item, "codes") or not hasattr(item, "site"):
            raise PanelError(
                f"The panels open a study, or the path or name of one; got {type(item).__name__}."
            )
        return item

    if isinstance(study, dict):
        return [one(item) for item in study.values()], [str(name) for name in study]
    if isinstance(study, list | tuple):
        return [one(item) for item in study], None
    return [one(study)], None


def read_upload(data: bytes, name: str) -> Image.Image:
    """An uploaded file as a picture, under the same checks as files of a folder.

    Raises:
        PanelError: it is no picture, or a broken one.
    """
    try:
        return read_picture(bytes(data))
    except DataError as error:
        raise PanelError(f"“{shown(name, 60)}” cannot be used: {error}.") from error
