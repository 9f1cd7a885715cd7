"""Evaluation of a network on a dataset."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import Subset, TensorDataset

from pspnet_zoo import PSPNet
from pspnet_zoo.data.labels import CAMVID, CITYSCAPES, Labels
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.evaluation.evaluate import evaluate, predict_all
from pspnet_zoo.evaluation.report import prediction_saver
from pspnet_zoo.inference.protocols import PROTOCOLS, InferenceProtocol
from pspnet_zoo.inference.scores import class_scores
from pspnet_zoo.meta import Preprocess

SLIDE = InferenceProtocol(source="test", scales=(0.5, 1.0), flip=True, crop=(32, 32), stride=(21, 21), merging="semseg")


@pytest.mark.parametrize("protocol", [PROTOCOLS["whole"], SLIDE])
def test_numbers_are_those_of_every_pixel_at_once(net, camvid, protocol):
    dataset = open_dataset("camvid", camvid, "val")
    steps, saved = [], {}
    result = evaluate(net, dataset, protocol, save=saved.__setitem__, progress=steps.append)
    scores = torch.cat([class_scores(net, dataset[i][0][None], protocol) for i in range(3)])
    truth = torch.stack([dataset[i][1].as_subclass(torch.Tensor).long() for i in range(3)])
    assert result.loss == pytest.approx(F.cross_entropy(scores, truth, ignore_index=255).item(), rel=1e-5)
    counted, predicted = truth != 255, scores.argmax(1)
    right = (predicted == truth) & counted
    assert result.pixel_accuracy == pytest.approx(right.sum().item() / counted.sum().item())
    found = [right[truth == c].double().mean().item() for c in truth[counted].unique()]
    assert result.mean_accuracy == pytest.approx(sum(found) / len(found))
    car = ((predicted == 8) & counted, truth == 8)
    assert result.iou["car"] == pytest.approx(((car[0] & car[1]).sum() / (car[0] | car[1]).sum()).item())
    values = [v for v in result.iou.values() if v is not None]
    assert result.miou == pytest.approx(sum(values) / len(values)) and result.images == 3 and steps == [1, 2, 3]
    assert all(torch.equal(saved[i].long(), predicted[i]) for i in range(3))
    assert result.category_iou is None and result.category_miou is None
    assert sum(map(sum, result.confusion)) == counted.sum() and len(result.image_miou) == 3


@pytest.mark.parametrize(
    ("own", "stated", "message"),
    [
        (
            ("red", "green", "blue"),
            ("blue", "green", "red"),
            "The dataset states blue, green, red with white at 255, and the network",
        ),
        (("red", "green", "blue"), ("red", "nir"), "states red, nir with white at 255, and the network reads red, green, blue"),
        ((), ("red",), "states red with white at 255, and the network reads 3 bands with white at 255"),
    ],
)
def test_a_dataset_of_other_bands_is_refused(net, camvid, own, stated, message):
    dataset = open_dataset("camvid", camvid, "val")
    net.preprocess = Preprocess((0.5,) * 3, (0.5,) * 3, bands=own)
    dataset.preprocess = Preprocess((0.5,) * len(stated), (0.5,) * len(stated), bands=stated)
    with pytest.raises(ValueError, match=message):
        evaluate(net, dataset)


def test_the_loss_of_whole_images_is_the_cross_entropy(net, camvid):
    dataset = open_dataset("camvid", camvid, "val")
    result = evaluate(net, dataset)
    logits = torch.cat([net.predict(net.preprocess(image[None])) for image, _ in (dataset[i] for i in range(3))])
    truth = torch.stack([dataset[i][1].as_subclass(torch.Tensor).long() for i in range(3)])
    assert result.loss == pytest.approx(F.cross_entropy(logits, truth, ignore_index=255).item(), rel=1e-5)


def test_an_image_whose_scores_are_nan_is_named(net, camvid):
    dataset = open_dataset("camvid", camvid, "val")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(torch.nan)
    name = re.escape(f"'{dataset.images[0]}': ")
    with pytest.raises(FloatingPointError, match=name):
        evaluate(net, dataset)
    with pytest.raises(FloatingPointError, match=name):
        predict_all(net, dataset, PROTOCOLS["whole"], print)


def test_a_network_that_gives_ids_alone_has_no_loss(net, camvid):
    dataset = open_dataset("camvid", camvid, "val")
    wanted = evaluate(net, dataset)
    ids = PSPNet(**{**net.config, "activation": "argmax", "encoder_weights": None}).eval()
    ids.load_state_dict(net.state_dict())
    ids.labels, ids.preprocess = net.labels, net.preprocess
    result = evaluate(ids, dataset)
    assert result.loss is None and wanted.loss is not None and len(result.iou) == 11


@pytest.mark.parametrize("protocol", [PROTOCOLS["whole"], PROTOCOLS["whole_ms"]])
def test_scales_are_of_the_size_that_the_network_was_trained_at(net, camvid, protocol):
    image, _ = open_dataset("camvid", camvid, "val")[0]
    by_hand = class_scores(net, image[None], replace(protocol, scales=tuple(1.5 * s for s in protocol.scales)))
    net.preprocess = replace(net.preprocess, input_scale=1.5)
    torch.testing.assert_close(class_scores(net, image[None], protocol), by_hand)
    net.preprocess = replace(net.preprocess, max_pixels=64 * 48)
    assert not torch.allclose(class_scores(net, image[None], protocol), by_hand)


def test_a_protocol_that_says_the_size_is_not_enlarged(net, camvid):
    image, _ = open_dataset("camvid", camvid, "val")[0]
    protocol = InferenceProtocol(source="test", within=(80, 60))
    before = class_scores(net, image[None], protocol)
    net.preprocess = replace(net.preprocess, input_scale=1.5)
    assert torch.equal(class_scores(net, image[None], protocol), before)


def test_the_json_has_the_protocol_in_words_and_numbers(net, camvid):
    numbers = evaluate(net, open_dataset("camvid", camvid, "val"), SLIDE).as_json()
    assert numbers["protocol"] == "windows of 32x32, stride 21x21, probabilities averaged, scales 0.5, 1, flip"
    assert numbers["protocol_settings"]["crop"] == (32, 32) and numbers["protocol_settings"]["merging"] == "semseg"
    assert evaluate(net, open_dataset("camvid", camvid, "val")).as_json()["protocol"] == "whole image, single scale, no flip"


def test_the_network_is_left_as_it_was(net, camvid):
    net.train()
    net.freeze_encoder()
    net.decoder.pyramid.eval()
    modes = [module.training for module in net.modules()]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    evaluate(net, open_dataset("camvid", camvid, "val"))
    assert [module.training for module in net.modules()] == modes and any(modes)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    net(torch.randn(2, 3, 32, 32)).sum().backward()  # nothing of inference mode is left in it


def test_other_classes_than_the_datasets_are_refused(net, camvid):
    dataset = open_dataset("camvid", camvid, "val")
    with pytest.raises(ValueError, match="The model has 3 classes and the dataset 11"):
        evaluate(PSPNet("test_efficientnet", None, classes=3, psp_out_channels=8), dataset)
    net.labels = Labels(CAMVID.names[::-1], CAMVID.colors)
    with pytest.raises(ValueError, match="The model's classes are"):
        evaluate(net, dataset)
    with pytest.raises(ValueError, match="The model's classes are"):
        predict_all(net, dataset, SLIDE, lambda index, mask: None)


def test_a_dataset_without_a_pixel_that_counts_is_refused(net):
    class Ignored:
        labels = CAMVID

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return torch.zeros(3, 16, 16, dtype=torch.uint8), torch.full((16, 16), 255, dtype=torch.uint8)

    with pytest.raises(ValueError, match="nothing to measure"):
        evaluate(net, Ignored())


def test_an_image_without_a_pixel_that_counts_changes_nothing_but_the_number(net, camvid):
    dataset = open_dataset("camvid", camvid, "val")
    expected = evaluate(net, dataset)

    class WithIgnored:
        labels = CAMVID

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return dataset[index - 1] if index else (dataset[0][0], torch.full((48, 64), 255, dtype=torch.uint8))

    result = evaluate(net, WithIgnored())
    assert result.image_miou[0] is None and result.images == 4
    assert replace(result, images=3, image_miou=result.image_miou[1:]) == expected


class Guess(PSPNet):
    """Predicts what the green channel says; see `layout`."""

    def forward(self, x):
        green = (x[:, 1] * self.preprocess.std[1] + self.preprocess.mean[1]) * 255
        return F.one_hot(green.round().long(), 19).permute(0, 3, 1, 2).float()


def layout(root, *, absent=()):
    """Three frames of 24x40 with every labelId but the absent, and a guess that is right in half of the pixels."""
    random = np.random.default_rng(0)
    present = [i for i in range(34) if i not in {CITYSCAPES.official_ids[c] for c in absent}]
    guesses = [c for c in range(19) if c not in absent[1:]]  # the first absent class is predicted nevertheless
    for i in range(3):
        truth = random.choice(present, (24, 40)).astype(np.uint8)
        guess = random.choice(guesses, (24, 40))
        known = (random.random((24, 40)) < 0.5) & np.isin(truth, CITYSCAPES.official_ids)
        guess[known] = [CITYSCAPES.official_ids.index(t) for t in truth[known]]
        image = np.zeros((24, 40, 3), np.uint8)
        image[..., 1] = guess
        stem = f"bern_{i:06}_000019"
        for folder, name, pixels in (
            ("leftImg8bit", f"{stem}_leftImg8bit.png", image),
            ("gtFine", f"{stem}_gtFine_labelIds.png", truth),
        ):
            (root / folder / "val" / "bern").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / "val" / "bern" / name)
    return open_dataset("cityscapes", root, "val")


@pytest.mark.parametrize("absent", [(), (4, 10, 16)])  # 10 is all of the category sky; 4 is predicted
def test_class_and_category_iou_are_the_official_ones(tmp_path, absent):
    dataset = layout(tmp_path / "cityscapes", absent=absent)
    net = Guess("test_efficientnet", None, classes=19, psp_out_channels=8)
    result = evaluate(net, dataset, save=prediction_saver(dataset, tmp_path / "predictions"))
    script = f"""
import glob, json
import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as official
official.args.predictionPath, official.args.quiet, official.args.JSONOutput = {str(tmp_path / "predictions")!r}, True, False
official.args.evalInstLevelScore = False  # needs instance ids, and a function that NumPy 2.4 removed
truth = sorted(glob.glob({str(tmp_path / "cityscapes/gtFine/val/*/*_labelIds.png")!r}))
found = [official.getPrediction(official.args, t) for t in truth]
print(json.dumps(official.evaluateImgLists(found, truth, official.args)))
"""
    # in a process of its own, since the tool keeps its state in a module
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    theirs = json.loads(output.splitlines()[-1], parse_constant=lambda nan: None)
    assert result.miou == pytest.approx(theirs["averageScoreClasses"], abs=1e-9)
    assert result.category_miou == pytest.approx(theirs["averageScoreCategories"], abs=1e-9)
    assert list(result.iou.values()) == pytest.approx([theirs["classScores"][n] for n in CITYSCAPES.names], abs=1e-9)
    assert list(result.category_iou.values()) == pytest.approx(
        [theirs["categoryScores"][n] for n in CITYSCAPES.categories], abs=1e-9
    )
    assert [n for n, v in result.iou.items() if v is None] == [CITYSCAPES.names[c] for c in absent[1:]]
    assert 0.3 < result.miou < 0.5 and (not absent or result.iou[CITYSCAPES.names[absent[0]]] == 0)


def test_a_split_without_ground_truth_is_predicted(tmp_path):
    dataset = layout(tmp_path / "cityscapes")
    net = Guess("test_efficientnet", None, classes=19, psp_out_channels=8)
    expected, saved = {}, {}
    evaluate(net, dataset, save=expected.__setitem__)
    dataset.masks = ()
    predict_all(net, dataset, PROTOCOLS["whole"], saved.__setitem__)
    assert saved.keys() == expected.keys() and all(torch.equal(saved[i], expected[i]) for i in saved)


def test_large_images_are_shrunk_with_antialiasing(net, camvid):
    """Four pixels of noise become one that averages them: bilinear samples of two would keep three times the deviation."""
    seen = []
    net.preprocess = replace(net.preprocess, max_pixels=32 * 32)
    net.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    noise = torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8)
    evaluate(net, TensorDataset(noise, torch.arange(128 * 128).view(1, 128, 128) % 11))
    assert seen[0].shape[-2:] == (32, 32) and seen[0].std() < 0.3 * net.preprocess(noise[0]).std()


def test_plain_tensors_and_subsets_are_measured_like_files(net, camvid):
    dataset = open_dataset("camvid", camvid, "val")
    expected = evaluate(net, dataset)
    images, masks = (torch.stack([item[i].as_subclass(torch.Tensor) for item in dataset]) for i in (0, 1))
    assert evaluate(net, TensorDataset(images, masks.long())).confusion == expected.confusion
    part = evaluate(net, Subset(dataset, [0, 2]))
    assert part.images == 2 and part.image_miou == [expected.image_miou[0], expected.image_miou[2]]


def test_ground_truth_of_one_class_is_warned_of(net, caplog):
    masks = torch.zeros(1, 48, 64, dtype=torch.uint8)
    masks[:, :, 32:] = 255
    evaluate(net, TensorDataset(torch.zeros(1, 3, 48, 64, dtype=torch.uint8), masks))
    assert "the ground truth holds no other class than 'sky', so the mIoU says little" in caplog.text
