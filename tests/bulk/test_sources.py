import io
import json
import os
import random

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pyarrow", reason="the extra bulk is not installed")

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from pspnet_zoo.bulk.sources import open_source, open_uri, read_part
from pspnet_zoo.data.images import encode_class_masks
from pspnet_zoo.results.stamp import TIFF_TAG, make_stamp, stamp_png


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for i, name in enumerate(["b.png", "a.jpg", "sub/c.png", "sub/deep/d.webp", "e %#?.png"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (i, i, i)).save(root / name)
    (root / "notes.txt").write_text("no image")
    (root / "._a.jpg").write_bytes(b"macOS")
    (root / ".tmp").mkdir()
    (root / ".tmp" / "x.png").write_bytes(b"of another program")
    return root


def everything(source, size):
    """All inputs, through parts of `size`."""
    return [item for first in range(0, len(source), size) for item in read_part(source.part(first, min(first + size, len(source))))]


def table(path, columns, row_group_size=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_folder_gives_its_images_at_any_depth_in_order(folder, size):
    source = open_source(str(folder))
    items = everything(source, size)
    assert [i.name for i in items] == ["a.jpg", "b.png", "e %#?.png", "sub/c.png", "sub/deep/d.webp"]
    assert [i.read() for i in items] == [(folder / i.name).read_bytes() for i in items]


def test_a_list_names_images_by_relative_and_absolute_paths_and_uris(folder):
    lines = ["a.jpg", "", "sub/c.png", str(folder / "b.png"), (folder / "b.png").as_uri()]
    (folder / "list.txt").write_text("\n".join(lines))
    items = everything(open_source(str(folder / "list.txt")), 2)
    assert [i.name for i in items] == [line for line in lines if line]
    assert [i.read() for i in items] == [(folder / n).read_bytes() for n in ("a.jpg", "sub/c.png", "b.png", "b.png")]


def test_a_list_may_name_files_that_are_not_unicode(folder):
    name = os.fsdecode(b"caf\xe9.png")
    (folder / name).write_bytes(b"x")
    (folder / "list.txt").write_bytes(b"a.jpg\ncaf\xe9.png\n")
    items = everything(open_source(str(folder / "list.txt")), 2)
    assert [i.name for i in items] == ["a.jpg", name] and items[1].read() == b"x"


def test_names_in_a_bucket_may_have_any_signs():
    options = "region=us-east-1&scheme=http&endpoint_override=127.0.0.1:1"
    system, path = open_uri(f"s3://bucket/a %20#b/?{options}")
    assert path == "bucket/a %20#b" and system.equals(open_uri(f"s3://bucket/c?{options}")[0])
    assert system.region == "us-east-1"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_a_parquet_dataset_of_bytes_is_read_row_by_row(tmp_path, size):
    data = [bytes([i]) * (i + 1) for i in range(17)]
    table(tmp_path / "set" / "0.parquet", {"image": data[:8], "path": [f"{i}.jpg" for i in range(8)]})
    table(tmp_path / "set" / "sub" / "1.parquet", {"image": data[8:], "path": [f"{i}.jpg" for i in range(8, 17)]}, 4)
    source = open_source(str(tmp_path / "set"))
    items = everything(source, size)
    assert len(source) == 17 and [i.read() for i in items] == data
    assert [i.name for i in items] == [f"{i}.jpg" for i in range(17)]
    assert [i.place for i in items] == [*(f"0.parquet/{i}" for i in range(8)), *(f"sub/1.parquet/{i}" for i in range(9))]


@pytest.mark.parametrize("size", [10, 16, 17, 50])
def test_parts_of_a_large_row_group_share_no_row(tmp_path, size):
    table(tmp_path / "0.parquet", {"image": [bytes([i]) for i in range(50)]}, 50)
    items = everything(open_source(str(tmp_path / "0.parquet")), size)
    assert [i.read() for i in items] == [bytes([i]) for i in range(50)]


def test_only_the_row_groups_of_a_part_are_read(tmp_path, monkeypatch):
    table(tmp_path / "0.parquet", {"image": [bytes([i]) for i in range(12)]}, 3)
    groups = []
    original = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda s, n, row_groups, **k: groups.extend(row_groups) or original(s, n, row_groups, **k)
    )
    source = open_source(str(tmp_path / "0.parquet"))
    assert [i.read() for i in read_part(source.part(4, 8))] == [bytes([i]) for i in range(4, 8)] and groups == [1, 2]


def test_a_parquet_file_of_paths_is_relative_to_its_folder(folder):
    table(folder / "set.parquet", {"path": ["a.jpg", str(folder / "b.png")], "other": [1, 2]})
    items = everything(open_source(str(folder / "set.parquet")), 1)
    assert [i.read() for i in items] == [(folder / n).read_bytes() for n in ("a.jpg", "b.png")]
    assert [i.place for i in items] == ["set.parquet/0", "set.parquet/1"]


def test_images_as_hugging_face_datasets_store_them(tmp_path):
    table(tmp_path / "0.parquet", {"photo": [{"bytes": b"x", "path": "x.jpg"}, {"bytes": b"y", "path": None}]})
    items = everything(open_source(str(tmp_path / "0.parquet"), column="photo"), 2)
    assert [(i.name, i.read()) for i in items] == [("x.jpg", b"x"), ("0.parquet/1", b"y")]


def test_the_digest_changes_with_whatever_could_change_a_result(folder):
    digests = [open_source(str(folder)).digest]
    assert open_source(str(folder)).digest == digests[0]
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes() + b"x")
    digests.append(open_source(str(folder)).digest)
    os.utime(folder / "a.jpg", ns=(1, 1))
    digests.append(open_source(str(folder)).digest)
    (folder / "b.png").rename(folder / "z.png")
    digests.append(open_source(str(folder)).digest)
    (folder / "z.png").unlink()
    digests.append(open_source(str(folder)).digest)
    assert len(set(digests)) == 5


def test_what_holds_no_images_is_refused_in_one_sentence(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "noise.bin").write_bytes(b"\xff\xfe\x00")
    table(tmp_path / "numbers.parquet", {"path": [1, 2], "x": [b"", b""]})
    for uri, error, message in (
        (tmp_path / "none", FileNotFoundError, "No file or folder"),
        (tmp_path / "empty", ValueError, "No images and no Parquet files"),
        (tmp_path / "empty.txt", ValueError, "lists no images"),
        (tmp_path / "noise.bin", ValueError, "neither Parquet nor a text file"),
        (folder / "a.jpg", ValueError, "is an image"),
        (tmp_path / "numbers.parquet", ValueError, "is int64; it must be bytes or paths"),
        ("ftp://host/x", ValueError, "cannot be opened"),
    ):
        with pytest.raises(error, match=message):
            open_source(str(uri))
    with pytest.raises(ValueError, match="has the columns path, x; name the one of the images by --column"):
        open_source(str(tmp_path / "numbers.parquet"), column="image")


def test_a_part_is_small_text(folder):
    source = open_source(str(folder))
    assert json.loads(source.part(1, 3))["inputs"] == ["b.png", "e %#?.png"] and np.all([len(source.part(0, 5)) < 300])


def names(source):
    return [item.name for item in everything(source, 100)]


def test_a_camera_may_begin_names_with_a_line(folder):
    (folder / "_DSC0001.JPG").write_bytes(b"x")
    assert "_DSC0001.JPG" in names(open_source(str(folder)))


def test_a_name_that_is_not_unicode_a_link_to_nothing_and_a_pipe_are_inputs(folder):
    strange = os.fsdecode(b"caf\xe9.png")
    (folder / strange).write_bytes(b"x")
    (folder / "dead.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    items = {item.name: item for item in everything(open_source(str(folder)), 2)}
    assert items[strange].read() == b"x" and len(items) == 8
    for name, error, message in (("dead.png", FileNotFoundError, "nowhere|dead"), ("pipe.png", OSError, "is a folder, a pipe")):
        with pytest.raises(error, match=message):
            items[name].read()


def test_folders_behind_links_are_read_and_circles_are_not_followed(folder, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "x.png").write_bytes(b"x")
    (folder / "link").symlink_to(tmp_path / "far")
    (folder / "sub" / "circle").symlink_to(folder)
    found = names(open_source(str(folder)))
    assert "link/x.png" in found and not [name for name in found if "circle" in name]


def test_a_circle_of_links_between_two_folders_is_walked_once(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / "src" / name).mkdir(parents=True)
        (tmp_path / "src" / name / f"{name}.png").write_bytes(b"x")
        (tmp_path / "src" / name / f"to_{other}").symlink_to(f"../{other}")
    assert names(open_source(str(tmp_path / "src"))) == ["a/a.png", "a/to_b/b.png", "b/b.png", "b/to_a/a.png"]


def test_a_link_to_a_folder_around_the_source_by_another_way_is_followed(folder, tmp_path):
    (tmp_path / "view").mkdir()
    (tmp_path / "view" / "x.png").write_bytes(b"x")
    (tmp_path / "view" / "images").symlink_to(folder)
    (folder / "sub" / "view").symlink_to(tmp_path / "view")
    found = names(open_source(str(tmp_path / "view" / "images")))
    assert "sub/view/x.png" in found and "sub/view/images/a.jpg" not in found


def test_a_folder_that_cannot_be_read_is_an_error_beside_the_images(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path="."):
        if os.fspath(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    source = open_source(str(folder))
    assert len(source) == 3 and [error.filename for error in source.errors] == [str(folder / "sub")]


def test_results_inside_a_folder_are_left_out_and_counted(folder):
    before = open_source(str(folder)).digest
    Image.new("L", (4, 3)).save(folder / "sub" / "u_mask.png")  # somebody's own
    stamped = stamp_png((folder / "sub" / "u_mask.png").read_bytes(), make_stamp("a", "b"))
    for name in ("sub/a_mask.png", "sub/a_overlay.png"):
        (folder / name).write_bytes(stamped)
    table(folder / "old" / "part-000000.parquet", {"path": ["a.jpg"], "mask": [b""]})
    (folder / "old" / "_manifest.json").write_text("{}")
    table(folder / "out" / "part-000000.parquet", {"path": ["a.jpg"], "mask": [b""]})
    source = open_source(str(folder), without=str(folder / "out"))
    assert names(source) == ["a.jpg", "b.png", "e %#?.png", "sub/c.png", "sub/deep/d.webp", "sub/u_mask.png"]
    assert source.left_out == 4 and "6 images in" in str(source) and "without 4 files of earlier results" in str(source)
    (folder / "sub" / "u_mask.png").unlink()
    assert open_source(str(folder), without=str(folder / "out")).digest == before


def test_results_with_any_name_and_in_any_format_are_left_out_and_pipes_are_not_waited_for(folder):
    stamp = make_stamp("a", "b")
    (folder / "a_mask.tif").write_bytes(encode_class_masks(np.zeros((2, 3, 4)), f"{TIFF_TAG} {stamp}"))
    (folder / os.fsdecode(b"caf\xe9_mask.png")).write_bytes(stamp_png((folder / "b.png").read_bytes(), stamp))
    os.mkfifo(folder / "pipe_mask.png")
    source = open_source(str(folder))
    assert names(source) == ["a.jpg", "b.png", "e %#?.png", "pipe_mask.png", "sub/c.png", "sub/deep/d.webp"]
    assert source.left_out == 2


def test_results_on_object_storage_are_left_out(monkeypatch):
    system = pa.fs.FileSystem.from_uri("mock:///")[0]  # pyarrow's storage in memory
    system.create_dir("bucket/sub/.hidden")
    buffer = io.BytesIO()
    Image.new("L", (4, 3)).save(buffer, "png")
    mask = encode_class_masks(np.zeros((2, 3, 4)), f"{TIFF_TAG} {make_stamp('a', 'b')}")
    own = encode_class_masks(np.zeros((2, 3, 4)), "somebody's own")
    files = {"a.png": buffer.getvalue(), "a_mask.png": stamp_png(buffer.getvalue(), make_stamp("a", "b"))}
    files |= {"a_mask.tif": mask, "b_mask.tif": own, "c_mask.tif": b"damaged"}
    files |= {"clip_000001.png": files["a_mask.png"], "clip_000002.png": files["a.png"]}  # of a video's frames, and somebody's own
    files |= dict.fromkeys(("sub/d.png", "sub/.e.png", "sub/.hidden/f.png"), b"x")
    for name, data in files.items():
        with system.open_output_stream(f"bucket/{name}") as file:
            file.write(data)
    monkeypatch.setattr("pspnet_zoo.bulk.sources.open_uri", lambda uri: (system, "bucket"))
    source = open_source("mock:///bucket")
    assert names(source) == ["a.png", "b_mask.tif", "c_mask.tif", "clip_000002.png", "sub/d.png"] and source.left_out == 3


def test_results_are_no_source_and_the_source_no_destination(folder):
    with pytest.raises(ValueError, match="is the source too; choose another destination"):
        open_source(str(folder), without=str(folder))
    (folder / "_manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="holds results of pspnet-zoo bulk; give the folder of the images"):
        open_source(str(folder))


def test_the_kind_of_a_source_is_named_and_can_be_chosen(folder, tmp_path):
    table(folder / "set.parquet", {"path": ["a.jpg"]})
    with pytest.raises(ValueError, match="holds 5 images and 1 Parquet files; choose by --kind folder or --kind parquet"):
        open_source(str(folder))
    assert "(a folder" in str(open_source(str(folder), kind="folder"))
    assert "(Parquet, column 'path')" in str(open_source(str(folder), kind="parquet"))
    assert names(open_source(str(folder), column="path")) == ["a.jpg"]
    (tmp_path / "list.jpg").write_text("images/a.jpg")
    assert names(open_source(str(tmp_path / "list.jpg"), kind="list")) == ["images/a.jpg"]
    (folder / "set.parquet").rename(tmp_path / "table.bin")
    assert len(open_source(str(tmp_path / "table.bin"), kind="parquet")) == 1
    with pytest.raises(ValueError, match="is a folder, and no list"):
        open_source(str(folder), kind="list")


def test_images_without_bytes_are_read_by_their_paths(folder):
    values = [{"bytes": None, "path": str(folder / "b.png")}, {"bytes": None, "path": "a.jpg"}, {"bytes": None, "path": None}, None]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table(folder / "set.parquet", {"image": pa.array(values, kind)})
    first, second, third, fourth = everything(open_source(str(folder / "set.parquet")), 2)
    assert first.read() == (folder / "b.png").read_bytes() and second.read() == (folder / "a.jpg").read_bytes()
    for item in (third, fourth):
        with pytest.raises(ValueError, match="neither bytes nor a path"):
            item.read()


@pytest.mark.parametrize("path", [[1, 2], [["a"], []], [{"a": 1}, None], [b"\xff", b""], [float("nan"), 1.0]], ids=str)
def test_a_column_path_of_something_else_is_no_name(tmp_path, path):
    table(tmp_path / "set.parquet", {"image": [b"x", b"y"], "path": path})
    items = everything(open_source(str(tmp_path / "set.parquet")), 2)
    assert [(i.name, i.read()) for i in items] == [("set.parquet/0", b"x"), ("set.parquet/1", b"y")]


@pytest.mark.parametrize(
    "image", [{"bytes": 1}, {"bytes": [b"x"]}, {"bytes": {"bytes": b"x"}}, {"bytes": b"x", "path": 5}, {"path": ["a.jpg"]}], ids=str
)
def test_a_struct_of_something_else_is_refused(tmp_path, image):
    table(tmp_path / "set.parquet", {"image": [image]})
    with pytest.raises(ValueError, match="is struct<.*; it must be bytes or paths"):
        open_source(str(tmp_path / "set.parquet"))


def test_two_columns_of_one_name_are_refused(tmp_path):
    pq.write_table(pa.Table.from_arrays([pa.array([b"x"])] * 2, names=["image", "image"]), tmp_path / "set.parquet")
    with pytest.raises(ValueError, match="set.parquet' has 2 columns 'image'"):
        open_source(str(tmp_path / "set.parquet"))


def test_one_address_of_an_unknown_kind_is_one_failure(folder):
    (folder / "list.txt").write_text("nosuch://x/y.png\na.jpg\n")
    table(folder / "set.parquet", {"path": ["nosuch://x/y.png", "a.jpg"]})
    for source in ("list.txt", "set.parquet"):
        first, second = everything(open_source(str(folder / source)), 2)
        assert first.name == "nosuch://x/y.png" and second.read() == (folder / "a.jpg").read_bytes()
        with pytest.raises(ValueError, match="'nosuch://x/y.png' cannot be opened"):
            first.read()


def test_a_file_that_states_more_rows_than_it_has_is_named(tmp_path):
    def stated(number):  # as Thrift writes it
        text, number = b"", number * 2
        while number > 127:
            text, number = text + bytes([number & 127 | 128]), number >> 7
        return text + bytes([number])

    rows = (1 << 13) + 1
    table(tmp_path / "lie.parquet", {"image": pa.array([None] * rows, pa.binary())})
    content = (tmp_path / "lie.parquet").read_bytes()
    whole, more = stated(rows), stated(rows + 1)
    places = [at for at in range(len(content)) if content.startswith(whole, at)]
    refused = 0
    for at in places:
        lie = bytearray(content)
        lie[at : at + len(more)] = more
        (tmp_path / "lie.parquet").write_bytes(lie)
        try:
            source = open_source(str(tmp_path / "lie.parquet"))
            assert len(everything(source, len(source))) == len(source) == rows
        except (ValueError, OSError) as error:
            refused += "fewer" in str(error) and "lie.parquet" in str(error)
    assert refused


def test_a_damaged_parquet_file_is_named(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match="x.parquet' cannot be read as Parquet"):
        open_source(str(tmp_path))


def fuzz(folder, seeds):
    table(folder / "set.parquet", {"image": [(folder / name).read_bytes() for name in ("a.jpg", "b.png")]})
    content, refused = (folder / "set.parquet").read_bytes(), 0
    for seed in seeds:
        chance = random.Random(seed)
        damaged = bytearray(content)
        for _ in range(chance.randrange(1, 5)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path = folder / "damaged.parquet"
        path.write_bytes(damaged[: chance.randrange(len(damaged))] if chance.random() < 0.2 else damaged)
        try:
            for item in everything(open_source(str(path)), 2):
                item.read()
        except (ValueError, OSError) as error:
            refused += 1
            assert "damaged.parquet" in str(error) or "neither" in str(error), (seed, error)
    assert refused > len(seeds) / 10


def test_a_hundred_damaged_parquet_files_are_read_or_refused_by_name(folder):
    fuzz(folder, range(100))


@pytest.mark.slow
def test_thousands_of_damaged_parquet_files_are_read_or_refused_by_name(folder):
    fuzz(folder, range(100, 4100))


@pytest.mark.skipif(os.name == "nt", reason="there it begins with the letter of a disk")
def test_a_name_with_a_colon_is_of_its_folder(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "9:30.png")
    (item,) = everything(open_source(str(tmp_path)), 5)
    assert item.name == "9:30.png" and item.read() == (tmp_path / "9:30.png").read_bytes()


def test_a_list_with_a_byte_order_mark_names_its_first_image(folder):
    (folder.parent / "list.txt").write_text("images/a.jpg\nimages/b.png\n", encoding="utf-8-sig")
    assert [item.name for item in everything(open_source(str(folder.parent / "list.txt")), 5)] == ["images/a.jpg", "images/b.png"]


def test_a_file_larger_than_is_read_at_once_fails_before_it_is_read(folder, monkeypatch):
    monkeypatch.setattr("pspnet_zoo.bulk.sources.MAX_BYTES", 10)
    for item in everything(open_source(str(folder)), 9):
        with pytest.raises(OSError, match=r"bytes, and at most 10 are read at once"):
            item.read()
