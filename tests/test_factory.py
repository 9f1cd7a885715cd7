"""`create`: from a name to a network."""

import json
import logging

import pytest
import torch

import pspnet_zoo
from pspnet_zoo.data.labels import CAMVID


def test_a_name_gives_the_papers_network_in_training_mode():
    net = pspnet_zoo.create("pspnet_r18")
    assert net.training and net.config["classes"] == 19 and net.encoder.output_stride == 8
    assert net.labels is None and net.provenance is None


def test_options_reach_the_network_and_misspelt_ones_are_refused():
    net = pspnet_zoo.create("pspnet_r18", classes=3, in_channels=4, psp_out_channels=8, aux_head=True)
    assert net.eval()(torch.randn(1, 4, 32, 32)).shape == (1, 3, 32, 32)
    with pytest.raises(TypeError, match="psp_out_chanels"):
        pspnet_zoo.create("pspnet_r18", psp_out_chanels=8)


@pytest.mark.parametrize(
    "arguments", [("pspnet_lite0.camvid", {}), ("pspnet_lite0", {"pretrained": True}), ("pspnet_lite0", {"pretrained": "camvid"})]
)
def test_weights_come_with_all_that_is_needed_to_use_them(arguments):
    name, options = arguments
    net = pspnet_zoo.create(name, **options)
    assert not net.training and net.labels == CAMVID and net.config["classes"] == 11
    assert net.preprocess.mean == (0.5, 0.5, 0.5)
    assert {"data", "commands", "license", "citation"} <= net.provenance.keys()
    assert not any(t.is_meta for t in [*net.parameters(), *net.buffers()])


def test_another_number_of_classes_keeps_everything_but_the_classifier(caplog):
    full = pspnet_zoo.create("pspnet_lite0", pretrained=True)
    with caplog.at_level(logging.WARNING):
        tuned = pspnet_zoo.create("pspnet_lite0", pretrained=True, classes=7)
    assert "segmentation_head.0.weight" in caplog.text
    other = {
        k
        for k, v in full.state_dict().items()
        if not torch.equal(v, tuned.state_dict()[k]) or v.shape != tuned.state_dict()[k].shape
    }
    assert other == {"segmentation_head.0.weight", "segmentation_head.0.bias"}
    assert tuned(torch.randn(1, 3, 32, 32)).shape == (1, 7, 32, 32)


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match="leave out encoder_weights='imagenet'"):
        pspnet_zoo.create("pspnet_lite0", pretrained=True, encoder_weights="imagenet")
    with pytest.raises(TypeError, match=r"no argument 'num_classes' \(did you mean 'classes'\?\)"):
        pspnet_zoo.create("pspnet_lite0", num_classes=4)
    with pytest.raises(TypeError, match=r"no argument 'psp_droput' \(did you mean 'psp_dropout'\?\)"):
        pspnet_zoo.create("pspnet_lite0", psp_droput=0.1)
    with pytest.raises(ValueError, match="has no published weights yet"):
        pspnet_zoo.create("pspnet_resnet50_gn", pretrained=True)


def test_options_of_load_that_are_for_another_source_are_refused(net, tmp_path):
    with pytest.raises(TypeError, match="returns a network as it is; leave out classes, strict"):
        pspnet_zoo.load(net, classes=7, strict=False)
    for option in ({"strict": False}, {"local_files_only": True}, {"token": "secret"}, {"revision": "main"}, {"cache_dir": "x"}):
        with pytest.raises(TypeError, match=f"is a name of the zoo; leave out {next(iter(option))}, which folders"):
            pspnet_zoo.load("pspnet_lite0.camvid", **option)
    net.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has weights for the encoder too; leave out encoder_weights='imagenet'"):
        pspnet_zoo.load(tmp_path, encoder_weights="imagenet")
    assert pspnet_zoo.load(tmp_path, encoder_weights=None).classes == net.classes


def test_building_needs_no_network():
    import subprocess
    import sys

    script = """
import socket
def refuse(*a, **k): raise AssertionError("a connection was opened")
socket.socket.connect = refuse
import pspnet_zoo
pspnet_zoo.create("pspnet_r101"); pspnet_zoo.create("pspnet_lite0", pretrained=True)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_bundled_config_is_complete():
    from pspnet_zoo.zoo.registry import BUNDLED

    config = json.loads((BUNDLED / "pspnet_lite0.camvid" / "config.json").read_text())
    assert config["model"]["encoder_name"] == "tf_efficientnet_lite0" and config["labels"]["names"] == list(CAMVID.names)
