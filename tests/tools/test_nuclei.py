import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools import nuclei_data, nuclei_scores
from tools.nuclei_data import SPLIT, groups_of, kind_of, split
from tools.nuclei_thirty import OUTPUT, pixels_of


def field(seed, height=64, width=64, base=20):
    """A dark image with a pattern of its own, smooth enough that its halves continue each other."""
    coarse = np.random.default_rng(seed).integers(0, 200, (height // 16, width // 16), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.repeat(np.asarray(image)[..., None] // 2 + base, 3, axis=2).astype(np.uint8)


def test_tiles_of_one_image_and_near_duplicates_are_one_group():
    whole, other = field(0, width=128), field(1)
    again = (other * 0.9).astype(np.uint8)
    groups = groups_of([whole[:, :64], field(2), whole[:, 64:], other, again])
    assert sorted(sorted(group) for group in groups) == [[0, 2], [1], [3, 4]]


def test_no_group_is_in_two_parts_and_every_image_in_one():
    images = {}
    for seed in range(20):
        whole = field(seed, width=128)
        images |= {f"{seed}_left": whole[:, :64], f"{seed}_right": whole[:, 64:]}
    parts = {part: {n for names in kinds.values() for n in names} for part, kinds in split(images).items()}
    assert sorted(n for names in parts.values() for n in names) == sorted(images)
    for names in parts.values():
        assert {n.replace("left", "right") for n in names} == {n.replace("right", "left").replace("left", "right") for n in names}
    assert len(parts["train"]) > len(parts["val"]) > 0 and parts["test"]


def test_kinds_of_images():
    dark = field(0, 256, 256)
    purple = np.full((256, 320, 3), (180, 165, 215), np.uint8)
    white = np.full((256, 320, 3), (215, 210, 218), np.uint8)
    kinds = [kind_of(image) for image in (dark, purple, white, np.full((1024, 1024, 3), 220, np.uint8))]
    assert kinds == ["fluorescence, 256x256", "histology, purple", "histology, white", "brightfield"]


@pytest.mark.parametrize("resize", [False, True])
def test_prepared_images_have_no_alpha_and_masks_have_ids(tmp_path, monkeypatch, resize):
    for folder in ("images", "masks"):
        (tmp_path / "raw" / folder).mkdir(parents=True)
    for name in "abc":
        Image.new("RGBA", (40, 30), (9, 9, 9, 255)).save(tmp_path / "raw" / "images" / f"{name}.png")
        Image.fromarray(np.eye(30, 40, dtype=np.uint8) * 255).save(tmp_path / "raw" / "masks" / f"{name}.png")
    (tmp_path / "split.json").write_text('{"train": {"brightfield": ["a"]}, "val": {"other": ["b"]}, "test": {"other": ["c"]}}')
    monkeypatch.setattr(nuclei_data, "SPLIT", tmp_path / "split.json")
    nuclei_data.prepare(tmp_path / "raw", tmp_path / "out", resize=resize, join_val=True)
    names = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("images/*.png")}
    if resize:
        assert names == {"train/images/a.png", "train/images/a_again.png", "train/images/b.png"}
    else:
        assert names == {"train/images/a.png", "train/images/b.png", "val/images/b.png", "test/images/c.png"}
    pixels, mask = (np.asarray(Image.open(tmp_path / "out" / "train" / kind / "b.png")) for kind in ("images", "masks"))
    assert pixels.shape == ((90, 120, 3) if resize else (30, 40, 3))
    assert set(np.unique(mask)) == {0, 1}


def test_the_boundary_of_a_square_is_its_rim_and_the_edge_of_the_image_is_none():
    mask = np.zeros((9, 9), bool)
    mask[2:7, 2:7] = True
    assert nuclei_scores.boundary(mask).sum() == 16
    assert not nuclei_scores.boundary(np.ones((9, 9), bool)).any()
    assert nuclei_scores.near(mask)[0, 0] and not nuclei_scores.near(np.pad(mask, 3))[0].any()


def test_scores_of_all_pixels_together(tmp_path, monkeypatch, capsys):
    for folder in ("truth", "said"):
        (tmp_path / folder).mkdir()
    truth = np.zeros((20, 20), np.uint8)
    truth[5:15, 5:15] = 1
    said = np.roll(truth, 5, axis=1)
    Image.fromarray(truth).save(tmp_path / "truth" / "a.png")
    Image.fromarray(said).save(tmp_path / "said" / "a_mask.png")
    monkeypatch.setattr("sys.argv", ["", str(tmp_path / "truth"), str(tmp_path / "said")])
    nuclei_scores.main()
    printed = capsys.readouterr().out
    assert "foreground IoU 0.3333" in printed and "Dice           0.5000" in printed


def test_the_thirty_images_of_the_tutorial_are_of_the_parts_for_training_and_validation():
    parts = {part: {name for names in kinds.values() for name in names} for part, kinds in json.loads(SPLIT.read_text()).items()}
    total = 0
    for part in ("train", "val"):
        coco = json.loads((OUTPUT / "annotations" / f"instances_{part}.json").read_text())
        names = {Path(image["file_name"]).stem for image in coco["images"]}
        assert names <= parts[part] and all((OUTPUT / "images" / f"{name}.png").is_file() for name in names)
        assert all(isinstance(each["segmentation"], list) for each in coco["annotations"])
        total += len(names)
    assert total == len(list((OUTPUT / "images").iterdir())) == 30
    unlabelled = {file.stem for file in (OUTPUT / "unlabelled").iterdir()}
    assert unlabelled <= parts["train"] and not unlabelled & {file.stem for file in (OUTPUT / "images").iterdir()}


def test_pixels_on_the_line_of_a_published_outline_are_of_the_object():
    assert pixels_of([[1, 1, 3, 1, 3, 2, 1, 2]], 5, 6).sum() == 6
