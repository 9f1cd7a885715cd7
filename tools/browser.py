"""The files that the page in the browser needs: the bundled networks as ONNX, their labels, and onnxruntime-web from npm.

python tools/browser.py DIR     # writes NAME.onnx of each network, models.json and ort/ there
"""

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

import pspnet_zoo

ORT = "onnxruntime-web@1.30.0"
ORT_SHA512 = (  # npm view onnxruntime-web@1.30.0 dist.integrity
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
ORT_FILES = {
    "WebAssembly": ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    "WebGPU": ("ort.jspi.min.mjs", "ort-wasm-simd-threaded.jspi.mjs", "ort-wasm-simd-threaded.jspi.wasm"),
}
"""Files that a browser loads. Those for WebGPU without JavaScript Promise Integration are 10 MB larger, and left out."""
MODELS = ("pspnet_lite0.camvid", "pspnet_lite0.nuclei")
LIMIT = {"WebAssembly": 25_000_000, "WebGPU": 28_000_000}
"""Bytes that a visitor of one model may have to load."""
MAX_PIXELS = 1024 * 768
"""Largest size of an image for a network, in pixels; the page resizes to it at most."""


class FromCanvas(nn.Module):
    """Takes pixels as a canvas has them and returns ids."""

    def __init__(self, network: pspnet_zoo.PSPNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, rgba: Tensor) -> Tensor:
        """(H, W, 4) uint8 to (H, W) uint8."""
        x = rgba[..., :3].permute(2, 0, 1)[None]
        return self.network(self.network.preprocess(x))[0].argmax(dim=0).to(torch.uint8)


def build(folder: Path) -> None:
    """Write the files of the page into the folder.

    Raises:
        ValueError: If npm gives other bytes than the pinned ones, or the files are too large in all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    models = {}
    for name in MODELS:
        network = pspnet_zoo.Predictor(name, device="cpu").model
        export(network, folder / f"{name}.onnx")
        labels, scale = network.labels, network.preprocess.input_scale
        models[name] = {"names": labels.names, "colors": labels.colors, "inputScale": scale}
    runtime(folder / "ort")
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    for kind, limit in LIMIT.items():
        total = sum(sizes[f"ort/{file}"] for file in ORT_FILES[kind]) + max(sizes[f"{name}.onnx"] for name in MODELS)
        if total > limit:
            raise ValueError(f"The page loads {total / 1e6:.1f} MB for {kind}; the limit is {limit / 1e6:.0f} MB")
    (folder / "models.json").write_text(json.dumps({"models": models, "maxPixels": MAX_PIXELS, "sizes": sizes}))


def export(network: pspnet_zoo.PSPNet, file: Path) -> None:
    """The network from a canvas's pixels of any size to ids, with weights in half precision, which are computed with in float32."""
    module = FromCanvas(network.to(memory_format=torch.contiguous_format)).eval()
    size = {"rgba": {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}}
    example = torch.zeros(97, 130, 4, dtype=torch.uint8)
    program = torch.onnx.export(
        module, (example,), dynamo=True, dynamic_shapes=size, input_names=["rgba"], output_names=["ids"], verbose=False
    )
    assert program is not None
    model = program.model_proto  # a copy
    graph = model.graph
    for tensor in [t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) > 64]:
        half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{tensor.name}.half")
        cast = helper.make_node("Cast", [half.name], [tensor.name], to=onnx.TensorProto.FLOAT)
        graph.initializer.remove(tensor)
        graph.initializer.append(half)
        graph.node.insert(0, cast)
    for node in graph.node:
        del node.metadata_props[:]  # the lines of Python that it came from, megabytes of them
    onnx.save(model, file)


def runtime(folder: Path) -> None:
    """onnxruntime-web's files for WebAssembly and WebGPU, from npm, of the pinned version and digest."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        subprocess.run(["npm", "pack", "--silent", ORT], cwd=temporary, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(temporary).glob("*.tgz")
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if digest != ORT_SHA512:
            raise ValueError(f"npm's {ORT} has the digest {digest}; {ORT_SHA512} is expected")
        with tarfile.open(archive) as package:
            for name in sum(ORT_FILES.values(), ()):
                member = package.extractfile(f"package/dist/{name}")
                assert member is not None
                (folder / name).write_bytes(member.read())


if __name__ == "__main__":
    build(Path(sys.argv[1]))
