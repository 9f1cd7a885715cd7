"""The upstreams' networks, written down once more: plain functions on a state dict with the upstream's own keys.

A network is defined by running it: the first forward makes the random weights that it meets, later ones use them. The arithmetic
and the rates are stated here as the upstreams' papers and configs state them, independently of the package.
"""

import pickle
from collections import OrderedDict
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F


class Weights:
    """A state dict that grows under the keys it is asked for; its values depend on the order of asking and `seed` only.

    Without a seed it has shapes only, on the meta device.
    """

    def __init__(self, seed=0, statistics=("running_mean", "running_var"), counters=True):
        self.state = OrderedDict()
        self.random = None if seed is None else torch.Generator().manual_seed(seed)
        self.statistics, self.counters = statistics, counters

    def uniform(self, key, shape, low, high):
        if key not in self.state:
            if self.random is None:
                self.state[key] = torch.empty(shape, device="meta")
            else:
                self.state[key] = torch.empty(shape).uniform_(low, high, generator=self.random)
        return self.state[key]

    def conv(self, x, key, out, kernel=1, stride=1, rate=1, groups=1, bias=False):
        shape = (out, x.shape[1] // groups, kernel, kernel)
        bound = (6 / (shape[1] * kernel**2)) ** 0.5
        weight = self.uniform(f"{key}.weight", shape, -bound, bound)
        offset = self.uniform(f"{key}.bias", (out,), -0.5, 0.5) if bias else None
        return F.conv2d(x, weight, offset, stride, rate * (kernel // 2), rate, groups)

    def norm(self, x, key, low=0.7, high=1.3):
        channels = (x.shape[1],)
        gamma, beta = self.uniform(f"{key}.weight", channels, low, high), self.uniform(f"{key}.bias", channels, -0.3, 0.3)
        mean = self.uniform(f"{key}.{self.statistics[0]}", channels, -0.3, 0.3)
        variance = self.uniform(f"{key}.{self.statistics[1]}", channels, 0.5, 2)
        if self.counters:
            self.state.setdefault(f"{key}.num_batches_tracked", torch.tensor(40000))
        column = (1, -1, 1, 1)
        y = (x - mean.view(column)) / (variance.view(column) + 1e-5).sqrt()
        return y * gamma.view(column) + beta.view(column)


def resnet(w, x, stem, layer, *, blocks, first_rates, rates, strides=(1, 2, 1, 1), basic_second_rates=None, pooled_shortcut=False):
    """Features of the four stages.

    stem: (conv key, norm key, channels, kernel) each, the first at stride 2. layer: from (stage, block, "1" "2" "3" or "s") to the
    keys of convolution and norm. first_rates, rates: of the first 3x3 of the first block of each stage, and of the other blocks.
    basic_second_rates: makes basic blocks, with these rates of their second 3x3.
    """
    for i, (conv, norm, channels, kernel) in enumerate(stem):
        x = w.norm(w.conv(x, conv, channels, kernel, stride=2 if i == 0 else 1), norm).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    features = []
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = strides[stage] if block == 0 else 1
            rate = (first_rates if block == 0 else rates)[stage]
            width = 64 * 2**stage

            def step(y, part, out, kernel=1, stride=1, rate=1, low=0.7, high=1.3, key=(stage, block)):
                conv, norm = layer(*key, part)
                return w.norm(w.conv(y, conv, out, kernel, stride, rate), norm, low, high)

            if basic_second_rates:
                out = width
                y = step(x, "1", width, 3, stride, rate).relu()
                y = step(y, "2", width, 3, 1, basic_second_rates[stage], 0.15, 0.4)
            else:
                out = 4 * width
                y = step(x, "1", width).relu()
                y = step(y, "2", width, 3, stride, rate).relu()
                y = step(y, "3", out, low=0.15, high=0.4)
            shortcut = x
            if block == 0 and (stride > 1 or x.shape[1] != out or stage > 0):
                if pooled_shortcut:
                    shortcut = F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else x
                    shortcut = step(shortcut, "s", out)
                else:
                    shortcut = step(x, "s", out, stride=stride)
            x = (y + shortcut).relu()
        features.append(x)
    return features


def inverted_residuals(w, x, conv_norm, rates):
    """The stages of MobileNetV2; conv_norm: from (stage, block, index of the convolution) to keys; rates: from (stage, block)."""
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 1), (6, 96, 3, 1), (6, 160, 3, 1), (6, 320, 1, 1)]
    features, firsts = [], []
    for stage, (expand, channels, count, stride) in enumerate(stages):
        for block in range(count):
            index, y, width = 0, x, expand * x.shape[1]
            if expand > 1:
                conv, norm = conv_norm(stage, block, index)
                y = F.relu6(w.norm(w.conv(y, conv, width), norm))
                index += 1
            conv, norm = conv_norm(stage, block, index)
            y = F.relu6(w.norm(w.conv(y, conv, width, 3, stride if block == 0 else 1, rates(stage, block), width), norm))
            conv, norm = conv_norm(stage, block, index + 1)
            y = w.norm(w.conv(y, conv, channels), norm, 0.3, 0.6)
            x = x + y if block else y
            if block == 0:
                firsts.append(x)
        features.append(x)
    return features, firsts


def pyramid(w, x, branch, fuse, classifier, *, order, width, out, classes, align_corners, bias=False):
    """The classifier's map. branch: from a bin to the keys of convolution and norm; order: the bins as they are concatenated."""
    parts = [x]
    for cells in order:
        conv, norm = branch(cells)
        y = w.norm(w.conv(F.adaptive_avg_pool2d(x, cells), conv, width, bias=bias), norm).relu()
        parts.append(F.interpolate(y, x.shape[-2:], mode="bilinear", align_corners=align_corners))
    y = w.norm(w.conv(torch.cat(parts, dim=1), fuse[0], out, 3, bias=bias), fuse[1]).relu()
    return w.conv(y, classifier, classes, bias=True)


def auxiliary(w, x, keys, width, classes, bias=False):
    conv, norm, classifier = keys
    return w.conv(w.norm(w.conv(x, conv, width, 3, bias=bias), norm).relu(), classifier, classes, bias=True)


def torchvision_layer(prefix):
    def layer(stage, block, part):
        base = f"{prefix}layer{stage + 1}.{block}"
        return (f"{base}.downsample.0", f"{base}.downsample.1") if part == "s" else (f"{base}.conv{part}", f"{base}.bn{part}")

    return layer


def deep_stem(prefix, widths, numbers=((0, 1), (3, 4), (6, 7))):
    return [(f"{prefix}{c}", f"{prefix}{n}", width, 3) for (c, n), width in zip(numbers, widths, strict=True)]


CONTRACTED = {"first_rates": (1, 1, 1, 2), "rates": (1, 1, 2, 4)}
UNIFORM = {"first_rates": (1, 1, 2, 4), "rates": (1, 1, 2, 4)}
R50, R101, R18 = (3, 4, 6, 3), (3, 4, 23, 3), (2, 2, 2, 2)


def mmseg_heads(w, features, classes, *, align_corners, width=512, out=512, aux_width=256):
    def branch(cells):
        base = f"decode_head.psp_modules.{(1, 2, 3, 6).index(cells)}.1"
        return f"{base}.conv", f"{base}.bn"

    logits = pyramid(
        w,
        features[-1],
        branch,
        ("decode_head.bottleneck.conv", "decode_head.bottleneck.bn"),
        "decode_head.conv_seg",
        order=(1, 2, 3, 6),
        width=width,
        out=out,
        classes=classes,
        align_corners=align_corners,
    )
    keys = ("auxiliary_head.convs.0.conv", "auxiliary_head.convs.0.bn", "auxiliary_head.conv_seg")
    return logits, auxiliary(w, features[-2], keys, aux_width, classes)


def mmseg_resnet(w, x, *, blocks, deep, classes, align_corners, d32=False):
    stem = deep_stem("backbone.stem.", (32, 32, 64)) if deep else [("backbone.conv1", "backbone.bn1", 64, 7)]
    strides = (1, 2, 2, 2) if d32 else (1, 2, 1, 1)
    basic = {"basic_second_rates": (1, 1, 1, 1)} if blocks is R18 else {}
    features = resnet(w, x, stem, torchvision_layer("backbone."), blocks=blocks, strides=strides, **CONTRACTED, **basic)
    widths = {"width": 128, "out": 128, "aux_width": 64} if blocks is R18 else {}
    return mmseg_heads(w, features, classes, align_corners=align_corners, **widths)


def mmseg_mobilenet(w, x, *, classes):
    def conv_norm(stage, block, index):
        base = f"backbone.layer{stage + 1}.{block}.conv.{index}"
        return f"{base}.conv", f"{base}.bn"

    x = F.relu6(w.norm(w.conv(x, "backbone.conv1.conv", 32, 3, 2), "backbone.conv1.bn"))
    features, _ = inverted_residuals(w, x, conv_norm, lambda stage, block: 1 if block else (1, 1, 1, 2, 2, 4, 4)[stage])
    return mmseg_heads(w, [features[4], features[6]], classes, align_corners=False)


def mmseg_resnest101(w, x, *, classes):
    for i, width in zip((0, 3, 6), (64, 64, 128), strict=True):
        x = w.norm(w.conv(x, f"backbone.stem.{i}", width, 3, 2 if i == 0 else 1), f"backbone.stem.{i + 1}").relu()
    x = F.max_pool2d(x, 3, 2, 1)
    features = []
    for stage, count in enumerate(R101):
        for block in range(count):
            base, width = f"backbone.layer{stage + 1}.{block}", 64 * 2**stage
            stride = 2 if stage == 1 and block == 0 else 1
            rate = (CONTRACTED["rates"] if block else CONTRACTED["first_rates"])[stage]
            y = w.norm(w.conv(x, f"{base}.conv1", width), f"{base}.bn1").relu()
            y = w.norm(w.conv(y, f"{base}.conv2.conv", 2 * width, 3, 1, rate, groups=2), f"{base}.conv2.bn0").relu()
            splits = y.unflatten(1, (2, width))
            gap = splits.sum(1).mean((2, 3), keepdim=True)
            gate = w.norm(w.conv(gap, f"{base}.conv2.fc1", max(width * 2 // 4, 32), bias=True), f"{base}.conv2.bn1").relu()
            gate = w.conv(gate, f"{base}.conv2.fc2", 2 * width, bias=True).unflatten(1, (2, width)).softmax(1)
            y = (splits * gate).sum(1)
            if stride > 1:
                y = F.avg_pool2d(y, 3, stride, 1)
            y = w.norm(w.conv(y, f"{base}.conv3", 4 * width), f"{base}.bn3", 0.15, 0.4)
            if block == 0:
                x = F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else x
                x = w.norm(w.conv(x, f"{base}.downsample.1", 4 * width), f"{base}.downsample.2")
            x = (y + x).relu()
        features.append(x)
    return mmseg_heads(w, features, classes, align_corners=False)


def semseg(w, x, *, blocks, classes):
    stem = deep_stem("module.layer0.", (64, 64, 128))
    features = resnet(w, x, stem, torchvision_layer("module."), blocks=blocks, **UNIFORM)

    def branch(cells):
        base = f"module.ppm.features.{(1, 2, 3, 6).index(cells)}"
        return f"{base}.1", f"{base}.2"

    logits = pyramid(
        w,
        features[-1],
        branch,
        ("module.cls.0", "module.cls.1"),
        "module.cls.4",
        order=(1, 2, 3, 6),
        width=512,
        out=512,
        classes=classes,
        align_corners=True,
    )
    return logits, auxiliary(w, features[-2], ("module.aux.0", "module.aux.1", "module.aux.4"), 256, classes)


def pytorchcv(w, x, *, blocks, classes):
    stem = [
        (f"backbone.init_block.conv{i}.conv", f"backbone.init_block.conv{i}.bn", width, 3)
        for i, width in ((1, 64), (2, 64), (3, 128))
    ]

    def layer(stage, block, part):
        base = f"backbone.stage{stage + 1}.unit{block + 1}"
        base = f"{base}.identity_conv" if part == "s" else f"{base}.body.conv{part}"
        return f"{base}.conv", f"{base}.bn"

    features = resnet(w, x, stem, layer, blocks=blocks, **CONTRACTED)

    def branch(cells):
        base = f"pool.branches.branch{(1, 2, 3, 6).index(cells) + 2}.conv"
        return f"{base}.conv", f"{base}.bn"

    logits = pyramid(
        w,
        features[-1],
        branch,
        ("final_block.conv1.conv", "final_block.conv1.bn"),
        "final_block.conv2",
        order=(1, 2, 3, 6),
        width=512,
        out=512,
        classes=classes,
        align_corners=True,
    )
    return logits, auxiliary(w, features[-2], ("aux_block.conv1.conv", "aux_block.conv1.bn", "aux_block.conv2"), 256, classes)


def paddleseg(w, x, *, blocks, classes):
    stem = [(f"backbone.conv1_{i}._conv", f"backbone.conv1_{i}._batch_norm", width, 3) for i, width in ((1, 32), (2, 32), (3, 64))]

    def layer(stage, block, part):
        base = f"backbone.bb_{stage}_{block}.{'short' if part == 's' else f'conv{int(part) - 1}'}"
        return f"{base}._conv", f"{base}._batch_norm"

    features = resnet(w, x, stem, layer, blocks=blocks, pooled_shortcut=True, **UNIFORM)

    def branch(cells):
        base = f"head.psp_module.stages.{(1, 2, 3, 6).index(cells)}.1"
        return f"{base}._conv", f"{base}._batch_norm"

    logits = pyramid(
        w,
        features[-1],
        branch,
        ("head.psp_module.conv_bn_relu2._conv", "head.psp_module.conv_bn_relu2._batch_norm"),
        "head.conv",
        order=(6, 3, 2, 1),
        width=512,
        out=1024,
        classes=classes,
        align_corners=False,
        bias=True,
    )
    base = "head.auxlayer"
    keys = (f"{base}.conv_bn_relu._conv", f"{base}.conv_bn_relu._batch_norm", f"{base}.conv")
    return logits, auxiliary(w, features[-2], keys, 256, classes, bias=True)


def ptsemseg(w, x, *, blocks, classes):
    def unit(name, kind="cbr"):
        return f"module.{name}.{kind}_unit.0", f"module.{name}.{kind}_unit.1"

    stem = [(*unit(f"convbnrelu1_{i}"), width, 3) for i, width in ((1, 64), (2, 64), (3, 128))]

    def layer(stage, block, part):
        base = f"res_block{stage + 2}.layers.{block}"
        name, kind = {"1": ("cbr1", "cbr"), "2": ("cbr2", "cbr"), "3": ("cb3", "cb"), "s": ("cb4", "cb")}[part]
        return unit(f"{base}.{name}", kind)

    features = resnet(w, x, stem, layer, blocks=blocks, **UNIFORM)
    logits = pyramid(
        w,
        features[-1],
        lambda cells: unit(f"pyramid_pooling.path_module_list.{(6, 3, 2, 1).index(cells)}"),
        unit("cbr_final"),
        "module.classification",
        order=(6, 3, 2, 1),
        width=512,
        out=512,
        classes=classes,
        align_corners=True,
    )
    return logits, auxiliary(w, features[-2], (*unit("convbnrelu4_aux"), "module.aux_cls"), 256, classes)


def segmentron(w, x, *, blocks, classes):
    stem = [("encoder.conv1", "encoder.bn1", 64, 7)]
    features = resnet(w, x, stem, torchvision_layer("encoder."), blocks=blocks, **CONTRACTED)
    w.uniform("encoder.fc.weight", (1000, 2048), -0.1, 0.1)
    w.uniform("encoder.fc.bias", (1000,), -0.1, 0.1)

    def branch(cells):
        base = f"head.psp.convs.{(1, 2, 3, 6).index(cells)}"
        return f"{base}.conv", f"{base}.bn"

    logits = pyramid(
        w,
        features[-1],
        branch,
        ("head.block.0", "head.block.1"),
        "head.block.4",
        order=(1, 2, 3, 6),
        width=512,
        out=512,
        classes=classes,
        align_corners=True,
    )
    return logits, auxiliary(w, features[-2], ("auxlayer.block.0", "auxlayer.block.1", "auxlayer.block.4"), 256, classes)


def csail_heads(w, last, before, dim):
    def branch(cells):
        base = f"decoder.ppm.{(1, 2, 3, 6).index(cells)}"
        return f"{base}.1", f"{base}.2"

    logits = pyramid(
        w,
        last,
        branch,
        ("decoder.conv_last.0", "decoder.conv_last.1"),
        "decoder.conv_last.4",
        order=(1, 2, 3, 6),
        width=512,
        out=512,
        classes=150,
        align_corners=False,
    )
    keys = ("decoder.cbr_deepsup.0", "decoder.cbr_deepsup.1", "decoder.conv_last_deepsup")
    for key in [key for key in w.state if key.endswith("running_mean")]:
        base = key.removesuffix("running_mean")
        for scratch in ("_tmp_running_mean", "_tmp_running_var"):
            w.uniform(base + scratch, w.state[key].shape, 0, 1)
        w.uniform(base + "_running_iter", (1,), 0, 1)
    return logits, auxiliary(w, before, keys, dim // 4, 150)


def csail_resnet(w, x, *, blocks):
    stem = [(f"encoder.conv{i}", f"encoder.bn{i}", width, 3) for i, width in ((1, 64), (2, 64), (3, 128))]
    # both convolutions of a basic block take its rate; the strided one that of the stage before
    basic = {"basic_second_rates": (1, 1, 2, 4)} if blocks is R18 else {}
    features = resnet(w, x, stem, torchvision_layer("encoder."), blocks=blocks, **CONTRACTED, **basic)
    return csail_heads(w, features[-1], features[-2], features[-1].shape[1])


def csail_mobilenet(w, x):
    first = (1, 2, 4, 7, 11, 14, 17)

    def conv_norm(stage, block, index):
        base = f"encoder.features.{first[stage] + block}.conv"
        return f"{base}.{3 * index}", f"{base}.{3 * index + 1}"

    def rates(stage, block):  # the once strided convolutions of features 7 and 14 take half the rate
        return {3: 2 if block else 1, 4: 2, 5: 4 if block else 2, 6: 4}.get(stage, 1)

    x = F.relu6(w.norm(w.conv(x, "encoder.features.0.0", 32, 3, 2), "encoder.features.0.1"))
    features, firsts = inverted_residuals(w, x, conv_norm, rates)
    return csail_heads(w, features[6], firsts[5], 320)


CLASSES = {
    "cityscapes": 19,
    "segmentron": 19,
    "ade20k": 150,
    "pascal_context_59": 59,
    "pascal_context": 60,
    "coco-stuff": 171,
    "voc": 21,
    "coco": 21,
    "loveda": 7,
    "potsdam": 6,
    "vaihingen": 6,
    "isaid": 16,
}
"""By a word of the id, the more special first."""


def reference(id):
    """The network of an upstream's id: from (weights, x) to the classifiers' maps, main and auxiliary, before the last resize."""
    classes = next(count for word, count in CLASSES.items() if word in id.lower())
    blocks = R18 if "r18" in id or "resnet18" in id else R101 if "101" in id else R50
    if id.startswith("csail"):
        return csail_mobilenet if "mobilenet" in id else partial(csail_resnet, blocks=blocks)
    for name, network in (("semseg_", semseg), ("paddleseg_", paddleseg), ("ptsemseg_", ptsemseg), ("pspnet_resnetd", pytorchcv)):
        if id.startswith(name):
            return partial(network, blocks=blocks, classes=classes)
    if id.endswith("segmentron"):
        return partial(segmentron, blocks=blocks, classes=classes)
    if id.startswith("pspnet_m-v2"):
        return partial(mmseg_mobilenet, classes=classes)
    if id.startswith("pspnet_s101"):
        return partial(mmseg_resnest101, classes=classes)
    return partial(
        mmseg_resnet,
        blocks=R101 if "r101" in id else blocks if "r18" in id else R50,
        deep=not ("rsb" in id or "b-d" in id),
        classes=classes,
        align_corners="769x769" in id,
        d32="-d32" in id,
    )


def random_weights(id, seed=0):
    """The upstream's state dict of random weights; with seed None of shapes only."""
    weights = Weights(
        seed,
        statistics=("_mean", "_variance") if id.startswith("paddleseg") else ("running_mean", "running_var"),
        counters=not id.startswith(("paddleseg", "ptsemseg")),
    )
    with torch.no_grad():
        reference(id)(weights, torch.zeros(1, 3, 65, 65, device="cpu" if weights.random else "meta"))
    return weights


def write_checkpoint(id, state, folder, *, zipped=False, config=None):
    """The file or files as the upstream publishes them, without its hash in the name. Returns the first one's path."""
    options = {"_use_new_zipfile_serialization": zipped}
    if id.startswith("paddleseg"):
        arrays = {key: value.numpy() for key, value in state.items()}
        content = pickle.dumps({**arrays, "StructuredToParameterName@@": dict.fromkeys(arrays, "name")}, protocol=3)
        (folder / "model.pdparams").write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
        return folder / "model.pdparams"
    if id.startswith("csail"):
        for part in ("decoder", "encoder"):
            path = folder / f"{part}_epoch_20.pth"
            own = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
            torch.save(own, path, **options)
        return path
    path = folder / "checkpoint.pth"
    if id.startswith("semseg"):
        parameter = nn.Parameter(torch.ones(3))
        optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
        parameter.sum().backward()
        optimizer.step()
        state = {"epoch": 200, "state_dict": state, "optimizer": optimizer.state_dict()}
    elif id.startswith("ptsemseg"):
        state = {"model_state": state}
    elif id.startswith("pspnet_") and "decode_head.conv_seg.weight" in state:
        state = {"meta": {"config": config or "", "epoch": 1, "CLASSES": ("a",)}, "state_dict": state}
    torch.save(state, path, **options)
    return path
