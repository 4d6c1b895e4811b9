"""Choice of the picture: one of the study, or one from elsewhere.

Owns uploads, searches and captions. Ignores what is measured. Start at `PictureChoice`.
"""

from typing import Any

from PIL import Image

from clipattr_widgets.desk import Desk, PanelError
from clipattr_widgets.explorer_export import UPLOAD
from clipattr_widgets.opening import read_upload
from clipattr_widgets.text import shown
from clipattr_widgets.worker import WorkingState


class PictureChoice(WorkingState):
    """The picture-choosing half of a view-model with `table`, `picture`, `compare` and `upload_count`."""

    table: Desk
    picture: Any
    compare: Any
    upload_count: Any
    _ask: Any
    uploaded: Image.Image | None = None
    upload_name = ""
    upload_code = ""  # Python that gives the picture from outside
    found_words = ""  # "2 of 41": the last search's hit among all

    def upload(self, data: bytes, name: str) -> None:
        """Look at a file's bytes instead of a picture of the study; a broken file changes nothing but `error`."""
        with self.telling():
            self.look_at(read_upload(data, name), name)

    def look_at(self, picture: Image.Image, name: str = "picture", code: str = "") -> None:
        """Look at a picture from elsewhere; `code` gives it to others, and of an upload only the name is known."""
        self.uploaded, self.upload_name = picture, name
        self.upload_code = (
            code or f"{name!r}  # uploaded; only its name is known here: put the folder before it"
        )
        self.upload_count += 1
        if self.picture == UPLOAD:
            self._ask()
        else:
            self.picture = UPLOAD

    def find(self, text: str) -> None:
        """Go to the next picture whose number, id or label holds this text; says which of how many it is."""
        with self.telling():
            self.picture, self.found_words = self.table.find_picture(text, self.picture)
            self.error = ""

    def pick(self, number: str) -> None:
        """Go to the picture of this number; one beyond the end is the last."""
        try:
            self.picture, self.error = max(0, int(number)), ""
        except ValueError:
            self.error = (
                f"“{shown(number, 40)}” is no number of a picture; there are {self.table.n_pictures:,}."
            )

    def compare_with(self, text: str) -> None:
        """Compare with the picture that has this number, id or label; nothing ends the comparison."""
        with self.telling():
            self.compare = self.table.find_picture(text, self.picture)[0] if text.strip() else -1
            self.error = ""

    def step(self, by: int) -> None:
        """Go `by` pictures on; the ends meet."""
        if self.table.n_pictures:
            self.picture = (max(self.picture, -1 if by > 0 else 0) + by) % self.table.n_pictures

    def caption(self, picture: int | None = None) -> str:
        """Name of the picture."""
        picture = self.picture if picture is None else picture
        if picture == UPLOAD:
            return (
                f"from outside the study · {shown(self.upload_name, 60)}" if self.uploaded else "no picture"
            )
        return self.table.picture_caption(picture)

    def source(self, picture: int | None = None) -> "int | Image.Image":
        """The picture as `Desk.measure` takes it.

        Raises:
            PanelError: there is no picture.
        """
        picture = self.picture if picture is None else picture
        if picture != UPLOAD:
            return picture
        if self.uploaded is None:
            raise PanelError("No picture is chosen. Pick one of the study, or upload one.")
        return self.uploaded

    def pixels(self) -> Image.Image | None:
        """The picture itself, or None where there is none."""
        if self.picture == UPLOAD:
            return self.uploaded
        return self.table.picture(self.picture)

    def same_picture(self, before: Desk, picture: int) -> int:
        """The number here of a picture of another study; `UPLOAD`, and the picture itself, where it is lacking."""
        if not 0 <= picture < before.n_pictures:
            return picture
        name = before.study.images.ids[picture]
        place = self.table.place_of(name)
        if place is not None and self.table.thumbnail(place).tobytes() == before.thumbnail(picture).tobytes():
            return place
        self.uploaded, self.upload_name = before.picture(picture), name
        self.upload_code = f"ca.open_study({before.opening}).images[{picture}].load()"
        self.upload_count += 1
        return UPLOAD
