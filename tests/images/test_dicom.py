"""DICOM files, made with pydicom itself, are read as its documentation says, and their headers are never shown."""

import io
import logging

import numpy as np
import pytest

import clipattr as ca
from clipattr.images.decoding import PictureError, read_picture
from clipattr.images.dicom import DicomError, read_dicom, windowed

pydicom = pytest.importorskip("pydicom")
SECRET = "Mustermann^Erika"


def made(values, photometric="MONOCHROME2", bits=12, signed=False, **attributes):
    """Bytes of a DICOM file with these stored values, (h, w), (frames, h, w) or (h, w, 3)."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        SecondaryCaptureImageStorage,
        generate_uid(),
    )
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.PatientName, file.PatientID, file.PatientBirthDate = SECRET, "4711", "19640812"
    values = np.asarray(values)
    colour = values.ndim == 3 and values.shape[-1] == 3 and photometric not in ("MONOCHROME1", "MONOCHROME2")
    if values.ndim == 3 and not colour:
        file.NumberOfFrames = len(values)
    file.Rows, file.Columns = values.shape[-3:-1] if colour else values.shape[-2:]
    file.SamplesPerPixel = 3 if colour else 1
    if colour:
        file.PlanarConfiguration = 0
    file.PhotometricInterpretation = photometric
    file.BitsAllocated = 8 if bits <= 8 else 16
    file.BitsStored, file.HighBit, file.PixelRepresentation = bits, bits - 1, int(signed)
    kind = ("i" if signed else "u") + str(file.BitsAllocated // 8)
    file.PixelData = values.astype(f"<{kind}").tobytes()
    for name, value in attributes.items():
        setattr(file, name, value)
    written = io.BytesIO()
    pydicom.dcmwrite(written, file, enforce_file_format=True)
    return written.getvalue()


def grey(picture):
    array = np.asarray(picture)
    assert array.ndim == 3 and (array[..., :1] == array).all()
    return array[..., 0].astype(int)


RAMP = np.arange(4096, dtype=np.int64).reshape(64, 64)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_are_those_of_pydicom(function):
    from pydicom.pixels import apply_windowing

    about = {
        "WindowCenter": 600.0, "WindowWidth": 900.0, "RescaleSlope": 1.5, "RescaleIntercept": -400.0,
        "VOILUTFunction": function,
    }  # fmt: skip
    data = made(RAMP, **about)
    file = pydicom.dcmread(io.BytesIO(data))
    theirs = apply_windowing(RAMP * 1.5 - 400, file)
    low, high = -400.0, 4095 * 1.5 - 400  # the range that pydicom maps a window to
    assert np.abs(grey(read_dicom(data)) - (theirs - low) / (high - low) * 255).max() <= 1


def test_monochrome1_is_the_negative_of_monochrome2():
    one, two = (grey(read_dicom(made(RAMP, name))) for name in ("MONOCHROME1", "MONOCHROME2"))
    assert (one + two == 255).all() and two[0, 0] == 0 and two[-1, -1] == 255


@pytest.mark.parametrize(("bits", "signed"), [(8, False), (10, False), (12, True), (16, False), (16, True)])
def test_the_range_is_that_of_the_stored_bits(bits, signed):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    middle = (low + high) // 2
    values = np.array([[low, middle], [middle, high]])
    assert (
        np.abs(grey(read_dicom(made(values, bits=bits, signed=signed))) - [[0, 127], [127, 255]]).max() <= 1
    )


def test_a_window_of_the_caller_wins_over_that_of_the_file():
    data = made(RAMP, WindowCenter=3000.0, WindowWidth=10.0)
    found = grey(read_dicom(data, window=(2048, 4096)))
    assert np.abs(found - windowed(RAMP, 2048, 4096) * 255).max() <= 1
    assert 100 < found.mean() < 155 < 255 * (grey(read_dicom(data)) > 0).mean() + 155


def test_the_first_of_several_windows_counts():
    one = read_dicom(made(RAMP, WindowCenter=[1000.0, 3000.0], WindowWidth=[500.0, 800.0]))
    other = read_dicom(made(RAMP, WindowCenter=1000.0, WindowWidth=500.0))
    assert (np.asarray(one) == np.asarray(other)).all()


def test_a_table_in_place_of_a_window_is_applied():
    from pydicom.dataset import Dataset

    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], np.linspace(65535, 0, 4096).astype("<u2").tobytes()
    table["LUTData"].VR = "OW"
    found = grey(read_dicom(made(RAMP, VOILUTSequence=[table])))
    assert np.abs(found - (255 - RAMP / 4095 * 255)).max() <= 1


def test_colour_is_read_as_rgb():
    colours = np.zeros((4, 4, 3), int) + [250, 20, 130]
    assert np.asarray(read_dicom(made(colours, "RGB", bits=8)))[0, 0].tolist() == [250, 20, 130]


def test_every_frame_is_a_picture_and_the_first_stands_for_the_file(tmp_path):
    frames = np.stack([np.full((8, 8), value) for value in (0, 2048, 4095)])
    data = made(frames)
    assert [grey(read_dicom(data, frame))[0, 0] for frame in range(3)] == [0, 128, 255]
    assert grey(read_picture(data))[0, 0] == 0
    with pytest.raises(DicomError, match="has 3 frames; frame 3"):
        read_dicom(data, 3)
    (tmp_path / f"{SECRET}.dcm").write_bytes(data)
    (tmp_path / "series").write_bytes(data)  # without an ending, as machines write them
    every = ca.open_dicom(tmp_path, frames="all")
    assert every.ids == [f"{file:04d}/{frame:04d}" for file in (0, 1) for frame in range(3)]
    assert [grey(record.load())[0, 0] for record in every[:3]] == [0, 128, 255]
    assert grey(ca.open_dicom(tmp_path, frames="middle")[0].load())[0, 0] == 128


def test_a_folder_of_dicom_files_opens_like_any_other(tmp_path):
    (tmp_path / "nodule").mkdir()
    (tmp_path / "nodule" / "a.dcm").write_bytes(made(RAMP))
    images = ca.Images.open(tmp_path)
    assert images.columns["label"] == ["nodule"] and images[0].load().size == (64, 64)


def test_nothing_of_a_header_is_shown(tmp_path, caplog, recwarn):
    good = made(RAMP, Manufacturer="Acme")
    broken = (
        good[:-500],
        good.replace(b"MONOCHROME2", b"MONOCHROMEX"),
        good[:400],
        b"\0" * 128 + b"DICM" + b"\xff" * 90,
    )
    for data in broken:
        with caplog.at_level(logging.DEBUG), pytest.raises(PictureError) as told:
            read_picture(data)
        assert SECRET not in str(told.value) and told.value.__cause__ is None
    (tmp_path / "x.dcm").write_bytes(good)
    images = ca.open_dicom(tmp_path, group="Manufacturer")
    assert images.columns["group"] == ["Acme"]
    shown = "\n".join([repr(images), *images.notes, *images.ids, *images[0].load().info, caplog.text])
    shown += "".join(str(warning.message) for warning in recwarn)
    assert SECRET not in shown and "4711" not in shown


@pytest.mark.parametrize("name", ["PatientName", "PatientID", "AccessionNumber", "StudyDate"])
def test_attributes_of_persons_are_refused_as_groups(tmp_path, name):
    with pytest.raises(ca.DataError, match="is not read from headers"):
        ca.open_dicom(tmp_path, group=name)


def test_without_pydicom_the_reason_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(PictureError, match=r"clipattr\[medical\]"):
        read_picture(b"\0" * 128 + b"DICM" + b"\0" * 20)


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_preamble_is_the_same_picture(implicit):
    whole = made(RAMP)
    dataset = pydicom.dcmread(io.BytesIO(whole))
    dataset.file_meta, dataset.preamble = pydicom.dataset.FileMetaDataset(), None
    bare = io.BytesIO()
    pydicom.dcmwrite(bare, dataset, implicit_vr=implicit, little_endian=True)
    assert bare.getvalue()[:4] == b"\x08\0\x16\0"
    assert read_picture(bare.getvalue()).tobytes() == read_picture(whole).tobytes()


def test_a_window_without_width_is_none():
    assert (
        read_picture(made(RAMP, WindowCenter=40, WindowWidth=0)).tobytes()
        == read_picture(made(RAMP)).tobytes()
    )


def test_files_that_cannot_be_decoded_say_why_without_their_header():
    empty = pydicom.dcmread(io.BytesIO(made(RAMP)))
    del empty.PixelData
    written = io.BytesIO()
    pydicom.dcmwrite(written, empty)
    with pytest.raises(PictureError, match="no pixels: a report"):
        read_picture(written.getvalue())
    with pytest.raises(PictureError, match="cut short"):
        read_picture(made(RAMP)[:-500])
    packed = pydicom.dcmread(io.BytesIO(made(RAMP)))
    packed.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    packed.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8 no picture"])
    written = io.BytesIO()
    pydicom.dcmwrite(written, packed)
    with pytest.raises(PictureError, match=r"JPEG-LS Lossless.*pylibjpeg") as caught:
        read_picture(written.getvalue())
    assert SECRET not in str(caught.value)


def test_a_folder_of_files_without_ending_points_to_its_reader(tmp_path):
    (tmp_path / "IM0001").write_bytes(made(RAMP))
    with pytest.raises(ca.DataError, match="open_dicom"):
        ca.Images.open(tmp_path)
