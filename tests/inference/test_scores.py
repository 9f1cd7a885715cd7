"""The one way from an image to ids."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pspnet_zoo import Predictor, PSPNet
from pspnet_zoo.data.labels import Labels, distinct_colors
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.evaluation.evaluate import evaluate
from pspnet_zoo.evaluation.report import worst_and_best
from pspnet_zoo.inference.protocols import PROTOCOLS, InferenceProtocol
from pspnet_zoo.inference.scores import (
    as_logits,
    check_protocol,
    class_ids,
    class_probabilities,
    class_scores,
    decided,
    labels_of,
    protocol_for,
    size_factor,
    stored,
    with_background,
)
from pspnet_zoo.meta import Decision, Preprocess
from pspnet_zoo.models.heads import make_activation
from pspnet_zoo.training.log import _example


def labels(count):
    return Labels(tuple(f"class {i}" for i in range(count)), distinct_colors(count))


def network(classes=3, encoder="test_efficientnet", max_pixels=10**6, input_scale=1.0, dtype=torch.float32, **options):
    net = PSPNet(encoder, None, classes=classes, psp_out_channels=8, **options)
    nn.init.normal_(net.segmentation_head[0].weight)
    net.preprocess = replace(net.preprocess, max_pixels=max_pixels, input_scale=input_scale)
    net.labels = labels(classes)
    return net.to(dtype)


CASES = {
    "plain": {},
    "one class": {"classes": 1},
    "one class after a sigmoid": {"classes": 1, "activation": "sigmoid"},
    "probabilities": {"activation": "softmax2d"},
    "ids": {"activation": "argmax"},
    "half as precise": {"dtype": torch.bfloat16},
    "shrunk": {"max_pixels": 30 * 40},
    "enlarged": {"input_scale": 1.5},
    "shrunk, one class": {"max_pixels": 30 * 40, "classes": 1},
    "logits at the encoder's stride": {"upsampling": 1},
    "no whole number of strides": {"align_corners": None},
}


@pytest.fixture
def folder(tmp_path):
    """A dataset of two images, 61x83, with three classes, and another with two."""

    def make(count, size=(61, 83)):
        random = np.random.default_rng(0)
        for kind, shape in (("images", (*size, 3)), ("masks", size)):
            (tmp_path / "val" / kind).mkdir(parents=True)
            for i in range(2):
                pixels = random.integers(0, 256 if kind == "images" else min(count, 200), shape, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "val" / kind / f"{i}.png")
        names = [f"class {i}" for i in range(count)]
        (tmp_path / "classes.txt").write_text("\n".join(names))
        return open_dataset("folder", tmp_path, "val")

    return make


@pytest.mark.parametrize("case", CASES)
def test_predictor_evaluation_training_and_report_see_the_same_ids(case, folder):
    net = network(**CASES[case]).eval()
    if net.classes == 1:
        net.labels = Labels(("class 1",), ((9, 9, 9),))
    same_ids(net, folder(max(net.classes, 2)))


def test_encoders_of_one_size_see_the_same_ids_everywhere(folder):
    same_ids(network(encoder="pit_ti_224").eval(), folder(3, size=(230, 250)))


def same_ids(net, dataset):
    pixels = [dataset[i][0].permute(1, 2, 0).numpy() for i in range(2)]
    predicted = [Predictor(net, device="cpu")(image).mask for image in pixels]
    saved = {}
    result = evaluate(net, dataset, save=lambda index, ids: saved.update({index: ids.numpy()}))
    half = next(net.parameters()).dtype == torch.bfloat16
    # a processor without bfloat16 adds in another order where images lie otherwise in memory: 2 of 5063 pixels on one
    assert all((saved[i] != predicted[i]).mean() <= (0.001 if half else 0) for i in range(2))
    predicted = [saved[i] for i in range(2)]
    assert len(np.unique(np.stack(predicted))) > 1
    truth = np.stack([dataset[i][1].numpy() for i in range(2)])
    assert result.pixel_accuracy == pytest.approx((np.stack(predicted) == truth).mean())
    seen = _example(net, dataset, 0)[:, pixels[0].shape[1] :]
    colors = np.array(dataset.labels.colors)[predicted[0]]
    assert np.abs(seen - (pixels[0] + colors) / 2).max() <= 0.5
    worst, _ = worst_and_best(net, dataset, result)
    views = {example.name: example.views[2] for example in worst}
    shown = np.asarray(views["0.png"]).astype(float)
    assert shown.shape == pixels[0].shape and np.abs(shown - (pixels[0] * 0.4 + colors * 0.6)).max() <= 0.6


@pytest.mark.parametrize("itself", [False, True])
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_windows_that_prediction_would_not_give_are_refused(factor, itself):
    net, images = network().eval(), torch.zeros(1, 3, 40, 56, dtype=torch.uint8)
    net.preprocess, net.upsamples = replace(net.preprocess, input_scale=factor), itself
    for name, protocol in PROTOCOLS.items():
        refused = protocol.crop and (itself or (factor != 1 and name == "tiles"))
        message = f"upsamples its images{' itself' * itself}, .* use the protocol 'whole'"
        with pytest.raises(ValueError, match=message) if refused else nullcontext():
            check_protocol(net, protocol)
    if itself:
        with pytest.raises(ValueError, match="upsamples its images itself"):
            class_scores(net, images, PROTOCOLS["tiles"])


def test_a_binary_network_has_its_foreground_where_the_logit_is_above_zero():
    net = network(classes=1).eval()
    images = torch.randint(0, 256, (2, 3, 40, 56), dtype=torch.uint8)
    logits = net.predict(net.preprocess(images))
    ids = class_ids(net, images)
    assert 0 < ids.float().mean() < 1 and torch.equal(ids, (logits[:, 0] > 0).long())
    torch.testing.assert_close(class_scores(net, images).softmax(1)[:, 1], logits[:, 0].sigmoid())


def test_the_labels_of_a_binary_network_begin_with_the_background():
    net = network(classes=1)
    net.labels = Labels(("road",), ((1, 2, 3),))
    assert labels_of(net) == Labels(("background", "road"), ((0, 0, 0), (1, 2, 3)))
    net.labels = Labels(("ground", "road"), ((4, 5, 6), (1, 2, 3)))
    assert labels_of(net) is net.labels and Predictor(net, device="cpu").labels is net.labels
    net.labels = labels(3)
    with pytest.raises(ValueError, match="has 2 classes and 3 labels"):
        labels_of(net)


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("activation", ["identity", "softmax", "softmax2d", "logsoftmax", "sigmoid", "tanh", "argmax"])
def test_an_activation_changes_no_id(classes, activation):
    if classes == 1 and activation not in ("identity", "sigmoid", "tanh"):
        with pytest.raises(ValueError, match="the same everywhere for one class"):
            as_logits(torch.zeros(1, 1, 2, 2), activation, classes)
        return
    logits = torch.randn(2, classes, 9, 11)
    back = as_logits(make_activation(activation)(logits), activation, classes)
    assert torch.equal(back.argmax(1), with_background(logits).argmax(1)) and back.isfinite().all()
    if activation not in ("argmax", "softmax", "softmax2d", "logsoftmax"):
        torch.testing.assert_close(back, with_background(logits), rtol=1e-4, atol=1e-4)
    elif activation != "argmax":
        torch.testing.assert_close(back, logits.log_softmax(1))


@pytest.mark.parametrize(("activation", "ends"), [("sigmoid", (0.0, 1.0)), ("tanh", (-1.0, 1.0)), ("clamp", (0.0, 1.0))])
def test_logits_of_the_ends_are_finite_and_opposite(activation, ends):
    low, high = as_logits(torch.tensor(ends).view(1, 1, 1, 2), activation, 1)[0, 1, 0].tolist()
    assert 5 < high < 20 and low == pytest.approx(-high, rel=0.05)


def test_values_that_were_cut_off_at_zero_and_one_are_told_apart_at_a_half():
    ids = as_logits(torch.tensor([0.0, 0.4, 0.6, 1.0]).view(1, 1, 2, 2), "clamp", 1).argmax(1)
    assert ids.flatten().tolist() == [0, 0, 1, 1]


def test_more_classes_than_a_byte_holds_keep_their_ids():
    net = network(classes=300).eval()
    nn.init.zeros_(net.segmentation_head[0].weight)
    net.segmentation_head[0].bias.data[299] = 1.0
    prediction = Predictor(net, device="cpu")(np.zeros((8, 9, 3), np.uint8))
    assert prediction.mask.dtype == np.uint16 and (prediction.mask == 299).all()
    assert prediction.class_fractions["class 299"] == 1
    assert np.asarray(prediction.colorize())[0, 0].tolist() == list(net.labels.colors[299])
    assert (np.asarray(prediction.overlay(1)) == np.asarray(prediction.colorize())).all()


def test_a_mask_of_many_classes_is_saved_in_16_bits(tmp_path):
    net = network(classes=300).eval()
    prediction = Predictor(net, device="cpu")(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    prediction.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert np.array_equal(np.asarray(image), prediction.mask)


@pytest.mark.parametrize(
    ("count", "kind"), [(2, torch.uint8), (255, torch.uint8), (256, torch.uint16), (2**16, torch.uint16), (2**16 + 1, torch.uint32)]
)
def test_ids_are_stored_in_the_smallest_type_that_leaves_255_for_ignored(count, kind):
    ids = stored(torch.tensor([0, count - 1]), count)
    assert ids.dtype == kind and ids.numpy().tolist() == [0, count - 1]


def test_another_number_of_labels_than_classes_is_refused():
    net = network(classes=4)
    net.labels = labels(3)
    with pytest.raises(ValueError, match="has 4 classes and 3 labels"):
        Predictor(net, device="cpu")


def test_enlarged_scores_are_compared_where_they_are_enlarged():
    scores = torch.randn(2, 5, 7, 9)
    whole = torch.nn.functional.interpolate(scores, size=(20, 31), mode="bilinear").argmax(1)
    assert torch.equal(decided(scores, (20, 31), Decision()), whole)
    assert torch.equal(decided(scores, (7, 9), Decision()), scores.argmax(1))
    assert (decided(torch.full((1, 3, 2, 2), -1e30), (4, 4), Decision()) == 0).all()


def test_an_image_is_shrunk_to_the_most_pixels_or_enlarged_up_to_them():
    most = Preprocess((0.5,) * 3, (0.5,) * 3, max_pixels=1200)
    assert size_factor(most, 30, 40) == 1 and size_factor(most, 60, 80) == 0.5
    assert size_factor(most, 60, 80, PROTOCOLS["semseg"]) == 1  # it resizes every image itself
    larger = replace(most, input_scale=2.0)
    assert size_factor(larger, 10, 10) == 2 and size_factor(larger, 60, 80) == 0.5
    assert size_factor(larger, 20, 30) == pytest.approx(2**0.5)


def test_probabilities_are_of_the_images_own_size():
    net = network(max_pixels=30 * 40).eval()
    image = torch.randint(0, 256, (1, 3, 60, 80), dtype=torch.uint8)
    probabilities = class_probabilities(net, image)
    assert probabilities.shape == (1, 3, 60, 80) and torch.allclose(probabilities.sum(1), torch.ones(()))
    assert torch.equal(probabilities.argmax(1), class_ids(net, image))


def test_every_scale_of_a_protocol_is_enlarged():
    net, seen = network(input_scale=1.5).eval(), []
    net.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    class_ids(net, torch.zeros(1, 3, 20, 40, dtype=torch.uint8), InferenceProtocol(source="test", scales=(0.5, 1.0)))
    assert seen == [(15, 30), (30, 60)]


def test_a_thin_image_is_shrunk_to_no_less_than_a_pixel():
    net = network(max_pixels=100).eval()
    for size in ((1, 4000), (4000, 1)):
        assert class_ids(net, torch.zeros(1, 3, *size, dtype=torch.uint8)).shape == (1, *size)


def test_shrinking_is_smooth():
    net = network(max_pixels=20 * 20).eval()
    seen = []
    net.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    stripes = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    stripes[..., ::2] = 255
    class_ids(net, stripes)
    grey = (seen[0][0, 0, 5:-5, 5:-5] * net.preprocess.std[0] + net.preprocess.mean[0]) * 255
    assert seen[0].shape == (1, 3, 20, 20) and (grey - 127.5).abs().max() < 35  # without antialiasing 0 or 255


def test_windows_are_no_larger_than_the_encoder_can():
    net = network(encoder="pit_ti_224")
    window = protocol_for(net, PROTOCOLS["whole"])
    assert window.crop == (224, 224) and window.stride == (150, 150) and window.scales == (1.0,)
    slide = protocol_for(net, PROTOCOLS["mmseg_slide_ms"])
    assert slide.crop == (224, 224) and slide.stride == (150, 150) and slide.within == (2049, 1025) and slide.flip
    small = InferenceProtocol(source="test", crop=(100, 224), stride=(50, 50))
    assert protocol_for(net, small) is small
    wide = protocol_for(net, InferenceProtocol(source="test", crop=(100, 300), stride=(50, 50)))
    assert wide.crop == (100, 224) and wide.stride == (67, 150)
    assert protocol_for(network(), PROTOCOLS["semseg"]) is PROTOCOLS["semseg"]


def test_a_network_is_left_in_its_mode():
    net = network().train()
    net.decoder.pyramid.eval()
    modes = [module.training for module in net.modules()]
    class_ids(net, torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    assert [module.training for module in net.modules()] == modes


def test_images_of_a_batch_get_their_own_ids():
    net = network(max_pixels=500).eval()
    images = torch.randint(0, 256, (3, 3, 30, 40), dtype=torch.uint8)
    together = class_ids(net, images, PROTOCOLS["whole_ms"])
    alone = torch.cat([class_ids(net, image[None], PROTOCOLS["whole_ms"]) for image in images])
    assert (together != alone).float().mean() < 0.01


@pytest.mark.parametrize("protocol", ["whole", "whole_ms", "semseg"])
def test_nan_is_an_error_and_not_the_first_class(protocol):
    net = network()
    net.segmentation_head[0].bias.data[1] = torch.nan
    with pytest.raises(FloatingPointError, match="scores are NaN.*Copy or train the weights again"):
        class_ids(net, torch.zeros(1, 3, 33, 65, dtype=torch.uint8), PROTOCOLS[protocol])


@pytest.mark.parametrize("value", [1e20, -3.4e38, float("nan"), float("inf")])
def test_values_far_outside_of_the_range_are_refused(value):
    net = PSPNet("test_resnet", None, classes=3, psp_out_channels=16)
    net.preprocess = Preprocess((0.5,) * 3, (0.5,) * 3, white=1)
    images = torch.rand(1, 3, 33, 65)
    assert class_ids(net, images).shape == (1, 33, 65)
    images[0, 1, 5, 6] = value
    with pytest.raises(FloatingPointError, match="This image has values from .* after normalisation; they must be less than 1e"):
        class_ids(net, images)


def test_anything_that_runs_a_network_has_ids():
    class Runtime:
        preprocess, labels, classes, activation, image_size = Preprocess((0.5,) * 3, (0.5,) * 3), labels(3), 3, None, (16, 16)
        device, dtype = torch.device("cpu"), torch.float32

        def __call__(self, x):
            assert x.shape == (1, 3, 16, 16)
            return x

    image = torch.randint(0, 256, (1, 3, 30, 40), dtype=torch.uint8)
    assert torch.equal(class_ids(Runtime(), image), image.argmax(1))
