"""Every family against its upstream's arithmetic, on random weights under the upstream's keys."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from pspnet_zoo.models.pretrained import load_tensors
from pspnet_zoo.upstream import convert
from pspnet_zoo.upstream.convert import CONVERTERS, build_network
from pspnet_zoo.upstream.families.renaming import complete
from pspnet_zoo.zoo.registry import CHECKPOINTS, find_checkpoint
from tests.upstream.families.upstream_reference import random_weights, reference, write_checkpoint


def difference(net, weights, id, size):
    """Largest difference of logits and auxiliary logits, and the logits' standard deviation."""
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = [
            F.interpolate(y, size, mode="bilinear", align_corners=net.config["align_corners"]) for y in reference(id)(weights, x)
        ]
        actual = net(x, return_aux=True)
    return [float((a - b).abs().max()) for a, b in zip(actual, expected, strict=True)], float(expected[0].std())


IDS = [
    "pspnet_r18-d8_769x769_80k_cityscapes_20201225_021458-3deefc62",
    "pspnet_r50b-d32_512x1024_80k_cityscapes_20220311_152152-23bcaf8c",
    "pspnet_r50-d8_512x1024_80k_cityscapes_20200606_112131-2376f12b",
    "pspnet_m-v2-d8_512x1024_80k_cityscapes_20200825_124817-19e81d51",
    "pspnet_s101-d8_512x1024_80k_cityscapes_20200807_140631-c75f3b99",
    "semseg_pspnet50_cityscapes",
    "pspnet_resnetd50b_ade20k",
    "paddleseg_pspnet_resnet50_os8_cityscapes_1024x512_80k",
    "ptsemseg_pspnet_50_ade20k",
    "pspnet_resnet101_segmentron",
    "csail_ade20k-resnet18dilated-ppm_deepsup",
    "csail_ade20k-resnet50dilated-ppm_deepsup",
    "csail_ade20k-mobilenetv2dilated-ppm_deepsup",
]


@pytest.mark.parametrize("id", IDS)
def test_converted_network_computes_what_the_upstream_computes(id, tmp_path):
    weights = random_weights(id)
    net = convert.convert(write_checkpoint(id, weights.state, tmp_path), like=id)
    (main, aux), spread = difference(net, weights, id, (71, 83))
    assert spread > 0.3
    assert main < 1e-3 and aux < 1e-3
    assert net.labels is not None and len(net.labels) == net.config["classes"]
    # random weights have no published digest; of other projects the name decides
    assert net.provenance.get("upstream", id) == id


WRONG = [
    ("pspnet_r18-d8_769x769_80k_cityscapes_20201225_021458-3deefc62", {"dilation": "atrous"}),
    ("pspnet_r18-d8_769x769_80k_cityscapes_20201225_021458-3deefc62", {"align_corners": False}),
    ("pspnet_r50b-d32_512x1024_80k_cityscapes_20220311_152152-23bcaf8c", {"dilation": "atrous"}),
    ("pspnet_m-v2-d8_512x1024_80k_cityscapes_20200825_124817-19e81d51", {"dilation": "atrous"}),
    ("semseg_pspnet50_cityscapes", {"dilation": "atrous"}),
    ("paddleseg_pspnet_resnet50_os8_cityscapes_1024x512_80k", {"shortcut_pool": "dilated"}),
    ("csail_ade20k-resnet18dilated-ppm_deepsup", {"dilation": "first_convolutions"}),
]


@pytest.mark.parametrize(("id", "change"), WRONG)
def test_wrong_policy_loads_and_computes_something_else(id, change):
    entry, weights = find_checkpoint(id), random_weights(id)
    net = build_network(replace(entry, upstream=replace(entry.upstream, network=replace(entry.upstream.network, **change))))
    state = {key.removeprefix("module."): value for key, value in weights.state.items()}
    load_tensors(net, complete(CONVERTERS[entry.upstream.family].to_ours(state)), "")
    (main, _), _ = difference(net.eval(), weights, id, (71, 83))
    assert main > 0.05


def test_both_generations_of_pytorchcv_names_are_the_same_network():
    id = "pspnet_resnetd50b_ade20k"
    old = random_weights(id).state
    new = {key.replace("init_block", "0").replace("stage", ""): value for key, value in old.items()}
    assert any(key.startswith("backbone.4.unit1.") for key in new)
    to_ours = CONVERTERS["pytorchcv"].to_ours
    a, b = to_ours(old), to_ours(new)
    assert a.keys() == b.keys() and all(a[key] is b[key] for key in a)


# one entry of each network: entries that differ in their numbers only have the same keys
NETWORKS = {
    (entry.architecture, entry.upstream.network): entry
    for entry in CHECKPOINTS
    if entry.upstream and not entry.upstream.same_weights_as
}


@pytest.mark.parametrize("entry", NETWORKS.values(), ids=lambda entry: entry.name)
def test_converter_gives_exactly_the_networks_tensors(entry):
    state = {key.removeprefix("module."): value for key, value in random_weights(entry.upstream.id, seed=None).state.items()}
    ours = complete(CONVERTERS[entry.upstream.family].to_ours(state))
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in build_network(entry).state_dict().items()}
