"""Model repositories for Triton Inference Server and OpenVINO Model Server.

Sources: triton-inference-server/server, docs/user_guide/model_repository.md and model_configuration.md;
triton-inference-server/common, protobuf/model_config.proto; docs.openvino.ai, "Preparing a Model Repository".
"""

import json
from os import PathLike
from pathlib import Path

from ..factory import load
from ..model_source import Repository, parse_weights
from ..models.pspnet import PSPNet
from ..runtimes.exported import KEY, Exported, Precision
from ..runtimes.onnx import OnnxRuntime
from ..storage.files import write_atomically
from ..zoo.entries import Checkpoint
from .export import Step, export, replacing

MAX_BATCH = 8
"""Most images of one size that Triton puts into a batch."""


def write_repository(
    model: PSPNet | str | PathLike[str],
    folder: str | PathLike[str],
    *,
    name: str | None = None,
    precision: Precision = "float32",
    step: Step | None = None,
) -> Path:
    """Write a model into a repository: FOLDER/NAME/config.pbtxt and FOLDER/NAME/1/model.onnx.

    The model takes uint8 RGB images, "image" (N, 3, H, W), and gives "ids" and "confidence", both (N, H, W), as `export` describes.
    The configuration's parameter "pspnet_zoo" holds the metadata of `Exported`, labels among them.

    Args:
        model: See `export`.
        folder: The repository, which may hold other models.
        name: The model's name; None for its name in the zoo or that of its folder.
        precision: "float32" or "float16".
        step: Called with each step that begins.

    Returns:
        The model's folder.

    Raises:
        FileExistsError: If the repository has a model of that name.
        Exception: Whatever `export` raises.
    """
    target = Path(folder) / (name or _name(model))
    if target.exists():
        raise FileExistsError(f"'{target}' exists already. Delete it, or give another folder")
    network = load(model)
    if network.multilabel:
        raise ValueError(
            "A repository's model gives ids and confidence, one class a pixel, and this network is multi-label; write an ONNX file "
            "with the output 'ids' by pspnet-zoo export, and its config.pbtxt yourself"
        )
    with replacing(target) as draft:
        file = draft / "1" / "model.onnx"
        export(network, file, precision=precision, input="uint8", output="ids+confidence", step=step)
        write_atomically(draft / "config.pbtxt", configuration(target.name, OnnxRuntime(file, device="cpu").spec).encode())
    return target


def configuration(name: str, spec: Exported) -> str:
    """The text of a config.pbtxt, a ModelConfig in protobuf's text format; sizes are without the batch."""
    height, width = spec.image_size or (-1, -1)
    ids = "TYPE_UINT8" if spec.classes <= 256 else "TYPE_INT32"
    return f"""name: {json.dumps(name, ensure_ascii=False)}
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: {MAX_BATCH}
input [
  {{ name: "image" data_type: TYPE_UINT8 dims: [ {spec.channels}, {height}, {width} ] }}
]
output [
  {{ name: "ids" data_type: {ids} dims: [ {height}, {width} ] }},
  {{ name: "confidence" data_type: TYPE_UINT8 dims: [ {height}, {width} ] }}
]
dynamic_batching {{ }}
parameters {{
  key: "{KEY}"
  value {{ string_value: {json.dumps(spec.to_json())} }}
}}
"""


def _name(model: PSPNet | str | PathLike[str]) -> str:
    if isinstance(model, PSPNet):
        return str(model.config["encoder_name"])
    found = parse_weights(model)
    if isinstance(found, Checkpoint):
        return found.name
    return found.name.partition("/")[2] if isinstance(found, Repository) else found.path.resolve().name
