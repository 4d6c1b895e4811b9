"""Safe decoding of one picture: from any file or array to an upright 8-bit RGB picture, or an error with the reason.

Owns the handling of unusual files (truncated, CMYK, 16-bit, palette, animated, rotated, huge) and the fingerprint for
near-duplicates. Ignores where pictures are stored (`sources.py`). Start at `read_picture`.
"""

import contextlib
import io
import os
import re
import stat
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from clipattr.errors import DataError
from clipattr.images.dicom import DicomError, is_dicom, read_dicom
from clipattr.storage.files import stand_in
from clipattr.storage.paths import user_path

# Formats whose decoders are compiled into Pillow. EPS and its like would start another program on the file.
WANTED_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
Image.init()  # registers every decoder; which of them exist depends on how Pillow was built
FORMATS = tuple(name for name in WANTED_FORMATS if name in Image.OPEN)
SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".avif",
        ".jp2",
        ".j2k",
        ".jpx",
        ".mpo",
        ".apng",
        ".pnm",
        ".pbm",
        ".dcm",
        ".dicom",
    ]
)
MAX_PIXELS = 100_000_000  # decoded; 300 MB as RGB
MAX_BYTES = 512 * 2**20  # of a file
MAX_ASPECT = 100.0  # beyond this, "resize the shorter side" makes a picture of gigabytes
THUMBNAIL_SIDE = 112
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# First bytes of files that are often taken for pictures, and what to do about them.
CONVERT = "convert it to JPEG or PNG"
STARTS = (
    (b"\xff\x0a", f"JPEG XL: {CONVERT}"),
    (b"\0\0\0\x0cjxl ", f"JPEG XL: {CONVERT}"),
    (b"8bps", f"a Photoshop file: {CONVERT}"),
    (b"%pdf", f"a PDF: {CONVERT}"),
    (b"<svg", f"an SVG drawing: {CONVERT}"),
    (b"pk\x03\x04", "a ZIP archive: unpack it"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"\x93numpy", "a NumPy array: give the array that numpy.load returns"),
    (b"\x89hdf", "an HDF5 file: give its pictures as arrays"),
)
NETWORK = re.compile(r"(^|/)(https?|ftp|s3|gs|hf|az):/")


class PictureError(DataError):
    """One picture cannot be read; the message is the reason, without the picture's name."""


def read_picture(
    source: str | Path | bytes | Image.Image | np.ndarray, *, draft: int | None = None
) -> Image.Image:
    """Read a picture as upright, 8-bit RGB.

    Animated pictures and DICOM files of several frames give their first frame. Transparent pixels are laid on white.
    16-bit greys are scaled, not clipped. An EXIF rotation is applied.

    Args:
        source: a path ("~" is the home folder), the bytes of a file, a picture, or an array (h, w, 3), (h, w) or
            (h, w, 4) of uint8 or other whole numbers up to 255, of uint16 (0 to 65535), of truth values, or of
            floats in [0, 1].
        draft: a JPEG may be decoded at a power-of-two fraction of its size as long as no side becomes shorter
            than this many pixels; None decodes it whole. Other formats ignore it.

    Raises:
        PictureError: with the reason. Nothing else is raised for a broken file.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _decoded(source)
    data = source if isinstance(source, bytes) else read_bytes(user_path(source))
    if not data:
        raise PictureError("the file is empty (0 bytes)")
    if is_dicom(data):
        try:
            return _checked(read_dicom(data))
        except DicomError as error:
            raise PictureError(str(error)) from None
    try:
        picture = _opened(data)
        if draft is not None:
            picture.draft("RGB", (draft, draft))
        _within_limit(picture)
    except UnidentifiedImageError as error:
        raise PictureError(f"not a picture in a known format ({_describe(data)})") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"too many pixels: {error}") from error
    except Exception as error:  # Pillow's parsers may raise any class on a hostile file
        raise PictureError(f"cannot be opened: {type(error).__name__}: {error}") from error
    return _decoded(picture, data)


def thumbnail_bytes(picture: Image.Image, side: int = THUMBNAIL_SIDE) -> bytes:
    """A thumbnail as the bytes of a file: JPEG, or PNG where the picture is already that small."""
    small = shrink(picture, side)
    buffer = io.BytesIO()
    if small.size == picture.size:
        small.save(buffer, "PNG", optimize=True)
    else:
        small.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def shrink(picture: Image.Image, side: int) -> Image.Image:
    """The picture within side × side pixels, its proportions kept; never enlarged."""
    scale = min(1.0, side / max(picture.size))
    if scale == 1.0:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def difference_hash(picture: Image.Image) -> int:
    """64 bits, one per pair of horizontal neighbours in an 8 × 9 grey reduction: set where brightness rises.

    Copies that were resized or compressed again differ in few bits. All plain pictures have hash 0, so equal hashes do
    not imply equal pictures.
    """
    grey = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = (grey[:, 1:] > grey[:, :-1]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def read_bytes(path: Path) -> bytes:
    """The bytes of a plain file of bounded size; PictureError with the reason."""
    try:
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            raise PictureError("a folder, not a picture")
        if not stat.S_ISREG(about.st_mode):  # reading a pipe or /dev/zero would not end
            raise PictureError("not a regular file")
        if about.st_size > MAX_BYTES:
            raise PictureError(f"too large: {about.st_size:,} bytes, at most {MAX_BYTES:,} are read")
        return path.read_bytes()
    except PictureError:
        raise
    except FileNotFoundError as error:
        if NETWORK.search(path.as_posix()):
            raise PictureError(
                "a network address; pictures are read from files, so download it first"
            ) from error
        raise PictureError("no such file") from error
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a name with a zero byte
        raise PictureError(f"not a valid file name ({error})") from error


def _describe(data: bytes) -> str:
    """What the bytes of a file that is no picture seem to be."""
    head = data[:256]
    folded = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:
        return f"HEIC: {CONVERT}"
    known = stand_in(head) or next(
        (told for start, told in STARTS if folded.startswith(start) or head.startswith(start)), None
    )
    if known is not None:
        return known
    printable = sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)
    return "it holds text" if printable == len(head) else f"{len(data)} bytes starting {head[:8].hex(' ')}"


def _opened(data: bytes) -> Image.Image:
    """A picture whose header has been read; a PNG whose text or colour profile is too large for Pillow without them."""
    try:
        return _identified(data)
    except ValueError:
        if not data.startswith(PNG_START):
            raise
        return _identified(without_text(data))


def _identified(data: bytes) -> Image.Image:
    """As `PIL.Image.open`, without its limit on pixels: `_checked` has ours, and a large JPEG is decoded smaller.

    Raises:
        UnidentifiedImageError: no wanted format accepts the bytes.
    """
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        try:
            accepted = accept is None or accept(data[:16])
            if accepted and not isinstance(accepted, str):  # a text says what this build of Pillow lacks
                return factory(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # what Pillow takes for another format
            continue
    raise UnidentifiedImageError("no known format")


def without_text(data: bytes) -> bytes:
    """A PNG file without its text and colour profile, which are not used here; the rotation in eXIf is kept.

    Pillow refuses files whose text decompresses to more than a megabyte, as workflows and microscopes write them.
    """
    kept, at = [PNG_START], len(PNG_START)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, stop = data[at + 4 : at + 8], at + 12 + length
        if kind not in PNG_TEXT:
            kept.append(data[at:stop])
        at = stop
    kept.append(data[at:])
    return b"".join(kept)


def _within_limit(picture: Image.Image) -> None:
    """Set a JPEG that is too large to be decoded at half, a quarter or an eighth of its size."""
    for part in (2, 4, 8):
        if picture.width * picture.height <= MAX_PIXELS or picture.format not in ("JPEG", "MPO"):
            return
        picture.draft("RGB", (picture.width // part, picture.height // part))


def _decoded(picture: Image.Image, data: bytes = b"") -> Image.Image:
    _checked(picture)
    try:
        picture.load()
        return _to_rgb(picture)
    except PictureError:
        raise
    except Exception as error:
        # Text after the pixels is read only now.
        if data.startswith(PNG_START) and len(plain := without_text(data)) < len(data):
            with contextlib.suppress(PictureError):
                return _decoded(_identified(plain))
        raise PictureError(f"cannot be decoded: {type(error).__name__}: {error}") from error


def _checked(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    if width < 1 or height < 1:
        raise PictureError(f"has no pixels ({width} × {height})")
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"too many pixels: {width} × {height}, at most {MAX_PIXELS:,} are decoded; save it smaller"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise PictureError(f"too narrow: {width} × {height}, sides may differ {MAX_ASPECT:.0f}-fold at most")
    return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    try:
        upright = ImageOps.exif_transpose(picture)
    except Exception:  # a damaged EXIF block does not affect the pixels
        upright = picture
    mode = upright.mode
    if mode == "RGB" and "transparency" not in upright.info:
        return upright
    if mode == "F" or mode.startswith("I"):
        grey = _unit_range(np.asarray(upright), mode)
        # Pillow applies the TIFF tag PhotometricInterpretation = 0, "white is zero", to 8 bits only.
        if mode.startswith("I") and getattr(picture, "tag_v2", {}).get(262) == 0:
            grey = 1 - grey
        return _from_array(grey)
    if mode == "La":
        upright = upright.convert("LA")
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in upright.info:
        layered = upright.convert("RGBA")
        page = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(page, layered).convert("RGB")
    return upright.convert("RGB")


def _unit_range(values: np.ndarray, mode: str) -> np.ndarray:
    """Greys of more than 8 bits as floats in [0, 1], scaled by the format's range, not the picture's."""
    if mode == "F":
        return values.astype(np.float32)
    if values.min() < 0 or values.max() > 65535:
        raise PictureError(f"grey values from {values.min()} to {values.max()}; save it with 8 or 16 bits")
    # 32 bits have no usual range: values up to 255 are 8 bits that a program widened.
    return values.astype(np.float32) / np.float32(255 if mode == "I" and values.max() <= 255 else 65535)


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise PictureError(
            f"an array must be (h, w), (h, w, 3) or (h, w, 4), channels last, and one picture; got {array.shape}"
        )
    if array.size == 0:
        raise PictureError(f"has no pixels, shape {array.shape}")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            told = f"run from {array.min():.3g} to {array.max():.3g}: divide by 255, or leave out a transform"
            raise PictureError(
                "floating-point pixels must be finite and within [0, 1]; these "
                + (f"{told} that normalises them" if np.isfinite(array).all() else "hold NaN or infinity")
            )
        array = np.round(array * 255).astype(np.uint8)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = np.round(array / 257).astype(np.uint8)
    elif array.dtype.kind in "iu" and array.dtype != np.uint8 and array.min() >= 0 and array.max() <= 255:
        array = array.astype(np.uint8)
    if array.dtype != np.uint8:
        held = f" from {array.min()} to {array.max()}" if array.dtype.kind in "iu" else ""
        raise PictureError(
            f"pixels must be whole numbers up to 255, uint16, or floats in [0, 1]; got {array.dtype}{held}"
        )
    return _to_rgb(_checked(Image.fromarray(np.ascontiguousarray(array))))


def to_picture(item: Any) -> Image.Image:
    """A picture from an item of a data set: a PIL picture, array, path, bytes, or channel-first tensor."""
    if isinstance(item, np.ndarray) and item.dtype == object and item.size == 1:
        item = item.reshape(-1)[0]
    if isinstance(item, os.PathLike):
        item = Path(item)
    if isinstance(item, (bytearray, memoryview)):
        item = bytes(item)
    if isinstance(item, (str, Path, bytes, Image.Image, np.ndarray)):
        return read_picture(item)
    if hasattr(item, "detach") and hasattr(item, "ndim"):
        array = item.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
        if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (3, 4):
            array = array.transpose(1, 2, 0)
        return read_picture(array)
    if isinstance(item, dict) and ("bytes" in item or "path" in item):
        return read_picture(item.get("bytes") or item.get("path") or b"")
    raise PictureError(f"expected a picture, array or path; got {type(item).__name__}")
