"""The provenance of a trained network, which is published with it."""

import json

import pytest
from accelerate.state import AcceleratorState
from safetensors.torch import save_file

from pspnet_zoo import create, from_pretrained
from pspnet_zoo.cli.training_run import StartOptions
from pspnet_zoo.storage.card import model_card

FEW = ["--iterations", 1, "--batch-size", 2, "--crop", 32, 48, "--evaluate-every", 0, "--workers", 0, "--log", "none"]


@pytest.fixture(autouse=True)
def fresh_accelerator():
    yield
    AcceleratorState._reset_state(True)


def test_paths_of_this_machine_are_in_neither_config_nor_card(run, net, camvid, tmp_path):
    model = net.save_pretrained(tmp_path / "secret" / "model")
    command = ["train", "--data", camvid, "-o", tmp_path / "run", "--init", model, "--teacher", f"{model}/"]
    code, _, err = run(*command, *FEW)
    assert code == 0, err
    config = (tmp_path / "run" / "model" / "config.json").read_text()
    trained = from_pretrained(tmp_path / "run" / "model")
    card = model_card(trained, "org/name", sha256="0" * 64, license=None)
    assert "secret" not in config and "secret" not in card
    provenance = json.loads(config)["provenance"]
    assert provenance["start"] == provenance["teachers"]["networks"][0]["name"] == "model"


def test_encoder_weights_of_a_file_are_named_without_their_folder(run, camvid, tmp_path):
    (tmp_path / "secret").mkdir()
    weights = tmp_path / "secret" / "encoder.safetensors"
    save_file(create("pspnet_test_efficientnet").encoder.model.state_dict(), weights)
    command = ["train", "--data", camvid, "-o", tmp_path / "run", "--recipe", "finetune", "--dataset", "camvid"]
    code, _, err = run(*command, "--model", "pspnet_test_efficientnet", "--encoder-weights", weights, *FEW)
    assert code == 0, err
    config = (tmp_path / "run" / "model" / "config.json").read_text()
    assert json.loads(config)["provenance"]["start"] == "encoder weights encoder.safetensors" and "secret" not in config


@pytest.mark.parametrize("init", ["pspnet_lite0.camvid", "pspnet_lite0", "org/repo", "org/repo@abc"])
def test_names_of_the_zoo_and_of_repositories_stay(init):
    assert StartOptions(None, None, init, None, None).description == init
