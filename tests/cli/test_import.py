"""`pspnet-zoo data import` as a person types it."""

import json
import sys

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def source(tmp_path):
    """Five images and their masks, 0 and 255, in folders."""
    random = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for name in "abcde":
        Image.fromarray(random.integers(0, 256, (40, 60, 3), np.uint8)).save(tmp_path / "set" / "images" / f"{name}.png")
        Image.fromarray(np.eye(40, 60, dtype=np.uint8) * 255).save(tmp_path / "set" / "masks" / f"{name}.png")
    return tmp_path / "set"


def test_import_prints_its_guesses_and_what_check_prints_and_a_contact_sheet(run, source, tmp_path):
    code, out, err = run("data", "import", source, "-o", tmp_path / "new", "--names", "background,cell", "--split", 0.6, 0.4)
    assert code == 0 and "Error" not in err
    for words in (
        "Format: masks (--format)",
        "The masks hold 0 and 255: 'background' and 'cell'",
        "60% and 40%",
        "Nothing is wrong",
    ):
        assert words in out
    assert "train: 3 images, 3 of 60x40" in out and "val: 2 images" in out
    checked = run("data", "check", tmp_path / "new")
    assert checked[0] == 0 and checked[1].splitlines() == [line for line in out.splitlines() if line in checked[1].splitlines()]
    with Image.open(tmp_path / "new" / "contact_sheet.png") as sheet:
        assert sheet.width == 4 * 320 and sheet.height > 100
    assert json.loads((tmp_path / "new" / "classes.json").read_text()) == {
        "names": ["background", "cell"],
        "colors": [[0, 0, 0], [128, 0, 0]],
        "background": "background",
    }


def test_problems_are_lines_and_the_code_is_two(run, source, tmp_path):
    (source / "masks" / "b.png").unlink()
    (source / "images" / "c.png").write_bytes(b"no image")
    code, out, err = run("data", "import", source, "-o", tmp_path / "new")
    assert code == 2 and "2 problems were found; each has a line below, and the rest was imported" in out
    assert f"Error: '{source}/images/b.png' has no mask" in err and "c.png' is not an image" in err
    assert len(list((tmp_path / "new").rglob("masks/*.png"))) == 3


def test_lists_folds_and_a_file_of_classes(run, source, tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").write_text("a\nb\n")
    (tmp_path / "lists" / "val.txt").write_text("c\n")
    classes = {"names": ["cell", "other"], "mapping": {"cell": ["foreground"]}, "ignore": ["background"]}
    (tmp_path / "mine.json").write_text(json.dumps(classes))
    options = ["--lists", tmp_path / "lists", "--classes", tmp_path / "mine.json", "--link"]
    code, out, _ = run("data", "import", source, "-o", tmp_path / "new", *options)
    assert code == 0 and "2 images are in none" in out and "val: 1 image" in out and "98.33%" in out
    code, out, _ = run("data", "import", source, "-o", tmp_path / "folds", "--folds", 2)
    assert code == 0 and "fold_1: " in out and (tmp_path / "folds" / "fold_2" / "train" / "images").is_dir()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--format", "coco2"], "format is 'coco2'; it can be coco, yolo, labelme"),
        (["--split", 0.5, 0.6], "--split is 0.5 0.6"),
        (["--images", "/nowhere"], "No file or folder '/nowhere'"),
        (["--masks", "../{stem}.png"], "it must be a path below the source with {stem}"),
        (["--masks", "labels/{stem}.png"], "for the pattern 'labels/{stem}.png'"),
        (["--classes", "/nowhere"], "/nowhere"),
        (["--lists", "/nowhere"], "No lists such as train.txt and val.txt in '/nowhere'"),
        (["--names", "a,b,c"], "--names has 3 names; the masks hold the values 0, 255"),
        (["--group-by", "("], "--group-by '(' is not a regular expression"),
        (["-o", "{source}"], "is there already and not empty"),
    ],
)
def test_what_cannot_be_done_is_one_line_before_anything_is_written(run, source, tmp_path, options, words):
    code, _, err = run(
        "data", "import", source, "-o", tmp_path / "new", *[str(o).replace("{source}", str(source)) for o in options]
    )
    assert code == 2 and words in err and "Traceback" not in err and not (tmp_path / "new").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_without_the_extra_it_says_what_to_install(run, source, tmp_path, monkeypatch):
    (source / "annotations.xml").write_text("<annotations/>")
    monkeypatch.setitem(sys.modules, "defusedxml.common", None)
    code, _, err = run("data", "import", source, "-o", tmp_path / "new")
    assert code == 2 and "Reading XML of CVAT needs" in err and "'.[labels]'" in err


@pytest.mark.parametrize("name", ["", "two\nlines"])
def test_a_background_without_a_name_on_one_line_is_refused(run, tmp_path, name):
    code, _, err = run("data", "import", tmp_path, "-o", tmp_path / "out", "--background", name)
    assert code == 2 and "--background: the name of a class is" in err


def test_a_dataset_of_the_hub_is_imported_from_the_links_of_its_cache(run, source, tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def downloaded(repo_id, *, repo_type, allow_patterns):
        assert (repo_id, repo_type, allow_patterns) == ("owner/name", "dataset", "*.parquet")
        return str(cache / "snapshots" / "0123abcd")

    cache = tmp_path / "cache"
    for folder in ("blobs", "snapshots/0123abcd/data"):
        (cache / folder).mkdir(parents=True)
    rows = {
        column: [(source / folder / f"{name}.png").read_bytes() for name in "abcde"]
        for column, folder in (("image", "images"), ("label", "masks"))
    }
    parquet.write_table(pa.table(rows), cache / "blobs" / "beef")
    (cache / "snapshots/0123abcd/data/train-00000-of-00001.parquet").symlink_to("../../../blobs/beef")
    monkeypatch.setattr("huggingface_hub.snapshot_download", downloaded)
    code, out, err = run("data", "import", "hf:owner/name", "-o", tmp_path / "new")
    assert code == 0 and "train: 5 images" in out, err + out


@pytest.fixture
def bands(tmp_path):
    """Three GeoTIFFs of five bands, of which the first has a bright square in its middle, and their masks."""
    pytest.importorskip("rasterio", reason="the extra raster is not installed")
    from tests.data.test_rasters import write_tiff

    for folder in ("images", "masks"):
        (tmp_path / "bands" / folder).mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 99, (5, 700, 60)).astype(np.uint16)
    pixels[:, 340:360, 20:40] = 60_000
    for name in "abc":
        write_tiff(tmp_path / "bands" / "images" / f"{name}.tif", pixels)
        Image.fromarray(np.arange(60, dtype=np.uint8).repeat(700).reshape(60, 700).T // 30).save(
            tmp_path / "bands" / "masks" / f"{name}.png"
        )
    (tmp_path / "bands" / "masks" / "c.png").unlink()
    return tmp_path / "bands"


def limit_when_written(monkeypatch, limits):
    """Lower limits when the dataset is there, and before its contact sheet is."""

    def lower(*_):
        for name, value in limits.items():
            monkeypatch.setattr(name, value)

    monkeypatch.setattr("pspnet_zoo.cli.import_data._say_overlaps", lower)


def test_the_sheet_shows_the_middle_of_images_that_are_too_large_to_be_read_at_once(run, bands, tmp_path, monkeypatch):
    limits = {"pspnet_zoo.data.rasters.MAX_BYTES": 300_000, "pspnet_zoo.cli.import_data._LONGEST": 400}
    limit_when_written(monkeypatch, {**limits, "PIL.Image.MAX_IMAGE_PIXELS": 10_000})  # nor does Pillow read the masks
    code, out, err = run("data", "import", bands, "-o", tmp_path / "new")
    assert code == 2 and f"Error: '{bands}/images/c.tif' has no mask" in err and "contact_sheet" not in err
    assert "train: 1 image" in out and f"look at {tmp_path / 'new' / 'contact_sheet.png'}" in out
    monkeypatch.undo()
    with Image.open(tmp_path / "new" / "contact_sheet.png") as sheet:
        shown = np.array(sheet.convert("RGB")).astype(int)[4:316, 4:50]  # the middle, and what is not red
    assert shown[..., 0].max() > 200 and shown[150:162, 18:21].min() > 100 and shown[..., 1].min() == 0


def test_an_image_that_cannot_be_shown_is_named_and_the_others_are(run, bands, tmp_path, monkeypatch):
    limit_when_written(monkeypatch, {"pspnet_zoo.data.rasters.MAX_BYTES": 300_000})
    code, out, err = run("data", "import", bands, "-o", tmp_path / "new")
    assert code == 2 and err.count("Warning: an image is not on contact_sheet.png: '") == 2 and "has no mask" in err
    assert "takes 0 GB at once" in err and "val: 1 image" in out and (tmp_path / "new" / "contact_sheet.png").is_file()


def test_the_contents_are_printed_where_the_sheet_cannot_be_written(run, source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pspnet_zoo.storage.files.write_atomically", full)
    code, out, err = run("data", "import", source, "-o", tmp_path / "new")
    assert code == 2 and "contact_sheet.png cannot be written, and the dataset is complete without it" in err
    assert "train: 4 images" in out and "look at" not in out and len(list((tmp_path / "new").rglob("masks/*.png"))) == 5


def test_names_with_spaces_are_found_in_lists(run, source, tmp_path):
    for folder in ("images", "masks"):
        (source / folder / "a.png").rename(source / folder / "my photo.png")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").write_text("b\nc\n")
    (tmp_path / "lists" / "val.txt").write_text("my photo.png\n")
    code, out, err = run("data", "import", source, "-o", tmp_path / "new", "--lists", tmp_path / "lists")
    assert code == 0 and "val: 1 image" in out, err + out
