"""The network, the predictor and training on a GPU, against the CPU. Run with -m gpu on a machine that has one."""

import copy

import numpy as np
import pytest
import torch

from pspnet_zoo import Predictor, PSPNet
from pspnet_zoo.data.labels import CAMVID

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]

HALF = [torch.float16, torch.bfloat16]


@pytest.fixture
def net():
    """A small ResNet, whose logits are of the order of one."""
    network = PSPNet("resnet18", None, classes=len(CAMVID), psp_out_channels=64).eval()
    network.labels = CAMVID
    return network


def largest_difference(a, b):
    """Relative to the largest logit."""
    return ((a.float().cpu() - b.float().cpu()).abs().max() / b.abs().max()).item()


@pytest.fixture
def without_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(97, 161), (128, 256)])
@torch.inference_mode()
def test_float32_is_the_cpus(net, without_tf32, size, memory_format):
    x = torch.randn(2, 3, *size)
    expected = net(x)
    assert largest_difference(net.cuda()(x.cuda().contiguous(memory_format=memory_format)), expected) < 1e-4


@pytest.mark.parametrize("dtype", HALF)
@torch.inference_mode()
def test_half_precision_is_near_the_cpus_float32(net, dtype):
    x = torch.randn(1, 3, 97, 161)
    expected = net(x)
    assert largest_difference(copy.deepcopy(net).to("cuda", dtype)(x.to("cuda", dtype)), expected) < 0.05
    with torch.autocast("cuda", dtype):
        assert largest_difference(net.cuda()(x.cuda()), expected) < 0.05


@torch.inference_mode()
def test_a_compiled_network_and_a_cuda_graph_give_the_same(net):
    net, x = net.cuda(), torch.randn(1, 3, 128, 256, device="cuda")
    expected = net(x)
    assert largest_difference(torch.compile(net)(x), expected) < 1e-3
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        net(x)  # warm-up outside the graph
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = net(x)
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert largest_difference(output, net(x)) < 1e-5


def test_a_batch_of_images_is_segmented_as_on_the_cpu(net, without_tf32):
    images = [np.random.default_rng(i).integers(0, 256, (96, 128, 3), np.uint8) for i in range(5)]
    expected = [prediction.mask for prediction in Predictor(net, device="cpu", fast=False).stream(images)]
    found = [prediction.mask for prediction in Predictor(net, device="cuda").stream(images, batch_size=4)]
    assert np.mean([np.mean(a == b) for a, b in zip(found, expected, strict=True)]) > 0.9999


def test_a_scaled_float16_step_lowers_the_loss_and_keeps_weights_finite(net):
    net = net.cuda().train()
    x, mask = torch.randn(4, 3, 64, 64, device="cuda"), torch.randint(len(CAMVID), (4, 64, 64), device="cuda")
    optimizer, scaler, losses = torch.optim.SGD(net.parameters(), 0.05), torch.amp.GradScaler("cuda"), []
    for _ in range(8):
        with torch.autocast("cuda", torch.float16):
            loss = torch.nn.functional.cross_entropy(net(x).float(), mask)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and all(p.isfinite().all() for p in net.parameters())


def test_onnx_runtime_on_the_gpu_gives_the_same_classes(net, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA provider")
    from pspnet_zoo import export

    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    file = Predictor(export(net, tmp_path / "net.onnx"), device="cuda")
    assert np.mean(file(image).mask == Predictor(net, device="cpu")(image).mask) > 0.999
