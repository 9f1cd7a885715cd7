"""Labels that would take memory or time out of proportion: small polygons on large images, many images, long outlines."""

import time
import tracemalloc

import numpy as np
import pytest

from pspnet_zoo.data.importers.regions import Cutout, crosses_itself, draw, fill


def star(random, points, wild):
    """A ring round the origin, of points by angle, or in any order."""
    angles = random.uniform(0, 2 * np.pi, points)
    radii = random.uniform(5, 100, points)
    ring = np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)
    return ring if wild else ring[np.argsort(angles)]


def crosses_in_any_pair(ring):
    """Whether two edges cross, of all pairs."""

    def side(p, q, r):
        return np.sign((q - p)[..., 0] * (r - p)[..., 1] - (q - p)[..., 1] * (r - p)[..., 0])

    a, b = ring, np.roll(ring, -1, axis=0)
    p, q = a[:, None], b[:, None]
    return bool(((side(p, q, a) * side(p, q, b) < 0) & (side(a, b, p) * side(a, b, q) < 0)).any())


def test_rings_cross_themselves_as_the_comparison_of_all_edges_has_it():
    random = np.random.default_rng(0)
    found = []
    for number in range(150):
        ring = star(random, int(random.integers(3, 300)), wild=number % 4 == 0)
        if number % 3 == 0:
            ring = ring.round(-1 if number % 2 else 0)  # edges that touch, lie on each other, or have no length
        if number % 5 == 0:  # one point elsewhere, which makes few crossings or none
            ring[random.integers(len(ring))] = random.uniform(-100, 100, 2)
        found.append(crosses_itself(ring))
        assert found[-1] == crosses_in_any_pair(ring), number
    assert 30 < sum(found) < 120


@pytest.mark.parametrize(("radius", "points", "seconds"), [(899, 10_000, 3), (50, 4_000, 5)])
def test_a_long_outline_is_compared_in_seconds(radius, points, seconds):
    angles = np.arange(points) * (2 * np.pi / points)
    radii = np.where(np.arange(points) % 2, 900.0, radius)
    ring = np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)
    start = time.process_time()
    assert not crosses_itself(ring)
    assert time.process_time() - start < seconds
    ring[[2000, 2011]] = ring[[2011, 2000]]
    assert crosses_itself(ring)


def test_a_part_of_an_image_is_filled_as_the_whole():
    random = np.random.default_rng(0)
    for _ in range(200):
        ring = star(random, int(random.integers(3, 40)), wild=True) / 2 + random.uniform(-20, 80, 2)
        whole = fill(ring, 60, 70)
        assert (fill(ring, 30, 20, top=12, left=33) == whole[12:42, 33:53]).all()


def test_a_region_with_holes_is_its_rings_without_them_and_may_be_empty():
    random = np.random.default_rng(0)
    for number in range(100):
        polygons = []
        for _ in range(number % 3 + 1):
            ring = star(random, 20, wild=False) / 3 + random.uniform(-20, 90, 2)
            holes = tuple(star(random, 8, wild=False) / 8 + ring.mean(0) for _ in range(number % 4))
            polygons.append((ring, holes))
        expected = np.zeros((60, 70), bool)
        for ring, holes in polygons:
            part = fill(ring, 60, 70)
            for hole in holes:
                part &= ~fill(hole, 60, 70)
            expected |= part
        rings, holes = zip(*polygons, strict=True)
        box, pixels, doubts = draw(Cutout(1, "one", rings, holes=holes), 60, 70)
        found = np.zeros((60, 70), bool)
        found[box] = pixels
        assert (found == expected).all() and not doubts
    assert not draw(Cutout(1, "one", (np.array([(80.0, 5), (90, 5), (90, 9)]),), holes=((),)), 60, 70)[1].size


class TestVectors:
    """Vectors on GeoTIFF."""

    @pytest.fixture(autouse=True)
    def _needs_the_extra(self):
        pytest.importorskip("rasterio", reason="the extra raster is not installed")
        pytest.importorskip("pyogrio", reason="the extra raster is not installed")

    @staticmethod
    def read(source):
        from pspnet_zoo.data.importers.sample import Images
        from pspnet_zoo.data.importers.values import MaskOptions
        from pspnet_zoo.data.importers.vectors import read_vectors

        return read_vectors(source, Images(source), MaskOptions())

    def test_small_polygons_with_holes_keep_little_of_a_large_image(self, tmp_path):
        from tests.data.importers.test_vectors import square, write, write_tiff

        write_tiff(tmp_path / "a.tif", np.zeros((1, 4000, 4000), np.uint8))
        shapes = [("house", square(x, 7, x + 20, 27) - square(x + 5, 12, x + 15, 22)) for x in range(0, 3000, 100)]
        shapes.append(("water", square(-30, 3970, 10, 4030)))  # over the edge
        write(tmp_path / "all.gpkg", shapes)
        tracemalloc.start()
        objects = self.read(tmp_path).samples[0].objects
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 4 * 2**20
        assert [draw(each, 4000, 4000)[1].sum() for each in objects] == [300] * 30 + [300]

    def test_features_are_placed_once_for_all_images_of_a_reference_system(self, tmp_path, monkeypatch):
        import rasterio
        import rasterio.warp

        from pspnet_zoo.data.importers.vectors import _SPOTS
        from tests.data.importers.test_vectors import DEGREES, noise, square, write, write_tiff

        for place in range(6):
            origin = rasterio.Affine(10, 0, 500000 + 800 * place, 0, -10, 6000000)
            write_tiff(tmp_path / f"{place}.tif", noise("uint8", 3, (60, 80)), transform=origin)
        write(tmp_path / "all.gpkg", [("house", square(x, 10, x + 8, 20)) for x in range(1, 481, 10)], crs=DEGREES)
        changed, real = [], rasterio.warp.transform

        def counted(source, target, xs, ys):
            changed.append(len(xs))
            return real(source, target, xs, ys)

        monkeypatch.setattr("rasterio.warp.transform", counted)
        samples = self.read(tmp_path).samples
        assert [len(sample.objects) for sample in samples] == [8] * 6
        assert [number for number in changed if number != _SPOTS**2] == [48 * 5]

    def test_a_feature_without_a_place_in_the_images_reference_system_is_on_no_image(self, tmp_path):
        import shapely

        from tests.data.importers.test_vectors import DEGREES, noise, pyogrio, square, transform_geom, write_tiff

        write_tiff(tmp_path / "a.tif", noise("uint8", 3, (60, 80)))
        near = shapely.geometry.shape(transform_geom("EPSG:32633", DEGREES, shapely.geometry.mapping(square(5, 5, 20, 30))))
        shapes = [shapely.box(10, 94, 12, 99), near]  # no latitude is 94
        pyogrio.raw.write(
            tmp_path / "all.gpkg", shapely.to_wkb(np.array(shapes)), [np.array(["x", "water"], object)], ["class"],
            geometry_type="Polygon", crs=DEGREES,
        )  # fmt: skip
        (sample,) = self.read(tmp_path).samples
        assert [each.category for each in sample.objects] == [1]

    def test_whole_numbers_beside_a_missing_one_are_the_classes_of_files_without(self, tmp_path):
        from tests.data.importers.test_vectors import noise, pyogrio, shapely, square, write_tiff

        write_tiff(tmp_path / "a.tif", noise("uint8", 3, (60, 80)))
        for name, missing in (("one", False), ("two", True)):
            pyogrio.raw.write(
                tmp_path / f"{name}.gpkg", shapely.to_wkb(np.array([square(5, 5, 20, 30)] * 3)), [np.array([1, 2, 3])], ["class"],
                geometry_type="Polygon", crs="EPSG:32633", field_mask=[np.array([False, False, missing])],
            )  # fmt: skip
        source = self.read(tmp_path)
        assert [each.name for each in source.categories.values()] == ["1", "2", "3"]
        assert [problem.partition(": ")[2][:31] for problem in source.problems] == ["the name of a class is None; it"]
