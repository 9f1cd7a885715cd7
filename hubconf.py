"""The zoo for torch.hub.load("OWNER/pspnet_zoo", NAME, ...); see docs/how-to/torch-hub.md.

torch.hub lists every callable here without a leading underscore; `torch.hub.help` shows its docstring.
"""

from collections.abc import Callable as _Callable
from pathlib import Path as _Path
from typing import Any as _Any

# names of imports; what `import pspnet_zoo` needs
dependencies = ["torch", "torchvision", "timm", "huggingface_hub", "safetensors", "filelock", "PIL", "numpy"]

_HELP = """PSPNet on {encoder}: {summary}.

Args:
    pretrained: False for an untrained network; True for the default weights of this architecture, in evaluation mode, with
        `.labels` (names and colours), `.preprocess` (uint8 RGB to the network's input) and `.provenance`; or the tag of other
        weights, such as {tags}; pspnet_zoo.list_models("{name}.*", pretrained=True) names all. They are in this repository or
        fetched on first use, checked and cached.
    **options: classes (another number than that of the weights re-makes the classifier and keeps the rest), in_channels,
        encoder_weights (without pretrained: "imagenet", a timm tag or a .safetensors file), aux_head, psp_dropout, and the other
        arguments of pspnet_zoo.create and pspnet_zoo.PSPNet.

Returns:
    A torch.nn.Module: (N, 3, H, W) float, normalised, any H and W, to (N, classes, H, W) logits.

Example:
    net = torch.hub.load("OWNER/pspnet_zoo", "{name}", pretrained=True, trust_repo=True)
    logits = net.predict(net.preprocess(image)[None])  # image: (3, H, W) uint8 RGB
"""


def pspnet(backbone: str = "resnet50", pretrained: bool | str = False, **options: _Any):
    """PSPNet on any timm backbone, by timm's name.

    Args:
        backbone: What follows "pspnet_" in the zoo's names: a timm model such as "resnet34" or "mobilenetv2_100", or a short form
            such as "r101c".
        pretrained: False for an untrained network, True for the architecture's weights, or their tag. There are weights for few
            backbones: pspnet_zoo.list_models(pretrained=True) names them.
        **options: classes, in_channels, encoder_weights, and the other arguments of pspnet_zoo.create and pspnet_zoo.PSPNet.

    Returns:
        A torch.nn.Module: (N, 3, H, W) float, normalised, any H and W, to (N, classes, H, W) logits.

    Example:
        net = torch.hub.load("OWNER/pspnet_zoo", "pspnet", "resnet34", classes=7, trust_repo=True)
    """
    return _create(f"pspnet_{backbone}", pretrained, options)


def _create(name: str, pretrained: bool | str, options: dict[str, _Any]):
    import pspnet_zoo

    here, loaded = _Path(__file__).resolve().parent, _Path(pspnet_zoo.__file__).resolve().parent
    if loaded.parent != here:
        # Python keeps the first copy; what this one promises would be served by the other
        raise RuntimeError(
            f"Another copy of pspnet_zoo is already imported in this process, from '{loaded}', and would be used instead of that "
            f"in '{here}'. Use that one directly, pspnet_zoo.create({name!r}), or start a new process for this one"
        )
    return pspnet_zoo.create(name, pretrained=pretrained, **options)


def _entry(name: str, encoder: str, summary: str, *tags: str) -> _Callable[..., _Any]:
    def entry(pretrained: bool | str = False, **options: _Any):
        return _create(name, pretrained, options)

    entry.__name__ = entry.__qualname__ = name
    known = " or ".join(f'"{tag}"' for tag in tags)
    entry.__doc__ = _HELP.format(name=name, encoder=encoder, summary=summary, tags=known)
    return entry


_CITYSCAPES, _ADE20K, _VOC = "mmseg_cityscapes", "mmseg_ade20k", "mmseg_voc12aug"

pspnet_lite0 = _entry("pspnet_lite0", "EfficientNet-Lite0", "small; its weights are in this repository", "camvid")
pspnet_mobilenetv2_100 = _entry("pspnet_mobilenetv2_100", "MobileNetV2", "small", _CITYSCAPES, _ADE20K)
pspnet_r18 = _entry("pspnet_r18", "ResNet-18", "light", _CITYSCAPES)
pspnet_r18c = _entry("pspnet_r18c", "ResNet-18-C", "light, deep stem of 32 channels", _CITYSCAPES, "mmseg_loveda")
pspnet_r18s = _entry("pspnet_r18s", "ResNet-18-S", "light, deep stem of 64 channels", "csail_ade20k")
pspnet_r50 = _entry("pspnet_r50", "ResNet-50", "ResNet's own 7x7 stem", _CITYSCAPES)
pspnet_r50c = _entry("pspnet_r50c", "ResNet-50-C", "deep stem of 32 channels", _CITYSCAPES, _ADE20K, _VOC)
pspnet_r50d = _entry("pspnet_r50d", "ResNet-50-D", "deep stem, pooled shortcuts", "paddleseg_cityscapes", "paddleseg_voc12aug")
pspnet_r50s = _entry("pspnet_r50s", "ResNet-50-S", "the paper's stem", "pytorchcv_ade20k", "csail_ade20k")
pspnet_r101 = _entry("pspnet_r101", "ResNet-101", "ResNet's own 7x7 stem", _CITYSCAPES)
pspnet_r101c = _entry("pspnet_r101c", "ResNet-101-C", "deep stem of 32 channels", _CITYSCAPES, _ADE20K, _VOC)
pspnet_r101d = _entry("pspnet_r101d", "ResNet-101-D", "deep stem, pooled shortcuts", "paddleseg_cityscapes", "paddleseg_voc12aug")
pspnet_r101s = _entry("pspnet_r101s", "ResNet-101-S", "the paper's stem", "pytorchcv_cityscapes", "csail_ade20k")
pspnet_resnest101e = _entry("pspnet_resnest101e", "ResNeSt-101", "split attention", _CITYSCAPES, _ADE20K)
