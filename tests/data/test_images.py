"""Any kind of image file, and every kind that is none."""

import io
import os
import struct

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from pspnet_zoo.data.images import SUFFIXES, ImageError, read_image, read_mask, to_rgb

RED = (200, 30, 40)


def save(path, mode, value, **options):
    Image.new(mode, (9, 7), value).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("mode", "value", "suffix", "expected"),
    [
        ("RGB", RED, "png", RED),
        ("L", 90, "png", (90, 90, 90)),
        ("1", 1, "png", (255, 255, 255)),
        ("LA", (90, 255), "png", (90, 90, 90)),
        ("RGBA", (*RED, 255), "png", RED),
        ("RGBA", (*RED, 0), "png", (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), "tif", (255, 0, 0)),
        ("I;16", 32768, "png", (128, 128, 128)),
        ("I", 65535, "tif", (255, 255, 255)),
        ("F", 0.5, "tif", (128, 128, 128)),
        ("F", 128.0, "tif", (128, 128, 128)),
        ("LAB", (128, 128, 128), "tif", None),
        ("YCbCr", (128, 128, 128), "jpg", (128, 128, 128)),
    ],
)
def test_every_mode_becomes_rgb(mode, value, suffix, expected, tmp_path):
    image = read_image(save(tmp_path / f"image.{suffix}", mode, value))
    assert image.shape == (7, 9, 3) and image.dtype == np.uint8
    if expected:
        assert np.abs(image.astype(int) - expected).max() <= 1


def test_a_palette_with_transparency_is_laid_on_white(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*RED, 0, 0, 0])
    image.putpixel((1, 1), 1)
    image.save(tmp_path / "palette.png", transparency=0)
    pixels = read_image(tmp_path / "palette.png")
    assert pixels[0, 0].tolist() == [255] * 3 and pixels[1, 1].tolist() == [0] * 3


def test_a_photo_is_turned_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned by a quarter
    image = Image.new("RGB", (9, 7))
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (9, 7, 3)


@pytest.mark.parametrize("size", [(1, 1), (10000, 100)])
def test_odd_shapes_are_read(size, tmp_path):
    Image.new("RGB", size).save(tmp_path / "odd.png")
    assert read_image(tmp_path / "odd.png").shape == (size[1], size[0], 3)


def test_what_is_no_image_is_named_with_the_reason(tmp_path):
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(buffer, "JPEG")
    files = {
        "truncated.jpg": buffer.getvalue()[:-500],
        "empty.jpg": b"",
        "text.jpg": b"this is no image",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match=name):
            read_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="missing.jpg"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="has more than 2,000 pixels, the most that are read"):
        read_image(tmp_path / "bomb.png")


def test_a_float_image_with_nan_is_refused(tmp_path):
    save(tmp_path / "nan.tif", "F", float("nan"))
    with pytest.raises(ImageError, match=r"nan.tif' has pixels that are not finite"):
        read_image(tmp_path / "nan.tif")


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_an_array_that_is_no_rgb_image_is_refused(array):
    with pytest.raises(ImageError, match="an image is"):
        to_rgb(array)


def test_a_masks_ids_are_read_whatever_its_palette(tmp_path):
    image = Image.new("P", (3, 2), 7)
    image.putpalette([1, 2, 3] * 256)
    image.save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[7] * 3] * 2
    with pytest.raises(ImageError, match=r"mode RGB; a mask has one 8-bit channel"):
        read_mask(save(tmp_path / "rgb.png", "RGB", RED))


@pytest.mark.parametrize(("most", "mode"), [(255, "I;16"), (255, "I"), (1023, "I;16"), (4095, "I;16"), (16383, "I;16")])
def test_greys_of_fewer_bits_than_their_file_are_not_dark(most, mode, tmp_path):
    values = np.array([[0, most // 2, most]], np.int32 if mode == "I" else np.uint16)
    assert np.abs(to_rgb(Image.fromarray(values))[0, :, 0].astype(int) - [0, 127, 255]).max() <= 1


def test_a_large_photo_is_read(tmp_path, monkeypatch):
    Image.new("L", (100, 100), 9).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)  # 96 megapixels are so much larger than Pillow's
    assert (read_image(tmp_path / "large.png") == 9).all()


def test_a_pil_image_is_turned_too():
    image = Image.new("RGB", (9, 7))
    image.getexif()[0x0112] = 6
    assert to_rgb(image).shape == (9, 7, 3)


def test_of_several_images_the_first_is_read_and_that_is_said(tmp_path, caplog):
    pages = [Image.new("RGB", (9, 7), color) for color in (RED, (0, 0, 255))]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    assert np.abs(read_image(tmp_path / "pages.tif").astype(int) - RED).max() == 0
    assert "holds 2 images; only the first is read" in caplog.text


@pytest.mark.parametrize("suffix", ["jp2", "avif", "jfif"])
def test_newer_endings_are_taken_for_images(suffix):
    assert f".{suffix}" in SUFFIXES


@pytest.mark.parametrize("nothing", [None, 7, Image.new("RGB", (0, 5)), np.zeros(3)])
def test_what_is_nothing_like_an_image_is_refused(nothing):
    with pytest.raises(ImageError):
        to_rgb(nothing)


def test_a_files_name_is_said_once(tmp_path):
    (tmp_path / "text.jpg").write_bytes(b"no image")
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path / "text.jpg")
    assert str(caught.value).count("text.jpg") == 1


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="pipe.png' cannot be read: it is a folder, a pipe or a device, not a file"):
        read_image(tmp_path / "pipe.png")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (IndexError("out of range"), "cannot be read: out of range"),
        (ZeroDivisionError(), "cannot be read: ZeroDivisionError"),
        (struct.error("too short"), "cannot be read: too short"),
        (MemoryError(), "needs more memory than there is"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("step", ["load", "convert"])
def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch, error, reason, step):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def fail(*_):
        raise error

    monkeypatch.setattr(PngImageFile if step == "load" else Image.Image, step, fail)
    with pytest.raises(ImageError, match=f"a.png' {reason}"):
        read_image(tmp_path / "a.png")
