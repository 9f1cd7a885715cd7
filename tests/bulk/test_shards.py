import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pyarrow", reason="the extra bulk is not installed")

import pyarrow.dataset as pds
import pyarrow.parquet as pq

from pspnet_zoo.bulk.shards import Destination, Manifest, Row, mask_name
from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.inference.prediction import Prediction

MANIFEST = Manifest("src", "abc", 10, 4, "pspnet_lite0.camvid", "def", False)


def row(i, mask_file=None):
    mask = np.full((3, 4), i, np.uint8)
    return Row(f"{i}.jpg", mask_file, 3, 4, Prediction(mask, mask, CAMVID).png(), dict.fromkeys(CAMVID.names, 1 / 11), None)


def test_what_is_missing_is_what_no_shard_says(tmp_path):
    destination = Destination(str(tmp_path / "out"))
    assert destination.begin(MANIFEST) == [0, 1, 2]
    destination.write(1, [row(4), row(5)], MANIFEST, CAMVID)
    assert destination.begin(MANIFEST) == [0, 2] and destination.has(1) and not destination.has(0)
    assert json.loads((tmp_path / "out" / "_manifest.json").read_text())["source_digest"] == "abc"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"digest": "other"}, "it is another model"),
        ({"source_digest": "other"}, "the images have changed"),
        ({"images": 11}, "images was 10, now 11"),
        ({"rows_per_shard": 5}, "rows_per_shard was 4, now 5"),
        ({"as_files": True}, "as_files was False, now True"),
    ],
)
def test_another_model_source_or_cut_is_refused(tmp_path, change, message):
    Destination(str(tmp_path)).begin(MANIFEST)
    with pytest.raises(ValueError, match=f"holds results of pspnet_lite0.camvid for src, and {message}; choose"):
        Destination(str(tmp_path)).begin(replace(MANIFEST, **change))


def test_a_model_and_a_source_that_moved_are_the_same(tmp_path):
    Destination(str(tmp_path)).begin(MANIFEST)
    assert Destination(str(tmp_path)).begin(replace(MANIFEST, model="copy", source="elsewhere")) == [0, 1, 2]


def test_a_half_written_shard_does_not_count_and_is_removed(tmp_path):
    (tmp_path / ".part-000001.parquet.77").write_bytes(b"half")
    assert Destination(str(tmp_path)).begin(MANIFEST) == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["_manifest.json"]


def test_rows_come_back_as_they_were(tmp_path):
    destination = Destination(str(tmp_path))
    destination.begin(MANIFEST)
    destination.write(0, [row(1), Row("bad.jpg", None, None, None, None, None, "is not an image")], MANIFEST, CAMVID)
    good, bad = pds.dataset(tmp_path).to_table().to_pylist()
    with Image.open(io.BytesIO(good["mask"])) as mask:
        assert mask.mode == "P" and (np.array(mask) == 1).all() and mask.getpalette()[3:6] == list(CAMVID.colors[1])
    assert good["class_fractions"]["road"] == 1 / 11 and good["error"] is None and (good["height"], good["width"]) == (3, 4)
    assert bad["error"] == "is not an image" and bad["mask"] is bad["class_fractions"] is bad["height"] is None
    assert {good["model"], bad["model"]} == {"pspnet_lite0.camvid"} and good["digest"] == "def"
    assert json.loads(pq.read_schema(tmp_path / "part-000000.parquet").metadata[b"labels"])["names"] == list(CAMVID.names)


def test_as_files_the_masks_lie_beside_the_shards(tmp_path):
    destination, manifest = Destination(str(tmp_path)), replace(MANIFEST, as_files=True)
    destination.begin(manifest)
    destination.write(0, [row(2, mask_name("sub/2.jpg"))], manifest, CAMVID)
    (only,) = pds.dataset([str(p) for p in tmp_path.glob("*.parquet")]).to_table().to_pylist()
    assert only["mask"] == "masks/sub/2.jpg.png"
    with Image.open(tmp_path / only["mask"]) as mask:
        assert (np.array(mask) == 2).all()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a.jpg", "masks/a.jpg.png"),
        ("../../etc/a.jpg", "masks/etc/a.jpg.png"),
        ("/abs/a.jpg", "masks/abs/a.jpg.png"),
        ("s3://bucket/a.jpg", "masks/bucket/a.jpg.png"),
        ("C:\\x\\a.jpg", "masks/C__x_a.jpg.png"),
    ],
)
def test_a_mask_never_leaves_the_destination(path, name):
    assert mask_name(path) == name
