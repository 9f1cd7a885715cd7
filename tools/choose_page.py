"""Make the page and the plot that help to choose a model, from the registry and the processor times below.

python -m tools.choose_page
"""

import math
from pathlib import Path

from pspnet_zoo.meta import Metric
from pspnet_zoo.zoo.entries import Checkpoint
from pspnet_zoo.zoo.registry import CHECKPOINTS, DEFAULT_MODEL, find_checkpoint

DOCS = Path(__file__).parent.parent / "docs"
PAGE, PLOT = DOCS / "how-to" / "choose-a-model.md", DOCS / "assets" / "figures" / "accuracy_speed.svg"

TIMES = {
    "pspnet_mobilenetv2_100": 0.15,
    "pspnet_r18": 0.29,
    "pspnet_r18c": 0.30,
    "pspnet_r50": 0.98,
    "pspnet_r50c": 1.0,
    "pspnet_r101": 1.55,
    "pspnet_r101c": 1.61,
    "pspnet_r101d": 1.63,
    "pspnet_r101s": 1.65,
}
"""Processor time for one image of 512x1024 relative to `pspnet_r50c`, printed by `python -m benchmarks.architectures`."""

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 400, 60, 50, 20, 20
X_TICKS, Y_TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2), range(70, 82, 2)


def single_scale(entry: Checkpoint) -> Metric | None:
    """The mIoU of an entry at a single scale."""
    return next((m for m in entry.metrics if m.name == "miou" and not m.multi_scale), None)


def candidates() -> list[tuple[Checkpoint, Metric, float]]:
    """The Cityscapes checkpoint with the highest mIoU of each architecture that has a time, the fastest first."""
    best: dict[str, tuple[Checkpoint, Metric, float]] = {}
    for entry in CHECKPOINTS:
        metric = single_scale(entry)
        supported = entry.upstream is not None and entry.upstream.same_weights_as is None
        if metric is None or not supported or entry.dataset != "Cityscapes" or entry.architecture not in TIMES:
            continue
        if entry.architecture not in best or metric.value > best[entry.architecture][1].value:
            best[entry.architecture] = (entry, metric, TIMES[entry.architecture])
    return sorted(best.values(), key=lambda found: found[2])


def page() -> str:
    """The page in Markdown."""
    rows = [
        f"| [`{entry.name}`](../reference/checkpoints.md) | {100 * metric.value:.2f} | {metric.origin} | {time:.2f} | "
        f"{entry.parameters / 1e6:.1f} M | {entry.license} |"
        for entry, metric, time in candidates()
    ]
    own = find_checkpoint(DEFAULT_MODEL)
    metric = single_scale(own)
    assert metric is not None
    return _PAGE.format(
        rows="\n".join(rows),
        own=own.name,
        miou=f"{100 * metric.value:.2f}",
        origin=metric.origin,
        parameters=f"{own.parameters / 1e6:.1f}",
        license=own.license,
    )


def plot() -> str:
    """The plot as SVG: mIoU over processor time, a point for each candidate."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for tick in X_TICKS:
        x = _x(tick)
        parts.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle" fill="#333">{tick:g}</text>')
    for tick in Y_TICKS:
        y = _y(tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#333">{tick}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle" fill="#111">'
        "processor time relative to pspnet_r50c (measured)</text>"
    )
    parts.append(
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle" fill="#111">'
        "mIoU in percent, Cityscapes val (claimed)</text>"
    )
    placed: list[tuple[float, float, float]] = []  # the boxes of labels: left, right, y
    for entry, metric, time in candidates():
        x, y = _x(time), _y(100 * metric.value)
        label = entry.architecture.removeprefix("pspnet_")
        width = 6.6 * len(label)
        left, at = x + 8, y + 4
        if left + width > WIDTH - RIGHT:
            left = x - 8 - width
        while any(a < left + width and left < b and abs(at - c) < 12 for a, b, c in placed):
            at += 12
        placed.append((left, left + width, at))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="#3949ab"><title>{entry.name}</title></circle>')
        parts.append(f'<text x="{left:.1f}" y="{at:.1f}" fill="#111">{label}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(time: float) -> float:
    low, high = math.log(X_TICKS[0]), math.log(X_TICKS[-1])
    return LEFT + (WIDTH - LEFT - RIGHT) * (math.log(time) - low) / (high - low)


def _y(miou: float) -> float:
    low, high = Y_TICKS[0] - 1, Y_TICKS[-1] + 1
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (miou - low) / (high - low)


_PAGE = """\
# Which model should I take?

| your task | take |
|---|---|
| a first try, or no network | `{own}`, in the package |
| street scenes, fast | `pspnet_r18c.mmseg_cityscapes` |
| street scenes, accurate | `pspnet_r50c.mmseg_cityscapes`, or `pspnet_r101d.paddleseg_cityscapes` |
| indoor and outdoor scenes, 150 classes | `pspnet_r101c.mmseg_ade20k` |
| everyday objects, 20 classes and background | `pspnet_r50d.paddleseg_voc12aug` |
| aerial images | `pspnet_r101c.mmseg_potsdam`, `pspnet_r101c.mmseg_vaihingen`, `pspnet_r101c.mmseg_loveda` |
| your own classes | [fine-tune](fine-tune.md) one of these, or start from ImageNet weights |
| a small model that predicts the classes of a large one | [distill it](teach.md) |

`pspnet-zoo info NAME` shows the classes, the licence and the numbers. The [table](../reference/checkpoints.md) has all checkpoints.

## Accuracy and speed on Cityscapes

![mIoU on Cityscapes val over the processor time; the table below has the same numbers](../assets/figures/accuracy_speed.svg)

Each architecture has a point for its supported checkpoint with the highest mIoU at a single scale. mIoU is the *claim* of the
project that trained it. Protocols differ, so differences below one point say little. Time is *measured* by this project: processor
time for one image of 512x1024, float32, one thread, relative to `pspnet_r50c` (`python -m benchmarks.architectures`). With two
threads `pspnet_r50c` takes 2.3 seconds on two cores of an AMD EPYC, see [how fast it is](../explanation/speed.md).

| checkpoint | mIoU | | time | parameters | licence |
|---|---:|---|---:|---:|---|
{rows}

`{own}` is not in the plot, because its mIoU is on another dataset: {miou} on CamVid test ({origin}). It has {parameters} M
parameters. [Its times](../explanation/speed.md#what-precision-costs) were measured at other sizes. Licence: {license}.

## Hints

- `pspnet_r101c` takes 1.6 times as long as `pspnet_r50c`, for 0.2 points of claimed mIoU.
- Models of ResNet-18 lose 4 points and take 0.3 of the time. They are a good start for your own classes.
- `pspnet_r50c.mmseg_cityscapes` was measured with windows of 769 pixels, see [protocols](../explanation/protocols.md). For whole
  images take `pspnet_r50c.mmseg_cityscapes_512x1024_80k`.
- [Export](export.md) to OpenVINO, in bfloat16 or int8, before you choose a smaller model.
"""


def main() -> None:
    """Write both files."""
    PAGE.write_text(page())
    PLOT.write_text(plot())


if __name__ == "__main__":
    main()
