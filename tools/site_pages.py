"""Generated pages of the site: the API reference, the table of checkpoints with links, and a page for each checkpoint."""

import inspect
import os
import re
from pathlib import Path

import pspnet_zoo
from pspnet_zoo.zoo.entries import Checkpoint
from pspnet_zoo.zoo.registry import BUNDLED, CHECKPOINTS, DEFAULT_TAGS
from tools.choose_page import TIMES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pspnet_zoo"
ROOMS = {
    "models": "The network and its parts",
    "runtimes": "Runtimes",
    "inference": "Prediction",
    "streams": "Many images and videos",
    "results": "Reports of predictions",
    "bulk": "Bulk jobs",
    "evaluation": "Evaluation",
    "training": "Training",
    "data": "Images and datasets",
    "deployment": "Export",
    "serve": "HTTP server",
    "storage": "Files and the Hub",
    "zoo": "Checkpoint entries",
    "upstream": "Conversion from other projects",
}
"""Folders of the package with a page of the reference each: all but cli/ and demo/."""


def pages() -> dict[str, str]:
    """Path below docs/ to Markdown."""
    made = {"reference/api.md": _api()}
    for room, title in ROOMS.items():
        modules = "\n\n".join(f"::: {module}" for module in _modules(room))
        made[f"reference/api-{room}.md"] = f"# API: {title[0].lower()}{title[1:]}\n\n{modules}\n"
    made["reference/checkpoints.md"] = _checkpoints()
    for entry in CHECKPOINTS:
        made[f"models/{entry.name}.md"] = _model(entry)
    return made


def missing_names(site: Path) -> list[str]:
    """A line for each public name that the built reference lacks."""
    text = (site / "reference" / "api" / "index.html").read_text()
    return [f"reference/api: no '{name}'" for name in public_names() if f'id="pspnet_zoo.{name}"' not in text]


def public_names() -> list[str]:
    """The public names of `pspnet_zoo`, sorted without regard to case."""
    return sorted(pspnet_zoo._HOMES, key=str.lower)


def _api() -> str:
    """Every public name of the package, from its docstring where it is defined."""
    lines = [
        "# API",
        "",
        "The public names of `pspnet_zoo`. The pages whose titles begin with API document the modules behind them.",
    ]
    for name in public_names():
        value = getattr(pspnet_zoo, name)
        where = getattr(value, "__module__", None)
        if where is None or not where.startswith("pspnet_zoo"):
            continue
        target = f"{where}.{getattr(value, '__qualname__', name)}"
        lines += ["", f'<span id="pspnet_zoo.{name}"></span>', "", f"::: {target}", "", _source(value)]
    return "\n".join(lines) + "\n"


def _source(value: object) -> str:
    """A line with the address of an object's source, where the repository's is known (on GitHub's own machines it is)."""
    repository, commit = os.environ.get("GITHUB_REPOSITORY"), os.environ.get("GITHUB_SHA", "main")
    value = getattr(value, "__func__", value)
    file = Path(inspect.getfile(inspect.unwrap(value))).relative_to(ROOT)  # pyright: ignore[reportArgumentType]
    line = inspect.getsourcelines(value)[1]  # pyright: ignore[reportArgumentType]
    if repository is None:
        return f"Source: `{file}`, line {line}.\n"
    return f"[Source](https://github.com/{repository}/blob/{commit}/{file}#L{line})\n"


def _modules(room: str) -> list[str]:
    """The dotted names of a folder's modules, its subfolders' included."""
    files = sorted((PACKAGE / room).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files if "checkpoints" not in file.parts]
    return [name for name in names if not name.rpartition(".")[2].startswith("__") and not name.endswith(".checkpoints")]


def _checkpoints() -> str:
    """The table of the documents for the site: short columns, and a link to each model's page, which has the rest."""
    text = (ROOT / "docs" / "reference" / "checkpoints.md").read_text()
    head, _, _ = text.partition("| Name |")
    head = head.replace("Files of a linked source are\nfetched", "Files are\nfetched")
    lines = ["| Name | Dataset | mIoU | multi | Parameters | Licence | Weights |", "|---|---|---:|---:|---:|---|---|"]
    for entry in sorted(CHECKPOINTS, key=lambda e: (e.dataset, -max((m.value for m in e.metrics if m.name == "miou"), default=0))):
        single, multi = (
            next((f"{100 * m.value:.2f}" for m in entry.metrics if m.name == "miou" and m.multi_scale is scales), "")
            for scales in (False, True)
        )
        bold = "**" if DEFAULT_TAGS.get(entry.architecture) == entry.tag else ""
        licence = re.split(r"[;,] weights| \(", entry.license)[0]
        lines.append(
            f"| {bold}[`{entry.name}`](../models/{entry.name}.md){bold} | {entry.dataset} | {single} | {multi} | "
            f"{entry.parameters / 1e6:.1f} M | {licence} | {availability(entry)} |"
        )
    return f"---\nhide: [toc]\n---\n\n{head}" + "\n".join(lines) + "\n"


def availability(entry: Checkpoint) -> str:
    """Origin of the weights, in two words."""
    if entry.upstream is None:
        return "in the package"
    if entry.upstream.same_weights_as is not None:
        return "not supported"
    return "fetched" if entry.upstream.urls else "by hand"


def _model(entry: Checkpoint) -> str:
    """A page with the facts, the numbers and the use of a checkpoint."""
    facts = [("parameters", f"{entry.parameters / 1e6:.1f} M"), ("classes of", entry.dataset)]
    facts += [("licence of the weights", entry.license), ("weights", availability(entry))]
    if entry.upstream is not None:
        facts.append(("download", f"about {entry.parameters * 4 / 1e6:.0f} MB, 4 bytes for each parameter"))
    if (time := TIMES.get(entry.name, TIMES.get(entry.architecture))) is not None:
        measured = "for one image of 512x1024 ([measured](../how-to/choose-a-model.md))"
        facts.append(("CPU time", f"{time:.2f} of that of `pspnet_r50c` {measured}"))
    if entry.upstream is not None:
        network = entry.upstream.network
        facts.append(("classes", str(network.classes)))
        facts.append(("network", f"`dilation={network.dilation!r}`, `align_corners={network.align_corners}`"))
        facts += [("published as", f"`{entry.upstream.id}`"), ("published at", f"<{entry.upstream.page}>")]
        facts += [("file", f"<{url}>") for url in entry.upstream.urls]
        facts.append(("digest", f"`{entry.upstream.hash}`" if entry.upstream.hash else "none published"))
    lines = [f"# `{entry.name}`", "", '<div class="facts" markdown>', "", "| | |", "|---|---|"]
    lines += [*(f"| {key} | {value} |" for key, value in facts), "", "</div>", ""]
    if entry.folder is not None:
        lines += ["![A street in Lund, segmented by this model](../assets/lund_20_overlay.jpg)", ""]
    lines += ["## Numbers", ""]
    if entry.metrics:
        lines += ['<div class="numbers" markdown>', "", "| | | data | protocol | by |", "|---|---:|---|---|---|"]
        lines += [f"| {m.name} | {m.value:.4f} | {m.dataset} {m.split} | {m.protocol} | {m.origin} |" for m in entry.metrics]
        lines += ["", "</div>", ""]
        lines += ["Metrics are fractions of 1, the loss is in nats. *Claimed* numbers are the publisher's, *measured* ones ours."]
    else:
        lines += ["No number is published."]
    lines += ["", "## Use", "", *_use(entry), ""]
    lines += ["[How networks differ](../explanation/policies.md) · [All checkpoints](../reference/checkpoints.md)"]
    if entry.folder is not None:
        card = (BUNDLED / entry.folder / "README.md").read_text().split("\n", 1)[1]
        lines += ["", "## Card", "", re.sub("^## ", "### ", card, flags=re.MULTILINE)]
    return "\n".join([*lines, ""])


def _use(entry: Checkpoint) -> list[str]:
    if entry.upstream is not None and entry.upstream.same_weights_as is not None:
        other = entry.upstream.same_weights_as
        return [f"This file is not supported. [`{other}`]({other}.md) has the same weights."]
    by_hand = availability(entry) == "by hand"
    lines = [f"pspnet-zoo info {entry.name}"]
    if by_hand:
        lines += [f"pspnet-zoo convert FILE --like {entry.name} -o {entry.name}  # FILE: fetched by hand from the page above"]
    model = f"{entry.name}/" if by_hand else entry.name
    lines += [f"pspnet-zoo predict street.jpg --model {model}"]
    python = f"""\
import pspnet_zoo

prediction = pspnet_zoo.Predictor("{model}")("street.jpg")
prediction.overlay(legend=True).save("overlay.png")"""
    return ["```sh", *lines, "```", "", "```python", python, "```"]
