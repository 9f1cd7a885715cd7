"""Small real data and networks that the tests share."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from pspnet_zoo import Labels, PSPNet
from pspnet_zoo.data.images import encode_class_masks
from pspnet_zoo.data.labels import CAMVID

settings.register_profile("same", derandomize=True, database=None, deadline=None, max_examples=60)
settings.load_profile("same")


def pytest_configure():
    """Hear the signals that nohup, or a shell that starts a job in the background, lets processes ignore."""
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
            signal.signal(getattr(signal, name), handler)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def run(monkeypatch, capsys):
    """Type a command; gives (exit code, stdout, stderr)."""
    from pspnet_zoo.cli import app as cli

    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["pspnet-zoo", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        return (exit.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def net() -> PSPNet:
    """A tiny PSPNet with CamVid's labels and auxiliary head, in training mode."""
    network = PSPNet("test_efficientnet", None, classes=len(CAMVID), psp_out_channels=16, aux_head=True)
    network.labels = CAMVID
    return network


@pytest.fixture
def camvid(tmp_path) -> Path:
    """CamVid's layout with made-up frames: sky above, road below, a car that wanders, unlabelled corners."""
    random = np.random.default_rng(0)
    root = tmp_path / "camvid"
    for split, count in (("train", 5), ("val", 3), ("test", 2)):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        for i in range(count):
            mask = np.zeros((48, 64), np.uint8)
            mask[24:] = 3
            left = int(random.integers(0, 48))
            mask[20:32, left : left + 16] = 8
            mask[:4, :4] = 11
            colors = np.array([*CAMVID.colors, (0, 0, 0)], np.uint8)[mask]
            frame = np.clip(colors + random.integers(-20, 20, colors.shape), 0, 255).astype(np.uint8)
            Image.fromarray(frame).save(root / split / f"{i:03}.png")
            Image.fromarray(mask).save(root / f"{split}annot" / f"{i:03}.png")
    return root


@pytest.fixture
def circles(tmp_path) -> Path:
    """The folder layout with several classes a pixel: circles of three colors that overlap, and an ignored corner."""
    random, root = np.random.default_rng(0), tmp_path / "circles"
    rows, columns = np.mgrid[:64, :64]
    for split, count in (("train", 14), ("val", 6)):
        for folder in ("images", "masks"):
            (root / split / folder).mkdir(parents=True)
        for i in range(count):
            places = random.uniform((14, 14, 9), (50, 50, 17), (3, 3))
            masks = np.stack([(rows - y) ** 2 + (columns - x) ** 2 < r * r for y, x, r in places]).astype(np.uint8)
            image = 30 + 180 * masks.transpose(1, 2, 0) + random.normal(0, 8, (64, 64, 3))
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / split / "images" / f"{split}{i:02}.png")
            masks[0, :4, :4], masks[1:, :2, :6] = 255, 255
            (root / split / "masks" / f"{split}{i:02}.tif").write_bytes(encode_class_masks(masks))
    classes = {"names": ["red", "green", "blue"], "colors": [[255, 0, 0], [0, 255, 0], [0, 0, 255]], "multilabel": True}
    (root / "classes.json").write_text(json.dumps(classes))
    return root


@pytest.fixture
def multilabel_net() -> PSPNet:
    """A tiny multi-label PSPNet for `circles`, in training mode."""
    network = PSPNet("test_efficientnet", None, classes=3, psp_out_channels=16, aux_head=True, multilabel=True)
    network.labels = Labels(("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)), multilabel=True)
    return network


@pytest.fixture
def cityscapes(tmp_path) -> Path:
    """Cityscapes' layout with made-up frames of 64x32: blocks of every labelId but 31, train; for test placeholders."""
    random = np.random.default_rng(0)
    root = tmp_path / "cityscapes"
    present = [i for i in range(34) if i != 31]
    splits = {"train": ("gtFine", 4), "val": ("gtFine", 3), "test": ("gtFine", 2), "train_extra": ("gtCoarse", 2)}
    for split, (truth, count) in splits.items():
        for i in range(count):
            city = f"{split}city{i % 2}"
            frame, mask = root / "leftImg8bit" / split / city, root / truth / split / city
            frame.mkdir(parents=True, exist_ok=True)
            mask.mkdir(parents=True, exist_ok=True)
            ids = random.permutation(present)[:32].reshape(4, 8).astype(np.uint8)
            label_ids = np.minimum(ids, 3) if split == "test" else ids
            pixels = np.stack([ids * 7, 255 - ids * 7, ids * 3], axis=2).repeat(8, 0).repeat(8, 1)
            Image.fromarray(pixels).save(frame / f"{city}_{i:06}_000019_leftImg8bit.png")
            Image.fromarray(label_ids.repeat(8, 0).repeat(8, 1)).save(mask / f"{city}_{i:06}_000019_{truth}_labelIds.png")
    return root


@pytest.fixture(scope="session")
def chromium():
    """A browser for the whole session. Where none is installed the tests that need it are skipped, on Linux's CI they fail."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright, of the extra 'test'")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None and not ("CI" in os.environ and sys.platform == "linux"):
        pytest.skip("needs a browser: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium):
    """A function that opens an address in a page of its own; in the end no page had asked another machine or complained.

    `prepare` is called with the page's context before the address is opened.
    """
    requests, complaints, contexts = [], [], []

    def open_page(address: str, prepare=lambda context: None, **options):
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        prepare(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [r for r in requests if not r.startswith(("http://127.0.0.1:", "data:", "blob:http://127.0.0.1:"))] == []
    assert complaints == []
