"""`pspnet-zoo predict` on images whose values are far outside of the network's range."""

import numpy as np
import pytest

from pspnet_zoo import Labels, PSPNet
from pspnet_zoo.meta import Preprocess

pytest.importorskip("rasterio", reason="the extra raster is not installed")
pytest.importorskip("pydicom", reason="the extra raster is not installed")

from tests.data.test_rasters import noise, write_tiff


@pytest.mark.parametrize("options", [(), ("--batch-size", 2), ("--tile", 64)], ids=lambda options: " ".join(map(str, options)))
def test_an_image_that_makes_scores_nan_is_named_and_the_others_are_done(run, tmp_path, options):
    """No-data of -3.4e38 that the file does not state, as some programs write it."""
    network = PSPNet("test_efficientnet", None, classes=2, in_channels=2, psp_out_channels=8)
    network.labels, network.preprocess = Labels(("a", "b")), Preprocess((0.5,) * 2, (0.1,) * 2, white=1)
    model = network.save_pretrained(tmp_path / "model")
    for name in "acd":
        write_tiff(tmp_path / f"{name}.tif", noise("float32", 2))
    far = noise("float32", 2)
    far[:, :20, :20] = np.finfo(np.float32).min
    write_tiff(tmp_path / "b.tif", far)
    images = [tmp_path / f"{name}.tif" for name in "abcd"]
    code, out, err = run("predict", *images, "-o", tmp_path / "out", "--model", model, "--masks-only", *options)
    assert code == 2 and "results of 3 files to" in out and err.count("Error: ") == 1
    assert f"Error: '{tmp_path / 'b.tif'}': This image has values from -inf to " in err
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tif")) == ["a_mask.tif", "c_mask.tif", "d_mask.tif"]
