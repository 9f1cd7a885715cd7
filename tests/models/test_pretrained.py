"""A checkpoint is saved whole, and only what can be loaded again."""

import copy
import json
import os
import random
import resource
import time

import pytest
import torch
from torch import nn

from pspnet_zoo import Labels, PSPNet, WeightsError, from_pretrained
from pspnet_zoo.storage.files import CONFIG_FILE, WEIGHTS_FILE, file_digest
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
