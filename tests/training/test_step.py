"""Every number of a recipe arrives where it belongs: steps and losses computed by hand, images that change with their numbers."""

import copy
from dataclasses import replace
from multiprocessing import active_children

import pytest
import torch
from torch import nn

from pspnet_zoo import PSPNet, WeightsError
from pspnet_zoo.data.images import ImageError
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.evaluation.evaluate import evaluate
from pspnet_zoo.meta import Preprocess
from pspnet_zoo.training.loss import segmentation_loss
from pspnet_zoo.training.recipes import Recipe
from pspnet_zoo.training.stream import Stream, mask_class_fractions
from pspnet_zoo.training.train import _sync_norms, train

RECIPE = Recipe(iterations=2, batch_size=2, crop=(32, 48), lr=0.05, head_factor=3, freeze="norms")
WATCHED = ("encoder.model.conv_stem.weight", "segmentation_head.0.weight", "segmentation_head.0.bias")


@pytest.fixture
def images(camvid):
    return open_dataset("camvid", camvid, "train")


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": 0.0, "weight_decay": 0.0},
        {"momentum": 0.6, "weight_decay": 0.3, "min_lr": 0.02, "power": 2.0},
        {"momentum": 0.5, "weight_decay": 0.3, "head_factor": 0.5, "decay_norms": False},
    ],
)
def test_a_step_is_that_of_sgd_by_hand(steady, images, tmp_path, changes):
    recipe = replace(RECIPE, iterations=3, **changes)
    parameters = {name: steady.get_parameter(name) for name in WATCHED}
    gradients = {name: [] for name in WATCHED}
    for name, parameter in parameters.items():
        parameter.register_hook(gradients[name].append)
    expected = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    velocity = {name: torch.zeros_like(value) for name, value in expected.items()}

    def check(step, loss, rate):
        fall = (1 - (step - 1) / 3) ** recipe.power
        for name, parameter in parameters.items():
            base = recipe.lr * (1 if name.startswith("encoder.") else recipe.head_factor)
            rate_by_hand = recipe.min_lr + (base - recipe.min_lr) * fall
            decay = recipe.weight_decay if parameter.ndim > 1 or recipe.decay_norms else 0.0
            gradient = gradients[name][step - 1] + decay * expected[name]
            velocity[name] = recipe.momentum * velocity[name] + gradient
            expected[name] = expected[name] - rate_by_hand * velocity[name]
            torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-4, atol=1e-6, msg=f"{name} at step {step}")
            expected[name] = parameter.detach().clone()

    assert train(steady, images, recipe, tmp_path, progress=check).steps == 3


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"aux_weight": 0.0},
        {"aux_weight": 2.0},
        {"ohem_threshold": 0.05, "ohem_min_kept": 10},
        {"ohem_threshold": 0.05, "ohem_min_kept": 500},
        {"dice_weight": 0.7},
        {"class_weight_power": 0.5},
    ],
)
def test_the_loss_has_every_part_of_the_recipe(steady, images, tmp_path, changes):
    recipe = replace(RECIPE, iterations=1, **changes)
    twin = copy.deepcopy(steady)
    twin.freeze_norms()
    stream = Stream(images, None, recipe, twin.preprocess)
    batch, masks = (torch.stack(parts) for parts in list(zip(stream[0], stream[1], strict=True))[:2])
    weights = mask_class_fractions(images).clamp(min=1e-6) ** -recipe.class_weight_power if recipe.class_weight_power else None
    options = {"aux_weight": recipe.aux_weight, "class_weights": weights, "dice_weight": recipe.dice_weight}
    options |= {"ohem_threshold": recipe.ohem_threshold, "ohem_min_kept": recipe.ohem_min_kept}
    outputs = twin.train()(twin.preprocess(batch), return_aux=True)
    expected, plain = segmentation_loss(outputs, masks, **options).item(), segmentation_loss(outputs, masks).item()
    losses = []
    train(steady, images, recipe, tmp_path, progress=lambda step, loss, rate: losses.append(loss))
    assert losses == pytest.approx([expected], rel=1e-5)
    assert not changes or abs(expected - plain) > 1e-4 * plain


def test_bfloat16_is_what_the_network_computes_in(steady, images, tmp_path):
    seen = []
    steady.segmentation_head[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    train(steady, images, replace(RECIPE, iterations=1, precision="bf16"), tmp_path)
    assert seen == [torch.bfloat16]


PLAIN = Preprocess((0.5,) * 3, (0.5,) * 3)


def stream(images, preprocess=PLAIN, **changes):
    return Stream(images, None, replace(RECIPE, **changes), preprocess)


def orders(made, epochs=3):
    count = len(made.dataset)
    return [[made.index(epoch * count + i) for i in range(count)] for epoch in range(epochs)]


def test_every_epoch_has_every_image_in_an_order_of_its_own(images):
    first, second, third = orders(stream(images))
    assert sorted(first) == sorted(second) == sorted(third) == list(range(5))
    assert len({tuple(first), tuple(second), tuple(third)}) > 1
    assert orders(stream(images)) == [first, second, third] and orders(stream(images, seed=1)) != [first, second, third]


class Same:
    """One image, as many times as is asked for."""

    def __init__(self, dataset):
        self.dataset, self.labels, self.images, self.masks = dataset, dataset.labels, dataset.images, dataset.masks

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return self.dataset[0]


def test_the_augmentation_differs_from_position_to_position_and_with_the_seed(images):
    made = stream(Same(images))
    seen = [made[position][0] for position in range(10)]
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])
    assert all(torch.equal(made[i][0], seen[i]) for i in range(3))
    other = stream(Same(images), seed=1)
    assert all(not torch.equal(other[i][0], seen[i]) for i in range(3))


@pytest.mark.parametrize(
    "changes",
    [{"scale": (0.9, 0.9)}, {"rotate": 20.0}, {"blur": 1.0}, {"cat_max_ratio": 0.45}, {"photometric": False}, {"crop": (24, 24)}],
)
def test_every_number_of_the_augmentation_changes_images(images, changes):
    before, after = stream(images), stream(images, **changes)
    assert any(not torch.equal(before[i][0], after[i][0]) for i in range(12))
    assert after[0][0].shape == (3, *changes.get("crop", RECIPE.crop))


def test_what_is_filled_becomes_zero_whatever_the_order_of_the_channels(images):
    preprocess = Preprocess((100.0, 110.0, 120.0), (1.0, 1.0, 1.0), range=255, order="BGR")
    image, mask, *_ = stream(images, preprocess, crop=(96, 128), scale=(0.5, 0.5), photometric=False)[0]
    assert (mask[0] == 255).all() and (preprocess(image)[:, 0] == 0).all()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_damaged_image_is_named_in_one_line_and_leaves_no_worker(steady, images, tmp_path, workers):
    for path in images.images:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageError, match=r"'.*/train/00\d\.png' cannot be read") as caught:
        train(steady, images, RECIPE, tmp_path, workers=workers)
    assert "\n" not in str(caught.value) and not active_children()


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_no_worker_outlives_a_run(steady, images, tmp_path):
    train(steady, images, replace(RECIPE, iterations=1), tmp_path, workers=2)
    assert not active_children()


def test_a_run_goes_on_with_more_iterations(steady, images, tmp_path):
    train(steady, images, RECIPE, tmp_path)
    steps, longer = [], replace(RECIPE, iterations=3, evaluate_every=7)
    train(steady, images, longer, tmp_path, resume=True, progress=lambda step, *_: steps.append(step))
    assert steps == [3]
    with pytest.raises(WeightsError, match="after the last one of 2 iterations"):
        train(steady, images, RECIPE, tmp_path, resume=True)
    with pytest.raises(WeightsError, match=r"another run: momentum was 0\.9 and is 0\.5\. Resume"):
        train(steady, images, replace(longer, momentum=0.5), tmp_path, resume=True)


def test_a_network_with_an_activation_is_not_trained(images, tmp_path):
    net = PSPNet("test_efficientnet", None, classes=11, psp_out_channels=8, activation="softmax")
    with pytest.raises(ValueError, match="Training needs logits"):
        train(net, images, RECIPE, tmp_path)


def test_norms_over_all_processes_are_taken_out_again(net):
    own = _sync_norms(net)
    assert own and not any(module in net.modules() for module in own.values())
    for name, norm in own.items():
        assert net.get_submodule(name).running_mean is norm.running_mean
        net.set_submodule(name, norm)
    assert all(module in set(net.modules()) for module in own.values())


def test_norms_that_are_not_read_stay_as_they_are():
    net = PSPNet("hrnet_w18_small", None, psp_out_channels=8)
    before = {name for name, module in net.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    own = _sync_norms(net)
    kept = before - own.keys()
    assert own and all(isinstance(net.get_submodule(name), nn.SyncBatchNorm) for name in own)
    assert kept and not any(list(net.get_submodule(name).parameters()) for name in kept)


def test_an_encoder_of_one_size_is_validated_while_it_trains(tmp_path, camvid):
    from PIL import Image

    for path in (*camvid.glob("val/*.png"), *camvid.glob("valannot/*.png")):
        Image.open(path).resize((230, 226), Image.Resampling.NEAREST).save(path)
    net = PSPNet("pit_ti_224", None, classes=11, psp_out_channels=8)
    train_split, val = (open_dataset("camvid", camvid, split) for split in ("train", "val"))
    net.labels = val.labels
    recipe = replace(RECIPE, iterations=1, evaluate_every=1)
    assert train(net, train_split, recipe, tmp_path / "run", validation=val).steps == 1
    assert evaluate(net, val).protocol.crop == (224, 224)
