"""Checkpoints on disk: round trip, strictness, damage."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import pspnet_zoo
from pspnet_zoo import PSPNet, WeightsError, from_pretrained
from pspnet_zoo.storage import files
from pspnet_zoo.storage.files import CONFIG_FILE
from tests.storage.conftest import forget_digest


@pytest.fixture
def folder(net, tmp_path):
    net.provenance = {"data": "made up"}
    return net.save_pretrained(tmp_path / "checkpoint")


def test_a_saved_network_comes_back_whole(net, folder):
    loaded = from_pretrained(folder)
    x = torch.randn(1, 3, 40, 56)
    torch.testing.assert_close(loaded(x), net.eval()(x))
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in net.state_dict().items())
    assert not loaded.training
    assert loaded.labels == net.labels and loaded.preprocess == net.preprocess and loaded.provenance == net.provenance
    assert loaded.config == net.config
    assert not any(t.is_meta for t in [*loaded.parameters(), *loaded.buffers()])


def test_a_checkpoint_from_before_enlargement_is_not_enlarged(net, folder):
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert config["preprocess"].pop("input_scale") == 1
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    assert from_pretrained(folder).preprocess == net.preprocess
    net.preprocess = replace(net.preprocess, input_scale=1.5)
    assert from_pretrained(net.save_pretrained(folder)).preprocess.input_scale == 1.5


@pytest.mark.parametrize("encoder", ["resnetblur18", "resnet10t", "tf_efficientnet_lite0"])
def test_every_kind_of_encoder_comes_back_without_leftovers_on_meta(encoder, tmp_path):
    net = PSPNet(encoder, None, classes=2, psp_out_channels=8).eval()
    loaded = from_pretrained(net.save_pretrained(tmp_path))
    x = torch.randn(1, 3, 33, 65)
    torch.testing.assert_close(loaded(x), net(x))


def test_loaded_weights_train(folder):
    loaded = from_pretrained(folder).train()
    loaded(torch.randn(2, 3, 32, 32)).sum().backward()
    torch.optim.SGD(loaded.parameters(), lr=0.1).step()
    assert all(p.grad is not None for n, p in loaded.named_parameters() if not n.startswith("auxiliary_head"))


def test_half_precision_files_load_as_single_precision(net, tmp_path):
    loaded = from_pretrained(pspnet_zoo.save_pretrained(net, tmp_path, dtype=torch.float16))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    for name, p in net.named_parameters():
        torch.testing.assert_close(dict(loaded.named_parameters())[name], p.half().float(), rtol=0, atol=0)


def test_equal_weights_give_equal_bytes_in_every_process(folder, tmp_path):
    again = tmp_path / "again"
    script = f"import pspnet_zoo; pspnet_zoo.from_pretrained({str(folder)!r}).save_pretrained({str(again)!r})"
    subprocess.run([sys.executable, "-c", script], check=True)
    for name in (files.WEIGHTS_FILE, files.CONFIG_FILE):
        assert (folder / name).read_bytes() == (again / name).read_bytes()


def test_another_number_of_classes_remakes_the_classifiers_only(net, folder, caplog):
    with caplog.at_level(logging.WARNING):
        loaded = from_pretrained(folder, classes=7)
    assert "segmentation_head.0.weight" in caplog.text and "auxiliary_head.0.4.bias" in caplog.text
    assert loaded.config["classes"] == 7 and loaded.labels is None and loaded(torch.randn(1, 3, 32, 32)).shape[1] == 7
    same = [k for k, v in net.state_dict().items() if torch.equal(v, loaded.state_dict()[k])]
    assert len(net.state_dict()) - len(same) == 4


def test_the_auxiliary_head_can_be_left_out_or_added(folder, tmp_path):
    without = from_pretrained(folder, aux_head=False)
    assert without.auxiliary_head is None
    added = from_pretrained(without.save_pretrained(tmp_path / "without"), aux_head=True)
    logits, aux = added(torch.randn(1, 3, 32, 32), return_aux=True)
    assert aux.shape == logits.shape and torch.isfinite(aux).all()


def test_options_replace_those_of_the_config(folder):
    loaded = from_pretrained(folder, encoder_output_stride=16, psp_dropout=0.5)
    assert loaded.encoder.output_stride == 16 and loaded.decoder.dropout.p == 0.5
    with pytest.raises(TypeError, match="stride"):
        from_pretrained(folder, stride=16)


def test_smp_does_not_take_the_folder_for_its_own(folder):
    smp = pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(AttributeError, match="pspnet_zoo"):
        smp.from_pretrained(folder)


def test_tensors_that_share_memory_are_saved_as_equal_ones_are(tmp_path):
    shared = torch.arange(6.0)
    files.write_safetensors(tmp_path / "shared", {"a": shared, "b": shared, "c": shared[2:]})
    files.write_safetensors(tmp_path / "apart", {"a": shared, "b": shared.clone(), "c": shared[2:].clone()})
    assert (tmp_path / "shared").read_bytes() == (tmp_path / "apart").read_bytes()
    net = PSPNet("coat_lite_tiny", None, classes=2, psp_out_channels=8).eval()
    loaded = from_pretrained(net.save_pretrained(tmp_path / "net"))
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(x), net(x)) and len(list(loaded.parameters())) == len(list(net.parameters()))


def test_a_state_comes_back_and_is_not_taken_for_weights(tmp_path):
    path = tmp_path / "state.safetensors"
    files.write_state(path, {"a": torch.ones(2)}, {"step": 3, "list": [1.5]})
    tensors, state = files.read_state(path)
    assert tensors["a"].tolist() == [1, 1] and state == {"step": 3, "list": [1.5]}
    assert files.read_shapes(path) == {"a": (2,)}
    files.write_safetensors(path, {"a": torch.ones(2)})
    with pytest.raises(WeightsError, match="holds weights, but no state of a training run"):
        files.read_state(path)


def test_the_cache_is_beside_torch_hubs_unless_told(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch" / "hub"))
    monkeypatch.delenv("PSPNET_ZOO_CACHE", raising=False)
    assert files.cache_folder() == tmp_path / "torch" / "pspnet_zoo"
    monkeypatch.setenv("PSPNET_ZOO_CACHE", "~/mine")
    assert files.cache_folder() == Path.home() / "mine"


@pytest.mark.parametrize(
    ("digest", "fits"),
    [("sha256:ba7816bf", True), ("sha1:a9993e36", True), ("sha256:ba7816b0", False), ("sha1:ba7816bf", False)],
)
def test_a_file_is_compared_with_the_first_digits_of_its_digest(tmp_path, digest, fits):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180's own example
    assert files.matches(tmp_path / "abc", digest) == fits


def rewrite(folder, change):
    path = folder / files.WEIGHTS_FILE
    tensors = {k: v.clone() for k, v in files.read_safetensors(path).items()}
    change(tensors)
    files.write_safetensors(path, tensors)
    forget_digest(folder)


DAMAGE = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-100]), "not a whole safetensors file"),
    "empty": (lambda p: p.write_bytes(b""), "not a whole safetensors file"),
    "pickle": (lambda p: torch.save({"a": torch.ones(1)}, p), "looks like a pickle"),
    "old pickle": (lambda p: torch.save({"a": torch.ones(1)}, p, _use_new_zipfile_serialization=False), "looks like a pickle"),
    "web page": (lambda p: p.write_text("<!DOCTYPE html><html>" + " " * 100), "looks like a web page"),
    "lfs pointer": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0"), "Git LFS pointer"),
    "missing": (lambda p: p.unlink(), "No weights at"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_or_foreign_weights_are_refused_with_the_reason(kind, folder):
    damage, reason = DAMAGE[kind]
    damage(folder / files.WEIGHTS_FILE)
    with pytest.raises(WeightsError, match=reason) as caught:
        from_pretrained(folder)
    assert str(folder / files.WEIGHTS_FILE) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop("segmentation_head.0.bias"), "missing: segmentation_head.0.bias"),
        (lambda t: t.update(extra=torch.ones(1)), "not in the network: extra"),
        (lambda t: t.update({"segmentation_head.0.bias": torch.ones(3)}), "of another shape: segmentation_head.0.bias"),
        (lambda t: t.pop("auxiliary_head.0.4.bias"), "missing: auxiliary_head.0.4.bias"),
        (
            lambda t: t.update({"segmentation_head.0.bias": t["segmentation_head.0.bias"].to(torch.int8)}),
            "of another type: segmentation_head.0.bias",
        ),
    ],
)
def test_tensors_that_are_not_exactly_the_networks_are_refused(change, reason, folder):
    rewrite(folder, change)
    with pytest.raises(WeightsError, match=reason):
        from_pretrained(folder)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ("[]", "not a checkpoint of pspnet_zoo"),
        ('{"_model_class": "PSPNet"}', "not a checkpoint of pspnet_zoo"),
        ('{"_model_class": "pspnet_zoo.PSPNet"}', "lacks model, preprocess, labels, provenance"),
    ],
)
def test_a_foreign_config_is_refused_with_the_reason(text, reason, folder):
    (folder / files.CONFIG_FILE).write_text(text)
    with pytest.raises(WeightsError, match=reason):
        from_pretrained(folder)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "encoder_name", "nonesuch"),
        ("model", "encoder_depth", "five"),
        ("model", "surprise", 1),
        ("model", "upsampling", "two"),
        ("model", "align_corners", "yes"),
        ("preprocess", "range", [1.0]),
        ("preprocess", "max_pixels", []),
        ("preprocess", "mean", None),
        ("labels", "colors", [[0, 0, 300]]),
    ],
)
def test_a_config_with_a_wrong_value_is_refused(section, key, value, folder):
    path = folder / files.CONFIG_FILE
    config = json.loads(path.read_text())
    config[section][key] = value
    path.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="config.json"):
        from_pretrained(folder)


def test_a_file_of_very_many_tensors_is_refused_before_they_are_read(folder, monkeypatch):
    monkeypatch.setattr(files, "_MOST_TENSORS", 50)
    with pytest.raises(WeightsError, match=r"has \d+ tensors; a checkpoint has at most 50"):
        from_pretrained(folder)


def test_a_folder_without_checkpoint_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"No '.*config.json'"):
        from_pretrained(tmp_path)


def test_a_callable_activation_cannot_be_saved(tmp_path):
    net = PSPNet("test_efficientnet", None, activation=torch.nn.Sigmoid, psp_out_channels=8)
    with pytest.raises(WeightsError, match="names for activations"):
        net.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*file'"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_written_files_are_readable_as_the_umask_says(tmp_path):
    files.write_atomically(tmp_path / "file", b"x")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_device_or_pipe_is_written_to_and_stays(tmp_path):
    pipe, link, twice = tmp_path / "pipe", tmp_path / "link", tmp_path / "twice"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    twice.symlink_to("link")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for path in (pipe, link, twice):
            files.write_atomically(path, path.name.encode())
        assert os.read(reader, 100) == b"pipelinktwice"
    finally:
        os.close(reader)
    assert pipe.is_fifo() and link.is_symlink() and twice.is_symlink()
    files.write_atomically(Path("/dev/null"), b"x")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_an_open_file_is_written_to_under_every_name(tmp_path, path):
    (tmp_path / "link").symlink_to("/proc/self/fd/1")
    script = f"""
import os
from pathlib import Path
from pspnet_zoo.storage.files import write_atomically
os.write(1, b"before, ")
write_atomically(Path({path!r}), b"data")
os.write(1, b", after")
"""
    with (tmp_path / "out.txt").open("wb") as out:
        subprocess.run([sys.executable, "-c", script], stdout=out, cwd=tmp_path, check=True)
    assert (tmp_path / "out.txt").read_bytes() == b"before, data, after"
    assert Path("/dev/stdout").is_symlink() and (tmp_path / "link").is_symlink()


def test_a_file_that_must_not_be_a_stream_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'/dev/null' is a device or a pipe"):
        files.refuse_stream(Path("/dev/null"))
    for path in (tmp_path, tmp_path / "new", Path(__file__), Path("/dev/shm/new")):
        files.refuse_stream(path)


@pytest.mark.parametrize("text", ["", "[1]", "null", '"a"', "[" * 100_000])
def test_a_training_state_of_another_shape_is_refused(tmp_path, text):
    files._write(tmp_path / "state", {"a": torch.zeros(1)}, {"state": text})
    with pytest.raises(files.WeightsError, match="The state in '.*state' is"):
        files.read_state(tmp_path / "state")
