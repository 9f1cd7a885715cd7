"""Where an exported file may be written."""

import pytest

from pspnet_zoo import load
from pspnet_zoo.deployment.export import export
from tests.deployment.conftest import tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("name", ["model", "model/model.xml"])
def test_no_network_takes_the_place_of_the_checkpoint_in_its_folder(tmp_path, name):
    folder = tiny("test_resnet").save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"model' is the folder of a checkpoint, with config\.json.* Give another folder or file"):
        export(folder, tmp_path / name)
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert load(folder).config["classes"] == 11


@pytest.mark.parametrize("name", ["street", "street.tflite"])
@pytest.mark.parametrize(("format", "ending"), [("onnx", r"\.onnx"), ("program", r"\.pt2"), ("executorch", r"\.pte")])
def test_a_file_has_the_ending_by_which_commands_know_its_format(tmp_path, name, format, ending):
    with pytest.raises(ValueError, match=f"'.*{name}' does not end in {ending}, by which files of format {format} are known"):
        export(tiny("test_resnet"), tmp_path / name, format=format)
    assert not list(tmp_path.iterdir())
