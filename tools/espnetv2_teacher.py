"""ESPNetv2, trained on Cityscapes, as a teacher of CamVid's classes: an ONNX file that `pspnet-zoo train --teacher` takes.

    python -m tools.espnetv2_teacher espnetv2_s_2.0_city_1024x512.pth espnetv2.onnx

The weights (MIT licence, 66.4 mIoU on Cityscapes claimed) are in github sacmehta/EdgeNets, model/segmentation/model_zoo/espnetv2.
Cityscapes: Cordts et al. 2016; non-commercial use. The network, Mehta et al. 2019 (arXiv 1811.11431) with the decoder of that
repository, was written anew for the keys and shapes of the file: logits differ by 6e-6 from those of the repository's, of 19.
Its probabilities of Cityscapes' classes are summed to CamVid's.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.deployment.onnx import describe, write_onnx
from pspnet_zoo.models.pyramid import pooling_matrix
from pspnet_zoo.runtimes.exported import Exported
from pspnet_zoo.storage.files import file_digest
from pspnet_zoo.zoo.checkpoints.task import IMAGENET

SHA256 = "a72d59699801c7ce8e8b89a53af9097eaaa60dc12180ecde86fd700ba1222fe8"
SIZE = 540, 720
"""Input size: CamVid's images at a scale factor of 1.5, at which it is best on val; all images of 4:3 at that size."""

CLASSES = {
    "sky": (10,),
    "building": (2, 3),  # and wall
    "pole": (5,),
    "road": (0,),
    "pavement": (1,),
    "tree": (8, 9),  # vegetation, terrain
    "signsymbol": (6, 7),  # traffic light, traffic sign
    "fence": (4,),
    "car": (13, 14, 15, 16),  # and truck, bus, train
    "pedestrian": (11,),
    "bicyclist": (12, 17, 18),  # rider, motorcycle, bicycle
}
"""Cityscapes' trainIds of each of CamVid's classes."""


class ESPNetv2(nn.Module):
    """The network of a state dict, for images of `SIZE`; it gives logarithms of the probabilities of `CLASSES`."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.state = state

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W), normalised, to (N, 11, H, W)."""
        probabilities = self.logits(image)[:, :19].softmax(dim=1)
        return torch.stack([probabilities[:, ids].sum(dim=1) for ids in CLASSES.values()], dim=1).clamp(min=1e-6).log()

    def logits(self, image: Tensor) -> Tensor:
        """(N, 20, H, W), the last for what Cityscapes ignores."""
        inputs = [image]
        for _ in range(4):
            inputs.append(F.avg_pool2d(inputs[-1], 3, stride=2, padding=1))
        maps = [self.conv_norm(image, "base_net.level1", stride=2, act=True)]
        maps.append(self.down(maps[-1], inputs[2], "base_net.level2_0"))
        x = self.down(maps[-1], inputs[3], "base_net.level3_0")
        for block in range(3):
            x = self.eesp(x, f"base_net.level3.{block}")
        maps.append(x)
        x = self.down(x, inputs[4], "base_net.level4_0")
        for block in range(7):
            x = self.eesp(x, f"base_net.level4.{block}", dilations=(1, 1, 2, 3))
        x = self.pyramid(x, "bu_dec_l1")
        for level, finer in zip((2, 3, 4), reversed(maps), strict=True):
            merge = f"merge_enc_dec_l{level}"
            weight = self.conv(finer.mean(dim=(2, 3), keepdim=True), f"{merge}.wt_layer.1").sigmoid()
            x = resize(x, finer) + weight * self.conv_norm(finer, f"{merge}.expansion_layer.cbr", names="012", act=True)
            x = self.pyramid(self.norm(x, f"bu_br_l{level}", names="01"), f"bu_dec_l{level}")
        return resize(x, image)

    def conv(self, x: Tensor, key: str, stride: int = 1, dilation: int = 1) -> Tensor:
        """A convolution that keeps the size but for its stride; groups follow from the weights."""
        weight = self.state[f"{key}.weight"]
        padding = weight.shape[-1] // 2 * dilation
        return F.conv2d(x, weight, self.state.get(f"{key}.bias"), stride, padding, dilation, x.shape[1] // weight.shape[1])

    def norm(self, x: Tensor, key: str, names: tuple[str, str] | str = ("bn", "act"), act: bool = True) -> Tensor:
        """Batch norm, and PReLU."""
        mean, var, weight, bias = (
            self.state[f"{key}.{names[0]}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = F.batch_norm(x, mean, var, weight, bias)
        return F.prelu(x, self.state[f"{key}.{names[1]}.weight"]) if act else x

    def conv_norm(
        self, x: Tensor, key: str, names: tuple[str, ...] | str = ("conv", "bn", "act"), stride: int = 1, act: bool = False
    ) -> Tensor:
        """Convolution, batch norm, and PReLU."""
        return self.norm(self.conv(x, f"{key}.{names[0]}", stride), key, (names[1], names[-1]), act)

    def eesp(self, x: Tensor, key: str, dilations: tuple[int, ...] = (1, 2, 3, 4), stride: int = 1) -> Tensor:
        """Four dilated depthwise convolutions of the reduced map, each added to the next (section 3.2)."""
        reduced = self.conv_norm(x, f"{key}.proj_1x1", act=True)
        branches = [self.conv(reduced, f"{key}.spp_dw.{i}.conv", stride, dilation) for i, dilation in enumerate(dilations)]
        summed = torch.cat([sum(branches[1 : i + 1], branches[0]) for i in range(len(branches))], dim=1)
        merged = self.conv_norm(self.norm(summed, f"{key}.br_after_cat"), f"{key}.conv_1x1_exp")
        return merged if stride == 2 else F.prelu(merged + x, self.state[f"{key}.module_act.weight"])

    def down(self, x: Tensor, image: Tensor, key: str) -> Tensor:
        """Half the size: pooling beside an EESP, and the image itself at that size (section 3.3)."""
        halves = torch.cat([F.avg_pool2d(x, 3, stride=2, padding=1), self.eesp(x, f"{key}.eesp", stride=2)], dim=1)
        shown = self.conv_norm(self.conv_norm(image, f"{key}.inp_reinf.0", act=True), f"{key}.inp_reinf.1")
        return F.prelu(halves + shown, self.state[f"{key}.act.weight"])

    def pyramid(self, x: Tensor, key: str) -> Tensor:
        """Depthwise convolutions at five scales, shuffled together."""
        x = self.conv_norm(x, f"{key}.projection_layer.cbr", names="012", act=True)
        parts = []
        for stage, tenths in enumerate((20, 15, 10, 5, 1)):
            size = [max(-(-side * tenths // 10), 5) for side in x.shape[-2:]]
            smaller = x if tenths == 10 else resize(x, size) if tenths > 10 else pool(x, size)
            part = self.conv(smaller, f"{key}.stages.{stage}")
            parts.append(part if tenths == 10 else pool(part, x.shape[-2:]) if tenths > 10 else resize(part, x))
        x = self.norm(torch.cat(parts, dim=1), f"{key}.merge_layer.0.br", names="01")
        x = x.unflatten(1, (len(parts), -1)).transpose(1, 2).flatten(1, 2)
        x = self.conv(self.conv_norm(x, f"{key}.merge_layer.2.cbr", names="012", act=True), f"{key}.merge_layer.3")
        return self.norm(x, f"{key}.br.br", names="01") if f"{key}.br.br.0.weight" in self.state else x


def resize(x: Tensor, like: Tensor | list[int]) -> Tensor:
    """Bilinearly to the size of another map."""
    size = like.shape[-2:] if isinstance(like, Tensor) else like
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def pool(x: Tensor, size: list[int] | torch.Size) -> Tensor:
    """Adaptive average pooling, as products that any runtime has."""
    height, width = x.shape[-2:]
    return pooling_matrix(size[0], height, x) @ (x @ pooling_matrix(size[1], width, x).T)


def main() -> None:
    """See the module."""
    source, target = map(Path, sys.argv[1:])
    if (found := file_digest(source, "sha256")) != SHA256:
        raise SystemExit(f"'{source}' has the sha256 {found}; it must be {SHA256}")
    network = ESPNetv2(torch.load(source, map_location="cpu", weights_only=True)).eval()
    image = torch.randn(1, 3, *SIZE)
    spec = Exported(
        input="float32",
        output="logits",
        classes=len(CLASSES),
        channels=3,
        image_size=SIZE,
        precision="float32",
        activation=None,
        labels=CAMVID,
        preprocess=replace(IMAGENET, max_pixels=SIZE[0] * SIZE[1], input_scale=1.5),
        provenance={"source": "github sacmehta/EdgeNets, espnetv2_s_2.0_city_1024x512.pth", "sha256": SHA256, "license": "MIT"},
        versions={"torch": torch.__version__},
        check={},
    )
    write_onnx(torch.export.export(network, (image,)), spec, target)
    describe(target, spec)


if __name__ == "__main__":
    main()
