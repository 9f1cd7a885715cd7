"""`predict --format` and `--confidence`: polygons beside the masks, and no word of an image that was not segmented."""

import json

import numpy as np
import pytest
from PIL import ExifTags, Image

from pspnet_zoo import Predictor
from pspnet_zoo.data.labels import CAMVID


@pytest.fixture
def photos(tmp_path):
    folder, random = tmp_path / "photos" / "images", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name in "ab":
        blocks = random.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


TITLES = {"coco": "COCO", "labelme": "labelme", "yolo": "YOLO"}


@pytest.mark.parametrize("kind", TITLES)
def test_the_polygons_of_a_command_are_imported_as_its_masks(run, model, photos, tmp_path, kind):
    out = tmp_path / "drafts"
    code, text, err = run("predict", photos, "-o", out, "--model", model, "--masks-only", "--format", kind)
    assert code == 2 and "broken.png" in err
    assert f"Wrote the objects in 2 files as {TITLES[kind]} polygons to" in text
    assert not [path for path in out.rglob("*") if "broken" in path.name]
    Image.new("RGB", (64, 48)).save(photos / "not_predicted.png")
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps({"names": CAMVID.names}))
    data = tmp_path / "data"
    code, text, err = run("data", "import", out, "--format", kind, "--images", photos, "--classes", classes, "-o", data)
    assert "Error" not in err and sorted(path.stem for path in data.glob("*/masks/*")) == ["a", "b"]
    for name in "ab":
        with Image.open(out / f"{name}_mask.png") as mask, Image.open(next(data.glob(f"*/masks/{name}.png"))) as back:
            assert (np.array(mask) == np.array(back)).all()


@pytest.mark.parametrize("kind", TITLES)
def test_drafts_leave_out_the_background_and_come_back_with_it(run, model, photos, tmp_path, kind):
    """With the classes that `data import` wrote beside the images that the model was trained on."""
    (photos / "broken.png").unlink()
    names = ["cat", "background", *CAMVID.names[2:]]
    config = json.loads((model / "config.json").read_text())
    config["labels"]["names"] = names
    (model / "config.json").write_text(json.dumps(config))
    out, classes = tmp_path / "drafts", tmp_path / "classes.json"
    run("predict", photos, "-o", out, "--model", model, "--masks-only", "--format", kind)
    assert kind == "yolo" or not any('"label": "background"' in path.read_text() for path in out.rglob("*.json"))
    classes.write_text(json.dumps({"names": names, "background": "background"}))
    run("data", "import", out, "--images", photos, "--classes", classes, "-o", tmp_path / "data")
    assert json.loads((tmp_path / "data" / "classes.json").read_text())["background"] == "background"
    for name in "ab":
        with Image.open(out / f"{name}_mask.png") as mask, Image.open(next(tmp_path.glob(f"data/*/masks/{name}.png"))) as back:
            assert (np.array(mask) == np.array(back)).all() and (np.array(mask) == 1).any()


def test_geojson_is_in_the_coordinates_of_a_map(run, model, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 48, 64), np.uint8)
    place = rasterio.Affine(2, 0, 500_000, 0, -2, 5_800_000)
    options = {"driver": "GTiff", "width": 64, "height": 48, "count": 3, "dtype": "uint8", "crs": "EPSG:32633", "transform": place}
    with rasterio.open(tmp_path / "map.tif", "w", photometric="RGB", **options) as file:
        file.write(pixels)
    code, _, _ = run(
        "predict", tmp_path / "map.tif", "-o", tmp_path / "out", "--model", model, "--format", "geojson", "--min-area", 4
    )
    written = json.loads((tmp_path / "out" / "map.geojson").read_text())
    assert code == 0 and written["crs"]["properties"]["name"] == "EPSG:32633" and written["features"]
    corners = np.concatenate([ring for f in written["features"] for ring in f["geometry"]["coordinates"]])
    assert corners.min(0).tolist() == [500_000, 5_799_904] and corners.max(0).tolist() == [500_128, 5_800_000]
    assert min(f["properties"]["pixels"] for f in written["features"]) >= 4


def test_geojson_of_a_photo_that_is_turned_is_in_pixels(run, model, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "turned.tif", exif=exif)
    code, _, err = run("predict", tmp_path / "turned.tif", "-o", tmp_path / "out", "--model", model, "--format", "geojson")
    written = json.loads((tmp_path / "out" / "turned.geojson").read_text())
    assert code == 0 and "crs" not in written and written["features"], err


def test_the_confidence_is_the_probability_of_the_class(run, model, photos, tmp_path):
    command = ("predict", photos, "-o", tmp_path / "out", "--model", model, "--confidence", "--masks-only")
    code, _, _ = run(*command)
    with Image.open(tmp_path / "out" / "a_confidence.png") as image:
        assert code == 2 and image.mode == "L"
        found = np.array(image)
    wanted = Predictor(model)(photos / "a.png", probabilities=True).probabilities.max(0)
    assert found.min() > 0 and (found == np.round(wanted * 255)).mean() > 0.999
    _, text, _ = run(*command, "--skip-existing")
    assert "2 were there already" in text
    (tmp_path / "out" / "a_confidence.png").unlink()
    _, text, _ = run(*command, "--skip-existing")
    assert "1 were there already" in text and (tmp_path / "out" / "a_confidence.png").exists()


def test_polygons_of_videos_are_refused(run, model, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"")
    code, _, err = run("predict", tmp_path / "clip.mp4", "--model", model, "--format", "labelme")
    assert code == 2 and "--format labelme is for images, and there are only videos; leave it out" in err


def test_images_of_one_stem_keep_their_names_in_coco(run, model, photos, tmp_path):
    (photos / "broken.png").unlink()
    (photos / "b.png").rename(photos / "a.bmp")
    run("predict", photos, "-o", tmp_path / "out", "--model", model, "--masks-only", "--format", "coco")
    written = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [image["file_name"] for image in written["images"]] == ["a.bmp", "a.png"]


def test_images_of_one_name_from_two_folders_are_two_images_in_coco(run, model, photos, tmp_path):
    (photos / "broken.png").unlink()
    (photos / "b.png").rename(photos.parent / "a.png")
    options = ["-o", tmp_path / "out", "--model", model, "--masks-only", "--format", "coco"]
    assert run("predict", photos, photos.parent, *options)[0] == 0
    written = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [image["file_name"] for image in written["images"]] == ["a.png", "a_2.png"]


def test_confidence_is_refused_for_videos(run, model, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"")
    code, _, err = run("predict", tmp_path / "clip.mp4", "--model", model, "--confidence")
    assert code == 2 and "--confidence is for images" in err
