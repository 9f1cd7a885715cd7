"""What converters share."""

import pytest
import torch

from pspnet_zoo.storage.files import WeightsError
from pspnet_zoo.upstream.families.renaming import complete, fold_biases, rename, reverse_bins


def test_a_key_without_a_rule_is_refused():
    with pytest.raises(WeightsError, match="'b.weight' is no key"):
        rename({"a.weight": torch.ones(1), "b.weight": torch.ones(1)}, [("a", "ours")])


def test_two_keys_with_one_meaning_are_refused():
    with pytest.raises(WeightsError, match="'b.weight' has the meaning of another key"):
        rename({"a.weight": torch.ones(1), "b.weight": torch.ones(1)}, [("[ab]", "ours")])


def test_folding_a_bias_into_the_norm_changes_nothing():
    torch.manual_seed(0)
    convolution, norm = torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4).eval()
    norm.running_mean.normal_()
    state = {f"x.0.{k}": v for k, v in convolution.state_dict().items()} | {f"x.1.{k}": v for k, v in norm.state_dict().items()}
    folded = fold_biases(state)
    assert state.keys() - folded.keys() == {"x.0.bias"}
    image = torch.randn(1, 3, 5, 5)
    expected = norm(convolution(image))
    norm.running_mean.copy_(folded["x.1.running_mean"])
    torch.testing.assert_close(norm(torch.nn.functional.conv2d(image, folded["x.0.weight"])), expected)


def test_bins_are_reversed_after_x():
    weight = torch.cat([torch.full((1, 1, 1, 1), float(i)) for i in (0, 0, 0, 6, 6, 3, 3, 2, 2, 1, 1)], dim=1)
    state = {"decoder.pyramid.fuse.0.weight": weight, "decoder.pyramid.branches.0.0.weight": torch.zeros(2, 3, 1, 1)}
    reversed_weight = reverse_bins(state)["decoder.pyramid.fuse.0.weight"]
    assert reversed_weight.flatten().tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 6, 6]


def test_missing_counters_are_added_and_halves_widened():
    state = complete(
        {
            "n.running_mean": torch.zeros(2, dtype=torch.float16),
            "m.running_mean": torch.zeros(1),
            "m.num_batches_tracked": torch.tensor(7),
        }
    )
    assert state["n.running_mean"].dtype == torch.float32
    assert state["n.num_batches_tracked"].item() == 0 and state["m.num_batches_tracked"].item() == 7
