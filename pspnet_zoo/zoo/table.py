"""The table of all checkpoints, made from their rows.

python -m pspnet_zoo.zoo.table > docs/reference/checkpoints.md
"""

import sys
from collections.abc import Iterable

from .entries import Checkpoint, Metric
from .registry import CHECKPOINTS, DEFAULT_TAGS

_HEAD = """# Checkpoints

One line for each row of `pspnet_zoo.list_models(pretrained=True)`; this page is made from the rows by `pspnet-zoo list --markdown`.

mIoU is in percent, at a single scale and averaged over several. "Claimed" is the source's own number, "measured" is this
project's; numbers under different protocols do not compare. **Bold** is what `pretrained=True` takes. Files of a linked source are
fetched on first use; "by hand" means that a browser has to fetch them, for `pspnet-zoo convert`; "not read" names the row that has
the same weights. [How networks differ](../explanation/policies.md) and [how to convert](../how-to/convert.md).

"""


def markdown_page() -> str:
    """The page of the documents: how to read the table, and the table."""
    return _HEAD + markdown_table()


def markdown_table(rows: Iterable[Checkpoint] = CHECKPOINTS) -> str:
    """The rows as a Markdown table, sorted by data set, then by mIoU."""
    lines = [
        "| Name | Data set | mIoU single | multi | Parameters | Licence | Protocol (of the first number) | Source |",
        "|---|---|---:|---:|---:|---|---|---|",
    ]
    lines += [_line(row) for row in sorted(rows, key=lambda row: (row.dataset, -_best(row), row.name))]
    return "\n".join(lines) + "\n"


def _line(row: Checkpoint) -> str:
    single, multi = _first(row, multi_scale=False), _first(row, multi_scale=True)
    shown = single or multi
    cells = (
        f"**`{row.name}`**" if DEFAULT_TAGS.get(row.architecture) == row.tag else f"`{row.name}`",
        row.dataset,
        f"{single.value * 100:.2f}" if single else "",
        f"{multi.value * 100:.2f}" if multi else "",
        f"{row.parameters / 1e6:.1f} M",
        row.license,
        f"{shown.dataset} {shown.split}, {shown.protocol} ({shown.origin})" if shown else "no number published",
        _source(row),
    )
    return f"| {' | '.join(cells)} |"


def _source(row: Checkpoint) -> str:
    source = row.upstream
    if source is None:
        return "in this package"
    if source.twin:
        return f"`{source.id}`, not read: `{source.twin}`"
    if not source.urls:
        return f"`{source.id}`, by hand: {source.page}"
    return f"[`{source.id}`]({source.urls[0]})"


def _first(row: Checkpoint, *, multi_scale: bool) -> Metric | None:
    return next((metric for metric in row.metrics if metric.name == "miou" and metric.multi_scale == multi_scale), None)


def _best(row: Checkpoint) -> float:
    shown = _first(row, multi_scale=False) or _first(row, multi_scale=True)
    return shown.value if shown else 0.0


if __name__ == "__main__":
    sys.stdout.write(markdown_page())
