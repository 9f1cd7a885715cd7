"""Vectors of map coordinates, drawn onto their images by the command and against rasterio's own drawing."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo.data.importers.recognise import read_source
from pspnet_zoo.data.importers.vectors import _Layer
from pspnet_zoo.data.open import open_dataset

pytest.importorskip("rasterio", reason="the extra raster is not installed")
pytest.importorskip("pyogrio", reason="the extra raster is not installed")

import pyogrio
import rasterio
import rasterio.warp
import shapely
from rasterio.features import rasterize
from rasterio.warp import transform_geom

from tests.data.test_rasters import noise, write_tiff

SIZE = (60, 80)
UTM, DEGREES = "EPSG:32633", "EPSG:4326"
PLACE = rasterio.Affine(10, 0, 500000, 0, -10, 6000000)
BASE = (500000, 6000000)


def square(left, top, right, bottom):
    """A polygon of UTM, from pixels."""
    return shapely.box(BASE[0] + 10 * left, BASE[1] - 10 * bottom, BASE[0] + 10 * right, BASE[1] - 10 * top)


SHAPES = [
    ("water", square(5, 5, 20, 30)),
    ("forest", square(40, 10, 75, 50) - square(50, 20, 60, 30)),  # with a hole
    ("water", square(-20, 50, 15, 90)),  # over the edge
    ("town", square(500, 500, 520, 520)),  # on no image
]


def expected(names):
    """The mask by GDAL, the later over the earlier."""
    return rasterize([(shape, names.index(name)) for name, shape in SHAPES], SIZE, transform=PLACE, fill=names.index("background"))


def write(path, shapes=SHAPES, crs=UTM, field="class", driver=None):
    geometries = [shape for _, shape in shapes]
    if crs != UTM:
        geometries = [
            shapely.geometry.shape(transform_geom(UTM, crs, shapely.geometry.mapping(g), precision=9)) for g in geometries
        ]
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(geometries)), [np.array([name for name, _ in shapes], object)], [field],
        geometry_type="Unknown" if path.suffix != ".shp" else "Polygon", crs=crs, driver=driver,
    )  # fmt: skip


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in").mkdir()
    write_tiff(tmp_path / "in" / "a.tif", noise("uint8", 3, SIZE), photometric="RGB")
    return tmp_path / "in"


@pytest.mark.parametrize("crs", [UTM, DEGREES])
@pytest.mark.parametrize("name", ["all.geojson", "all.gpkg", "all.shp"])
def test_polygons_in_any_coordinates_are_drawn_onto_their_image(run, source, tmp_path, name, crs):
    write(source / name, crs=crs)
    code, out, err = run("data", "import", source, "-o", tmp_path / "out")
    assert code == 0, err + out
    assert "the field 'class'" in out
    names = list(open_dataset("folder", tmp_path / "out", "train").labels.names)
    (mask,) = (tmp_path / "out").glob("*/masks/a.png")
    assert np.mean(np.array(Image.open(mask)) == expected(names)) > (0.9999 if crs == UTM else 0.99)
    assert (tmp_path / "out" / "contact_sheet.png").is_file()


def test_a_file_of_one_images_name_is_of_that_image_and_bands_are_kept(run, source, tmp_path):
    write_tiff(source / "b.tif", noise("uint16", 5, SIZE))
    (source / "a.tif").unlink()
    write_tiff(source / "a.tif", noise("uint16", 5, SIZE))
    write(source / "a.geojson", field="label")
    code, out, err = run("data", "import", source, "-o", tmp_path / "out")
    assert code == 0, err + out
    masks = {path.stem: np.array(Image.open(path)) for path in (tmp_path / "out").glob("*/masks/*.png")}
    assert len(np.unique(masks["a"])) == 3 and len(np.unique(masks["b"])) == 1
    (image,) = (tmp_path / "out").glob("*/images/a.tif")
    assert image.read_bytes() == (source / "a.tif").read_bytes()


def test_what_has_no_place_or_class_is_named(run, source, tmp_path):
    write(source / "all.geojson", field="kind")
    code, _, err = run("data", "import", source, "-o", tmp_path / "out")
    assert code == 2 and "name one by --class-field: kind" in err
    assert run("data", "import", source, "-o", tmp_path / "named", "--class-field", "kind")[0] == 0
    write_tiff(source / "nowhere.tif", noise("uint8", 3, SIZE), crs=None)
    write(source / "point.gpkg", [("well", shapely.Point(BASE))], field="class")
    code, out, err = run("data", "import", source, "-o", tmp_path / "more", "--class-field", "kind")
    assert code == 2 and "no field 'kind'" in err
    (source / "point.gpkg").unlink()
    write(source / "points.gpkg", [*SHAPES, ("well", shapely.Point(BASE))], field="kind")
    code, out, err = run("data", "import", source, "-o", tmp_path / "more", "--class-field", "kind")
    assert code == 2 and "nowhere.tif' states no CRS, so that vectors have no place on it" in err + out
    assert "features that are no polygons and are left out: 1 of Point" in err + out
    (source / "text.gpkg").write_text("no database")
    (source / "all.geojson").unlink()
    (source / "points.gpkg").unlink()
    assert "text.gpkg' is no gpkg file" in run("data", "import", source, "-o", tmp_path / "last")[2]
    (source / "text.gpkg").unlink()
    write(source / "bare.shp", field="kind")
    (source / "bare.prj").unlink()
    assert "states no coordinate reference system" in run("data", "import", source, "-o", tmp_path / "last")[2]


def test_folders_of_splits_are_the_splits_of_images(run, source, tmp_path):
    for split in ("train", "val"):
        (source / split).mkdir()
        write_tiff(source / split / f"{split[0]}.tif", noise("uint8", 3, SIZE), photometric="RGB")
    (source / "a.tif").unlink()
    write(source / "all.gpkg")
    code, out, err = run("data", "import", source, "-o", tmp_path / "out")
    assert code == 0 and "Splits are the source's own" in out, err + out
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").glob("*/masks/*")) == [
        "train/masks/t.png",
        "val/masks/v.png",
    ]


def test_a_polygon_without_a_class_is_named_and_ignored(run, source, tmp_path):
    write(source / "all.gpkg", [("water", square(5, 5, 20, 30)), (None, square(40, 10, 60, 20))])
    code, _, err = run("data", "import", source, "-o", tmp_path / "out")
    assert code == 2 and "the name of a class is None; it must be a text on one line; its pixels are ignored" in err
    assert open_dataset("folder", tmp_path / "out", "train").labels.names == ("background", "water")
    (mask,) = (tmp_path / "out").glob("*/masks/a.png")
    assert (np.array(Image.open(mask)) == 255).sum() == 200


def test_a_ring_that_is_not_closed_is_left_out(run, source, tmp_path):
    corners = [[shapely.get_coordinates(square(5, 5, 20, 30)).tolist()], [shapely.get_coordinates(square(30, 5, 40, 30)).tolist()]]
    del corners[1][0][-1]
    features = [
        {"type": "Feature", "properties": {"class": name}, "geometry": {"type": "Polygon", "coordinates": rings}}
        for name, rings in zip(("water", "town"), corners, strict=True)
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    (source / "all.geojson").write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    code, _, err = run("data", "import", source, "-o", tmp_path / "out")
    assert code == 2 and "are left out: 1 of a damaged outline" in err
    assert open_dataset("folder", tmp_path / "out", "train").labels.names == ("background", "water")


def test_a_file_that_names_another_one_is_no_geojson(run, source, tmp_path):
    write(tmp_path / "outside.gpkg")
    layer = f"<OGRVRTLayer name='outside'><SrcDataSource>{tmp_path}/outside.gpkg</SrcDataSource></OGRVRTLayer>"
    (source / "all.geojson").write_text(f"<OGRVRTDataSource>{layer}</OGRVRTDataSource>")
    code, _, err = run("data", "import", source, "-o", tmp_path / "out")
    assert code == 2 and "all.geojson' is no geojson file" in err


def test_links_out_of_the_source_and_pipes_are_refused(run, source, tmp_path):
    write(source / "all.gpkg")
    (source / "b.tif").symlink_to(tmp_path / "nowhere.tif")
    write_tiff(tmp_path / "outside.tif", noise("uint8", 3, SIZE))
    (source / "c.tif").symlink_to(tmp_path / "outside.tif")
    code, _, err = run("data", "import", source, "-o", tmp_path / "out")
    assert code == 2 and all(f"{name}.tif' is a link that leads out of" in err for name in "bc")
    assert {p.stem for p in (tmp_path / "out").glob("*/masks/*")} == {"a"}
    write(tmp_path / "outside.gpkg")
    (source / "more.gpkg").symlink_to(tmp_path / "outside.gpkg")
    assert "more.gpkg' is a link that leads out of" in run("data", "import", source, "-o", tmp_path / "two")[2]
    (source / "more.gpkg").unlink()
    os.mkfifo(source / "more.geojson")
    assert f"No file '{source}/more.geojson'" in run("data", "import", source, "-o", tmp_path / "two")[2]


WORLD = shapely.box(-180, -90, 180, 90)
ANTARCTICA = shapely.box(-180, -90, 180, -80)


@pytest.mark.parametrize(
    ("crs", "corner"), [("EPSG:2154", (700000, 6600000)), ("EPSG:3413", (500000, -1500000)), ("EPSG:3413", (0, 0)), (UTM, BASE)]
)
def test_a_polygon_with_points_that_have_no_place_on_an_image_is_named(run, source, tmp_path, crs, corner):
    """Whether PROJ refuses them, or lays them all on one point or line."""
    write_tiff(source / "a.tif", noise("uint8", 3, SIZE), crs=crs, transform=rasterio.Affine(10, 0, corner[0], 0, -10, corner[1]))
    near = shapely.geometry.shape(
        transform_geom(
            crs, DEGREES, shapely.geometry.mapping(shapely.box(corner[0] + 50, corner[1] - 90, corner[0] + 99, corner[1] - 50))
        )
    )
    shapes = np.array([WORLD, ANTARCTICA, near])
    names = [np.array(["sea", "ice", "town"], object)]
    pyogrio.raw.write(
        source / "all.gpkg", shapely.to_wkb(shapes), names, ["class"], geometry_type="Polygon", crs=DEGREES, driver="GPKG"
    )
    code, _, err = run("data", "import", source, "-o", tmp_path / "out")
    line = f"all.gpkg', feature 0 lies on '{source}/a.tif' by its own coordinates and not by those of the image, and is left out"
    assert code == 2 and line in err and "feature 1 " not in err and "feature 2 " not in err
    (mask,) = (tmp_path / "out").glob("*/masks/a.png")
    labels = open_dataset("folder", tmp_path / "out", "train").labels.names
    assert {labels[i] for i in np.unique(Image.open(mask))} == {"background", "town"}
    assert [each.category for each in read_source(source, None).samples[0].objects] == [2]


def test_points_of_an_image_without_a_place_of_the_features_are_passed_over():
    layer = _Layer([], [WORLD, ANTARCTICA], DEGREES)
    points = np.array([(np.inf, np.inf), (BASE[0] + 50, BASE[1] - 50)])
    assert layer.lost(points, UTM).tolist() == [0] and layer.lost(points[:1], UTM).tolist() == []


def test_features_keep_their_place_where_the_way_back_is_another(source, monkeypatch):
    """As between datums of which PROJ has a grid for one direction."""
    write(source / "all.gpkg", [("house", square(x, 0, x + 2, 60)) for x in range(0, 80, 4)], crs=DEGREES)
    real = rasterio.warp.transform

    def shifted(crs, target, xs, ys):
        xs, ys = real(crs, target, xs, ys)
        return (xs if target == UTM else [x + 0.0003 for x in xs]), ys

    monkeypatch.setattr("rasterio.warp.transform", shifted)
    read = read_source(source, None)
    assert not read.problems and len(read.samples[0].objects) == 20
