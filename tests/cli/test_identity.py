"""Names of persons and places in the metadata of images never reach what the commands write."""

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo import Labels, PSPNet
from pspnet_zoo.meta import Preprocess

SECRETS = (b"Doe^Jane", b"Jane", b"19700101", b"SECRETCAMERA", b"SECRETNAME", b"SECRETNOTE")


def photos(folder):
    exif = Image.Exif()
    exif[0x010F], exif[0x8298] = "SECRETCAMERA", "SECRETNAME"
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 5.0, 13.37), 3: "E", 4: (4.0, 18.0, 0.0)})
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(pixels).save(folder / name, exif=exif, comment=b"SECRETNOTE")
    return Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3)


def scans(folder):
    pytest.importorskip("pydicom")
    from tests.data.test_rasters import write_dicom

    for name in ("a.dcm", "b.dcm"):
        write_dicom(folder / name, np.random.default_rng(0).integers(0, 4096, (48, 64)).astype(np.uint16))
    return Preprocess(mean=(0.5,), std=(0.5,), white=4095)


@pytest.mark.parametrize("kind", [photos, scans], ids=lambda kind: kind.__name__)
def test_nothing_that_is_written_names_a_person_or_a_place(run, tmp_path, kind):
    source = tmp_path / "source"
    source.mkdir()
    preprocess = kind(source)
    assert any(secret in file.read_bytes() for file in source.iterdir() for secret in SECRETS)
    network = PSPNet("test_resnet", None, classes=2, psp_out_channels=8, in_channels=len(preprocess.mean))
    network.preprocess, network.labels = preprocess, Labels(("a", "b"))
    model = network.save_pretrained(tmp_path / "model", dataset="d")
    out = tmp_path / "out"
    texts = []
    for arguments in (
        ("predict", source, "-o", out / "predictions", "--report", out / "report.jsonl", "--confidence", "--format", "coco"),
        ("rank", source, "-o", out / "ranking.csv"),
    ):
        code, *said = run(*arguments, "--model", model)
        assert code == 0, said
        texts += said
    written = [file for file in [*out.rglob("*"), *model.rglob("*")] if file.is_file()]
    assert len(written) >= 8 and any(file.name == "ranking.png" for file in written)
    for content in [*(file.read_bytes() for file in written), *(text.encode() for text in texts)]:
        assert not any(secret in content for secret in SECRETS)
    for file in written:
        if file.suffix in (".png", ".jpg"):
            with Image.open(file) as image:
                assert not dict(image.getexif()) and not {"exif", "comment", "xmp"} & set(image.info)
