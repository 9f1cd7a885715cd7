"""The model card of a checkpoint: what a person needs to use it, and metadata that the Hub reads.

Every number is written with who says so: "claimed" by the checkpoint's source or "measured" by whoever publishes it.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..meta import Labels, Metric, Preprocess
from .errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

EXAMPLE_FILE = "example.jpg"
LICENSE_FILE = "LICENSE.md"


class PublishedModel(Protocol):
    """The parts of a model that its card describes."""

    config: dict[str, Any]
    preprocess: Preprocess
    labels: Labels | None
    threshold: float | tuple[float, ...] | None
    provenance: dict[str, Any] | None

    def parameters(self) -> "Iterator[Tensor]":
        """Its weights, for their number."""
        ...

    def __call__(self, x: "Tensor", /) -> Any:
        """Logits of an image."""
        ...


_LICENSES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "BSD-2-Clause": "bsd-2-clause", "BSD-3-Clause": "bsd-3-clause"}
_METRIC_TYPES = {"miou": "mean_iou", "mean_accuracy": "accuracy", "pixel_accuracy": "accuracy", "loss": "loss"}
_REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_POLICY = ("encoder_name", "encoder_output_stride", "dilation", "shortcut_pool", "align_corners", "psp_out_channels", "aux_head")

_CITATION = """@inproceedings{zhao2017pyramid,
  title={Pyramid Scene Parsing Network},
  author={Zhao, Hengshuang and Shi, Jianping and Qi, Xiaojuan and Wang, Xiaogang and Jia, Jiaya},
  booktitle={CVPR},
  year={2017}
}"""


def model_card(
    model: PublishedModel, repo: str, *, sha256: str, license: str | None, metrics: Sequence[Metric] = (), has_example: bool = False
) -> str:
    """The text of `README.md`.

    Args:
        model: As it is published.
        repo: "org/name" on the Hub.
        sha256: Of its `model.safetensors`.
        license: Of the weights, as their source states it; None if none is stated.
        metrics: Numbers; none is made up for those that are missing.
        has_example: Whether `example.jpg` is published with it.
    """
    sections = [
        f"# {repo.partition('/')[2]}",
        f"PSPNet on timm's `{model.config['encoder_name']}` for semantic segmentation, {model.config['classes']} classes, "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters.",
        f"![A photo and its segmentation by this model]({EXAMPLE_FILE})" if has_example else "",
        "## Use",
        _usage(model, repo),
        "## Numbers",
        _numbers(metrics),
        "## Network and preprocessing",
        _network(model),
        "## Labels",
        _labels(model),
        "## Provenance",
        _provenance(model, sha256),
        "## Limits",
        "The model predicts only the classes above, and was trained on one kind of images. Nothing is measured beyond the "
        "numbers above; do not rely on it where an error could harm someone.",
        "## Licence",
        f"{license}. The terms of the training data apply too." if license else "The source of these weights states no licence.",
        "## Citation",
        f"```bibtex\n{_CITATION}\n```",
    ]
    body = "\n\n".join(section for section in sections if section)
    return f"---\n{_metadata(model, repo, license, metrics)}\n---\n\n{body}\n"


def license_text(license: str | None, provenance: Mapping[str, Any] | None) -> str | None:
    """Text of `LICENSE.md` for a licence that the Hub has no name for; None where it has one, or where there is no licence."""
    if not license or license in _LICENSES:
        return None
    known = provenance or {}
    facts = [license, known.get("license"), known.get("page") and f"Source: <{known['page']}>", known.get("citation")]
    sentences = dict.fromkeys(fact for fact in facts if isinstance(fact, str))
    return "\n\n".join(["# Licence of these weights", *sentences, "The terms of the training data apply too."]) + "\n"


def check_card(text: str) -> None:
    """Read a card as the Hub does.

    Raises:
        WeightsError: If its metadata cannot be read, or are not those of a segmentation model of this library.
    """
    from huggingface_hub import ModelCard

    try:
        data = ModelCard(text).data.to_dict()
    except ValueError as error:
        raise WeightsError(f"README.md has metadata that the Hub cannot read: {error}. Publish it unchanged") from error
    if (data.get("library_name"), data.get("pipeline_tag")) != ("pspnet_zoo", "image-segmentation"):
        raise WeightsError("README.md lacks library_name: pspnet_zoo or pipeline_tag: image-segmentation. Publish it unchanged")


def _metadata(model: PublishedModel, repo: str, license: str | None, metrics: Sequence[Metric]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    provenance = model.provenance or {}
    base, page = provenance.get("base_model"), provenance.get("page")
    unnamed = license if license and license not in _LICENSES else None
    results = [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=_slug(m.dataset),
            dataset_name=m.dataset,
            dataset_split=m.split,
            dataset_config=f"{m.origin}: {m.protocol}",  # the Hub puts results of one config together, and they must stay apart
            metric_type=_METRIC_TYPES.get(m.name, m.name),
            metric_value=m.value,
            metric_name=f"{m.name} ({m.origin})",
            source_name="the source of the weights" if m.origin == "claimed" and page else None,
            source_url=page if m.origin == "claimed" else None,
        )
        for m in metrics
    ]
    data = ModelCardData(
        library_name="pspnet_zoo",
        pipeline_tag="image-segmentation",
        license=_LICENSES.get(license, "other") if license else None,
        license_name=_slug(unnamed) if unnamed else None,
        license_link=LICENSE_FILE if unnamed else None,
        tags=["semantic-segmentation", "pspnet", "timm", "pytorch"],
        datasets=sorted({_slug(m.dataset) for m in metrics}) or None,
        metrics=sorted({_METRIC_TYPES.get(m.name, m.name) for m in metrics}) or None,
        base_model=base if isinstance(base, str) and _REPO.fullmatch(base) else None,
        model_name=repo.partition("/")[2] if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60]


def _usage(model: PublishedModel, repo: str) -> str:
    lines = ["import pspnet_zoo", "", f'net = pspnet_zoo.from_pretrained("{repo}")  # "{repo}@COMMIT" pins it']
    if model.labels:
        image = "photo.jpg" if model.preprocess.is_rgb else "image.tif"
        lines += [f'prediction = pspnet_zoo.Predictor(net)("{image}")', 'prediction.overlay(legend=True).save("overlay.png")']
    else:
        channels = len(model.preprocess.mean)
        lines += [f"logits = net.predict(net.preprocess(image)[None])  # image: ({channels}, H, W) {_pixels(model.preprocess)}"]
    return "```python\n" + "\n".join(lines) + "\n```"


def _numbers(metrics: Sequence[Metric]) -> str:
    parts = []
    for origin, title in (
        ("measured", "Measured by the publisher of this repository"),
        ("claimed", "Claimed by the weights' source"),
    ):
        rows = [f"| {m.name} | {m.value:.4f} | {m.dataset} {m.split} | {m.protocol} |" for m in metrics if m.origin == origin]
        if rows:
            parts.append("\n".join([f"### {title}", "", "| metric | value | data | protocol |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts) or "None is published with these weights."


def _network(model: PublishedModel) -> str:
    rows = [f"| {key} | {model.config[key]} |" for key in _POLICY]
    p = model.preprocess
    scale = f"0 to {p.range:g}, " if p.is_rgb else f"{p.white:g} scaled to {p.range:g}, " if p.white != p.range else ""
    channels = p.order if p.is_rgb else _channels(p)
    rows.append(f"| input | {channels}, {scale}minus {list(p.mean)}, divided by {list(p.std)} |")
    if p.input_scale != 1:
        rows.append(f"| size | sides {p.input_scale:g} times the image's, up to {p.max_pixels:,} pixels |")
    return "\n".join(["| | |", "|---|---|", *rows]) + f"\n\n`net.preprocess` normalises an image of {_pixels(p)}."


def _pixels(p: Preprocess) -> str:
    """The pixel values that a network reads, in words."""
    if p.is_rgb:
        return "uint8 RGB"
    if p.white == 255:
        return f"uint8 values of {_channels(p)}"
    return f"values of {_channels(p)}, " + ("in their own unit" if p.white == 1 else f"in which white is {p.white:g}")


def _channels(p: Preprocess) -> str:
    if p.bands:
        return f"the bands {', '.join(p.bands)}"
    return f"{len(p.mean)} channel{'s' * (len(p.mean) > 1)} in the order of the file"


def _labels(model: PublishedModel) -> str:
    if not model.labels:
        return "The names of the classes are not known."
    named = zip(model.labels.names, model.labels.colors, strict=True)
    rows = [f"| {i} | {name} | {color} |" for i, (name, color) in enumerate(named)]
    table = "\n".join(["| id | class | colour |", "|---|---|---|", *rows])
    several = "A pixel may be of several of these classes, or of none (multi-label).\n\n" if model.config.get("multilabel") else ""
    return several + table + _threshold(model.threshold)


def _threshold(threshold: float | tuple[float, ...] | None) -> str:
    if threshold is None:
        return ""
    if isinstance(threshold, tuple):
        each = ", ".join(f"{t:g}" for t in threshold)
        return f"\n\nA pixel is of a class where its probability is above that of the class: {each}."
    return f"\n\nA pixel has id 1 where its probability is above {threshold:g}."


def _provenance(model: PublishedModel, sha256: str) -> str:
    known = {k: v for k, v in (model.provenance or {}).items() if k != "metrics"}
    text = f"`model.safetensors` has the sha256 `{sha256}`."
    return (
        f"{text}\n\n```json\n{json.dumps(known, indent=2)}\n```"
        if known
        else f"{text} Where the weights come from is not recorded."
    )
