"""The command `pspnet-zoo list`."""

import sys
from collections.abc import Callable
from typing import Annotated, Literal

import typer

from ..meta import Metric
from ..zoo.entries import Checkpoint
from ..zoo.registry import CHECKPOINTS, list_models
from .terminal import out, refuse_idle, say

Order = Literal["name", "dataset", "miou", "parameters"]


def list_command(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Names to list, with wildcards such as '*r101*'.")] = "*",
    dataset: Annotated[str, typer.Option(help="Only datasets whose name contains this, such as ade20k.")] = "",
    license: Annotated[str, typer.Option(help="Only licences whose text contains this, such as apache.")] = "",
    sort: Annotated[Order, typer.Option(help="Order; datasets and mIoU have the best first.")] = "dataset",
    architectures: Annotated[
        bool, typer.Option("--architectures", help="List every architecture that can be built, with or without weights.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the documentation page, with sources.")] = False,
) -> None:
    """List the checkpoints of the zoo, one a line.

    Numbers are claimed by whoever published the weights, or measured by this project; pspnet-zoo info NAME describes one.
    """
    if markdown:
        refuse_idle("does not change the page of --markdown; leave it out", "dataset", "license", "sort", "architectures")
        from ..zoo.table import markdown_page

        sys.stdout.write(markdown_page())
        return
    if architectures:
        refuse_idle(
            "is of checkpoints, and --architectures lists what has none; leave one of them out", "dataset", "license", "sort"
        )
        if not (names := list_models(pattern)):
            raise ValueError(f"No architecture matches '{pattern}'; quote the wildcards, as in '*resnet50*'")
        say("\n".join(names))
        return
    chosen = set(list_models(pattern, pretrained=True))
    entries = [
        entry
        for entry in CHECKPOINTS
        if entry.name in chosen and dataset.lower() in entry.dataset.lower() and license.lower() in entry.license.lower()
    ]
    if not entries:
        filters = f"{f', --dataset {dataset}' * bool(dataset)}{f', --license {license}' * bool(license)}"
        raise ValueError(f"No checkpoint matches '{pattern}'{filters}; 'pspnet-zoo list' shows all {len(CHECKPOINTS)}")
    say("\n".join(_lines(sorted(entries, key=_KEYS[sort]))))
    say("\nmIoU in percent, at one scale and (ms) several: * measured by this project, the")
    say("others claimed by their source. More of one: pspnet-zoo info NAME")


def _lines(entries: list[Checkpoint]) -> list[str]:
    """A line an entry, with the dataset at the right of the name; the whole licence where there is room for it."""
    width = max(len(entry.name) + 1 + len(entry.dataset) for entry in entries)
    room = out.width - width - 15 if out.is_terminal else 1000
    whole = all(len(entry.license) <= room for entry in entries)
    lines = [f"{'checkpoint':{width - 8}}{'dataset':>8} mIoU  ms  par licence"]
    for entry in entries:
        name = f"{entry.name}{entry.dataset:>{width - len(entry.name)}}"
        numbers = _percent(entry, False) + _percent(entry, True)
        lines.append(f"{name} {numbers}{entry.parameters / 1e6:3.0f}M {entry.license if whole else _short(entry.license)}")
    return lines


def _percent(entry: Checkpoint, multi_scale: bool) -> str:
    metric = _miou(entry, multi_scale)
    return "   - " if metric is None else f"{metric.value * 100:4.1f}{'*' if metric.origin == 'measured' else ' '}"


def _miou(entry: Checkpoint, multi_scale: bool) -> Metric | None:
    return next((m for m in entry.metrics if m.name == "miou" and m.multi_scale is multi_scale), None)


def _best(entry: Checkpoint) -> float:
    return max((m.value for m in entry.metrics if m.name == "miou"), default=0.0)


def _short(license: str) -> str:
    """The first word of a licence, without its version; NC where commercial use is excluded."""
    word = next(word for word in license.replace("Caffe ", "").split())
    return "NC" if "non-commercial" in license else word.removesuffix("-2.0").removesuffix("-Clause")


_KEYS: dict[Order, Callable[[Checkpoint], tuple[object, ...]]] = {
    "name": lambda entry: (entry.name,),
    "dataset": lambda entry: (entry.dataset, -_best(entry), entry.name),
    "miou": lambda entry: (-_best(entry), entry.name),
    "parameters": lambda entry: (entry.parameters, entry.name),
}
