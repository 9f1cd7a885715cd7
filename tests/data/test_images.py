"""Any kind of image file, and every kind that is none."""

import io
import os
import struct
import time
import warnings

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from pspnet_zoo.data.images import (
    SUFFIXES,
    ImageError,
    ImageFormatError,
    ImageSizeError,
    check_upload,
    read_image,
    read_mask,
    to_rgb,
)

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
        ("I;16", 400, "png", (1, 1, 1)),
        ("F", 0.5, "tif", (128, 128, 128)),
        ("LAB", (128, 128, 128), "tif", None),
        ("YCbCr", (128, 128, 128), "jpg", (128, 128, 128)),
    ],
)
def test_every_mode_becomes_rgb(mode, value, suffix, expected, tmp_path):
    image = read_image(save(tmp_path / f"image.{suffix}", mode, value))
    assert image.shape == (7, 9, 3) and image.dtype == np.uint8
    if expected:
        assert np.abs(image.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_exif_is_a_line_with_the_files_name(suffix, tmp_path, caplog):
    exif = Image.Exif()
    exif[315] = "x" * 60
    save(tmp_path / f"a.{suffix}", "RGB", RED, exif=exif.tobytes()[:-30])
    assert sorted(read_image(tmp_path / f"a.{suffix}").shape) == [3, 7, 9]
    assert caplog.messages == [f"'{tmp_path / f'a.{suffix}'}' has damaged metadata, which are left out: Truncated File Read"]


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


@pytest.mark.parametrize(
    ("mode", "values", "message"),
    [
        ("F", [0.0, 1.01], "floating-point pixels from 0 to 1.01; they are read as 0 .black. to 1 .white."),
        ("F", [-0.5, 1.0], "floating-point pixels from -0.5 to 1"),
        ("F", [273.0, 313.0], "floating-point pixels from 273 to 313"),
        ("F", [0.0, 255.0], "floating-point pixels from 0 to 255"),
        ("F", [0.0, float("nan")], "floating-point pixels from nan to nan"),
        ("I", [0, 255], "32-bit integer pixels, whose white is not stated"),
        ("I", [0, 65535], "32-bit integer pixels, whose white is not stated"),
    ],
)
def test_pixels_without_a_stated_range_are_refused_with_the_way_to_state_it(mode, values, message, tmp_path):
    Image.fromarray(np.array([values], np.float32 if mode == "F" else np.int32)).save(tmp_path / "odd.tif")
    with pytest.raises(ImageError, match=rf"odd.tif' has {message}.*data stats DIR --write"):
        read_image(tmp_path / "odd.tif")


def _tiff(pixels: np.ndarray, path, **tags) -> None:
    """Write with tifffile, which leaves out or sets any tag."""
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(path, pixels, **tags)


def test_a_fourth_channel_is_alpha_only_where_the_file_says_so(tmp_path, caplog):
    pixels = np.full((8, 8, 4), 90, np.uint8)
    _tiff(pixels, tmp_path / "alpha.tif", photometric="rgb", extrasamples=["unassalpha"])
    assert (read_image(tmp_path / "alpha.tif") == 197).all()  # on white
    assert "alpha.tif' has transparent pixels, which are laid on white" in caplog.text
    _tiff(pixels, tmp_path / "nir.tif", photometric="rgb", extrasamples=["unspecified"])
    assert (read_image(tmp_path / "nir.tif") == 90).all()  # the fourth is left out
    Image.fromarray(pixels, "RGBA").save(tmp_path / "unsaid.tif")
    data = (tmp_path / "unsaid.tif").read_bytes().replace(b"\x52\x01\x03\x00", b"\xe8\xfd\x03\x00")  # tag 338 as 65000
    (tmp_path / "unsaid.tif").write_bytes(data)
    with pytest.raises(ImageError, match="unsaid.tif' has a fourth channel, and no tag ExtraSamples says that it is alpha"):
        read_image(tmp_path / "unsaid.tif")


def test_signed_bytes_are_refused(tmp_path):
    _tiff(np.full((8, 8), -1, np.int8), tmp_path / "signed.tif")
    with pytest.raises(ImageError, match="signed.tif' has signed 8-bit pixels, whose white is not stated"):
        read_image(tmp_path / "signed.tif")


@pytest.mark.parametrize("brightest", [1023, 1024, 4095, 40000, 65535])
def test_the_scale_of_16_bits_does_not_depend_on_the_pixels_and_is_that_of_color(brightest, tmp_path, caplog):
    values = np.array([[0, 400, brightest]], np.uint16)
    Image.fromarray(values).save(tmp_path / "gray.png")
    gray = read_image(tmp_path / "gray.png")
    assert gray[0, :, 0].tolist() == [0, 400 >> 8, brightest >> 8]
    assert ("gray.png' has no value above" in caplog.text) == (brightest < 16384)
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "color.tif", np.repeat(values[..., None], 3, axis=2), photometric="rgb")
    assert np.array_equal(read_image(tmp_path / "color.tif"), gray)


FORMATS = ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm", "jp2", "tga", "ico", "pcx", "sgi", "dds", "qoi")


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 200))])
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_damaged_file_is_read_or_named(suffix, seed, tmp_path):
    """Every error that any decoder raises becomes one that names the file."""
    random, buffer = np.random.default_rng([seed, FORMATS.index(suffix)]), io.BytesIO()
    image = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    image.save(buffer, {"jpg": "jpeg", "jp2": "jpeg2000", "tif": "tiff"}.get(suffix, suffix))
    data = bytearray(buffer.getvalue())
    for _ in range(int(random.integers(1, 20))):
        data[int(random.integers(0, min(len(data), 2 ** int(random.integers(4, 14)))))] = int(random.integers(0, 256))
    path = tmp_path / f"damaged.{suffix}"
    path.write_bytes(data[: int(random.integers(1, len(data) + 1))] if seed % 2 else data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow's decoders
        try:
            pixels = read_image(path)
        except ImageError as error:
            assert f"damaged.{suffix}" in str(error)
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


def test_postscript_is_not_run(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "EPS")
    (tmp_path / "photo.jpg").write_bytes(buffer.getvalue())
    with pytest.raises(ImageError, match="photo.jpg' is PostScript"):
        read_image(tmp_path / "photo.jpg")


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
    assert "holds several images; only the first is read" in caplog.text


def test_many_images_in_a_file_cost_no_time():
    file = io.BytesIO()
    pages = [Image.new("L", (8, 8))] * 3000
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    start = time.process_time()
    assert read_image(file).shape == (8, 8, 3)
    assert time.process_time() - start < 0.5  # counting them took seconds


@pytest.mark.parametrize(
    ("mode", "size", "kind", "error", "text"),
    [
        ("1", (10_000, 6_000), "PNG", ImageSizeError, "more than 50 megapixels"),
        ("1", (20_000, 10_000), "PNG", ImageSizeError, "more than 50 megapixels"),
        ("1", (100_000, 1), "PNG", ImageError, "100000 x 1 pixels; the longer side may be 50 times"),
        ("L", (8, 8), "EPS", ImageFormatError, "is a EPS file; accepted are AVIF, BMP"),
        ("L", (8, 8), "TGA", ImageFormatError, "is a TGA file"),
    ],
)
def test_an_upload_is_refused_by_its_header(mode, size, kind, error, text):
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind)
    with pytest.raises(error, match=text):
        check_upload(file)


def test_an_upload_that_is_no_image_is_refused():
    with pytest.raises(ImageFormatError, match="The file is not an image"):
        check_upload(io.BytesIO(b"this is a text"))


def test_an_upload_within_the_limits_is_accepted_and_damage_is_left_to_the_reader():
    file = io.BytesIO()
    Image.effect_noise((100, 80), 60).save(file, "PNG")
    check_upload(file)
    assert read_image(file).shape == (80, 100, 3)
    check_upload(io.BytesIO(file.getvalue()[:60]))
    with pytest.raises(ImageSizeError, match=r"0.007 megapixels"):
        check_upload(file, max_pixels=7000)


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


def test_a_file_of_no_bytes_is_refused_unopened(tmp_path, monkeypatch):
    (tmp_path / "empty.png").touch()
    monkeypatch.setattr(Image, "open", None)  # a file of /proc is of no bytes too, and reading it may never end
    with pytest.raises(ImageError, match="empty.png' is empty; copy it again"):
        read_image(tmp_path / "empty.png")


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


def test_an_upload_whose_header_fails_is_refused_since_other_readers_know_no_limit(monkeypatch):
    def fail(*_, **__):
        raise OverflowError("an offset of a tag")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ImageError, match="The file cannot be read: an offset of a tag"):
        check_upload(io.BytesIO(b"II+"))
