"""One picture in, upright RGB or a reason out."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from clipattr.images.decoding import PictureError, difference_hash, read_picture, thumbnail_bytes


def pixels(seed=0, height=12, width=16):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_png_comes_back_pixel_for_pixel():
    array = pixels()
    assert np.array_equal(np.asarray(read_picture(encoded(Image.fromarray(array), "PNG"))), array)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_picture_gives_a_reason(kind):
    data = encoded(Image.fromarray(pixels(height=64, width=64)), kind)
    with pytest.raises(PictureError, match="cannot be decoded"):
        read_picture(data[: len(data) // 2])


def test_a_text_file_called_jpg_is_distinguished_from_a_picture(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("not a picture at all")
    with pytest.raises(PictureError, match="it holds text"):
        read_picture(path)


def test_an_empty_file_is_called_empty(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(PictureError, match="0 bytes"):
        read_picture(tmp_path / "a.png")


def test_a_missing_file_and_a_folder_give_their_reasons(tmp_path):
    with pytest.raises(PictureError, match="no such file"):
        read_picture(tmp_path / "nowhere.png")
    with pytest.raises(PictureError, match="folder"):
        read_picture(tmp_path)


def test_cmyk_becomes_the_colour_it_prints():
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    red, green, blue = np.asarray(read_picture(encoded(cyan, "JPEG", quality=95)))[4, 4].tolist()
    assert red < 20 and green > 235 and blue > 235


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    grey = read_picture(encoded(Image.fromarray(values), "PNG"))
    assert np.asarray(grey)[0, :, 0].tolist() == [0, 100, 255]


def test_wide_integers_without_a_range_are_refused():
    with pytest.raises(PictureError, match="8 or 16 bits"):
        read_picture(encoded(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), "TIFF"))


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(read_picture(data))[0, 0].tolist() == [255, 0, 0]


def test_a_palette_keeps_its_colours_and_transparency_becomes_white():
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([10, 200, 30, 0, 0, 0] + [0] * 762)
    assert np.asarray(read_picture(encoded(picture, "PNG")))[0, 0].tolist() == [10, 200, 30]
    assert np.asarray(read_picture(encoded(picture, "PNG", transparency=0)))[0, 0].tolist() == [255] * 3
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert np.asarray(read_picture(encoded(clear, "PNG")))[0, 0].tolist() == [255] * 3


def test_an_exif_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif)
    assert read_picture(data).size == (10, 20)


def test_a_bomb_is_refused_before_it_is_decoded():
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"0"))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(PictureError, match="too many pixels"):
        read_picture(bomb)


def test_a_giant_picture_is_decoded_at_draft_size_and_beyond_the_limit_refused(monkeypatch):
    data = encoded(Image.new("L", (12_000, 6_000), 90), "JPEG")
    assert read_picture(data, draft=224).size == (1500, 750)  # an eighth, the smallest that JPEG decodes to
    monkeypatch.setattr("clipattr.images.decoding.MAX_PIXELS", 1_000_000)
    with pytest.raises(PictureError, match="too many pixels"):
        read_picture(encoded(Image.new("L", (2000, 2000)), "PNG"))


def test_one_pixel_is_a_picture_and_a_hair_is_not():
    assert read_picture(np.zeros((1, 1, 3), dtype=np.uint8)).size == (1, 1)
    with pytest.raises(PictureError, match="too narrow: 500 × 1"):
        read_picture(np.zeros((1, 500, 3), dtype=np.uint8))


def test_a_program_in_postscript_is_not_run():
    with pytest.raises(PictureError, match="known format"):
        read_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")


def test_draft_decoding_shrinks_but_stays_above_the_size_asked():
    data = encoded(Image.fromarray(pixels(height=512, width=1024)), "JPEG")
    assert read_picture(data, draft=100).size == (256, 128)
    assert read_picture(data).size == (1024, 512)


def test_arrays_of_other_types_are_refused_by_name():
    with pytest.raises(PictureError, match="int64 from 0 to 256"):
        read_picture(np.diag([256, 0]).astype(np.int64))
    with pytest.raises(PictureError, match="from -1 to 2: divide by 255, or leave out a transform"):
        read_picture(np.array([[-1.0, 2.0]]))
    with pytest.raises(PictureError, match=r"\(4, 4, 7\)"):
        read_picture(np.zeros((4, 4, 7), dtype=np.uint8))


def test_a_copy_at_another_size_keeps_its_hash_and_another_picture_does_not():
    smooth = Image.fromarray(pixels(height=6, width=7)).resize((280, 240), Image.Resampling.BICUBIC)
    other = Image.fromarray(pixels(1, height=6, width=7)).resize((280, 240), Image.Resampling.BICUBIC)
    small = read_picture(encoded(smooth.resize((140, 120)), "JPEG", quality=70))
    assert (difference_hash(smooth) ^ difference_hash(small)).bit_count() <= 3
    assert (difference_hash(smooth) ^ difference_hash(other)).bit_count() > 10


def test_a_thumbnail_fits_and_small_pictures_stay_exact():
    assert max(read_picture(thumbnail_bytes(Image.fromarray(pixels(height=300, width=500)))).size) == 112
    array = pixels()
    assert np.array_equal(np.asarray(read_picture(thumbnail_bytes(Image.fromarray(array)))), array)


@pytest.mark.parametrize("kind", ["uint16", "int64", "bool", "float32"])
def test_arrays_of_every_usual_type_are_the_same_picture(kind):
    top = {"uint16": 65535, "int64": 255, "bool": 1, "float32": 1}[kind]
    array = (np.tile(np.arange(2), (4, 2)) * top).astype(kind)
    assert np.array_equal(np.asarray(read_picture(array))[..., 0], np.tile([0, 255], (4, 2)))


def test_sixteen_bits_in_which_white_is_zero_are_turned_round():
    ramp = np.tile(np.arange(64, dtype=np.uint16) * 1000, (4, 1))
    usual, turned = (
        np.asarray(read_picture(encoded(Image.fromarray(ramp), "TIFF", tiffinfo={262: white}))).astype(int)
        for white in (1, 0)
    )
    assert np.abs(usual + turned - 255).max() <= 1 and usual[0, 0, 0] == 0


def test_eight_bits_in_thirty_two_are_not_nearly_black():
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.int32), (4, 1))
    assert np.array_equal(np.asarray(read_picture(encoded(Image.fromarray(ramp), "TIFF")))[..., 0], ramp)


def test_a_photo_beyond_pillows_limit_of_pixels_is_decoded_smaller(recwarn):
    huge = encoded(Image.new("L", (14_000, 13_500), 200), "JPEG")
    assert read_picture(huge).size == (7_000, 6_750)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "git lfs pull"),
        (b"<!DOCTYPE html><title>404</title>", "failed download"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC: convert"),
        (b"PK\x03\x04....", "ZIP archive: unpack"),
    ],
)
def test_files_often_taken_for_pictures_are_named(data, told):
    with pytest.raises(PictureError, match=told):
        read_picture(data)


def test_an_address_is_not_called_a_missing_file():
    with pytest.raises(PictureError, match="network address.*download"):
        read_picture("https://example.org/cat.jpg")


def test_premultiplied_greys_are_laid_on_white():
    assert np.asarray(read_picture(Image.new("La", (4, 4), (0, 128))))[0, 0].tolist() == [127] * 3
