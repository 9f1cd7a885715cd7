"""Images of any bands and depth: the values of rasterio, tifffile and pydicom, and one line for what cannot be read."""

import io
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from pspnet_zoo.data.images import ImageError
from pspnet_zoo.data.rasters import Region, matching_bands, open_raster
from pspnet_zoo.meta import Preprocess
from pspnet_zoo.storage import dicom as storage_dicom

rasterio = pytest.importorskip("rasterio", reason="the extra raster is not installed")
tifffile = pytest.importorskip("tifffile", reason="the extra raster is not installed")
pydicom = pytest.importorskip("pydicom", reason="the extra raster is not installed")

SIZE = (70, 90)  # no multiple of a block
RANDOM = np.random.default_rng(0)


def noise(dtype, bands=1, size=SIZE):
    if np.dtype(dtype).kind == "f":
        return RANDOM.normal(300, 40, (bands, *size)).astype(dtype)
    return RANDOM.integers(0, min(np.iinfo(dtype).max, 60000), (bands, *size), dtype)


def write_tiff(path, pixels, names=(), nodata=None, **options):
    options = {"transform": rasterio.Affine(10, 0, 500000, 0, -10, 6000000), "crs": "EPSG:32633", **options}
    with rasterio.open(
        path, "w", driver="GTiff", count=len(pixels), height=pixels.shape[1], width=pixels.shape[2], dtype=pixels.dtype,
        nodata=nodata, **options,
    ) as file:  # fmt: skip
        file.write(pixels)
        for index, name in enumerate(names, 1):
            file.set_band_description(index, name)
    return path


def write_dicom(path, pixels, *, kind="MONOCHROME2", bits=12, slope=1, intercept=0, syntax=None, **tags):
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data = pydicom.dataset.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = pydicom.uid.CTImageStorage, pydicom.uid.generate_uid()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    data.PatientName, data.PatientBirthDate = "Doe^Jane", "19700101"
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = kind
    data.BitsAllocated, data.BitsStored, data.HighBit = pixels.itemsize * 8, bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.RescaleSlope, data.RescaleIntercept = slope, intercept
    for key, value in tags.items():
        setattr(data, key, value)
    data.PixelData = pixels.tobytes()
    if syntax:
        data.compress(syntax)
    data.save_as(path, enforce_file_format=True)
    return path


def read(path, **options):
    with open_raster(path, **options) as raster:
        return raster.read()


def dicom_pixels(path):
    return pydicom.dcmread(path).pixel_array


def png16(path, pixels, size=SIZE):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="PNG", count=len(pixels), height=size[0], width=size[1], dtype="uint16") as file:
            file.write(pixels)


def by_rasterio(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return file.read()


def tiff(dtype, bands, **options):
    return "a.tif", lambda path: write_tiff(path, noise(dtype, bands), **options), by_rasterio


def dicom(expected=lambda stored: stored, **options):
    return (
        "a.dcm",
        lambda path: write_dicom(path, noise("uint16")[0] % 4096, **options),
        lambda path: expected(dicom_pixels(path)[None]),
    )


BLOCKS = {"tiled": True, "blockxsize": 32, "blockysize": 48}
KINDS = {
    "tiled deflate uint16": tiff("uint16", 6, compress="deflate", **BLOCKS),
    "striped lzw int16": tiff("int16", 2, compress="lzw", predictor=2),
    "float32 with predictor": tiff("float32", 3, compress="deflate", predictor=3),
    "float64": tiff("float64", 1),
    "bigtiff": tiff("uint8", 4, BIGTIFF="YES"),
    "jpeg inside": tiff("uint8", 3, compress="jpeg", photometric="YCbCr", **BLOCKS),
    "tifffile's own": (
        "a.tif",
        lambda path: tifffile.imwrite(path, noise("uint16", 5), photometric="minisblack", planarconfig="separate"),
        tifffile.imread,
    ),
    "16-bit gray png": ("a.png", lambda path: png16(path, noise("uint16")), by_rasterio),
    "16-bit colour png": ("a.png", lambda path: png16(path, noise("uint16", 3)), by_rasterio),
    "npy": ("a.npy", lambda path: np.save(path, noise("float32", 7)), np.load),
    "big-endian npy": ("a.npy", lambda path: np.save(path, noise("uint16", 2).astype(">u2")), np.load),
    "npz": ("a.npz", lambda path: np.savez_compressed(path, image=noise("int16", 2), more=1), lambda path: np.load(path)["image"]),
    "dicom": dicom(),
    "dicom ct": dicom(lambda stored: stored * 2.0 - 1024, slope=2, intercept=-1024),
    "dicom monochrome1": dicom(lambda stored: 4095 - stored, kind="MONOCHROME1"),
    "dicom rle": dicom(syntax=pydicom.uid.RLELossless),
    "dicom jpeg 2000": dicom(syntax=pydicom.uid.JPEG2000Lossless),
    "dicom jpeg-ls": dicom(syntax=pydicom.uid.JPEGLSLossless),
    "dicom rgb": (
        "a.dcm",
        lambda path: write_dicom(path, np.moveaxis(noise("uint8", 3), 0, -1).copy(), kind="RGB", bits=8),
        lambda path: np.moveaxis(dicom_pixels(path), -1, 0),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_the_reference_reader(kind, tmp_path):
    name, make, reference = KINDS[kind]
    path = tmp_path / name
    make(path)
    expected = reference(path)
    with open_raster(path) as raster:
        pixels = raster.read()
        assert pixels.shape == raster.shape == expected.shape and pixels.dtype.kind == expected.dtype.kind
        assert np.array_equal(pixels, expected)
        part = raster.read(Region(13, 21, 30, 50))
        assert np.array_equal(part, expected[:, 13:43, 21:71]) and raster.valid().all()


def test_a_window_decodes_no_more_than_its_blocks(tmp_path):
    path = write_tiff(tmp_path / "a.tif", noise("uint16", 2, (256, 256)), tiled=True, blockxsize=64, blockysize=64)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        at, length = file.pages[0].dataoffsets[-1], file.pages[0].databytecounts[-1]
    path.write_bytes(data[: at + length // 2])  # the last block is cut off
    with open_raster(path) as raster:
        assert raster.read(Region(0, 0, 64, 64)).shape == (2, 64, 64)
        with pytest.raises(ImageError, match="cannot be decoded"):
            raster.read()


def test_bands_are_chosen_by_number_and_by_name(tmp_path):
    pixels = noise("uint16", 4)
    path = write_tiff(tmp_path / "a.tif", pixels, names=("blue", "green", "red", "nir"))
    with open_raster(path, bands=("nir", "red", 2)) as raster:
        assert raster.bands == ("nir", "red", "green") and np.array_equal(raster.read(), pixels[[3, 2, 1]])
    with open_raster(path) as raster:
        assert raster.bands == ("blue", "green", "red", "nir")
    for wrong in ("swir", 5, 0):
        with pytest.raises(ImageError, match=rf"a\.tif' has no band {wrong!r}; it has 4 bands \(blue, green, red, nir\)"):
            open_raster(path, bands=(wrong,))


def test_no_data_is_not_valid_and_other_nans_are_refused(tmp_path):
    pixels = noise("float32", 2)
    pixels[0, 3, 4] = pixels[1, 5, 6] = np.nan
    with open_raster(write_tiff(tmp_path / "marked.tif", pixels, nodata=np.nan)) as raster:
        assert np.array_equal(raster.read(), pixels, equal_nan=True)
        assert np.argwhere(~raster.valid()).tolist() == [[0, 3, 4], [1, 5, 6]]
    with pytest.raises(ImageError, match=r"bare\.tif' has 2 pixel values that are NaN or infinite"):
        read(write_tiff(tmp_path / "bare.tif", pixels))
    pixels = noise("uint16", 2) + 1
    pixels[:, 7, 8] = 0
    with open_raster(write_tiff(tmp_path / "zero.tif", pixels, nodata=0)) as raster:
        assert np.argwhere(~raster.valid().any(axis=0)).tolist() == [[7, 8]]


def test_a_band_that_is_stored_as_alpha_is_a_band(tmp_path):
    pixels = noise("uint8", 4)
    pixels[3, :9] = 0
    path = write_tiff(tmp_path / "a.tif", pixels, photometric="RGB", alpha="YES")
    with open_raster(path) as raster:
        assert np.array_equal(raster.read(), pixels) and raster.valid().all()
    with open_raster(path, bands=(1, 2, 3)) as raster:
        assert np.array_equal(~raster.valid().any(axis=0), pixels[3] == 0)


def test_a_dicom_window_is_applied_if_asked_for(tmp_path):
    ramp = np.arange(70 * 90, dtype=np.uint16).reshape(SIZE) % 4096
    path = write_dicom(tmp_path / "a.dcm", ramp, WindowCenter=2048, WindowWidth=1024)
    pixels = read(path, dicom_window=True)[0]
    assert pixels[ramp < 1500].max() == 0 and pixels[ramp > 2600].min() == 4095 and 0 < pixels[ramp == 2048][0] < 4095
    for kind, first, last in (("MONOCHROME2", 0, 4095), ("MONOCHROME1", 4095, 0)):  # -1024 to 3071 in units of the scanner
        path = write_dicom(tmp_path / f"{kind}.dcm", ramp, kind=kind, intercept=-1024, WindowCenter=1024, WindowWidth=1024)
        scaled = read(path, dicom_window=True)[0]
        assert scaled[ramp == 0][0] == first and scaled[ramp == 4095][0] == last
        assert np.array_equal(scaled, pixels if first == 0 else 4095 - pixels)
    with pytest.raises(ImageError, match="it has no window to apply; leave dicom_window out"):
        open_raster(write_dicom(tmp_path / "none.dcm", ramp), dicom_window=True)
    with pytest.raises(ImageError, match="no DICOM file"):
        open_raster(write_tiff(tmp_path / "a.tif", noise("uint8")), dicom_window=True)


def test_nothing_that_names_a_person_comes_out_of_a_dicom_file(tmp_path, capsys):
    path = write_dicom(tmp_path / "a.dcm", noise("uint16")[0] % 4096)
    with open_raster(path) as raster:
        everything = repr(vars(raster)) + repr(vars(raster._source)) + raster.read().tobytes().decode("latin1")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ImageError) as error:
        read(path)
    said = capsys.readouterr()
    assert not any(word in everything + str(error.value) + said.out + said.err for word in ("Doe", "Jane", "19700101"))


def cut(path, make):
    make(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def archive(path, **members):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name + ".npy", data)


def vrt(path):
    inner = write_tiff(path.with_name("secret.tif"), noise("uint8"))
    path.write_text(
        f'<VRTDataset rasterXSize="90" rasterYSize="70"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{inner}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )


def vast_archive(path):
    """Two hundred bytes that state a terabyte."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**20, 2**20)})
    archive(path, image=header.getvalue())


def turned_png(path):
    png16(path, noise("uint16"))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    data = path.read_bytes()  # the chunk is put behind the header of 33 bytes
    path.write_bytes(data[:33] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + data[33:])


def pickled(path):
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    path.write_bytes(buffer.getvalue())


DAMAGE = {
    "cut.tif": lambda p: cut(p, lambda p: write_tiff(p, noise("uint16", 3), compress="deflate")),
    "text.tif": lambda p: p.write_text("no image"),
    "empty.tif": lambda p: p.write_bytes(b""),
    "vrt.tif": vrt,
    "complex.tif": lambda p: write_tiff(p, noise("float32").astype("complex64")),
    "cut.png": lambda p: cut(p, lambda p: png16(p, noise("uint16"))),
    "cut.dcm": lambda p: cut(p, lambda p: write_dicom(p, noise("uint16")[0])),
    "text.dcm": lambda p: p.write_text("no image"),
    "frames.dcm": lambda p: write_dicom(p, noise("uint16")[0], NumberOfFrames=40),
    "huge.dcm": lambda p: write_dicom(p, noise("uint16")[0], Rows=60000, Columns=60000),
    "pickled.npy": pickled,
    "cut.npy": lambda p: cut(p, lambda p: np.save(p, noise("float32"))),
    "words.npy": lambda p: np.save(p, np.array(["a", "b"])),
    "flat.npy": lambda p: np.save(p, np.zeros(5)),
    "last.npy": lambda p: np.save(p, np.zeros((70, 90, 3))),
    "two.npz": lambda p: np.savez(p, a=1, b=2),
    "vast.npz": vast_archive,
    "turned.png": turned_png,
    "text.npz": lambda p: p.write_text("no archive"),
    "photo.bmp": lambda p: Image.new("RGB", (9, 9)).save(p),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_cannot_be_read_is_one_line_with_the_files_name(name, tmp_path):
    path = tmp_path / name
    DAMAGE[name](path)
    with pytest.raises(ImageError) as error:
        read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.tif"):
        open_raster(tmp_path / "none.tif")


def test_a_region_stays_inside_the_image(tmp_path):
    with open_raster(write_tiff(tmp_path / "a.tif", noise("uint8"))) as raster:
        for region in (Region(0, 0, 71, 90), Region(-1, 0, 5, 5), Region(0, 85, 5, 6), Region(0, 0, 0, 5)):
            with pytest.raises(ValueError, match="leaves the 70x90 pixels"):
                raster.read(region)


SIX = Preprocess((0.0,) * 6, (1.0,) * 6, white=65535, bands=("b2", "b3", "b4", "b8", "b11", "b12"))


@pytest.mark.parametrize(
    ("pixels", "names", "expected"),
    [
        (noise("uint16", 3), (), "has 3 bands; the network reads 6 (b2, b3, b4, b8, b11, b12)"),
        (noise("uint8", 6), (), "has uint8 pixels; the network reads values in which white is 65535"),
        (noise("uint16", 6), ("b2", "b3", "b4", "b8", "b10", "b11"), "the network also reads b12"),
    ],
)
def test_a_file_that_does_not_fit_the_network_is_named_with_both_sides(pixels, names, expected, tmp_path):
    with open_raster(write_tiff(tmp_path / "a.tif", pixels, names=names)) as raster, pytest.raises(ImageError) as error:
        matching_bands(raster, SIX)
    assert expected in str(error.value) and "a.tif" in str(error.value)


def test_bands_are_matched_by_name_in_any_order(tmp_path):
    names = ("b12", "b11", "b10", "b8", "b4", "b3", "b2")
    pixels = noise("uint16", 7)
    path = write_tiff(tmp_path / "a.tif", pixels, names=names)
    with open_raster(path) as raster:
        bands = matching_bands(raster, SIX)
    assert np.array_equal(read(path, bands=bands), pixels[[6, 5, 4, 3, 1, 0]])


def test_a_dicom_file_that_would_inflate_is_not_opened(tmp_path, monkeypatch):
    deflated, path = pydicom.uid.DeflatedExplicitVRLittleEndian, tmp_path / "a.dcm"
    write_dicom(path, noise("uint16")[0] % 4096)
    data = pydicom.dcmread(path)
    data.add_new(0x00E11001, "OB", bytes(10_000_000))  # after the image's size, before its pixels
    data.file_meta.TransferSyntaxUID = deflated
    data.save_as(path)
    assert path.stat().st_size < 100_000
    with open_raster(path) as raster:
        assert np.array_equal(raster.read(), data.pixel_array[None])
    monkeypatch.setattr(storage_dicom, "MAX_INFLATED", 5_000_000)
    monkeypatch.setattr(pydicom, "dcmread", lambda path: pytest.fail("it was opened"))
    with pytest.raises(ImageError, match=r"a\.dcm' cannot be read: it unpacks to more than"):
        open_raster(path)


@pytest.mark.parametrize("length", [140, 150, 250])
def test_a_dicom_file_whose_header_is_cut_off_is_named(tmp_path, length):
    path = tmp_path / "a.dcm"
    write_dicom(path, noise("uint16")[0] % 4096)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ImageError, match=r"a\.dcm' cannot be read"):
        open_raster(path)


@pytest.mark.parametrize("name", ["ZZPATIENT", "O'ZZPATIENT", "Rows ZZPATIENT"])
@pytest.mark.parametrize(
    "tag", ["PhotometricInterpretation", "RescaleSlope", "RescaleType", "NumberOfFrames", "WindowCenter", "ImageComments", "Rows"]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_name_in_any_element_of_a_dicom_file_is_in_no_message(tmp_path, tag, name, caplog):
    path = tmp_path / "a.dcm"
    write_dicom(path, noise("uint16")[0] % 4096)
    data = pydicom.dcmread(path)
    data.pop(tag, None)
    data.add(pydicom.dataelem.RawDataElement(pydicom.tag.Tag(tag), "LO", len(name), name.encode(), 0, False, True))
    data.save_as(path)
    try:
        with open_raster(path) as raster:
            raster.read()
    except ImageError as error:
        assert "ZZPATIENT" not in str(error) and "a.dcm" in str(error)
    assert "ZZPATIENT" not in caplog.text
