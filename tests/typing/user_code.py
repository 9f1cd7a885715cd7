"""What users write. Pyright reads it, and each `assert_type` fails where an editor would show another type; it is never run."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from typing_extensions import assert_type

import pspnet_zoo
from pspnet_zoo import Labels, Prediction, Predictor, PSPNet, WeightsError


def build_and_train(images: Tensor, masks: Tensor) -> None:
    net = pspnet_zoo.create("pspnet_r50", encoder_weights="imagenet", classes=7, aux_head=True)
    assert_type(net, PSPNet)
    assert_type(PSPNet("resnet18", None, classes=7), PSPNet)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    loss = torch.nn.functional.cross_entropy(net(images), masks, ignore_index=255)
    loss.backward()  # pyright: ignore[reportUnknownMemberType]  # torch's own types
    optimizer.step()  # pyright: ignore[reportUnknownMemberType]
    assert_type(net.labels, Labels | None)
    net.labels = Labels(("road", "sky"), ((128, 64, 128), (70, 130, 180)))
    assert_type(net.save_pretrained("street"), Path)
    assert_type(net.push_to_hub("org/street", private=True), str)


def load() -> PSPNet:
    try:
        net = pspnet_zoo.from_pretrained("org/street@main", classes=3)
    except WeightsError as error:
        raise SystemExit(str(error)) from error
    assert_type(net, PSPNet)
    assert_type(pspnet_zoo.load(Path("street")), PSPNet)
    assert_type(PSPNet.from_pretrained("street"), PSPNet)
    assert_type(pspnet_zoo.convert("foreign.pth", like="pspnet_r50c.mmseg_cityscapes"), PSPNet)
    return net.eval()


def predict(net: PSPNet, image: Image.Image) -> dict[str, float]:
    predictor = Predictor(net, device="cpu")
    assert_type(predictor.labels, Labels)
    prediction = predictor(image)
    assert_type(prediction, Prediction)
    assert_type(prediction.labels.names, tuple[str, ...])
    road = prediction.mask == 0
    assert int(road.sum()) <= np.asarray(image).size
    assert_type(prediction.overlay(alpha=0.5, legend=True), Image.Image)
    prediction.save("mask.png")
    assert_type(Predictor("pspnet_lite0.camvid")("photo.jpg").class_fractions, dict[str, float])
    return prediction.class_fractions


def look_around() -> None:
    assert_type(pspnet_zoo.__version__, str)
    assert_type(pspnet_zoo.list_models("*r101*", pretrained=True), list[str])
    assert_type(pspnet_zoo.list_backbones("*small*"), list[str])
    row = pspnet_zoo.find_checkpoint("pspnet_lite0.camvid")
    assert_type(row.license, str)
    assert_type([metric.value for metric in row.metrics], list[float])
