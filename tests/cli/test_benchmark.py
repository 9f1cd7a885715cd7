"""The command `pspnet-zoo benchmark`."""

import json

from pspnet_zoo import PSPNet


def test_the_title_has_the_size_that_was_timed(run, tmp_path):
    start = PSPNet("pit_ti_224", None, classes=3, psp_out_channels=8).save_pretrained(tmp_path / "model")
    options = ["--size", "33x65", "--runtimes", "torch", "--rounds", 1, "--json", tmp_path / "found.json"]
    code, out, err = run("benchmark", start, *options)
    assert code == 0 and "224x224" in out and "33x65" not in out, err
    assert json.loads((tmp_path / "found.json").read_text())["size"] == [224, 224]


def test_a_runtime_that_was_asked_for_and_left_out_is_in_the_exit_code(run, tmp_path):
    start = PSPNet("test_resnet", None, classes=3, psp_out_channels=8).save_pretrained(tmp_path / "model")
    options = ["--size", "33x65", "--runtimes", "torch,openvino-int8", "--rounds", 1, "--json", tmp_path / "found.json"]
    code, out, err = run("benchmark", start, *options)
    found = json.loads((tmp_path / "found.json").read_text())
    assert code == 2 and "openvino-int8 was left out" in out, err
    assert [row["runtime"] for row in found["rows"]] == ["torch"]
