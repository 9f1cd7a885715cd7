"""Pages of the site that are made: the API's reference, the table of checkpoints with its links, a page a checkpoint."""

import inspect
import os
import re
from pathlib import Path

import pspnet_zoo
from pspnet_zoo.zoo.entries import Checkpoint
from pspnet_zoo.zoo.registry import BUNDLED, CHECKPOINTS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pspnet_zoo"
ROOMS = {
    "models": "The network and its parts",
    "inference": "Images in, ids out",
    "evaluation": "Measuring",
    "training": "Training",
    "data": "Datasets",
    "deployment": "Exported networks",
    "storage": "Files and the Hub",
    "zoo": "What is known of checkpoints",
    "upstream": "Other projects' checkpoints",
}
"""Folders of the package with a page of the reference each: all but the faces, cli/ and demo/."""


def pages() -> dict[str, str]:
    """Path below docs/ to Markdown."""
    made = {"reference/api.md": _api()}
    for room, title in ROOMS.items():
        modules = "\n\n".join(f"::: {module}" for module in _modules(room))
        made[f"reference/api-{room}.md"] = f"# API: {title[0].lower()}{title[1:]}\n\n{modules}\n"
    made["reference/checkpoints.md"] = _checkpoints()
    for row in CHECKPOINTS:
        made[f"models/{row.name}.md"] = _model(row)
    return made


def missing_names(site: Path) -> list[str]:
    """A line for each public name that the built reference lacks."""
    text = (site / "reference" / "api" / "index.html").read_text()
    return [f"reference/api: no '{name}'" for name in public_names() if f'id="pspnet_zoo.{name}"' not in text]


def public_names() -> list[str]:
    """What `pspnet_zoo` has, sorted as a reader looks for it."""
    return sorted(pspnet_zoo._HOMES, key=str.lower)


def _api() -> str:
    """Every public name of the package, from its docstring where it is defined."""
    lines = [
        "# API",
        "",
        "The names of `pspnet_zoo`, from their docstrings. What they are made of is on the pages whose titles begin with API.",
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
    file = Path(inspect.getfile(value)).relative_to(ROOT)  # pyright: ignore[reportArgumentType]
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
    """The table of the documents, with a link to each model's page."""
    page = (ROOT / "docs" / "reference" / "checkpoints.md").read_text()
    page = f"---\nhide: [toc]\n---\n\n{page}"
    return re.sub(r"^\| (\*?\*?)`([^`]+)`(\*?\*?) \|", r"| \1[`\2`](../models/\2.md)\3 |", page, flags=re.MULTILINE)


def _model(row: Checkpoint) -> str:
    """What a person asks of a checkpoint before taking it."""
    facts = [("parameters", f"{row.parameters / 1e6:.1f} M"), ("classes of", row.dataset), ("licence of the weights", row.license)]
    if row.upstream is not None:
        network = row.upstream.network
        facts.append(("classes", str(network.classes)))
        facts.append(("network", f"`dilation={network.dilation!r}`, `align_corners={network.align_corners}`"))
        facts += [("published as", f"`{row.upstream.id}`"), ("published at", f"<{row.upstream.page}>")]
        facts += [("file", f"<{url}>") for url in row.upstream.urls]
        facts.append(("digest", f"`{row.upstream.hash}`" if row.upstream.hash else "none published"))
    lines = [f"# `{row.name}`", "", '<div class="facts" markdown>', "", "| | |", "|---|---|"]
    lines += [*(f"| {key} | {value} |" for key, value in facts), "", "</div>", ""]
    lines += ["## Numbers", ""]
    if row.metrics:
        lines += ['<div class="numbers" markdown>', "", "| | | data | protocol | by |", "|---|---:|---|---|---|"]
        lines += [f"| {m.name} | {m.value:.4f} | {m.dataset} {m.split} | {m.protocol} | {m.origin} |" for m in row.metrics]
        lines += [
            "",
            "</div>",
            "",
            "As fractions of 1, the loss in nats. *Claimed* is the source's own number, *measured* this project's.",
        ]
    else:
        lines += ["No number is published."]
    lines += ["", "## Use", "", *_use(row), ""]
    lines += ["[How networks differ](../explanation/policies.md) · [All checkpoints](../reference/checkpoints.md)", ""]
    if row.folder is not None:
        card = (BUNDLED / row.folder / "README.md").read_text().split("\n", 1)[1]
        lines += ["## Card", "", re.sub("^## ", "### ", card, flags=re.MULTILINE)]
    return "\n".join(lines)


def _use(row: Checkpoint) -> list[str]:
    if row.upstream is not None and row.upstream.same_weights_as is not None:
        other = row.upstream.same_weights_as
        return [f"This file is not supported. [`{other}`]({other}.md) has the same weights."]
    lines = [f"pspnet-zoo info {row.name}"]
    if row.upstream is not None and not row.upstream.urls:
        lines += [f"pspnet-zoo convert FILE --like {row.name} -o {row.name}  # FILE: fetched by hand from the page above"]
    model = f"{row.name}/" if row.upstream is not None and not row.upstream.urls else row.name
    lines += [f"pspnet-zoo predict street.jpg --model {model}"]
    python = f"""\
import pspnet_zoo

prediction = pspnet_zoo.Predictor("{model}")("street.jpg")
prediction.overlay(legend=True).save("overlay.png")"""
    return ["```sh", *lines, "```", "", "```python", python, "```"]
