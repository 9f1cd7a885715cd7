"""Rates, decays, clipping and schedules arrive where they belong: steps computed by hand."""

import csv
import json
import math
from dataclasses import replace

import pytest
import torch

from pspnet_zoo import PSPNet
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.evaluation.evaluate import evaluate
from pspnet_zoo.training import train as train_module
from pspnet_zoo.training.optimizer import build_optimizer, build_schedule, optimizer_state, restore_optimizer
from pspnet_zoo.training.recipes import RECIPES, Recipe, choose_recipe
from pspnet_zoo.training.train import train
from tests.training.conftest import without_dropout

RECIPE = Recipe(iterations=10, batch_size=2, crop=(32, 48), lr=0.1, head_factor=3, freeze="norms", evaluate_every=0)
ADAMW = replace(RECIPE, optimizer="adamw", lr=0.01, weight_decay=0.2, decay_norms=False, layer_decay=0.5)


def rates(net, recipe, step):
    optimizer = build_optimizer(net, recipe)
    build_schedule(optimizer, recipe).step_update(step)
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize(
    ("changes", "step", "encoder", "heads"),
    [
        ({}, 0, 0.1, 0.3),
        ({}, 5, 0.1 * 0.5**0.9, 0.3 * 0.5**0.9),
        ({"power": 2.0, "min_lr": 0.02}, 4, 0.02 + 0.08 * 0.36, 0.02 + 0.28 * 0.36),
        ({"schedule": "cosine"}, 5, 0.05, 0.15),
        ({"schedule": "cosine", "min_lr": 0.02}, 2, *(0.02 + (b - 0.02) * (1 + math.cos(math.pi / 5)) / 2 for b in (0.1, 0.3))),
        ({"schedule": "constant"}, 9, 0.1, 0.3),
        ({"warmup": 4}, 0, 0.0, 0.0),
        ({"warmup": 4, "schedule": "cosine"}, 3, 0.075, 0.225),
        ({"warmup": 4, "schedule": "constant"}, 4, 0.1, 0.3),
        ({"warmup": 4, "power": 1.0}, 4, 0.06, 0.18),
    ],
)
def test_rates_follow_the_schedule(net, changes, step, encoder, heads):
    assert rates(net, replace(RECIPE, **changes), step) == pytest.approx([encoder, heads])


@pytest.mark.parametrize("name", ["test_convnext", "test_vit"])
def test_rates_fall_towards_the_input_and_small_tensors_do_not_decay(name):
    net = PSPNet(name, None, classes=3, psp_out_channels=8)
    optimizer = build_optimizer(net, ADAMW)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    scales, decays = {}, {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            scales[names[id(parameter)]] = group["lr_scale"]
            decays[names[id(parameter)]] = group["weight_decay"]
    assert scales.keys() == {name for name, _ in net.named_parameters()}
    assert {scale for name, scale in scales.items() if not name.startswith("encoder.")} == {1.0}
    assert all(math.log2(scale) == round(math.log2(scale)) for scale in scales.values())  # powers of a half
    first = next(name for name in scales if name.startswith("encoder.") and ("stem" in name or "patch_embed" in name))
    encoder = [scale for name, scale in scales.items() if name.startswith("encoder.")]
    assert scales[first] == min(encoder) < max(encoder) <= 1
    for name, parameter in net.named_parameters():
        spared = parameter.ndim <= 1 or name.endswith(("pos_embed", "cls_token"))
        assert decays[name] == (0.0 if spared else 0.2), name
    assert name != "test_vit" or any(name.endswith("pos_embed") for name in decays)


def steady(name):
    return without_dropout(PSPNet(name, None, classes=11, psp_out_channels=16))


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_a_step_is_that_of_adamw_by_hand(camvid, tmp_path, clip):
    net, recipe = steady("test_convnext"), replace(ADAMW, iterations=3, clip_grad=clip, warmup=1)
    scales = {}
    for group in build_optimizer(net, recipe).param_groups:
        scales |= {id(parameter): (group["lr"], group["lr_scale"], group["weight_decay"]) for parameter in group["params"]}
    gradients = {name: [] for name, _ in net.named_parameters()}
    for name, parameter in net.named_parameters():
        parameter.register_hook(lambda gradient, name=name: gradients[name].append(gradient.clone()))
    watched = {name: p for name, p in net.named_parameters() if name.endswith("0.weight") or "stem" in name}
    weights = {name: p.detach().clone() for name, p in watched.items()}
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in watched.items()}

    def check(step, loss, rate):
        norm = torch.stack([each[step - 1].norm() for each in gradients.values()]).norm().item()
        factor = min(1.0, clip / (norm + 1e-6)) if clip else 1.0
        assert not clip or factor < 1
        schedule = 0.0 if step == 1 else (1 - (step - 1) / 3) ** recipe.power  # the first step is the warm-up's
        for name, parameter in watched.items():
            base, scale, decay = scales[id(parameter)]
            lr, gradient = base * scale * schedule, gradients[name][step - 1] * factor
            first, second = (0.9 * moments[name][0] + 0.1 * gradient, 0.999 * moments[name][1] + 0.001 * gradient**2)
            moments[name] = first, second
            update = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            expected = weights[name] * (1 - lr * decay) - lr * update
            torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-6, msg=f"{name} at step {step}")
            weights[name] = parameter.detach().clone()

    assert train(net, open_dataset("camvid", camvid, "train"), recipe, tmp_path, progress=check).steps == 3


@pytest.mark.parametrize("name", ["momentum", "adamw", "lamb", "adan", "lion", "nadamw", "rmsproptf"])
def test_an_optimizer_continues_from_its_saved_state(name):
    recipe = replace(ADAMW, optimizer=name, layer_decay=1.0, lr=0.001)
    nets = [PSPNet("test_efficientnet", None, classes=2, psp_out_channels=8) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = [build_optimizer(net, recipe) for net in nets]

    def step(net, optimizer, seed):
        torch.manual_seed(seed)
        for parameter in net.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()

    for seed in (1, 2):
        step(nets[0], optimizers[0], seed)
    nets[1].load_state_dict(nets[0].state_dict())
    tensors, numbers = optimizer_state(nets[0], optimizers[0])
    restore_optimizer(nets[1], optimizers[1], tensors, json.loads(json.dumps(numbers)))
    for net, optimizer in zip(nets, optimizers, strict=True):
        step(net, optimizer, 3)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


@pytest.mark.parametrize("name", ["adamw", "adafactorbv", "novograd"])
def test_the_state_of_an_optimizer_goes_where_its_network_is(name):
    net, elsewhere = (PSPNet("test_efficientnet", None, classes=2, psp_out_channels=8) for _ in range(2))
    optimizers = [build_optimizer(each, replace(ADAMW, optimizer=name)) for each in (net, elsewhere.to("meta"))]
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizers[0].step()
    restore_optimizer(elsewhere, optimizers[1], *optimizer_state(net, optimizers[0]))
    for state in optimizers[1].state.values():
        for key, value in state.items():
            assert not isinstance(value, torch.Tensor) or value.device.type == ("cpu" if key == "step" else "meta"), key


def test_position_biases_of_swin_do_not_decay():
    with torch.device("meta"):
        net = PSPNet("swin_tiny_patch4_window7_224", None, classes=2)
    decaying = {id(p) for group in build_optimizer(net, ADAMW).param_groups if group["weight_decay"] for p in group["params"]}
    biases = [p for name, p in net.named_parameters() if name.endswith("relative_position_bias_table")]
    assert decaying and biases and not any(id(p) in decaying for p in biases)


@pytest.mark.parametrize(("name", "message"), [("adam_w", "optimizer is 'adam_w'; it can be a name of"), ("adahessian", "second")])
def test_an_unknown_optimizer_is_refused(net, name, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(net, replace(RECIPE, optimizer=name))


def test_a_frozen_encoder_has_no_gradients_and_no_place_in_the_optimizer(net, camvid, tmp_path):
    before = {name: tensor.clone() for name, tensor in net.encoder.state_dict().items()}
    recipe = replace(RECIPES["frozen"].recipe, iterations=2, batch_size=2, crop=(32, 48), evaluate_every=0, warmup=0)
    train(net, open_dataset("camvid", camvid, "train"), recipe, tmp_path)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.encoder.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.encoder.parameters()), "only in that run"
    net.freeze_encoder()
    learning = {id(p) for group in build_optimizer(net, recipe).param_groups for p in group["params"]}
    assert learning == {id(p) for name, p in net.named_parameters() if not name.startswith("encoder.")}


@pytest.mark.parametrize(
    ("encoder", "convolutional", "pretrained", "name"),
    [
        ("resnet50", True, True, "finetune"),
        ("tf_efficientnet_lite0", True, False, "finetune"),
        ("convnext_tiny", True, True, "finetune_convnext"),
        ("tu-convnext_atto", True, False, "scratch_adamw"),
        ("vit_small_patch16_224", False, True, "finetune_vit"),
        ("swin_tiny_patch4_window7_224", False, False, "scratch_adamw"),
    ],
)
def test_auto_chooses_by_the_backbone_and_gives_the_reason(encoder, convolutional, pretrained, name):
    chosen, reason = choose_recipe(encoder, convolutional=convolutional, pretrained=pretrained)
    assert chosen == name and chosen in RECIPES and encoder.removeprefix("tu-") in reason


class Scores:
    """Stands for the evaluations of a run, whose mIoU is given."""

    def __init__(self, *mious):
        self.mious = list(mious)

    def __call__(self, model, dataset, protocol, **options):
        return replace(evaluate(model, dataset, protocol, **options), miou=self.mious.pop(0))


def test_a_run_ends_when_evaluations_no_longer_become_better(net, camvid, tmp_path, monkeypatch):
    dataset = open_dataset("camvid", camvid, "train")
    recipe = replace(RECIPE, iterations=9, evaluate_every=1, patience=2, checkpoint_every=100, ema_decay=0.5)
    monkeypatch.setattr(train_module, "evaluate", Scores(0.1, 0.3, 0.2, 0.3, 0.9))
    result = train(net, dataset, recipe, tmp_path, validation=dataset)
    assert (result.steps, result.is_complete, result.best_miou, result.last_miou) == (4, True, 0.3, 0.3)
    assert result.best == tmp_path / "best" and result.best.is_dir()
    summary = json.loads((tmp_path / "result.json").read_text())
    measured = {"start_miou": None, "last_miou": 0.3, "best_miou": 0.3, "best_step": 2}
    assert summary == {"steps": 4, "complete": True, "best": "best", **measured}
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["miou"]) for row in rows] == [("1", "0.1"), ("2", "0.3"), ("3", "0.2"), ("4", "0.3")]
    assert {"learning_rate", "train_loss", "loss", "pixel_accuracy", "iou road"} <= rows[0].keys() and rows[0]["iou car"]
    again = train(net, dataset, recipe, tmp_path, validation=dataset, resume=True)
    assert (again.steps, again.history) == (4, tuple(json.loads(json.dumps(result.history))))
    monkeypatch.setattr(train_module, "evaluate", Scores(0.4, 0.1, 0.1, 0.1))
    longer = train(net, dataset, replace(recipe, patience=3), tmp_path, validation=dataset, resume=True)
    assert longer.steps == 8 and longer.best_miou == 0.4


def test_a_run_without_evaluations_has_no_best(net, camvid, tmp_path):
    result = train(net, open_dataset("camvid", camvid, "train"), replace(RECIPE, iterations=1), tmp_path)
    assert (result.best, result.best_miou, result.last_miou, result.history) == (None, None, None, ())
