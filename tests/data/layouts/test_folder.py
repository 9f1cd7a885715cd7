"""Data of one's own: splits, classes, and no silent mistake."""

import json

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo.data.images import ImageError
from pspnet_zoo.data.layouts import folder as layout
from pspnet_zoo.data.layouts.folder import read_classes
from pspnet_zoo.data.open import open_dataset


def write_pairs(folder, count, value=0):
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (8, 6), (i, i, i)).save(folder / "images" / f"{i:02}.jpg")
        Image.new("L", (8, 6), value).save(folder / "masks" / f"{i:02}.png")


@pytest.fixture
def flat(tmp_path):
    root = tmp_path / "flat"
    write_pairs(root, 7)
    (root / "classes.txt").write_text("road\ntraffic light\n")
    return root


def test_with_a_folder_for_each_split_they_are_the_splits(tmp_path):
    for split, count in (("train", 3), ("holdout", 2)):
        write_pairs(tmp_path / split, count)
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    assert layout.splits(tmp_path) == ("holdout", "train")
    assert len(open_dataset("folder", tmp_path, "train")) == 3 and len(open_dataset("folder", tmp_path, "holdout")) == 2
    for split in ("val", "../train", str(tmp_path / "train")):
        with pytest.raises(ValueError, match="split is '.*'; '.*' has holdout, train"):
            open_dataset("folder", tmp_path, split)


def test_without_them_every_fifth_image_is_for_validation(flat):
    assert [p.stem for p in open_dataset("folder", flat, "val").images] == ["00", "05"]
    assert [p.stem for p in open_dataset("folder", flat, "train").images] == ["01", "02", "03", "04", "06"]
    with pytest.raises(ValueError, match="split is 'test'; '.*' has train, val"):
        open_dataset("folder", flat, "test")


def test_two_images_are_one_to_train_on_and_one_to_validate_on(tmp_path):
    write_pairs(tmp_path, 2)
    (tmp_path / "classes.txt").write_text("road\nsky")
    assert [len(open_dataset("folder", tmp_path, s)) for s in ("train", "val")] == [1, 1]
    (tmp_path / "images" / "01.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="one image, and it is in val"):
        open_dataset("folder", tmp_path, "train")


def test_names_alone_get_distinct_colours_and_255_is_ignored(flat):
    Image.fromarray(np.array([[0, 1, 255]], np.uint8).repeat(8, 0)).resize((8, 6), Image.Resampling.NEAREST).save(
        flat / "masks" / "00.png"
    )
    dataset = open_dataset("folder", flat, "val")
    assert dataset.labels.names == ("road", "traffic light") and dataset.labels.colors == ((128, 0, 0), (0, 128, 0))
    assert dataset[0][1].unique().tolist() == [0, 1, 255]


def test_json_gives_colours_and_an_id_to_ignore(flat):
    (flat / "classes.txt").unlink()
    classes = {"names": ["road", "sky"], "colors": [[1, 2, 3], [4, 5, 6]], "ignore": 9}
    (flat / "classes.json").write_text(json.dumps(classes))
    Image.new("L", (8, 6), 9).save(flat / "masks" / "00.png")
    dataset = open_dataset("folder", flat, "val")
    assert dataset.labels.colors == ((1, 2, 3), (4, 5, 6)) and dataset[0][1].unique().tolist() == [255]


@pytest.mark.parametrize("text", ["road\nsky\n", "\ufeffroad\r\nsky\r\n\r\n", " road \nsky"])
def test_a_text_of_any_editor_is_read(tmp_path, text):
    (tmp_path / "classes.txt").write_bytes(text.encode())
    assert read_classes(tmp_path)[0].names == ("road", "sky")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.txt", "road\n\nsky", "the name of class 1 is ''"),
        ("classes.txt", "", "the name of class 0 is ''"),
        ("classes.txt", "road\nroad", "the name of class 1 is 'road'; it must be a text of its own"),
        ("classes.txt", "road\n\x1b[31m", "the name of class 1 is"),
        ("classes.txt", "\n".join(map(str, range(256))), "2 to 255 names"),
        ("classes.txt", "crack", "it names one class, 'crack', .* as 'background' for id 0"),
        ("classes.json", "{", "Expecting property name"),
        ("classes.json", "[" * 100_000, "."),  # deeper than Python nests
        ("classes.json", '["road"]', "it must be an object"),
        ("classes.json", '{"names": ["road"], "colours": []}', "it must be an object"),
        ("classes.json", '{"names": "road"}', "must be a list of 2 to 255 names"),
        ("classes.json", '{"names": ["a", 2]}', "the name of class 1 is 2"),
        ("classes.json", '{"names": ["a", "b"], "colors": []}', "2 class names and 0 colors"),
        ("classes.json", '{"names": ["a", "b"], "colors": ["#ffffff"]}', "must be a list of"),
        ("classes.json", '{"names": ["a", "b"], "colors": [[0, 0, 256], [0, 0, 0]]}', "The color of class 'a'"),
        ("classes.json", '{"names": ["a", "b"], "ignore": 1}', '"ignore" is 1; it must be an id from 2 to 255'),
        ("classes.json", '{"names": ["a", "b"], "ignore": "b"}', '"ignore" is'),
    ],
)
def test_classes_that_make_no_sense_are_refused_by_name(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text.encode())
    with pytest.raises(ValueError, match=rf"{name}': .*{message}"):
        read_classes(tmp_path)


def test_classes_must_be_in_one_file(flat):
    (flat / "classes.json").write_text("{}")
    with pytest.raises(ValueError, match="has both classes.txt and classes.json"):
        open_dataset("folder", flat, "train")
    for name in ("classes.json", "classes.txt"):
        (flat / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"No '.*classes.txt', the names of the classes, one a line, nor classes.json"):
        open_dataset("folder", flat, "train")


def test_a_file_of_no_known_text_is_named(tmp_path):
    (tmp_path / "classes.txt").write_bytes(b"stra\xdfe")
    with pytest.raises(ValueError, match=r"classes.txt': .*utf-8"):
        read_classes(tmp_path)


def test_what_is_missing_is_named(flat, tmp_path):
    with pytest.raises(FileNotFoundError, match="No folder '.*nowhere'"):
        open_dataset("folder", tmp_path / "nowhere", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds neither images/ and masks/, nor folders"):
        open_dataset("folder", tmp_path / "empty", "train")
    (flat / "masks" / "03.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"03.jpg' has no mask '.*masks/03.png'"):
        open_dataset("folder", flat, "train")
    for file in (flat / "images").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match="No images in"):
        open_dataset("folder", flat, "train")


def test_two_images_with_one_mask_are_refused(flat):
    Image.new("RGB", (8, 6)).save(flat / "images" / "03.png")
    with pytest.raises(ValueError, match=r"03.jpg' and '.*03.png' would share the mask 03.png"):
        open_dataset("folder", flat, "train")


def test_hidden_files_are_passed_over(flat):
    (flat / "images" / "._00.jpg").write_text("left by macOS")
    assert len(open_dataset("folder", flat, "val")) == 2


def test_a_mask_of_another_size_or_with_an_unknown_id_is_named(flat):
    Image.new("L", (9, 6)).save(flat / "masks" / "00.png")
    Image.new("L", (8, 6), 2).save(flat / "masks" / "05.png")
    dataset = open_dataset("folder", flat, "val")
    with pytest.raises(ImageError, match=r"00.png' is 9x6, its image is 8x6; they must be of one size"):
        dataset[0]
    with pytest.raises(ImageError, match=r"05.png' holds the ids \[2\]; the dataset has 0 to 1, 255"):
        dataset[1]


def test_a_palette_with_the_classes_in_another_order_is_refused(flat):
    (flat / "classes.txt").unlink()
    (flat / "classes.json").write_text(json.dumps({"names": ["road", "sky"], "colors": [[9, 9, 9], [80, 90, 200]]}))
    mask = Image.new("P", (8, 6), 1)
    mask.putpalette([9, 9, 9, 80, 90, 200])
    mask.save(flat / "masks" / "05.png")
    assert len(open_dataset("folder", flat, "val")) == 2
    mask.putpalette([80, 90, 200, 9, 9, 9])
    mask.save(flat / "masks" / "05.png")
    with pytest.raises(ValueError, match=r"05.png' has the colour \(80, 90, 200\) at id 0, which is 'road'; .* that of 'sky'"):
        open_dataset("folder", flat, "val")


def test_a_mask_that_cannot_be_opened_is_named_when_it_is_read(flat, monkeypatch):
    (flat / "classes.txt").unlink()
    (flat / "classes.json").write_text(json.dumps({"names": ["road", "sky"], "colors": [[9, 9, 9], [80, 90, 200]]}))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    dataset = open_dataset("folder", flat, "val")
    with pytest.raises(ImageError, match=r"05\.\w+' has more than 4 pixels"):
        dataset[1]


def test_palettes_do_not_count_where_colours_were_not_given(flat):
    mask = Image.new("P", (8, 6), 1)
    mask.putpalette([0, 0, 0, 128, 0, 0])  # Pascal VOC's, whose first colour is that of the background
    mask.save(flat / "masks" / "00.png")
    assert len(open_dataset("folder", flat, "val")) == 2


def test_folders_of_another_layout_are_named_with_the_one_that_is_read(flat, tmp_path):
    for kind in ("images", "masks"):
        (flat / kind).rename(flat / "train")
        (flat / kind).mkdir()
        (flat / "train").rename(flat / kind / "train")
    with pytest.raises(
        FileNotFoundError, match=r"No images in '.*images', but the folders train; .* as train/images/ and train/masks/"
    ):
        open_dataset("folder", flat, "train")
    (tmp_path / "voc" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="holds neither images/ and masks/.* It holds JPEGImages/"):
        open_dataset("folder", tmp_path / "voc", "train")
