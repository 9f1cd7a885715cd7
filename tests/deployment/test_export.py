import copy
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from pspnet_zoo import Labels, Predictor, PSPNet
from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.deployment import export as module
from pspnet_zoo.deployment.export import export
from pspnet_zoo.deployment.graph import Deployed
from pspnet_zoo.inference.scores import class_scores
from pspnet_zoo.runtimes.exported import KEY
from pspnet_zoo.runtimes.open import open_runtime
from pspnet_zoo.runtimes.openvino import openvino_core
from pspnet_zoo.storage.errors import WeightsError, message_of
from tests.deployment.conftest import tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SIZES = [(1, 31, 47), (3, 64, 96), (1, 200, 333)]  # none of them is one that export checks itself

FAMILIES = [
    "resnet18",
    "convnext_atto",
    "mobilenetv3_small_050",
    "tf_efficientnetv2_b0",
    "regnetx_002",
    "densenet121",
    "swin_tiny_patch4_window7_224",
    "vit_tiny_patch16_224",
    "levit_128s",
    "hrnet_w18_small",
    "coatnet_pico_rw_224",
    "inception_v3",
]


@pytest.fixture(scope="module")
def network():
    return tiny("test_efficientnet", align_corners=None)


@pytest.fixture(scope="module")
def onnx_file(network, tmp_path_factory):
    return export(network, tmp_path_factory.mktemp("onnx") / "street.onnx")


@pytest.fixture(scope="module")
def ids_file(network, tmp_path_factory):
    return export(network, tmp_path_factory.mktemp("ids") / "street.onnx", input="uint8", output="ids")


@pytest.fixture(scope="module")
def openvino_folder(network, tmp_path_factory):
    return export(network, tmp_path_factory.mktemp("openvino") / "street")


def assert_same(network: PSPNet, run, count: int, *size: int) -> None:
    x = torch.randn(count, 3, *size)
    with torch.inference_mode():
        wanted = network(x)
    assert (run(x) - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("file", ["onnx_file", "openvino_folder"])
def test_a_file_is_right_at_sizes_that_export_did_not_check(network, file, size, request):
    assert_same(network, open_runtime(request.getfixturevalue(file)), *size)


def test_one_onnx_file_passes_the_checker_and_names_its_sides(onnx_file):
    assert [p.name for p in onnx_file.parent.iterdir()] == ["street.onnx"]
    onnx.checker.check_model(onnx_file, full_check=True)
    graph = onnx.load(onnx_file).graph
    (image,), (logits,) = graph.input, graph.output
    assert (image.name, logits.name) == ("image", "logits")
    sides = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert sides == ["batch", 3, "height", "width"]
    assert [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim] == ["batch", 11, "height", "width"]


@pytest.mark.slow
def test_the_digest_is_of_the_file_that_holds_the_weights(network, onnx_file, openvino_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("pspnet_zoo.deployment.onnx._LIMIT", 0)  # bytes of weights, above which they lie beside the graph
    large = export(network, tmp_path / "large.onnx")
    weights_of = {onnx_file: onnx_file, large: tmp_path / "large.onnx.data", openvino_folder: openvino_folder / "model.bin"}
    for file, weights in weights_of.items():
        assert open_runtime(file).weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_metadata_say_what_a_program_has_to_know(onnx_file, openvino_folder, network):
    values = json.loads(onnxruntime.InferenceSession(onnx_file).get_modelmeta().custom_metadata_map[KEY])
    assert values["labels"]["names"] == list(CAMVID.names) and values["labels"]["colors"][3] == [128, 64, 128]
    assert values["preprocess"]["mean"] == list(network.preprocess.mean)
    assert values["provenance"] == {"license": "Apache-2.0"}
    assert values["check"]["largest_relative_difference"] <= 1e-4 and len(values["check"]["sizes"]) == 3
    for file in (onnx_file, openvino_folder):
        runtime = open_runtime(file)
        assert (runtime.labels, runtime.preprocess, runtime.provenance) == (CAMVID, network.preprocess, network.provenance)


def test_ids_of_a_file_are_those_of_the_predictor_without_torch(ids_file, network, tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (67, 101, 3), np.uint8)
    np.save(tmp_path / "photo.npy", photo)
    program = (
        "import sys, numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.argv[1])\n"
        "photo = numpy.load(sys.argv[2]).transpose(2, 0, 1)[None]\n"
        "(ids,) = session.run(['ids'], {'image': photo})\n"
        "assert 'torch' not in sys.modules\n"
        "numpy.save(sys.argv[3], ids[0])\n"
    )
    subprocess.run([sys.executable, "-c", program, ids_file, tmp_path / "photo.npy", tmp_path / "ids.npy"], check=True)
    ids, wanted = np.load(tmp_path / "ids.npy"), Predictor(network)(photo).mask
    assert ids.dtype == np.uint8
    assert (ids == wanted).mean() >= 0.9999


@pytest.mark.parametrize("name", ["street", "street.pt2", pytest.param("street.onnx", marks=pytest.mark.slow)])
def test_a_file_gives_the_confidence_beside_the_ids(network, tmp_path, name):
    file = export(network, tmp_path / name, input="uint8", output="ids+confidence")
    photo = np.random.default_rng(0).integers(0, 256, (57, 83, 3), np.uint8)
    wanted = Predictor(network)(photo, probabilities=True)
    if name.endswith(".pt2"):
        ids, confidence = torch.no_grad()(torch.export.load(file).module())(torch.from_numpy(photo).permute(2, 0, 1)[None])
        ids, confidence = ids[0].numpy(), confidence[0].numpy()
    else:
        found = Predictor(file).segment([photo], confidence=True)[0]
        ids, confidence = found.mask, found.confidence
        assert Predictor(file)(photo).confidence is None
    assert ids.dtype == confidence.dtype == np.uint8 and (ids == wanted.mask).mean() >= 0.9999
    assert np.abs(confidence / 255 - wanted.probabilities.max(0)).max() <= 0.5 / 255 + 1e-4


@pytest.mark.parametrize("output", [*(pytest.param(each, marks=pytest.mark.slow) for each in ("logits", "ids")), "ids+confidence"])
def test_a_file_obeys_the_threshold(tmp_path, output):
    network = tiny("test_resnet", align_corners=None)
    network.reset_classifier(1)
    network.segmentation_head[0].weight.data *= 3
    network.labels = Labels(("thing",))
    photo = np.random.default_rng(0).integers(0, 256, (57, 83, 3), np.uint8)
    network.threshold = round(float(np.quantile(Predictor(network)(photo, probabilities=True).probabilities[1], 0.7)), 6)
    wanted = Predictor(network)(photo).mask
    assert 0.2 < wanted.mean() < 0.4
    found = Predictor(export(network, tmp_path / "street.onnx", output=output))(photo).mask
    assert (found == wanted).mean() >= 0.999


def test_a_wrong_confidence_is_not_kept(network, tmp_path, monkeypatch):
    right = Deployed.forward
    monkeypatch.setattr(Deployed, "forward", lambda self, image: (lambda ids, sure: (ids, sure // 2))(*right(self, image)))
    with pytest.raises(ValueError, match="is off by"):
        export(network, tmp_path / "street.pt2", output="ids+confidence")
    assert not list(tmp_path.iterdir())


def test_a_file_of_ids_predicts_too(ids_file, network):
    image = torch.randint(0, 256, (1, 3, 40, 56), dtype=torch.uint8)
    found = class_scores(open_runtime(ids_file), image).argmax(dim=1)
    assert (found == class_scores(network, image).argmax(dim=1)).float().mean() >= 0.9999


def test_the_network_stays_as_it_is(tmp_path):
    network = tiny("test_resnet", align_corners=False).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    export(network, tmp_path / "street.pt2")
    assert network.training and network.encoder.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    program = torch.export.load(tmp_path / "street.pt2").module()
    assert_same(network.eval(), torch.no_grad()(program), 3, 65, 99)


def test_a_wrong_file_is_not_left_behind(network, tmp_path, monkeypatch):
    (tmp_path / "street.onnx").write_text("the file before")
    monkeypatch.setattr(
        module, "trace", lambda other, *rest, **how: real(tiny("test_efficientnet", align_corners=False), *rest, **how)
    )
    with pytest.raises(ValueError, match="off by .* of the largest logit at 1 x 224x320"):
        export(network, tmp_path / "street.onnx")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["the file before"]


real = module.trace


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_an_interrupted_export_leaves_nothing(network, tmp_path, stop):
    def step(text: str) -> None:
        if text.startswith("converting"):
            raise stop

    with pytest.raises(stop):
        export(network, tmp_path / "made" / "street.onnx", step=step)
    assert not list((tmp_path / "made").iterdir())


@pytest.mark.parametrize(
    "path, options, message",
    [
        ("street.tflite", {}, "ends in none of .onnx, .xml, .pt2 and .pte"),
        ("street.onnx", {"format": "tflite"}, "format is 'tflite'; it can be onnx, openvino, program"),
        ("street.onnx", {"format": "openvino"}, "ends as onnx does"),
        ("street.onnx", {"precision": "int4"}, "precision is 'int4'"),
        ("street.onnx", {"precision": "int8"}, "'int8' is not for onnx"),
        ("street", {"precision": "int8"}, "int8 needs calibration images"),
        ("street.onnx", {"calibration": "."}, "int8 needs calibration images"),
        ("street.onnx", {"output": "masks"}, "output is 'masks'; it can be logits, ids, ids\\+confidence"),
    ],
)
def test_arguments_are_checked_before_anything_is_done(network, tmp_path, path, options, message):
    with pytest.raises(ValueError, match=message):
        export(network, tmp_path / path, **options)
    assert not list(tmp_path.iterdir())


def test_calibration_without_images_says_so(network, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty"):
        export(network, tmp_path / "street", precision="int8", calibration=tmp_path / "empty")
    assert not (tmp_path / "street").exists()  # before anything is done


def test_a_path_that_cannot_be_written_is_named(network, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/street\.onnx' cannot be written"):
        export(network, tmp_path / "file" / "street.onnx")


def weight_bytes(path: Path) -> int:
    """Of an exported file, without its graph."""
    if path.suffix == ".xml":
        return path.with_suffix(".bin").stat().st_size
    if path.suffix == ".onnx":
        return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in onnx.load(path).graph.initializer)
    return sum(tensor.nbytes for tensor in torch.export.load(path).state_dict.values())


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("street.onnx", "float16"),
        ("street.pt2", "bfloat16"),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (("street.xml", "float16"), ("street.xml", "bfloat16"), ("street.pt2", "float16"))
        ),
    ],
)
def test_half_precision_takes_half_the_bytes_and_gives_nearly_the_same(network, tmp_path, name, precision):
    network = copy.deepcopy(network).to(memory_format=torch.channels_last)  # as Predictor leaves it
    path = export(network, tmp_path / name, precision=precision)
    assert weight_bytes(path) < 0.6 * sum(tensor.nbytes for tensor in network.state_dict().values())
    run = torch.export.load(path).module() if path.suffix == ".pt2" else open_runtime(path)
    x = torch.randn(2, 3, 65, 97)
    with torch.inference_mode():
        found, wanted = run(x), network(x)
    assert 0 < (found - wanted).abs().max() <= 0.05 * wanted.abs().max()


def convolution_weights(path: Path) -> set[str]:
    """The types in which a file has the weights of its convolutions."""
    types = set()
    for node in openvino_core().read_model(path).get_ops():
        if node.get_type_name() == "Convolution":
            weights = node.input_value(1).get_node()
            while weights.get_type_name() != "Constant":
                weights = weights.input_value(0).get_node()
            types.add(weights.get_element_type().get_type_name())
    return types


def test_int8_keeps_most_classes(network, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(4):
        blocks = random.integers(0, 256, (6, 8, 3), np.uint8).repeat(12, 0).repeat(12, 1)
        Image.fromarray(blocks).save(folder / f"{i // 2}.{('png', 'bmp')[i % 2]}")  # two of each name: they have no masks
    path = export(network, tmp_path / "street.xml", precision="int8", calibration=folder)
    # OpenVINO's own word on the type in which it runs a layer; the fusion is the widest of all
    compiled = openvino_core().compile_model(path, "CPU")
    nodes = [node for node in compiled.get_runtime_model().get_ops() if str(node.get_rt_info()["layerType"].value) == "Convolution"]
    types = {str(node.get_rt_info()["runtimePrecision"].value) for node in nodes}
    assert nodes and types <= {"i8", "u8"}, types
    runtime = open_runtime(path)
    assert runtime.spec.check["calibration_images"] == 4
    assert runtime.spec.check["fraction_of_pixels_with_the_same_class"] >= 0.9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "street.bin", "street.xml"]
    assert b"FakeQuantize" in path.read_bytes()
    assert convolution_weights(path) == {"i8"}


def test_files_of_others_and_damaged_ones_are_refused(onnx_file, tmp_path):
    model = onnx.load(onnx_file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(WeightsError, match="was not made by pspnet-zoo export"):
        open_runtime(tmp_path / "foreign.onnx")
    (tmp_path / "short.onnx").write_bytes(onnx_file.read_bytes()[:50_000])
    with pytest.raises(WeightsError, match="may be cut short"):
        open_runtime(tmp_path / "short.onnx")
    with pytest.raises(FileNotFoundError, match=r"absent\.onnx"):
        open_runtime(tmp_path / "absent.onnx")
    (tmp_path / "program.pt2").touch()
    with pytest.raises(WeightsError, match="can run code"):
        open_runtime(tmp_path / "program.pt2")


def test_a_file_of_one_size_says_so_of_a_smaller_image(onnx_file, network):
    runtime = open_runtime(onnx_file)
    runtime.image_size = (64, 96)
    image = torch.randint(0, 256, (1, 3, 64, 130), dtype=torch.uint8)
    assert class_scores(runtime, image).shape == (1, len(CAMVID), 64, 130)  # in parts
    with pytest.raises(ValueError, match=r"takes images of 64x96 pixels.* but not 40x96"):
        class_scores(runtime, image[..., :40, :])


@pytest.mark.slow
@pytest.mark.parametrize("encoder", FAMILIES)
def test_every_family_is_right_in_onnx_and_openvino(encoder, tmp_path):
    network = tiny(encoder)
    size = network.image_size
    for path in (tmp_path / "street.onnx", tmp_path / "street"):
        runtime = open_runtime(export(network, path))
        for shape in [(1, *size), (3, *size)] if size else [*SIZES, (1, 513, 1025)]:
            assert_same(network, runtime, *shape)


@pytest.mark.slow
def test_the_bundled_network_is_right_at_any_size(tmp_path):
    from pspnet_zoo import create

    network = create("pspnet_lite0.camvid")
    for path in (tmp_path / "street.onnx", tmp_path / "street"):
        runtime = open_runtime(export(network, path))
        for shape in [*SIZES, (1, 513, 1025)]:
            assert_same(network, runtime, *shape)
    assert Path(tmp_path / "street" / "model.bin").is_file()


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, *(pytest.param(each, marks=pytest.mark.slow) for each in (torch.float16, torch.float64))], ids=str
)
def test_a_network_of_any_dtype_is_exported_and_stays_as_it_is(tmp_path, dtype):
    network = tiny("test_resnet").to(dtype)
    program = torch.export.load(export(network, tmp_path / "street.pt2")).module()
    assert network.dtype == dtype and not network.training
    assert_same(copy.deepcopy(network).float(), torch.no_grad()(program), 1, 40, 56)


@pytest.mark.parametrize("size", [(1, 1), (8, 40), (40, 8), (9, 9), (2, 100)], ids=str)
def test_a_program_takes_images_of_a_few_pixels(small_program, size):
    network, program = small_program
    assert_same(network, program, 1, *size)


@pytest.fixture(scope="module")
def small_program(tmp_path_factory):
    network = tiny("resnet10t")
    return network, torch.no_grad()(torch.export.load(export(network, tmp_path_factory.mktemp("pt2") / "net.pt2")).module())


def test_what_a_killed_export_left_is_deleted_by_the_next_one(network, tmp_path):
    program = """
import os, signal, sys
from pspnet_zoo import export, load
export(load(sys.argv[1]), sys.argv[2], step=lambda text: os.kill(os.getpid(), signal.SIGKILL))
"""
    network.save_pretrained(tmp_path / "model")
    target = tmp_path / "out" / "street[1].onnx"
    subprocess.run([sys.executable, "-c", program, tmp_path / "model", target], capture_output=True)
    assert [p.name.startswith(".street[1].onnx.") for p in target.parent.iterdir()] == [True]
    with pytest.raises(KeyboardInterrupt), module.replacing(target) as draft:
        assert [p for p in target.parent.iterdir()] == [draft.parent], "the folder of the killed export is gone"
        with module.replacing(target) as other:
            assert draft.parent.exists() and other.parent != draft.parent, "one that runs is left alone"
        raise KeyboardInterrupt
    assert not list(target.parent.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize("name", ["a.onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in ("a.xml", "a.pt2"))])
def test_a_full_disk_leaves_nothing_and_names_the_file(network, tmp_path, name):
    import resource

    _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))  # a full disk is the same at another size
    try:
        with pytest.raises(OSError) as caught:
            export(network, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert message_of(caught.value).startswith(f"'{tmp_path / name}' would be larger than files may be here")
    assert not list(tmp_path.iterdir())
