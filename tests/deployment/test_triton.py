"""Model repositories, against the schema of Triton's configuration; neither server runs here."""

import importlib.util
import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from pspnet_zoo import Predictor, PSPNet
from pspnet_zoo.cli.app import app
from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.deployment.triton import MAX_BATCH, configuration, write_repository
from pspnet_zoo.meta import Labels
from pspnet_zoo.runtimes.onnx import OnnxRuntime
from pspnet_zoo.runtimes.openvino import openvino_core

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TYPES = {"tensor(uint8)": "TYPE_UINT8", "tensor(int32)": "TYPE_INT32"}
OPENVINO_TYPES = {"u8": "TYPE_UINT8", "i32": "TYPE_INT32"}


@pytest.fixture(scope="module")
def schema():
    """The module compiled from model_config.proto; without the client's package, which would import gRPC."""
    package = importlib.util.find_spec("tritonclient")
    if package is None:
        pytest.skip("needs tritonclient, of the extra 'test'")
    file = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of protobuf, about the version of the compiler
        spec.loader.exec_module(module)
    return module


def network(labels=CAMVID, **options):
    net = PSPNet("test_efficientnet", None, classes=len(labels), psp_out_channels=16, **options)
    net.labels = labels
    return net.eval()


@pytest.fixture(scope="module")
def net():
    return network()


@pytest.fixture(scope="module")
def folder(net, tmp_path_factory):
    return write_repository(net, tmp_path_factory.mktemp("models"), name="street")


def parsed(folder, schema):
    from google.protobuf import text_format

    return text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())


def check_sides(sides, dims):
    """The file's sides behind the batch are those of the configuration, -1 for free ones."""
    assert [side if isinstance(side, int) else -1 for side in sides[1:]] == list(dims)
    assert not isinstance(sides[0], int)  # the batch is free


def check_against_the_file(config, folder):
    """Names, types and sizes of the configuration are those that ONNX Runtime and OpenVINO find in the file."""
    file = folder / "1" / config.default_model_filename
    session = onnxruntime.InferenceSession(file)
    for told, found in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [one.name for one in told] == [one.name for one in found]
        for one, other in zip(told, found, strict=True):
            assert TYPES[other.type] == one.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[one.data_type].name
            check_sides(other.shape, one.dims)
    model = openvino_core().read_model(file)
    for told, found in ((config.input, model.inputs), (config.output, model.outputs)):
        for one, other in zip(told, found, strict=True):
            assert one.name in other.names
            assert (
                OPENVINO_TYPES[other.element_type.get_type_name()]
                == one.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[one.data_type].name
            )
            sides = [side.get_length() if side.is_static else None for side in other.partial_shape]
            check_sides(sides, one.dims)


def test_a_repository_has_the_layout_that_both_servers_ask_for(folder):
    assert sorted(str(p.relative_to(folder.parent)) for p in folder.parent.rglob("*")) == [
        "street",
        "street/1",
        "street/1/model.onnx",
        "street/config.pbtxt",
    ]


def test_the_configuration_fits_tritons_schema_and_the_file(folder, schema):
    config = parsed(folder, schema)
    assert config.name == folder.name and config.backend == "onnxruntime" and config.max_batch_size == MAX_BATCH
    assert config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [3, -1, -1] and [o.name for o in config.output] == ["ids", "confidence"]
    check_against_the_file(config, folder)
    about = json.loads(config.parameters["pspnet_zoo"].string_value)
    assert about["labels"]["names"] == list(CAMVID.names) and about["output"] == "ids+confidence"


def test_a_batch_gives_the_predictors_ids_and_confidence(folder, net):
    photos = np.random.default_rng(0).integers(0, 256, (2, 45, 61, 3), np.uint8)
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
    ids, confidence = session.run(["ids", "confidence"], {"image": photos.transpose(0, 3, 1, 2)})
    predictor = Predictor(net)
    for i, photo in enumerate(photos):
        prediction = predictor(photo, probabilities=True)
        assert (ids[i] == prediction.mask).mean() > 0.999
        assert np.abs(confidence[i] / 255 - prediction.probabilities.max(0)).max() < 0.003


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (Labels(tuple(f'"class\\ {i}"\n' for i in range(300))), "TYPE_INT32"),
        pytest.param(Labels(("Gebäude",)), "TYPE_UINT8", marks=pytest.mark.slow),
    ],
    ids=["300 classes with quotes in their names", "one class"],
)
def test_other_networks_fit_too(labels, kind, schema, tmp_path):
    folder = write_repository(network(labels), tmp_path, name="a.b-c")
    config = parsed(folder, schema)
    assert config.name == "a.b-c" and config.output[0].data_type == getattr(schema, kind)
    check_against_the_file(config, folder)
    assert json.loads(config.parameters["pspnet_zoo"].string_value)["labels"]["names"][-len(labels) :] == list(labels.names)


def test_a_network_of_one_size_states_it(folder, schema):
    from google.protobuf import text_format

    spec = OnnxRuntime(folder / "1" / "model.onnx").spec
    config = text_format.Parse(configuration("one", replace(spec, image_size=(64, 96))), schema.ModelConfig())
    assert list(config.input[0].dims) == [3, 64, 96]
    assert [list(output.dims) for output in config.output] == [[64, 96], [64, 96]]


@pytest.mark.slow
def test_a_model_that_is_there_stays_and_a_failure_leaves_nothing(net, folder, tmp_path, monkeypatch):
    before = (folder / "config.pbtxt").read_bytes()
    with pytest.raises(FileExistsError, match=r"street' exists already\. Delete it, or give another folder"):
        write_repository(net, folder.parent, name="street")
    assert (folder / "config.pbtxt").read_bytes() == before
    for wrong in ("pspnet_zoo.deployment.triton.configuration", "pspnet_zoo.deployment.export.verify"):
        with monkeypatch.context() as patch:
            patch.setattr(wrong, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                write_repository(net, tmp_path, name="street")
        assert list(tmp_path.iterdir()) == []
    gray = network(in_channels=1)
    with pytest.raises(ValueError, match="uint8"):
        write_repository(gray, tmp_path, name="gray")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_names_the_model_and_refuses_what_does_not_go_with_it(net, tmp_path):
    net.save_pretrained(tmp_path / "mine")
    result = CliRunner().invoke(app, ["export", str(tmp_path / "mine"), "--triton", str(tmp_path / "models")])
    assert result.exit_code == 0, result.output
    assert f"Wrote {tmp_path / 'models' / 'mine'}" in result.output and (tmp_path / "models/mine/1/model.onnx").is_file()
    for arguments, text in (
        (["--triton", "x", "--output", "ids"], "--output is not for --triton"),
        (["--triton", "x", "--format", "onnx"], "--format is not for --triton"),
        (["--triton", "x", "-o", "y.onnx"], "-o PATH, or --triton DIR"),
        ([], "-o PATH, or --triton DIR"),
        (["--triton", str(tmp_path / "other"), "--precision", "int8"], "precision 'int8' is not for onnx"),
    ):
        result = CliRunner().invoke(app, ["export", str(tmp_path / "mine"), *arguments])
        assert isinstance(result.exception, ValueError) and text in str(result.exception)
    assert not (tmp_path / "other" / "mine").exists()
