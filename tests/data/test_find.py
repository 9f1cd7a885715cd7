import os

import pytest
from PIL import Image

from pspnet_zoo.data.find import find_files


@pytest.fixture
def tree(tmp_path):
    for name in ("b.png", "a.JPG", "._a.jpg", "notes.txt", "x/c.png", "x/y/d.webp", ".hidden/e.png", "out/f.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / name, "png")
    return tmp_path


def names(found):
    return [f.name.as_posix() for f in found]


def test_a_folder_gives_its_own_images_or_all_below(tree):
    assert names(find_files(tree)) == ["a.JPG", "b.png"]
    assert names(find_files(tree, recursive=True)) == ["a.JPG", "b.png", "out/f.png", "x/c.png", "x/y/d.webp"]
    assert [f.path for f in find_files(tree / "x", recursive=True)] == [tree / "x" / "c.png", tree / "x" / "y" / "d.webp"]


def test_a_file_is_taken_whatever_its_name(tree):
    (found,) = find_files(tree / "notes.txt")
    assert found.path == tree / "notes.txt" and found.name.as_posix() == "notes.txt"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("*.png", ["b.png"]), ("**/*.png", ["b.png", "out/f.png", "x/c.png"]), ("x/*", ["c.png"]), ("?.*", ["a.JPG", "b.png"])],
)
def test_a_pattern_gives_what_it_matches_below_its_fixed_part(tree, pattern, expected):
    assert names(find_files(tree / pattern)) == expected


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tree):
    Image.new("RGB", (2, 2)).save(tree / "[ab].png")
    assert names(find_files(tree / "[ab].png")) == ["[ab].png"]


def test_nothing_is_said(tree):
    (tree / "empty" / "below").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"No images \(below it: --recursive\) in"):
        find_files(tree / "empty")
    with pytest.raises(ValueError, match=r"No images in '.*\*.bmp'"):
        find_files(tree / "*.bmp")


def test_a_link_to_nothing_and_a_pipe_are_listed_like_files(tree):
    (tree / "x" / "dead.png").symlink_to(tree / "nowhere.png")
    os.mkfifo(tree / "x" / "pipe.png")
    for argument in (tree / "x", tree / "x" / "*.png"):
        assert names(find_files(argument)) == ["c.png", "dead.png", "pipe.png"]


def test_links_in_a_loop_are_listed_like_files(tree):
    (tree / "x" / "loop.png").symlink_to("pool.png")
    (tree / "x" / "pool.png").symlink_to("loop.png")
    for argument in (tree / "x", tree / "x" / "*.png"):
        assert names(find_files(argument)) == ["c.png", "loop.png", "pool.png"]


def scandir_as_user(monkeypatch, locked):
    """Reading a folder fails, as permissions make it do for everybody but root."""
    scandir = os.scandir

    def refuse(path="."):
        if os.fspath(path).rstrip("/").endswith(locked):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


@pytest.mark.parametrize("argument", ["", "**/*.png", "*/*.png"])
def test_a_folder_that_cannot_be_read_is_reported_and_the_others_are_listed(tree, monkeypatch, argument):
    (tree / "locked").mkdir()
    scandir_as_user(monkeypatch, "locked")
    errors = []
    found = find_files(tree / argument, recursive=True, on_error=errors.append)
    assert "x/c.png" in names(found) and {os.path.basename(error.filename) for error in errors} == {"locked"}
    with pytest.raises(PermissionError):
        find_files(tree / argument, recursive=True)


def test_an_argument_that_cannot_be_read_is_an_error_of_its_own(tree, monkeypatch):
    scandir_as_user(monkeypatch, "x")
    with pytest.raises(PermissionError):
        find_files(tree / "x", on_error=lambda error: None)
