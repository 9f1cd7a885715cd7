"""A checkpoint is saved whole, and only what can be loaded again."""

import copy
import json
import os
import random
import resource
import time

import pytest
import torch
from timm.models import adapt_input_conv
from torch import nn

from pspnet_zoo import Labels, PSPNet, WeightsError, from_pretrained
from pspnet_zoo.meta import Preprocess
from pspnet_zoo.storage.files import CONFIG_FILE, WEIGHTS_FILE, file_digest, read_safetensors
from tests.changed_json import changed


def network(names=("road", "sky"), seed=0) -> PSPNet:
    torch.manual_seed(seed)
    net = PSPNet("test_efficientnet", None, classes=len(names), psp_out_channels=8, aux_head=True).eval()
    net.labels = Labels(names)
    return net


def test_a_save_that_is_killed_between_its_files_is_refused_at_loading(tmp_path, monkeypatch):
    network().save_pretrained(tmp_path)
    replace = os.replace

    def killed(source, target):
        if str(target).endswith(CONFIG_FILE):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        network(("cat", "dog"), seed=1).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="is not the file that 'config.json' beside it was saved with"):
        from_pretrained(tmp_path)


def test_a_flipped_bit_of_the_weights_is_refused(tmp_path):
    path = network().save_pretrained(tmp_path) / WEIGHTS_FILE
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="or is damaged: its sha256 is not"):
        from_pretrained(tmp_path)


def test_a_config_without_a_digest_fits_any_weights(tmp_path):
    net = network()
    config = json.loads((net.save_pretrained(tmp_path) / CONFIG_FILE).read_text())
    assert config.pop("weights_sha256") == file_digest(tmp_path / WEIGHTS_FILE, "sha256")
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    assert from_pretrained(tmp_path).labels == net.labels


def replaced_classifier(net):
    net.segmentation_head[0] = nn.Conv2d(8, 5, 1)


def replaced_stem(net):
    stem = net.encoder.model.conv_stem
    net.encoder.model.conv_stem = nn.Conv2d(4, stem.out_channels, stem.kernel_size, stem.stride, stem.padding, bias=False)


def more_layers(net):
    net.segmentation_head.append(nn.Conv2d(2, 2, 1))


def fewer_layers(net):
    net.auxiliary_head = None


@pytest.mark.parametrize("change", [replaced_classifier, replaced_stem, more_layers, fewer_layers])
def test_a_network_that_could_not_be_loaded_again_is_not_saved(tmp_path, change):
    for net in (network(), copy.deepcopy(network()), from_pretrained(network().save_pretrained(tmp_path / "before"))):
        change(net)
        with pytest.raises(ValueError, match="could not be loaded again: .*reset_classifier"):
            net.save_pretrained(tmp_path / "net")
        assert not (tmp_path / "net").exists()


def test_labels_of_another_number_are_not_saved(tmp_path):
    net = network()
    net.labels = Labels(("a", "b", "c"))
    with pytest.raises(ValueError, match="3 labels for 2 classes"):
        net.save_pretrained(tmp_path)


def test_a_classifier_that_was_reset_is_saved_and_loaded(tmp_path):
    net = network()
    net.reset_classifier(5)
    assert from_pretrained(net.save_pretrained(tmp_path)).classes == 5
    assert from_pretrained(from_pretrained(tmp_path, classes=3).save_pretrained(tmp_path / "again")).classes == 3


def test_metrics_are_not_claimed_for_another_classifier_and_the_licence_still_holds(tmp_path):
    net = network()
    mean_iou = {"name": "miou", "value": 0.777, "dataset": "theirs", "split": "val", "protocol": "whole", "origin": "claimed"}
    net.provenance = before = {"license": "MIT", "metrics": [mean_iou]}
    tuned = from_pretrained(net.save_pretrained(tmp_path), classes=5)
    tuned.reset_classifier(4)
    assert tuned.provenance == {"start_provenance": before}
    card = (tuned.save_pretrained(tmp_path / "tuned", dataset="mine") / "README.md").read_text()
    assert "model-index" not in card and "license: mit" in card


@pytest.mark.parametrize("classes", [0, -1, 2.0, True, "7"])
def test_what_is_no_number_of_classes_is_refused(tmp_path, classes):
    net = network()
    net.save_pretrained(tmp_path)
    for refuse in (net.reset_classifier, lambda classes: from_pretrained(tmp_path, classes=classes)):
        with pytest.raises(ValueError, match=f"classes is {classes!r}; it must be a whole number of 1 or more"):
            refuse(classes)
    assert net.classes == 2


def test_a_tensor_beyond_the_range_of_half_precision_keeps_its_own(tmp_path):
    net = network()
    name = next(name for name, _ in net.named_buffers() if name.endswith("running_var"))
    net.get_buffer(name)[0] = 1e5
    loaded = from_pretrained(net.save_pretrained(tmp_path, dtype=torch.float16)).state_dict()
    for key, tensor in net.state_dict().items():
        assert torch.equal(loaded[key], tensor if key == name else tensor.half().to(tensor.dtype)), key
    stored = read_safetensors(tmp_path / WEIGHTS_FILE)
    assert [key for key, tensor in stored.items() if tensor.dtype == torch.float32] == [name]


@pytest.mark.parametrize(("before", "after"), [(3, 5), (4, 6), (1, 4), (4, 1), (1, 3), (4, 3), (6, 1), (6, 3)])
def test_the_first_convolution_is_adapted_from_any_number_of_channels(tmp_path, caplog, before, after):
    net = PSPNet("test_efficientnet", None, classes=2, psp_out_channels=8, in_channels=before).eval()
    net.preprocess = Preprocess(
        tuple(0.1 * i for i in range(before)), (0.5,) * before, bands=tuple(f"band{i}" for i in range(before))
    )
    loaded = from_pretrained(net.save_pretrained(tmp_path), in_channels=after)
    first, adapted = (n.encoder.model.conv_stem.weight for n in (net, loaded))
    places = [i % before for i in range(after)]
    torch.testing.assert_close(adapted, first.sum(1, keepdim=True) if after == 1 else first[:, places] * before / after)
    if before == 3:
        assert torch.equal(adapted, adapt_input_conv(after, first))
    assert loaded.preprocess == Preprocess(tuple(net.preprocess.mean[i] for i in places), (0.5,) * after)
    assert f"reads {before} channels" in caplog.text and "The bands band0" in caplog.text


@pytest.mark.parametrize("options", [{}, {"in_channels": 4}])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mean": []}, r"mean of its preprocess is \[\]; it must be a list of 3 numbers"),
        ({"mean": [0.5]}, r"mean of its preprocess is \[0.5\]; it must be a list of 3 numbers"),
        ({"std": [0.5] * 4}, "std of its preprocess .* it must be a list of 3 numbers"),
        ({"std": None}, "std of its preprocess is None"),
    ],
)
def test_means_of_another_number_of_channels_are_refused(tmp_path, values, message, options):
    config = json.loads((network().save_pretrained(tmp_path) / CONFIG_FILE).read_text())
    config["preprocess"] |= values
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=f"config.json' describes a network that cannot be built: {message}"):
        from_pretrained(tmp_path, **options)
    net = network()
    net.preprocess = Preprocess((0.5,), (0.5,))
    with pytest.raises(ValueError, match="preprocess is of 1 channels, and it reads 3"):
        net.save_pretrained(tmp_path)


def test_a_config_that_leaves_arguments_out_has_the_defaults(tmp_path):
    net = PSPNet("test_efficientnet", None, classes=1).eval()
    config = json.loads((net.save_pretrained(tmp_path) / CONFIG_FILE).read_text())
    config["model"] = {"encoder_name": "test_efficientnet"}
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    assert from_pretrained(tmp_path).config == net.config


def fuzz(tmp_path, seeds):
    config = json.loads((network().save_pretrained(tmp_path) / CONFIG_FILE).read_text())
    before, start, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time(), 0
    for seed in seeds:
        text = json.dumps(changed(config, random.Random(seed)))
        (tmp_path / CONFIG_FILE).write_text(text)
        try:
            from_pretrained(tmp_path)
        except WeightsError as error:
            assert str(tmp_path) in str(error), text
            refused += 1
    assert refused > len(seeds) / 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
    assert time.process_time() - start < 1.5 * len(seeds)


def test_a_hundred_changed_configs_are_loaded_or_refused_by_name(tmp_path):
    fuzz(tmp_path, range(100))


@pytest.mark.slow
def test_thousands_of_changed_configs_are_loaded_or_refused_by_name(tmp_path):
    fuzz(tmp_path, range(100, 2100))


def test_no_checkpoint_is_written_beside_an_exported_network_that_would_be_loaded_in_its_place(tmp_path):
    (tmp_path / "model.xml").write_text("<net/>")
    with pytest.raises(ValueError, match=r"model\.xml' is an exported network, .* choose another folder"):
        network().save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.xml"]
