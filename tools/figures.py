"""Draw the documents' figures with the bundled network and the tutorial's own code.

python tools/figures.py [NAME...]     # needs the extra 'docs'; writes docs/assets/figures/

Photos: streets of Lund from mapillary/OpenSfM (BSD-2-Clause), faces and plates blurred there; docs/assets/README.md.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image
from torch.nn import functional as F

import pspnet_zoo

ROOT = Path(__file__).parent.parent
ASSETS = ROOT / "docs" / "assets"
FIGURES = ASSETS / "figures"
INK, PAPER, ACCENT, SOFT = "#1f2937", "#ffffff", "#3f51b5", "#e8eaf6"

matplotlib.use("Agg")
plt.rcParams.update({"font.size": 10, "text.color": INK, "axes.edgecolor": INK, "figure.facecolor": PAPER})


def structure() -> None:
    """The network as boxes and arrows."""
    figure = plt.figure(figsize=(10, 3.9))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-1, 101), ylim=(0, 41))
    axes.axis("off")

    def box(x: float, y: float, width: float, height: float, text: str, color: str = SOFT) -> None:
        style = {"boxstyle": "round,pad=0,rounding_size=0.8", "facecolor": color, "edgecolor": ACCENT, "linewidth": 1.2}
        axes.add_patch(FancyBboxPatch((x, y), width, height, **style))
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9.5, linespacing=1.35)

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=INK, linewidth=1.1))

    box(0, 16, 10, 10, "image\n3 x H x W", PAPER)
    box(14, 16, 13, 10, "backbone,\nstages 1 to 3")
    box(31, 16, 11, 10, "stage 4,\ndilated")
    box(14, 2, 13, 8, "auxiliary\nclassifier", PAPER)
    arrow((10, 21), (14, 21))
    arrow((27, 21), (31, 21))
    arrow((20.5, 16), (20.5, 10))
    axes.text(36.5, 13, "C x H/8 x W/8", ha="center", fontsize=9)
    for row, bins in enumerate((1, 2, 3, 6)):
        y = 31 - 7.5 * row - 1
        box(48, y, 22, 6, f"pool to {bins}x{bins}, 1x1 conv,\nresize to H/8 x W/8")
        arrow((42, 21), (48, y + 3))
        arrow((70, y + 3), (75, 24.5 - 2 * row))
    axes.plot([36.5, 36.5, 79], [26, 38, 38], color=INK, linewidth=1.1)
    arrow((79, 38), (79, 29))
    axes.text(59, 38.5, "the feature map itself", ha="center", va="bottom", fontsize=9)
    box(75, 13, 8, 16, "stack\n2C")
    box(86, 16, 13.5, 10, "3x3 conv,\n1x1 conv,\nresize to H x W")
    arrow((83, 21), (86, 21))
    axes.text(92.7, 13, "classes x H x W", ha="center", fontsize=9)
    _save(figure, "structure.png")


def pyramid() -> None:
    """The bins of the bundled network's pyramid, by the three principal components of its features."""
    predictor = pspnet_zoo.Predictor()
    image = _photo("lund_20")
    features = _features(predictor.model, image)  # (C, h, w)
    colors = _components(features)
    panels = [(image, "image"), (colors(features), f"features, {features.shape[1]}x{features.shape[2]} positions")]
    for bins in (1, 2, 3, 6):
        cells = F.adaptive_avg_pool2d(features[None], bins)[0]
        panels.append((colors(cells), f"{bins}x{bins}"))
    _panels(panels, "pyramid.jpg", columns=3)


def dilation() -> None:
    """The same weights with dilation, and with the strides that they were pretrained with."""
    names = {"strides kept": 32, "dilated": 8}
    image = _photo("lund_20")
    maps = {}
    for title, stride in names.items():
        network = pspnet_zoo.create("pspnet_lite0", pretrained=True, encoder_output_stride=stride)
        maps[title] = _features(network, image)
    colors = _components(maps["dilated"])
    panels = [(image, "image")]
    panels += [(colors(f), f"{title}: {f.shape[1]}x{f.shape[2]} positions") for title, f in maps.items()]
    _panels(panels, "dilation.jpg", columns=3)


def windows() -> None:
    """A whole image at once, and windows of it that do not see each other."""
    predictor = pspnet_zoo.Predictor()
    image = _photo("lund_29")
    crop, stride = (256, 256), (256, 256)
    from pspnet_zoo.inference.windows import sliding_window

    def net(x: torch.Tensor) -> torch.Tensor:
        return predictor.model.predict(x)

    with torch.inference_mode():
        logits = sliding_window(net, predictor.model.preprocess(_tensor(image)), crop, stride)
    parts = pspnet_zoo.Prediction(image, logits[0].argmax(0).numpy().astype(np.uint8), predictor.model.labels)
    whole = predictor(image)
    panels = [
        (image, "image"),
        (np.asarray(whole.overlay(0.6)), "whole image"),
        (np.asarray(parts.overlay(0.6)), f"windows of {crop[1]}x{crop[0]} pixels"),
    ]
    _panels(panels, "windows.jpg", columns=3)


def tiles() -> None:
    """Photos as a whole and in tiles, and the pixels whose class changes; their fractions are printed."""
    network = pspnet_zoo.create("pspnet_lite0.camvid", pretrained=True)
    network.preprocess = replace(network.preprocess, input_scale=1.0)  # else small images, and so tiles, would be upsampled
    whole, panels = pspnet_zoo.Predictor(network), []
    for name in ("lund_20", "lund_01"):
        image = _photo(name)
        one = whole(image)
        for tile in (256, 512):
            for blend in (False, True):
                other = pspnet_zoo.Predictor(network, tile=tile, blend=blend)(image)
                changed = one.mask != other.mask
                print(f"{name}, tiles of {tile}, {'blended' if blend else 'even'}: {changed.mean():.1%} of the pixels change")
        shown = np.where(changed[..., None], np.uint8((220, 30, 30)), image // 2 + 110)
        panels += [(np.asarray(one.overlay(0.6)), "whole image")]
        panels += [(np.asarray(other.overlay(0.6)), f"tiles of {tile}, overlap {tile // 4}")]
        panels += [(shown, f"{changed.mean():.1%} of the pixels change")]
    _panels(panels, "tiles.jpg", columns=3, legend=whole.labels)


def predictions() -> None:
    """Photos from another town and camera than the training data's: what goes well and what does not."""
    predictor = pspnet_zoo.Predictor()
    panels = []
    for name in ("lund_20", "lund_01", "lund_10", "lund_29"):
        prediction = predictor(_photo(name))
        largest = sorted(prediction.class_fractions.items(), key=lambda fraction: -fraction[1])[:3]
        panels.append((np.asarray(prediction.overlay(0.55)), ", ".join(f"{n} {fraction:.0%}" for n, fraction in largest)))
    _panels(panels, "predictions.jpg", columns=2, legend=predictor.model.labels)


def tutorial() -> None:
    """The tutorial's scenes and the predictions of its network, made by running its page."""
    import os
    import tempfile

    page = (ROOT / "docs" / "tutorial" / "pspnet.md").read_text()
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", page.split("## 7.")[0], re.MULTILINE | re.DOTALL))
    scope: dict = {"__name__": "tutorial"}
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            exec(compile(code, "docs/tutorial/pspnet.md", "exec"), scope)
            scenes = [(_png(f"drawn/val/images/{i:03}.png"), _png(f"drawn/val/masks/{i:03}.png")) for i in range(20)]
        finally:
            os.chdir(here)
    palette = np.array([(150, 190, 230), (190, 120, 90), (110, 110, 110), (40, 90, 170), (220, 60, 60), (250, 200, 60)], np.uint8)
    with torch.no_grad():
        said = scope["net"](scope["images"])[0].argmax(1).numpy()
    kinds = [("car" if 4 in mask else "boat") for _, mask in scenes]
    shown = [kinds.index("car"), kinds.index("boat")]
    shown += [i for i in range(20) if i not in shown][:2]
    rows = [[scenes[i][0] for i in shown], [palette[scenes[i][1]] for i in shown], [palette[said[i]] for i in shown]]
    patches = list(zip(scope["NAMES"], palette / 255, strict=True))
    _grid(rows[:2], ["image", "mask"], "scenes.png", patches)
    _grid(rows, ["image", "mask", "network"], "drawn_predictions.png", patches)


def demo() -> None:
    """The page of `pspnet-zoo demo`, in a browser."""
    import shutil

    from playwright.sync_api import sync_playwright

    from pspnet_zoo.demo import app

    page = app.build()
    _, address, _ = app.launch(page, prevent_thread_lock=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(address)
        tab.set_input_files("#photo input[type=file]", ASSETS / "lund_20.jpg")
        tab.wait_for_selector("img[src*=lund_20]")
        tab.click("#segment")
        tab.wait_for_selector("#viewer .class_fractions tr", timeout=120_000)
        tab.wait_for_timeout(1000)  # until the colours are drawn
        FIGURES.mkdir(parents=True, exist_ok=True)
        tab.screenshot(path=FIGURES / "demo.jpg", full_page=True, quality=85, type="jpeg")
    page.close()
    print(f"Wrote {FIGURES / 'demo.jpg'}")


def _grid(rows: list[list[np.ndarray]], titles: list[str], name: str, patches: list) -> None:
    figure, axes = plt.subplots(len(rows), len(rows[0]), figsize=(2.3 * len(rows[0]), 1.85 * len(rows) + 0.4), squeeze=False)
    for row, images, title in zip(axes, rows, titles, strict=True):
        for ax, image in zip(row, images, strict=True):
            ax.imshow(image, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(title)
    _legend(figure, patches)
    figure.tight_layout(rect=(0, 0.4 / figure.get_figheight(), 1, 1), pad=0.3)
    _save(figure, name)


def _legend(figure, patches: list) -> None:
    handles = [plt.Rectangle((0, 0), 1, 1, facecolor=color, edgecolor=INK, linewidth=0.5) for _, color in patches]
    figure.legend(handles, [n for n, _ in patches], loc="lower center", ncols=min(len(patches), 6), frameon=False, fontsize=9)


def _panels(panels: list, name: str, *, columns: int, legend: pspnet_zoo.Labels | None = None) -> None:
    rows = -(-len(panels) // columns)
    bottom = 0.5 if legend else 0.0  # inches
    figure, axes = plt.subplots(rows, columns, figsize=(10, rows * (7.5 / columns + 0.45) + bottom), squeeze=False)
    height, width = panels[0][0].shape[:2]
    for ax, (image, title) in zip(axes.flat, panels, strict=True):
        ax.imshow(image, interpolation="nearest", extent=(0, width, height, 0))
        ax.set_title(title, fontsize=10.5)
        ax.axis("off")
    if legend:
        _legend(figure, list(zip(legend.names, np.array(legend.colors) / 255, strict=True)))
    figure.tight_layout(rect=(0, bottom / figure.get_figheight(), 1, 1), pad=0.4)
    _save(figure, name)


def _save(figure, name: str) -> None:
    FIGURES.mkdir(parents=True, exist_ok=True)
    options = {"pil_kwargs": {"quality": 88}} if name.endswith(".jpg") else {"metadata": {"Software": None}}
    figure.savefig(FIGURES / name, dpi=130, **options)
    plt.close(figure)
    print(f"Wrote {FIGURES / name}, {(FIGURES / name).stat().st_size / 1000:.0f} kB")


def _photo(name: str) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.array(Image.open(ASSETS / f"{name}.jpg").convert("RGB"))


def _png(path: str) -> np.ndarray:
    return np.array(Image.open(path))


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None]


@torch.inference_mode()
def _features(network: pspnet_zoo.PSPNet, image: np.ndarray) -> torch.Tensor:
    """(C, h, w): what the pyramid reads."""
    network.eval()
    return network.encoder(network.preprocess(_tensor(image)))[-1][0]


def _components(features: torch.Tensor) -> Callable[[torch.Tensor], np.ndarray]:
    """A function from (C, h, w) features to colours, by the three principal components of these."""
    flat = features.flatten(1).T
    mean = flat.mean(0)
    axes = torch.linalg.svd(flat - mean, full_matrices=False).Vh[:3].T
    projected = (flat - mean) @ axes
    low, high = projected.quantile(0.02, dim=0), projected.quantile(0.98, dim=0)

    def colors(cells: torch.Tensor) -> np.ndarray:
        values = (cells.permute(1, 2, 0) - mean) @ axes
        return ((values - low) / (high - low)).clamp(0, 1).numpy()

    return colors


FIGURE = {f.__name__: f for f in (structure, pyramid, dilation, windows, tiles, predictions, tutorial, demo)}


if __name__ == "__main__":
    for figure_name in sys.argv[1:] or FIGURE:
        FIGURE[figure_name]()
