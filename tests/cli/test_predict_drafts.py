"""`predict --format` a second time: drafts that somebody corrected stay, and those that nobody touched are replaced."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo.data.labels import CAMVID


@pytest.fixture
def photos(tmp_path):
    for seed, name in enumerate("ab"):
        write_photo(tmp_path / "photos" / f"{name}.png", seed)
    return tmp_path / "photos"


def write_photo(path, seed):
    path.parent.mkdir(exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(path)


@pytest.fixture
def draft(run, model, photos, tmp_path):
    """Draft the photos in one format; more options may follow."""

    def draft(kind, *options):
        return run("predict", photos, "-o", tmp_path / "out", "--model", model, "--masks-only", "--format", kind, *options)

    return draft


def place_of(kind, folder, name="a"):
    return (
        folder / {"labelme": f"{name}.json", "geojson": f"{name}.geojson", "yolo": f"labels/{name}.txt", "coco": "coco.json"}[kind]
    )


def correct(path):
    """Save a file again as another program does, with one object less; keys that it does not know stay, as in labelme."""
    if path.suffix == ".txt":
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    else:
        values = json.loads(path.read_text())
        values[next(key for key in ("shapes", "features", "annotations") if key in values)].pop(0)
        path.write_text(json.dumps(values, indent=2))
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["labelme", "geojson", "yolo"])
def test_a_draft_that_was_corrected_is_kept_when_photos_are_added(draft, photos, tmp_path, kind):
    assert draft(kind)[0] == 0
    path, other = (place_of(kind, tmp_path / "out", name) for name in "ab")
    corrected, untouched = correct(path), other.read_bytes()
    write_photo(photos / "c.png", 2)
    code, text, _ = draft(kind, "--skip-existing")
    assert code == 0 and "2 were there already" in text
    assert "Wrote the objects in 2 files as" in text and "kept 1 file of images that were there already" in text
    assert path.read_bytes() == corrected and other.read_bytes() == untouched and place_of(kind, tmp_path / "out", "c").exists()
    code, text, err = draft(kind)
    assert code == 2 and f"Error: '{path}' is kept, since it was edited" in err and err.count("Error: ") == 1
    assert path.read_bytes() == corrected and "Wrote the objects in 2 files as" in text


def test_corrected_coco_is_kept_and_objects_that_it_lacks_are_an_error(draft, photos, tmp_path):
    assert draft("coco")[0] == 0
    path = place_of("coco", tmp_path / "out")
    corrected = correct(path)
    code, text, _ = draft("coco", "--skip-existing")
    assert code == 0 and "kept 1 file" in text and path.read_bytes() == corrected
    write_photo(photos / "c.png", 2)
    code, _, err = draft("coco", "--skip-existing")
    assert code == 2 and f"Error: '{path}' is kept, since it was edited" in err and path.read_bytes() == corrected


@pytest.mark.parametrize("kind", ["labelme", "geojson", "coco"])
def test_drafts_that_nobody_edited_are_replaced_by_those_of_another_model(draft, net, model, tmp_path, kind):
    draft(kind)
    before = place_of(kind, tmp_path / "out").read_bytes()
    net.segmentation_head[0].bias.data[4] += 100
    net.save_pretrained(model)
    assert draft(kind)[0] == 0
    assert place_of(kind, tmp_path / "out").read_bytes() != before


def test_texts_of_yolo_that_another_model_would_change_are_named(draft, net, model, tmp_path):
    draft("yolo")
    before = place_of("yolo", tmp_path / "out").read_bytes()
    assert draft("yolo")[0] == 0
    net.segmentation_head[0].bias.data[4] += 100
    net.save_pretrained(model)
    code, _, err = draft("yolo")
    assert code == 2 and err.count("is kept, since it was edited, or another program or command wrote it") == 2
    assert place_of("yolo", tmp_path / "out").read_bytes() == before


@pytest.mark.parametrize("kind", ["labelme", "geojson", "coco", "yolo"])
def test_a_file_that_somebody_made_by_hand_is_kept(draft, tmp_path, kind):
    path = place_of(kind, tmp_path / "out")
    path.parent.mkdir(parents=True)
    path.write_text("by hand")
    code, _, err = draft(kind)
    named = path.parent if kind == "yolo" else path  # no data.yaml says what the texts' numbers mean
    assert code == 2 and f"'{named}' is kept" in err and path.read_text() == "by hand"


def test_a_data_yaml_of_other_classes_is_kept_and_no_labels_are_written_beside_it(draft, tmp_path):
    path = tmp_path / "out" / "data.yaml"
    path.parent.mkdir()
    for mine in ("path: /data\nnames: [mine]\n", "names: [", "- cat\n"):
        path.write_text(mine)
        code, _, err = draft("yolo")
        assert code == 2 and f"'{path}' is kept, since it names other classes" in err
        assert path.read_text() == mine and not (tmp_path / "out" / "labels").exists()


@pytest.mark.parametrize("names", [list(CAMVID.names), dict(enumerate(CAMVID.names))], ids=["list", "numbers"])
def test_a_data_yaml_of_the_same_classes_is_left_as_it_is(draft, tmp_path, names):
    path = tmp_path / "out" / "data.yaml"
    path.parent.mkdir()
    lines = (
        [f"  {number}: {name}\n" for number, name in names.items()] if isinstance(names, dict) else [f"  - {n}\n" for n in names]
    )
    path.write_text(mine := "train: [one, two]\nnames:\n" + "".join(lines))
    assert draft("yolo")[0] == 0 and path.read_text() == mine and place_of("yolo", tmp_path / "out").exists()


def test_simplifying_without_shapely_is_refused_before_anything_is_segmented(draft, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "shapely", None)
    code, _, err = draft("labelme", "--simplify", 1)
    assert code == 2 and "Simplifying polygons needs shapely" in err and not (tmp_path / "out").exists()
