"""Fused blocks, LoRA and frozen features: what learns, what stays, and that nothing else changes."""

import copy
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pspnet_zoo import PSPNet, from_pretrained
from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.meta import Preprocess
from pspnet_zoo.training.methods import features as features_module
from pspnet_zoo.training.methods import rates
from pspnet_zoo.training.methods.lora import attention_layers, lora_added, merged
from pspnet_zoo.training.recipes import RECIPES, Recipe
from pspnet_zoo.training.stream import Stream
from pspnet_zoo.training.train import BEST, train

RECIPE = Recipe(iterations=4, batch_size=2, crop=(32, 48), lr=0.01, checkpoint_every=2, evaluate_every=0, optimizer="adamw")


@pytest.fixture
def vit():
    net = PSPNet("test_vit", None, classes=11, psp_out_channels=16, psp_dropout=0.0, aux_head=True, encoder_fuse=2)
    net.labels = CAMVID
    return net


@pytest.fixture
def images(camvid):
    return open_dataset("camvid", camvid, "train")


@pytest.mark.parametrize(("fuse", "blocks"), [(2, (4, 5)), ((0, 2, 5), (0, 2, 5)), (1, (5,))])
def test_fused_blocks_are_timms_normalised_ones_beside_each_other(fuse, blocks):
    net = PSPNet("test_vit", None, classes=3, psp_out_channels=8, encoder_fuse=fuse).eval()
    x = torch.randn(1, 3, 64, 96)
    model = net.encoder.model.model
    expected = model.forward_intermediates(x, indices=list(blocks), norm=True, intermediates_only=True)
    torch.testing.assert_close(net.encoder.model(x)[-1], torch.cat(expected, dim=1))
    assert net.encoder.out_channels[-1] == 64 * len(blocks) and net.encoder.strides == [1, 8, 8]
    for size in ((64, 64), (33, 65), (160, 48)):
        assert net(torch.randn(1, 3, *size)).shape == (1, 3, *size)


def test_a_network_with_fused_blocks_is_saved_and_every_parameter_learns(vit, tmp_path):
    vit.eval().save_pretrained(tmp_path / "net")
    x = torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(from_pretrained(tmp_path / "net").eval()(x), vit(x))
    sum(y.square().sum() for y in vit(x, return_aux=True)).backward()
    assert all(parameter.grad is not None for parameter in vit.parameters())


@pytest.mark.parametrize(
    ("encoder", "fuse", "message"),
    [
        ("resnet18", 2, "'resnet18' is convolutional, not a plain vision transformer; leave out encoder_fuse=2"),
        ("swin_tiny_patch4_window7_224", 2, "is no plain vision transformer, whose blocks could be fused"),
        ("test_vit", 7, "encoder_fuse is 7; 'test_vit' has 6 blocks: give 1 to 6, or indices from 0 to 5"),
        ("test_vit", (1, 6), "'test_vit' has 6 blocks"),
    ],
)
def test_blocks_that_cannot_be_fused_are_refused(encoder, fuse, message):
    with pytest.raises(ValueError, match=message):
        PSPNet(encoder, None, encoder_fuse=fuse)


def test_merged_lora_is_the_same_network(vit):
    pytest.importorskip("peft", reason="the extra peft is not installed")
    x, keys, weight = torch.randn(2, 3, 48, 64), list(vit.state_dict()), vit.encoder.model.model.blocks[0].attn.qkv.weight
    before = weight.detach().clone()
    vit.eval()
    with lora_added(vit, 4, 16.0, 0):
        learning = [name for name, p in vit.encoder.named_parameters() if p.requires_grad]
        assert len(learning) == 2 * 2 * 6 and all("lora_" in name for name in learning)
        for name in learning:
            nn.init.normal_(vit.encoder.get_parameter(name), std=0.1)
        unmerged = vit(x)
        torch.testing.assert_close(merged(vit)(x), unmerged, rtol=1e-5, atol=1e-5)
        assert list(merged(vit).state_dict()) == keys
    torch.testing.assert_close(vit(x), unmerged, rtol=1e-5, atol=1e-5)
    assert list(vit.state_dict()) == keys and all(p.requires_grad for p in vit.parameters())
    assert not torch.equal(before, vit.encoder.model.model.blocks[0].attn.qkv.weight) and merged(vit) is vit


def test_lora_trains_the_attention_alone_and_saves_plain_checkpoints(vit, images, tmp_path):
    pytest.importorskip("peft", reason="the extra peft is not installed")
    before = copy.deepcopy(vit.state_dict())
    train(vit, images, replace(RECIPE, lora_rank=4, evaluate_every=4), tmp_path, validation=images)
    changed = {name for name, tensor in vit.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name for name in changed if name.startswith("encoder.")} == {
        f"encoder.model.{layer}.weight" for layer in attention_layers(vit)
    }
    assert any(name.startswith("segmentation_head.") for name in changed)
    best = from_pretrained(tmp_path / BEST)  # strictly
    for name, tensor in best.state_dict().items():
        torch.testing.assert_close(tensor, vit.state_dict()[name], rtol=1e-5, atol=1e-6, msg=name)


def test_lora_is_refused_where_there_is_no_attention_or_nothing_learns(net, images, tmp_path):
    pytest.importorskip("peft", reason="the extra peft is not installed")
    with pytest.raises(ValueError, match="lora_rank is 4, but test_efficientnet has no linear layers of attention"):
        train(net, images, replace(RECIPE, lora_rank=4), tmp_path)
    with pytest.raises(ValueError, match="lora_rank is 4, which keeps the encoder's own weights; leave out freeze='encoder'"):
        replace(RECIPE, lora_rank=4, freeze="encoder")


def losses_of(net, images, recipe, folder, **options):
    losses = []
    train(net, images, recipe, folder, progress=lambda step, loss, rate: losses.append(loss), **options)
    return losses


FROZEN = replace(RECIPE, iterations=8, freeze="encoder", views=2, schedule="constant", lr=1e-3, head_factor=1)  # rate of `frozen`


@pytest.mark.parametrize("encoder", ["test_vit", "test_efficientnet"])
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_cached_features_give_the_loss_of_features_that_are_computed(encoder, images, tmp_path, monkeypatch):
    net = PSPNet(encoder, None, classes=11, psp_out_channels=16, psp_dropout=0.0, aux_head=True)
    net.labels = CAMVID
    cached, again, frozen = copy.deepcopy(net), copy.deepcopy(net), copy.deepcopy(net.encoder.state_dict())
    expected = losses_of(net, images, FROZEN, tmp_path / "plain")
    found = losses_of(cached, images, FROZEN, tmp_path / "cached", feature_cache=tmp_path / "features")
    assert found == pytest.approx(expected, rel=1e-3)
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in cached.encoder.state_dict().items())
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.safetensors")}
    assert len(files) == 2 * 5
    broken = next(iter(files))
    broken.write_bytes(broken.read_bytes()[:-5] + b"12345")
    hashed = []
    digest = features_module._digest
    monkeypatch.setattr(features_module, "_digest", lambda tensors: hashed.append(1) or digest(tensors))
    # with fewer steps than crops, so that each is hashed when the run begins and at no step
    short = replace(FROZEN, iterations=6)
    assert losses_of(again, images, short, tmp_path / "again", feature_cache=tmp_path / "features", workers=1)[:3] == found[:3]
    assert len(hashed) == 2 * 5 + 1
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.safetensors")}
    assert [path for path in files if files[path] != after[path]] == [broken]


def test_views_repeat_in_later_epochs(net, images):
    from pspnet_zoo.training.stream import Stream

    stream = Stream(images, None, FROZEN, net.preprocess)
    crops = [{stream.index(p): stream[p][0] for p in range(5 * epoch, 5 * epoch + 5)} for epoch in range(4)]
    assert all(torch.equal(crops[0][i], crops[2][i]) and torch.equal(crops[1][i], crops[3][i]) for i in range(5))
    assert all(not torch.equal(crops[0][i], crops[1][i]) for i in range(5))


def test_masks_of_another_mapping_are_cached_anew(net, camvid, tmp_path):
    def names(mapping):
        for split in ("train", "trainannot"):
            target = tmp_path / "data" / "train" / ("images" if split == "train" else "masks")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.exists() or target.symlink_to(camvid / split)
        (tmp_path / "data" / "classes.json").write_text(json.dumps({"names": ["a", "b"], "mapping": mapping, "ignore": [11]}))
        dataset = open_dataset("folder", tmp_path / "data", "train")
        stream = Stream(dataset, None, FROZEN, net.preprocess)
        return features_module.FeatureCache(tmp_path / "features", net, stream, FROZEN)._names

    first = names({"a": [0, 3], "b": [8]})
    assert names({"a": [0, 3], "b": [8]}) == first
    assert not set(names({"a": [0], "b": [3, 8]})) & set(first)


@pytest.mark.parametrize("white", [255, 65535])
def test_an_image_whose_features_are_cached_has_the_type_that_the_network_reads(images, white):
    preprocess = Preprocess((0.5,) * 3, (0.5,) * 3, white=white)
    preprocess.check_type(Stream(images, None, FROZEN, preprocess).blank)


@pytest.mark.parametrize("name", ["frozen", "finetune_vit"])
def test_a_range_of_rates_is_tried_as_a_run_would_train(vit, images, tmp_path, monkeypatch, name):
    monkeypatch.setattr(rates, "STEPS", 4)
    before = copy.deepcopy(vit.state_dict())
    recipe = replace(RECIPES[name].recipe, batch_size=2, crop=(32, 48))
    rates.find_learning_rate(vit, images, recipe, tmp_path)
    changed = {key.partition(".")[0] for key, tensor in vit.named_parameters() if not torch.equal(tensor, before[key])}
    assert changed >= {"decoder", "segmentation_head"}, "a warm-up begins with a rate of 0"
    assert ("encoder" in changed) == (name != "frozen")
    with pytest.raises(ValueError, match="batch_size is 2; it must be a multiple of 1 processes times 4 micro-batches"):
        rates.find_learning_rate(vit, images, replace(recipe, accumulation=4), tmp_path)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"freeze": "nothing"}, {}, "feature_cache needs an encoder that does not learn, and freeze is 'nothing'"),
        ({"views": 0}, {}, "feature_cache needs crops that repeat, and views is 0; set views, such as 4"),
        ({}, {"compile": True}, "feature_cache does not go with compile"),
    ],
)
def test_a_cache_that_would_be_wrong_is_refused(net, images, tmp_path, changes, options, message):
    with pytest.raises(ValueError, match=message):
        train(net, images, replace(FROZEN, **changes), tmp_path / "run", feature_cache=tmp_path / "features", **options)
    assert not (tmp_path / "features").exists()


KILLED = """
import json, os, signal, sys, torch
from pathlib import Path
from pspnet_zoo import PSPNet
from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.training.recipes import Recipe
from pspnet_zoo.training.train import train

data, out, kill = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
for name, changes in json.loads(sys.argv[4]).items():
    torch.manual_seed(0)
    net = PSPNet("test_vit", None, classes=11, psp_out_channels=16, aux_head=True)
    net.labels = CAMVID
    cache = out.parent / "features" if changes.get("views") else None
    recipe = Recipe(iterations=5, batch_size=2, crop=(32, 48), checkpoint_every=2, evaluate_every=0, **changes)
    started = (out / name / "checkpoint.safetensors").exists()
    show = lambda step, *_: step == kill and not started and os.kill(os.getpid(), signal.SIGKILL)
    train(net, open_dataset("camvid", data, "train"), recipe, out / name, progress=show, resume=started, feature_cache=cache)
    net.save_pretrained(out / name / "model")
"""
METHODS = {
    "layer decay": {"optimizer": "adamw", "lr": 0.001, "layer_decay": 0.7, "ema_decay": 0.6, "warmup": 2, "clip_grad": 0.1},
    "lora": {"optimizer": "adamw", "lr": 0.01, "lora_rank": 2, "ema_decay": 0.5},
    "frozen": {"optimizer": "adamw", "lr": 0.01, "freeze": "encoder", "views": 2},
}


class Interrupted(Exception):
    """Stands for a process that ends at once."""


def test_a_run_with_lora_resumes_to_the_very_same_weights(vit, images, tmp_path):
    pytest.importorskip("peft", reason="the extra peft is not installed")
    broken, recipe = copy.deepcopy(vit), replace(RECIPE, lora_rank=2, ema_decay=0.5)

    def stop(step, loss, rate):
        if step == 3:
            raise Interrupted

    train(vit, images, recipe, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(broken, images, recipe, tmp_path / "broken", progress=stop)
    train(broken, images, recipe, tmp_path / "broken", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(vit.state_dict().values(), broken.state_dict().values(), strict=True))


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name != "frozen" else []) for name in METHODS])
def test_a_run_that_was_killed_resumes_to_the_very_same_weights(camvid, tmp_path, name):
    if name == "lora":
        pytest.importorskip("peft", reason="the extra peft is not installed")
    script = tmp_path / "worker.py"
    script.write_text(KILLED)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}

    def run(folder, kill):
        command = [sys.executable, script, camvid, tmp_path / folder, str(kill), json.dumps({name: METHODS[name]})]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    whole, killed, resumed = run("whole", 0), run("broken", 3), run("broken", 3)
    assert (whole.returncode, killed.returncode, resumed.returncode) == (0, -signal.SIGKILL, 0), whole.stderr + resumed.stderr
    first, second = (load_file(tmp_path / folder / name / "model" / "model.safetensors") for folder in ("whole", "broken"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    checkpoints = [(tmp_path / folder / name / "checkpoint.safetensors").read_bytes() for folder in ("whole", "broken")]
    assert checkpoints[0] == checkpoints[1]
