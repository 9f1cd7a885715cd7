"""A dataset is read whole: counts against counts by hand, and every problem named."""

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo.data.check import check_dataset, doubts, mask_doubts
from pspnet_zoo.data.images import has_deep_channels
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.data.stats import write_preprocess
from pspnet_zoo.meta import Preprocess


def test_counts_and_shares_are_those_of_the_masks(camvid):
    contents, problems = check_dataset("camvid", camvid)
    assert not problems and {s: c.images for s, c in contents.items()} == {"train": 5, "val": 3, "test": 2}
    for split, each in contents.items():
        masks = []
        for path in (camvid / f"{split}annot").iterdir():
            with Image.open(path) as image:
                masks.append(np.array(image))
        ids = np.stack(masks)
        assert each.sizes == {(64, 48): each.images}
        assert each.ignored == (ids == 11).mean() and each.class_fractions is not None
        for index, name in enumerate(each.labels.names):
            assert each.class_fractions[name] == pytest.approx((ids == index).sum() / (ids != 11).sum())


def test_a_split_without_truth_has_sizes_and_no_shares(cityscapes):
    contents, problems = check_dataset("cityscapes", cityscapes)
    assert not problems and list(contents) == ["train", "val", "test", "train_extra"]
    assert contents["test"].class_fractions is None and contents["test"].sizes == {(64, 32): 2}
    assert contents["val"].class_fractions is not None and contents["val"].class_fractions["train"] == 0


def test_every_problem_is_a_line_that_names_the_file(cityscapes):
    train = open_dataset("cityscapes", cityscapes, "train")
    Image.new("L", (8, 8)).save(train.masks[0])
    Image.new("L", (64, 32), 77).save(train.masks[1])
    train.masks[2].unlink()
    train.images[3].write_bytes(b"no image")
    for file in open_dataset("cityscapes", cityscapes, "test").images:
        file.unlink()
    seen = []
    contents, problems = check_dataset("cityscapes", cityscapes, progress=lambda done, total: seen.append((done, total)))
    for file, words in (
        (train.masks[0], "is 8x8, its image is 64x32"),
        (train.masks[1], "holds the ids [77]"),
        (train.masks[2], "has no mask"),
        (train.images[3], "is not an image"),
        (cityscapes / "leftImg8bit" / "test", "No images in"),
    ):
        assert len([p for p in problems if str(file) in p and words in p and "\n" not in p]) == 1
    assert len(problems) == 5 and "test" not in contents
    assert contents["train"].images == 4 and not contents["train"].sizes and contents["val"].sizes == {(64, 32): 3}
    assert seen == [(i, 9) for i in range(1, 10)]


def test_only_the_split_that_is_asked_for_is_read(camvid):
    (camvid / "trainannot" / "000.png").unlink()
    contents, problems = check_dataset("camvid", camvid, "val")
    assert list(contents) == ["val"] and not problems


def test_a_fault_of_the_whole_dataset_is_said_once(tmp_path):
    (tmp_path / "images").mkdir()
    contents, problems = check_dataset("folder", tmp_path)
    assert not contents and len(problems) == 1 and "classes.txt" in problems[0]


@pytest.mark.parametrize("layout", ["camvid", "cityscapes", "folder"])
def test_a_folder_without_a_split_is_refused(tmp_path, layout):
    with pytest.raises(FileNotFoundError, match="No split of the layout|No folder|holds neither"):
        check_dataset(layout, tmp_path)


def folder_of(root, names, values, splits=("train", "val")):
    (root / "classes.txt").write_text("\n".join(names))
    for split in splits:
        for kind, image in (
            ("images", Image.new("RGB", (8, 8))),
            ("masks", Image.fromarray(np.resize(np.uint8(values), (8, 8)))),
        ):
            (root / split / kind).mkdir(parents=True)
            image.save(root / split / kind / "a.png")
    return check_dataset("folder", root)[0]


def test_masks_of_0_and_255_are_doubted_with_the_cure(tmp_path):
    (doubt,) = doubts(folder_of(tmp_path, ["background", "cat"], [0, 255]))
    assert "255, which is ignored" in doubt and "If 255 is 'cat', write 1" in doubt


def test_classes_without_a_pixel_and_a_missing_split_are_doubted(tmp_path):
    contents = folder_of(tmp_path, ["a", "b", "c"], [0, 2], splits=("train",))
    assert doubts(contents, "train") == ["No pixel is of 'b'"]
    assert [d[:21] for d in doubts(contents)] == ["There is no val split", "No pixel is of 'b'"]
    assert doubts(contents, complete=False) == ["No pixel is of 'b'"]  # val may be there, and be what is wrong


def test_a_sound_dataset_is_not_doubted(tmp_path):
    assert not doubts(folder_of(tmp_path, ["a", "b"], [0, 1, 255]))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_images_of_16_bits_that_are_read_as_8_are_doubted_with_the_cure(tmp_path, ending):
    for split in ("train", "val"):
        for folder in ("images", "masks"):
            (tmp_path / split / folder).mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / split / "images" / f"a.{ending}")
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / split / "masks" / "a.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (doubt,) = doubts(check_dataset("folder", tmp_path)[0])
    assert f"a.{ending}' has 16 bits a channel, of which the upper 8 are read" in doubt and "data stats DIR --write" in doubt
    assert mask_doubts(open_dataset("folder", tmp_path, "train")) == (None, [doubt])
    write_preprocess(tmp_path, Preprocess((0.5,), (0.2,), white=65535))
    assert not doubts(check_dataset("folder", tmp_path)[0])
    assert mask_doubts(open_dataset("folder", tmp_path, "train")) == (None, [])


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "bmp", "jp2", "webp", "gif"])
def test_images_of_8_bits_are_not_doubted(tmp_path, ending):
    Image.new("RGB", (16, 16)).save(tmp_path / f"a.{ending}")
    assert not has_deep_channels(tmp_path / f"a.{ending}")


def test_a_folder_without_splits_is_told_where_images_and_masks_belong(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(FileNotFoundError, match="holds neither images/ and masks/.* It holds JPEGImages/"):
        check_dataset("folder", tmp_path)
