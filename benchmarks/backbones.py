"""Build a PSPNet on every timm backbone, run it at two sizes, and write docs/reference/backbones.md.

    python -m benchmarks.backbones sweep.jsonl            # about half an hour; resumes where it was stopped
    python -m benchmarks.backbones sweep.jsonl --page     # the page, from the lines that are there

Each model has a process of its own that is ended after a time-out. Nothing is downloaded and nothing computed: everything is on the
meta device, so that half an hour of one core does for 1371 models. `--only PATTERN` does some again.
"""

import argparse
import fnmatch
import json
import multiprocessing
import random
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from rich.progress import Progress
from timm.models import is_model_in_modules

from pspnet_zoo import PSPNet, list_backbones

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "backbones.md"
SIZES = ((128, 160), (97, 129))
CLASSES = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="one JSON object a line, one line a model")
    parser.add_argument("--only", help="do the models of this pattern, even if they have a line")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for a model")
    parser.add_argument("--page", action="store_true", help="only write the page")
    arguments = parser.parse_args()
    if not arguments.page:
        sweep(arguments.results, arguments.only, arguments.timeout)
    rows = read(arguments.results)
    PAGE.write_text(page(list(rows.values())))
    failed = [row for row in rows.values() if row["error"]]
    print(f"{len(rows)} models, {len(failed)} without a network; wrote {PAGE}")


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The last line of each model, by name."""
    lines = path.read_text().splitlines() if path.is_file() else []
    rows = {row["name"]: row for row in map(json.loads, lines)}
    return {name: rows[name] for name in list_backbones() if name in rows}


def sweep(path: Path, only: str | None, timeout: float) -> None:
    names = fnmatch.filter(list_backbones(), only) if only else [n for n in list_backbones() if n not in read(path)]
    random.Random(0).shuffle(names)  # the estimated time is then right, and a part of the sweep is a sample
    context = multiprocessing.get_context("fork")  # what is imported, here and by the first forward, is imported once
    torch.set_num_threads(1)
    timm.layers.weight_init._trunc_normal_ = lambda tensor, *_: tensor  # slow on the meta device, where there is nothing to fill
    measure("test_vit"), measure("test_convnext")
    with Progress() as progress, path.open("a") as file:
        task = progress.add_task("backbones", total=len(names))
        for name in names:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=lambda name=name, sender=sender: sender.send(measure(name)))
            process.start()
            sender.close()
            try:
                row = receiver.recv() if receiver.poll(timeout) else {"name": name, "error": f"not done after {timeout:.0f} s"}
            except EOFError:
                row = {"name": name, "error": "the process ended"}
            process.kill()
            process.join()
            file.write(json.dumps(row) + "\n")
            file.flush()
            progress.update(task, advance=1, description=name)


def measure(name: str) -> dict[str, Any]:
    """The result of one model; `error` is None if it is a PSPNet at both sizes."""
    start = time.perf_counter()
    row: dict[str, Any] = {"name": name, "family": family(name), "error": None}
    try:
        with torch.device("meta"):
            net = PSPNet(name, None, classes=CLASSES, aux_head=True).eval()
        encoder = net.encoder
        row |= {
            "mechanism": encoder.mechanism,
            "native_strides": list(encoder.native_strides),
            "channels": encoder.out_channels[1:],
            "parameters": sum(p.numel() for p in encoder.parameters()),
            "image_size": encoder.image_size,
            "pads_to": max(encoder.padding.multiple, encoder.padding.minimum),
        }
        features: list[torch.Tensor] = []
        encoder.register_forward_hook(lambda module, inputs, outputs: features.__setitem__(slice(None), outputs))
        for size in SIZES:
            for output in net(torch.empty(1, 3, *size, device="meta"), return_aux=True):
                if output.shape != (1, CLASSES, *size):
                    raise RuntimeError(f"an output of {tuple(output.shape)} for an input of {size}")
            if [f.shape[1] for f in features] != encoder.out_channels:
                raise RuntimeError(f"channels {[f.shape[1] for f in features]} are not {encoder.out_channels}")
        row["feature_size"] = list(features[-1].shape[-2:])
        with torch.device("meta"):
            row["native_weights"] = native_weights(name, encoder)
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error}"
        row["where"] = traceback.format_exc().splitlines()[-3].strip()
    return row | {"seconds": round(time.perf_counter() - start, 2)}


def native_weights(name: str, encoder: Any) -> str:
    """Sizes that pretrained weights fit: "any size", or "one size" if the model takes one and timm cannot resize them.

    Measured with a state dict without data that goes through timm's own filter, strictly, as `encoder_image_size` makes pretrained
    weights go.
    """
    if encoder.image_size is None:  # the parameters are those of pretraining
        return "any size"
    config: Any = timm.get_pretrained_cfg(name)
    state = timm.create_model(name).state_dict()
    size = tuple(side + 4 * max(encoder.native_strides) for side in config.input_size[-2:])
    try:
        timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"state_dict": state}, img_size=size)
    except Exception:  # whatever timm's filter stumbles over
        return "one size"
    return "any size"


def family(name: str) -> str:
    return next(module for module in timm.list_modules() if is_model_in_modules(name, (module,)))


def page(rows: list[dict[str, Any]]) -> str:
    """The reference page, in Markdown."""
    done = [row for row in rows if not row["error"]]
    count = Counter(row["mechanism"] for row in done)
    sizes = " and ".join(f"{h}x{w}" for h, w in SIZES)
    lines = [
        "# Backbones",
        "",
        f"{len(rows)} of the {len(list_backbones())} models of timm {timm.__version__} were built as",
        f"`PSPNet(name, None, aux_head=True)` and run at {sizes}. {len(done)} gave logits of that size:",
        f"{count['dilated']} dilated, {count['resized']} resized. `python -m benchmarks.backbones FILE` measured it and wrote this",
        "page; `pspnet_zoo.list_backbones()` lists the names.",
        "",
        "- **dilated**: later strides became dilation and the network is evaluated densely. **resized**: timm's maps are resized",
        "  to stride 8. [Why](../explanation/network.md).",
        "- **strides**: of timm's features; in the list that `net.encoder` gives they are at most 8.",
        "- **channels**: of the last feature. **parameters**: of the encoder, in millions.",
        "- **images**: of any size; of any size but padded to multiples of a number, or to at least that, and cropped back; or",
        "  up to a largest one, which `encoder_image_size` changes.",
        "- **weights**: of models with a largest image, how many have pretrained weights that timm can load for another one.",
        "",
        "| timm module | models | mechanism | strides | channels | parameters | images | weights |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in done:
        groups.setdefault((row["family"], row["mechanism"]), []).append(row)
    for (module, mechanism), group in sorted(groups.items()):
        columns = (
            module,
            str(len(group)),
            mechanism,
            _distinct("-".join(map(str, row["native_strides"])) for row in group),
            _range(row["channels"][-1] for row in group),
            _range(round(row["parameters"] / 1e6, 1) for row in group),
            _distinct(_images(row) for row in group),
            _other_sizes(group),
        )
        lines.append(f"| {' | '.join(columns)} |")
    lines += ["", "## Refused", ""]
    lines += [f"- `{row['name']}`: {row['error']}" for row in rows if row["error"]] or ["None."]
    return "\n".join(lines) + "\n"


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(value for value, _ in Counter(values).most_common())


def _range(values: Iterable[float]) -> str:
    low, *_, high = [*sorted(values)] * 2
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"


def _images(row: dict[str, Any]) -> str:
    if row["image_size"]:
        return f"up to {'x'.join(map(str, row['image_size']))}"
    return "any" if row["pads_to"] == 1 else f"x {row['pads_to']}"


def _other_sizes(group: list[dict[str, Any]]) -> str:
    fixed = [row for row in group if row["image_size"]]
    return f"{sum(row['native_weights'] == 'any size' for row in fixed)} of {len(fixed)}" if fixed else ""


if __name__ == "__main__":
    main()
