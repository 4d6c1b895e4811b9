"""DICOM: medical pictures as 8-bit RGB, and the parts of their headers that may be shown.

Owns windowing, polarity, bit depths and frames. Of a header only what the pixels need is read; names, dates and numbers
of persons are never shown, not in errors either. Decoding is pydicom's (extra `medical`). Ignores folders
(`dicom_folder.py`). Start at `read_dicom`.

Source of the window functions: DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MARK, AT = b"DICM", 128  # the four bytes that identify a file, behind a preamble
ENDINGS = (".dcm", ".dicom")
LEAST_WIDTH = 1e-6  # of a window
MAX_PIXELS = 100_000_000  # of one frame, and of all frames a hundred times as many


class DicomError(ValueError):
    """A file cannot be read; the reason quotes nothing of the header."""


def is_dicom(data: bytes) -> bool:
    """Whether a file's bytes are DICOM, with its preamble or, as older scanners write it, without one."""
    return data[AT : AT + 4] == MARK or _bare(data)


def with_preamble(data: bytes) -> bytes:
    """A file without preamble as one that has it and names the order in which its values are written.

    Such files begin with an element of group 0008; two letters behind its tag say that types are written out.
    """
    if data[AT : AT + 4] == MARK or not _bare(data):
        return data
    syntax = b"1.2.840.10008.1.2.1\0" if data[4:6].isalpha() else b"1.2.840.10008.1.2\0"
    element = b"\x02\0\x10\0UI" + len(syntax).to_bytes(2, "little") + syntax
    length = b"\x02\0\0\0UL\x04\0" + len(element).to_bytes(4, "little")
    return bytes(AT) + MARK + length + element + data


def _bare(data: bytes) -> bool:
    """Whether the bytes begin with a DICOM element of group 0008 whose length fits: no other format begins so."""
    if len(data) < 16 or data[:2] != b"\x08\0" or data[2:4] > b"\xff\x0f":
        return False
    if data[4:6] in (b"UL", b"UI", b"CS", b"DA", b"TM", b"SH", b"LO"):
        return int.from_bytes(data[6:8], "little") < 256
    return int.from_bytes(data[4:8], "little") < 256


def read_dicom(
    data: bytes, frame: int = 0, *, window: tuple[float, float] | None = None, scale: bool = True
) -> Image.Image:
    """One frame as 8-bit RGB.

    Stored values become modality values (rescale slope and intercept, or table); greys are then mapped to 0 to 255 by a
    window, and MONOCHROME1 is inverted, so that in every picture more is brighter. Without a window, the range of the
    stored bits is mapped, never that of the single picture.

    Args:
        data: the file's bytes. frame: which of several, from 0.
        window: (center, width) in modality values, e.g. (40, 400) Hounsfield units; default the file's first one.
        scale: False maps the whole range, whatever the file's window says.

    Raises:
        DicomError: no pydicom, or a file that cannot be read.
    """
    data = with_preamble(data)
    header = header_of(data)
    frames = count_of(header)
    if not 0 <= frame < frames:
        raise DicomError(f"has {frames} frames; frame {frame} was asked for")
    photometric = str(header.get("PhotometricInterpretation", ""))
    try:
        values = _pixels(header, data, frame)
        if photometric == "PALETTE COLOR":
            from pydicom.pixels import apply_color_lut

            colours = apply_color_lut(values, header).astype(np.float64)
            return _rgb(colours / (2.0 ** _palette_bits(header) - 1))
        if values.ndim == 3:
            return _rgb(values.astype(np.float64) / (2.0 ** int(header.BitsStored) - 1))
        grey = _grey(values, header, window, scale)
    except DicomError:
        raise
    except (
        Exception
    ) as error:  # pydicom and its plugins raise nearly any class, with the header's values in the text
        raise DicomError(f"the DICOM pixels cannot be decoded ({_why(header, error)})") from None
    if photometric == "MONOCHROME1":
        grey = 1 - grey
    return _rgb(np.repeat(grey[..., None], 3, axis=2))


def windowed(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Modality values to brightness in [0, 1] by a window.

    >>> windowed(np.array([-160.0, 40.0, 240.0]), 40, 400, "LINEAR_EXACT").tolist()
    [0.0, 0.5, 1.0]
    """
    values = values.astype(np.float64)
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - center) / max(width, LEAST_WIDTH))))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / max(width, LEAST_WIDTH) + 0.5, 0, 1)
    if width <= 1:  # the standard's case of a single step
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def may_be_dicom(file: Path) -> bool:
    """Whether a file has an ending of DICOM, or none and begins like DICOM."""
    if file.suffix.lower() in ENDINGS:
        return True
    if file.suffix:
        return False
    try:
        with file.open("rb") as opened:
            return is_dicom(opened.read(AT + 4))
    except OSError:
        return False


def header_of(data: bytes) -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise DicomError("DICOM needs pydicom: pip install 'clipattr[medical]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings quote the header
            header = pydicom.dcmread(io.BytesIO(with_preamble(data)), defer_size=None)
            rows, columns, frames = int(header.Rows), int(header.Columns), count_of(header)
    except Exception as error:
        raise DicomError(f"cannot be read as DICOM ({type(error).__name__})") from None
    if not 0 < rows * columns <= MAX_PIXELS or rows * columns * frames > 100 * MAX_PIXELS:
        raise DicomError(
            f"{frames} frames of {columns} × {rows} pixels; at most {MAX_PIXELS:,} a frame are decoded"
        )
    return header


def count_of(header: Any) -> int:
    return max(1, int(header.get("NumberOfFrames", 1) or 1))


def _pixels(header: Any, data: bytes, frame: int) -> np.ndarray:
    """Stored values of one frame, (h, w), or (h, w, 3) as RGB."""
    from pydicom.pixels import pixel_array

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = np.asarray(pixel_array(io.BytesIO(data), index=frame))
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3):
        raise DicomError(f"pixels of shape {values.shape}; (h, w) or (h, w, 3) is read")
    return values


def _grey(values: np.ndarray, header: Any, window: tuple[float, float] | None, scale: bool) -> np.ndarray:
    """Brightness in [0, 1], before polarity."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    stored = int(header.BitsStored)
    signed = int(header.get("PixelRepresentation", 0)) == 1
    modality = apply_modality_lut(values, header).astype(np.float64)
    if window is not None:
        return windowed(modality, float(window[0]), float(window[1]))
    if scale and header.get("VOILUTSequence"):
        table = header.VOILUTSequence[0]
        found = apply_voi_lut(modality.astype(values.dtype), header, index=0, prefer_lut=True)
        return np.clip(found.astype(np.float64) / (2.0 ** int(table.LUTDescriptor[2]) - 1), 0, 1)
    if scale and header.get("WindowCenter") is not None and header.get("WindowWidth") is not None:
        center, width = (_first(header[name].value) for name in ("WindowCenter", "WindowWidth"))
        function = str(header.get("VOILUTFunction") or "LINEAR")
        if width >= 1 or (
            width > 0 and function != "LINEAR"
        ):  # the standard allows no other: such a window is none
            return windowed(modality, center, width, function)
    ends = np.array([-(2 ** (stored - 1)), 2 ** (stored - 1) - 1] if signed else [0, 2**stored - 1])
    if header.get("ModalityLUTSequence"):
        ends = np.array([0, 2 ** int(header.ModalityLUTSequence[0].LUTDescriptor[2]) - 1])
    else:
        ends = ends * float(header.get("RescaleSlope", 1) or 1) + float(
            header.get("RescaleIntercept", 0) or 0
        )
    low, high = float(ends.min()), float(ends.max())
    return np.clip((modality - low) / max(high - low, LEAST_WIDTH), 0, 1)


def _why(header: Any, error: Exception) -> str:
    """Why pixels cannot be decoded, without quoting the header."""
    if "PixelData" not in header:
        return "it has no pixels: a report, a plan or a structure set"
    syntax = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
    if (
        syntax is not None
        and getattr(syntax, "is_compressed", False)
        and isinstance(error, (RuntimeError, NotImplementedError))
    ):
        return f"{type(error).__name__}, compressed as {syntax.name}: pip install pylibjpeg[all], or decompress it"
    if isinstance(error, ValueError):
        return "ValueError: fewer or other values than its header says; was it cut short?"
    return type(error).__name__


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, Sequence) or hasattr(value, "__getitem__") else value)


def _palette_bits(header: Any) -> int:
    return int(header.RedPaletteColorLookupTableDescriptor[2])


def _rgb(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(np.clip(values, 0, 1) * 255).astype(np.uint8), "RGB")
