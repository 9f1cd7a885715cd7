"""Each format, in a set made by its own tool or library where there is one: masks and image bytes after the import."""

import base64
import io
import json
import struct
import zlib
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
import shapely
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pspnet_zoo.data.importers.values import MaskOptions
from pspnet_zoo.data.labels import VOC

from .conftest import POLYGONS, same_within_a_pixel, true_masks, write_images, write_masks

NAMES = np.array(["background", "cat", "dog"])
# pycocotools' arrays lack what NumPy 2 asks for
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def check(result, files, truth=None, names=NAMES):
    """Every pixel, every byte, and nothing wrong."""
    assert not result.problems and result.images == files
    for name, mask in (truth or true_masks()).items():
        assert (result.named(name) == names[mask]).all(), name


def drawn(points):
    """(48, 64): where the centre of a pixel is inside a polygon, as GEOS says."""
    rows, columns = np.indices((48, 64)) + 0.5
    return shapely.contains_xy(shapely.Polygon(points), columns, rows)


def check_polygons(result, files, masks=None):
    """Within a pixel of the polygons, or of the given masks."""
    assert not result.problems and result.images == files and set(result.names) == {"background", "cat", "dog"}
    for name, objects in POLYGONS.items():
        for label in ("cat", "dog"):
            truth = np.any([np.zeros((48, 64), bool), *(drawn(points) for each, points in objects if each == label)], axis=0)
            truth = truth if masks is None else masks[name, label]
            assert same_within_a_pixel(result.named(name) == label, truth), (name, label)


# --- COCO


def coco(images, annotations, categories=((3, "cat"), (17, "dog"))):
    return {
        "images": [{"id": 10 * i + 5, "file_name": f"{n}.jpg", "width": 64, "height": 48} for i, n in enumerate(images)],
        "annotations": [{"id": i, "iscrowd": 0, **a} for i, a in enumerate(annotations)],
        "categories": [{"id": i, "name": n} for i, n in categories],
    }


def test_coco_polygons_are_those_of_pycocotools(tmp_path, imported):
    files = write_images(tmp_path / "set" / "images")
    annotations = [
        {"image_id": 10 * i + 5, "category_id": {"cat": 3, "dog": 17}[label], "segmentation": [np.ravel(points).tolist()]}
        for i, name in enumerate("abc")
        for label, points in POLYGONS[name]
    ]
    (tmp_path / "set" / "labels.json").write_text(json.dumps(coco("abc", annotations)))
    result = imported(tmp_path / "set")
    reader = COCO(tmp_path / "set" / "labels.json")
    masks = {}
    for i, name in enumerate("abc"):
        for number, label in ((3, "cat"), (17, "dog")):
            found = reader.loadAnns(reader.getAnnIds(10 * i + 5, number))
            masks[name, label] = np.any([np.zeros((48, 64), bool), *(reader.annToMask(a) for a in found)], axis=0)
    assert result.format == "coco" and result.names == ("background", "cat", "dog")
    check_polygons(result, files, masks)


def test_coco_run_lengths_of_both_kinds_and_crowds(tmp_path, imported):
    files, annotations = write_images(tmp_path / "set"), []
    for i, mask in enumerate(true_masks().values()):
        for number, value in ((3, 1), (17, 2)) if mask.any() else ():
            counts = coco_mask.encode(np.asfortranarray(mask == value))
            if value == 2:  # as for crowds
                flat = np.flatnonzero(np.diff(np.r_[0, (mask == value).T.ravel(), 0]))
                counts = {"size": [48, 64], "counts": np.diff(np.r_[0, flat, 48 * 64]).tolist()}
                counts["counts"] = counts["counts"][: None if counts["counts"][-1] else -1]
            else:
                counts = {"size": [48, 64], "counts": counts["counts"].decode()}
            annotations.append({"image_id": 10 * i + 5, "category_id": number, "segmentation": counts, "iscrowd": value - 1})
    (tmp_path / "set" / "instances_all.json").write_text(json.dumps(coco("abc", annotations)))
    result = imported(tmp_path / "set" / "instances_all.json")
    check(result, files)
    assert any("2 crowd regions" in note for note in result.notes)


def test_a_polygon_of_coco_lies_over_a_crowd_that_comes_later(tmp_path, imported):
    write_images(tmp_path / "set", "a")
    square = [[10, 10, 20, 10, 20, 20, 10, 20]]
    crowd = {"size": [48, 64], "counts": [0, 48 * 64]}
    annotations = [
        {"image_id": 5, "category_id": 3, "segmentation": square},
        {"image_id": 5, "category_id": 17, "segmentation": crowd, "iscrowd": 1},
    ]
    (tmp_path / "set" / "x.json").write_text(json.dumps(coco("a", annotations)))
    names = imported(tmp_path / "set").named("a")
    assert (names[10:20, 10:20] == "cat").all() and (names == "cat").sum() == 100 and (names == "dog").sum() == 64 * 48 - 100


def test_the_files_of_coco_are_its_splits(tmp_path, imported):
    root = tmp_path / "set"
    files = {**write_images(root / "train2017", "ab"), **write_images(root / "val2017", "c")}
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(coco("ab", [])))
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(coco("c", [])))
    (root / "annotations" / "captions_val2017.json").write_text(json.dumps(coco("c", [{"image_id": 5, "caption": "a"}])))
    result = imported(root)
    assert result.splits == {"a": "train", "b": "train", "c": "val"} and not result.problems and result.images == files


def test_images_beside_those_of_coco_that_are_not_in_it_are_counted(tmp_path, imported):
    write_images(tmp_path / "set" / "images", "abcdefg")
    (tmp_path / "elsewhere.jpg").write_bytes(b"")
    (tmp_path / "set" / "labels.json").write_text(json.dumps(coco("abc", [])))
    result = imported(tmp_path / "set", background="nothing")
    text = "4 images are beside those of the JSON and not in it; they are left out: d.jpg, e.jpg, f.jpg, ..."
    assert text in result.notes and not result.problems and set(result.images) == set("abc")


def test_a_listed_image_with_a_problem_is_no_unlisted_one(tmp_path, imported):
    write_images(tmp_path / "set", "abc")
    values = coco("abc", [])
    values["images"][0]["width"] = "wide"
    (tmp_path / "set" / "labels.json").write_text(json.dumps(values))
    result = imported(tmp_path / "set")
    assert result.problems and not [note for note in result.notes if "left out" in note]


# --- labelme and YOLO


def shape(label, points, kind="polygon", **more):
    return {"label": label, "points": [list(p) for p in points], "group_id": None, "shape_type": kind, "flags": {}, **more}


def labelme(name, shapes, **more):
    return json.dumps(
        {
            "version": "5.5.0",
            "shapes": shapes,
            "imagePath": f"{name}.jpg",
            "imageData": None,
            "imageHeight": 48,
            "imageWidth": 64,
            **more,
        }
    )


def test_labelme_polygons(tmp_path, imported):
    files = write_images(tmp_path / "set")
    for name, objects in POLYGONS.items():
        (tmp_path / "set" / f"{name}.json").write_text(labelme(name, [shape(*each) for each in objects]))
    check_polygons(imported(tmp_path / "set"), files)


def test_the_name_of_the_folder_itself_is_no_split_of_labelme(tmp_path, imported):
    for name in "ab":
        write_images(tmp_path / "test" / ("val" if name == "b" else ""), name)
        file = tmp_path / "test" / ("val" if name == "b" else "") / f"{name}.json"
        file.write_text(labelme(name, [shape(*each) for each in POLYGONS["a"]]))
    assert imported(tmp_path / "test").splits == {"a": "train", "b": "val"}


def test_labelme_masks_rectangles_circles_and_an_image_inside(tmp_path, imported):
    files = write_images(tmp_path / "elsewhere", "a")
    box = np.zeros((6, 8), bool)
    box[1:5, 2] = True
    buffer = io.BytesIO()
    Image.fromarray(box.astype(np.uint8) * 255).save(buffer, "png")
    shapes = [
        shape("cat", [(30, 40), (20, 30)], "rectangle"),
        shape("dog", [(50, 20), (50, 28)], "circle"),
        shape("dog", [(3, 4), (10, 9)], "mask", mask=base64.b64encode(buffer.getvalue()).decode()),
    ]
    (tmp_path / "set").mkdir()
    inside = base64.b64encode(files["a"]).decode()
    (tmp_path / "set" / "a.json").write_text(labelme("a", shapes, imageData=inside))
    result = imported(tmp_path / "set")
    circle = np.hypot(*(np.indices((48, 64)) + 0.5 - np.array([20, 50])[:, None, None])) < 8
    dog = circle.copy()
    dog[4:10, 3:11] |= box
    names = result.named("a")
    assert not result.problems and result.images == files
    assert (names[30:40, 20:30] == "cat").all() and (names == "cat").sum() == 100
    assert same_within_a_pixel(names == "dog", dog) and (names[4:10, 3:11] == "dog").tolist() == box.tolist()


def test_yolo_with_splits_in_its_folders(tmp_path, imported):
    root = tmp_path / "set"
    files = {**write_images(root / "images" / "train", "ab"), **write_images(root / "images" / "val", "c")}
    for name, objects in POLYGONS.items():
        folder = root / "labels" / ("val" if name == "c" else "train")
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"{['cat', 'dog'].index(label)} " + " ".join(f"{v:.6f}" for v in (np.array(points) / (64, 48)).ravel())
            for label, points in objects
        ]
        (folder / f"{name}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n")
    result = imported(root)
    check_polygons(result, files)
    assert result.splits == {"a": "train", "b": "train", "c": "val"} and result.names == ("background", "cat", "dog")


# --- CVAT and Label Studio


def cvat(elements, labels=(("cat", "#ff0000"), ("dog", "#0000ff"))):
    defined = "".join(f"<label><name>{n}</name><color>{c}</color><type>any</type></label>" for n, c in labels)
    meta = f"<meta><job><labels>{defined}</labels></job></meta>"
    return f'<?xml version="1.0"?><annotations><version>1.1</version>{meta}{elements}</annotations>'


def cvat_image(name, shapes, size=(64, 48)):
    return f'<image id="0" name={quoteattr(name)} subset="Train" width="{size[0]}" height="{size[1]}">{shapes}</image>'


def test_cvat_polygons_masks_boxes_and_order(tmp_path, imported):
    files, elements = write_images(tmp_path / "set" / "images"), ""
    for name, objects in POLYGONS.items():
        shapes = "".join(
            f'<polygon label="{label}" points="{";".join(f"{x},{y}" for x, y in points)}" z_order="0"/>'
            for label, points in objects
        )
        if name == "c":  # a mask of 3x2 at (5, 7): row by row, from what is outside
            shapes = (
                '<box label="dog" xtl="40" ytl="30" xbr="50" ybr="40" z_order="2"/>'
                '<box label="cat" xtl="35" ytl="30" xbr="45" ybr="40" z_order="1"/>'
                '<mask label="cat" rle="1, 3, 2" left="5" top="7" width="3" height="2" z_order="0"/>'
            )
        elements += cvat_image(f"{name}.jpg", shapes)
    (tmp_path / "set" / "annotations.xml").write_text(cvat(elements))
    result = imported(tmp_path / "set")
    names = result.named("c")
    assert (names[7:9, 5:8] == [["background", "cat", "cat"], ["cat", "background", "background"]]).all()
    assert (names[30:40, 35:50] == np.repeat(["cat", "dog"], [5, 10])).all()
    assert result.written.lost == {"cat": 50} and result.written.labels.colors[1:] == ((255, 0, 0), (0, 0, 255))
    assert not result.problems and result.images == files
    for name in "ab":
        for label, points in POLYGONS[name]:
            assert same_within_a_pixel(result.named(name) == label, drawn(points))


# what label_studio_sdk 2.1.2's converter.brush.mask2rle makes of the mask below
BRUSH = list(
    bytes.fromhex(
        "00000300391bfe8b00bfff8bc02fffe2f00bfff8bc0315ffe1300c57ff84c02fffe2f0"
        "0bfff99c023ff8c023ff8c023ff8c023ff8c023ff8c023ff8c023ff8c023ffc7e000"
    )
)


def brushed():
    mask = np.zeros((12, 16), bool)
    mask[2:9, 3:7] = mask[5:7, 7:14] = mask[10, 1::2] = True
    return mask


def studio_task(name, results, size=(64, 48)):
    sized = [{"original_width": size[0], "original_height": size[1], "image_rotation": 0, **each} for each in results]
    return {
        "id": 1,
        "annotations": [{"result": sized, "was_cancelled": False}],
        "data": {"image": f"/data/upload/1/0123abcd-{name}"},
    }


def test_label_studio_polygons(tmp_path, imported):
    files = write_images(tmp_path / "set" / "images")
    tasks = []
    for name, objects in POLYGONS.items():
        results = [
            {"type": "polygonlabels", "value": {"points": (np.array(p) / (0.64, 0.48)).tolist(), "polygonlabels": [label]}}
            for label, p in objects
        ]
        tasks.append(studio_task(f"{name}.jpg", [*results, {"type": "choices", "value": {"choices": ["fine"]}}]))
    (tmp_path / "set" / "export.json").write_text(json.dumps(tasks))
    result = imported(tmp_path / "set")
    assert result.format == "labelstudio"
    check_polygons(result, files)


def test_label_studio_brush_and_rectangle(tmp_path, imported):
    files = write_images(tmp_path / "images", "a", (16, 12))
    results = [
        {
            "type": "rectanglelabels",
            "value": {"x": 50, "y": 50, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["cat"]},
        },
        {"type": "brushlabels", "value": {"format": "rle", "rle": BRUSH, "brushlabels": ["dog"]}},
    ]
    (tmp_path / "export.json").write_text(json.dumps([studio_task("a.jpg", results, (16, 12))]))
    truth = np.zeros((12, 16), np.uint8)
    truth[6:, 8:] = 1
    truth[brushed()] = 2
    check(imported(tmp_path / "export.json", images=tmp_path / "images"), files, {"a": truth})


# --- masks


def test_voc_with_palette_border_and_lists(tmp_path, imported):
    root = tmp_path / "VOC2012"
    files = write_images(root / "JPEGImages")
    masks = {name: np.uint8([0, 8, 12])[mask] for name, mask in true_masks().items()}
    masks["a"][4, 3:30] = 255
    (root / "SegmentationClass").mkdir()
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name, mask in masks.items():
        image = Image.fromarray(mask)
        image.putpalette(np.array([*VOC.colors, *[(0, 0, 0)] * 234, (224, 224, 192)], np.uint8).tobytes())
        image.save(root / "SegmentationClass" / f"{name}.png")
    for split, names in (("train", "ab"), ("val", "c"), ("trainval", "abc")):
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
    result = imported(root)
    assert result.format == "voc" and result.names == VOC.names and result.splits == {"a": "train", "b": "train", "c": "val"}
    truth = {name: np.where(mask == 255, 3, np.searchsorted([0, 8, 12], mask)) for name, mask in masks.items()}
    check(result, files, truth, np.array(["background", "cat", "dog", "-"]))


COLORS = np.array([(0, 0, 0), (128, 0, 0), (128, 64, 7)])


def write_deep_png(path, pixels):
    """(H, W, C) uint16 as PNG, which Pillow cannot write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "16 bits", "palettes"])
@pytest.mark.parametrize("table", ["label_colors.txt", "labelmap.txt", "colors.json", None])
def test_color_masks_with_and_without_a_table(tmp_path, imported, kind, table):
    root = tmp_path / "set"
    files = write_images(root / "images")
    (root / "labels").mkdir()
    for name, mask in true_masks().items():
        pixels, file = COLORS[mask], root / "labels" / f"{name}.png"
        if kind == "16 bits":
            write_deep_png(file, np.dstack([pixels * 257, np.full(mask.shape, 65535)]).astype(np.uint16))
        elif kind == "palettes":  # one of its own in each file
            order = {"a": [0, 1, 2], "b": [2, 0, 1], "c": [1, 2, 0]}[name]
            image = Image.fromarray(np.argsort(order).astype(np.uint8)[mask])
            image.putpalette(COLORS[order].astype(np.uint8).tobytes())
            image.save(file)
        else:
            alpha = np.full((*mask.shape, 1), 255)
            Image.fromarray((np.dstack([pixels, alpha]) if kind == "RGBA" else pixels).astype(np.uint8)).save(file)
    texts = {
        "label_colors.txt": "0 0 0\tbackground\n128 0 0\tcat\n128 64 7\tdog\n",
        "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\ndog:128,64,7::\n",
        "colors.json": '{"background": [0, 0, 0], "cat": [128, 0, 0], "dog": [128, 64, 7]}',
    }
    if table:
        (root / table).write_text(texts[table])
    names = NAMES if table else np.array(["background", "color_800000", "color_804007"])
    result = imported(root)
    check(result, files, names=names)
    colors = {*zip(names, map(tuple, COLORS.tolist()), strict=True)}
    assert {*zip(result.names, result.written.labels.colors, strict=True)} == colors
    assert table or "  128 0 0 color_800000  # 4.33%" in result.notes


def test_colors_of_16_bits_that_differ_in_the_low_byte_stay_apart(tmp_path, imported):
    root = tmp_path / "set"
    write_images(root / "images", "a")
    (root / "masks").mkdir()
    pixels = np.zeros((48, 64, 3), np.uint16)
    pixels[:10], pixels[10:20], pixels[20:] = (256, 0, 0), (257, 0, 0), (300, 5, 0)
    write_deep_png(root / "masks" / "a.png", pixels)
    assert len(set(imported(root).names)) == 3


@pytest.mark.parametrize("values", [(0, 255), (0, 37), (1, 2), "white", "bits"])
def test_masks_of_two_values(tmp_path, imported, values):
    root = tmp_path / "set"
    files = write_images(root / "images")
    truth = {name: (mask > 0).astype(np.uint8) for name, mask in true_masks().items()}
    if values == "white":
        masks = {name: np.dstack([mask * 255] * 3) for name, mask in truth.items()}
    elif values == "bits":
        masks = {name: mask.astype(bool) for name, mask in truth.items()}
    else:
        masks = {name: np.uint8(values)[mask] for name, mask in truth.items()}
    write_masks(root / "masks", masks)
    result = imported(root, masks=MaskOptions(names=("background", "cat")))
    check(result, files, truth)
    assert result.format == "binary" and result.names == ("background", "cat")


@pytest.mark.parametrize(("ids", "dtype", "ending"), [
    ((0, 7, 9), np.uint8, ".png"), ((0, 1000, 40000), np.uint16, ".png"), ((5, 70000, 2**31 - 7), np.int32, ".tif"),
])  # fmt: skip
def test_ids_of_8_16_and_32_bits(tmp_path, imported, ids, dtype, ending):
    root = tmp_path / "set"
    files = write_images(root / "images")
    (root / "masks").mkdir()
    for name, mask in true_masks().items():
        values = np.array(ids, dtype)[mask]
        values[47, 0] = np.iinfo(dtype).max if dtype != np.int32 else ids[0]
        Image.fromarray(values).save(root / "masks" / f"{name}{ending}")
    result = imported(root, masks=MaskOptions(names=("background", "cat", "dog")))
    truth = true_masks()
    for mask in truth.values():
        mask[47, 0] = 3 if dtype != np.int32 else 0
    check(result, files, truth, np.array([*NAMES, "-"]))
    assert result.format == "ids"


def test_ids_without_names_are_named_after_themselves(tmp_path, imported):
    write_images(tmp_path / "images")
    write_masks(tmp_path / "masks", {name: np.uint8([0, 7, 9])[mask] for name, mask in true_masks().items()})
    result = imported(tmp_path)
    assert result.names == ("class_0", "class_7", "class_9") and any("name them with --names" in note for note in result.notes)


@pytest.mark.parametrize("layout", ["{s}/images/{s}.jpg {s}/masks/{n}.png", "images/{s}.jpg masks/{s}/{n}.png"])
def test_a_mask_for_each_object(tmp_path, imported, layout):
    truth = {name: (mask > 0).astype(np.uint8) for name, mask in true_masks().items()}
    sizes = {"a": 3, "b": 2, "c": 1}
    for name, mask in truth.items():
        image, masks = (tmp_path / "set" / part.replace("{s}", name) for part in layout.split())
        write_images(image.parent, name)
        masks.parent.mkdir(parents=True)
        for number in range(sizes[name]):
            part = mask.copy()
            part[:, np.arange(64) % sizes[name] != number] = 0
            Image.fromarray(part * 255).save(masks.with_name(f"{number}.png"))
    result = imported(tmp_path / "set")
    assert result.format == "instances" and set(result.images) == set("abc")
    empty = result.problems
    assert len(empty) == 1 and "empty" in empty[0] and "/c/" in empty[0]
    for name, mask in truth.items():
        assert (result.named(name) == np.array(["background", "object"])[mask]).all()


def test_classes_of_masks_in_their_names(tmp_path, imported):
    files = write_images(tmp_path / "set" / "photos")
    for name, mask in true_masks().items():
        for value, label in ((1, "cat"), (2, "dog")):
            if (mask == value).any():
                write_masks(tmp_path / "set" / "drawn", {f"{name}-{label}": (mask == value).astype(np.uint8)})
    result = imported(tmp_path / "set", masks=MaskOptions("drawn/{stem}-{class}.png"))
    assert result.problems == [f"'{tmp_path}/set/photos/c.jpg' has no mask"]
    assert {"a", "b"} == set(result.masks) and result.images == {name: files[name] for name in "ab"}
    assert all((result.named(name) == NAMES[true_masks()[name]]).all() for name in "ab")


@pytest.mark.parametrize("pattern", ["labels/{stem}_mask.png", None])
def test_pairs_whose_names_differ(tmp_path, imported, pattern):
    root = tmp_path / "set"
    files = write_images(root / ("photos" if pattern else "images"))
    write_masks(root / "labels", true_masks(), "_mask")
    result = imported(root, masks=MaskOptions(pattern, names=("background", "cat", "dog")))
    check(result, files)


def test_pairs_beside_each_other_and_splits_in_folders(tmp_path, imported):
    for split, names in (("train", "ab"), ("valid", "c")):
        files = write_images(tmp_path / split, "abc")
        [(tmp_path / split / f"{n}.jpg").unlink() for n in set("abc") - set(names)]
        write_masks(tmp_path / split, {n: true_masks()[n] for n in names}, "_mask")
    result = imported(tmp_path, masks=MaskOptions(names=("background", "cat", "dog")))
    check(result, files)
    assert result.splits == {"a": "train", "b": "train", "c": "val"}


# --- tables


def test_npz_of_many_and_of_one(tmp_path, imported):
    truth = true_masks()
    random = np.random.default_rng(0)
    photos = {name: random.integers(0, 256, (48, 64, 3), np.uint8) for name in truth}
    (tmp_path / "set").mkdir()
    np.savez(tmp_path / "set" / "many.npz", images=np.stack([photos["a"], photos["b"]]), masks=np.stack([truth["a"], truth["b"]]))
    np.savez_compressed(tmp_path / "set" / "c.npz", image=photos["c"], mask=truth["c"].astype(np.int64))
    result = imported(tmp_path / "set", masks=MaskOptions(names=("background", "cat", "dog")))
    assert not result.problems
    for name, key in (("a", "many_0"), ("b", "many_1"), ("c", "c")):
        assert (result.masks[key] == truth[name]).all()
        with Image.open(io.BytesIO(result.images[key])) as image:
            assert (np.array(image) == photos[name]).all()


def test_parquet_of_datasets(tmp_path, imported):
    datasets = pytest.importorskip("datasets")
    files, truth = write_images(tmp_path / "photos"), true_masks()
    (tmp_path / "set").mkdir()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    for split, names in (("train", "ab"), ("validation", "c")):
        rows = {"image": [{"bytes": files[n]} for n in names], "label": [Image.fromarray(truth[n]) for n in names]}
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(tmp_path / "set" / f"{split}-00000-of-00001.parquet")
    result = imported(tmp_path / "set", masks=MaskOptions(names=("background", "cat", "dog")))
    assert not result.problems and sorted(result.images.values()) == sorted(files.values())
    by_bytes = {content: name for name, content in files.items()}
    for key, content in result.images.items():
        name = by_bytes[content]
        assert (result.masks[key] == truth[name]).all() and result.splits[key] == ("val" if name == "c" else "train")


def test_photos_of_two_lenses_in_parquet(tmp_path, imported):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    photo, mask = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (64, 48)).save(photo, "MPO", save_all=True, append_images=[Image.new("RGB", (64, 48))])
    Image.fromarray(true_masks()["a"]).save(mask, "PNG")
    rows = pa.table({"image": [photo.getvalue()], "mask": [mask.getvalue()]})
    parquet.write_table(rows, tmp_path / "train.parquet")
    result = imported(tmp_path / "train.parquet", masks=MaskOptions(names=("background", "cat", "dog")))
    assert not result.problems and list(result.images.values()) == [photo.getvalue()]


def test_masks_of_16_bit_colors_in_parquet(tmp_path, imported):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    files, truth = write_images(tmp_path / "photos", "a"), true_masks()["a"]
    write_deep_png(tmp_path / "a.png", (COLORS[truth] * 256 + 1).astype(np.uint16))
    (tmp_path / "set").mkdir()
    parquet.write_table(
        pa.table({"image": [files["a"]], "label": [(tmp_path / "a.png").read_bytes()]}), tmp_path / "set" / "train.parquet"
    )
    result = imported(tmp_path / "set")
    assert not result.problems and len(result.names) == 3
    (mask,) = result.masks.values()
    assert len({(int(a), int(b)) for a, b in zip(mask.ravel(), truth.ravel(), strict=True)}) == 3


@pytest.mark.parametrize("given", [True, False])
def test_a_table_of_colors_is_of_indexed_masks_with_one_palette_too(tmp_path, imported, given):
    files = write_images(tmp_path / "set" / "images")
    (tmp_path / "set" / "masks").mkdir()
    for name, mask in true_masks().items():
        image = Image.fromarray(mask)
        image.putpalette(COLORS.astype(np.uint8).tobytes())
        image.save(tmp_path / "set" / "masks" / f"{name}.png")
    table = (tmp_path if given else tmp_path / "set") / "label_colors.txt"
    table.write_text("128 64 7 dog\n128 0 0 cat\n0 0 0 background\n")
    check(imported(tmp_path / "set", masks=MaskOptions(colors=table if given else None)), files)
