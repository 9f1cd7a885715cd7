"""Files that mean harm, or numbers that no network has, are refused before they cost anything."""

import json
import os
import resource
import time
import zipfile

import pytest

from pspnet_zoo import PSPNet, WeightsError, from_pretrained
from pspnet_zoo.storage.files import CONFIG_FILE, write_atomically
from pspnet_zoo.upstream.foreign import read_checkpoint


@pytest.fixture
def change(tmp_path):
    PSPNet("test_efficientnet", None, classes=3, psp_out_channels=8).save_pretrained(tmp_path)

    def changed(part, **values):
        config = json.loads((tmp_path / CONFIG_FILE).read_text())
        config[part] = {**(config[part] or {}), **values}
        (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
        return tmp_path

    return changed


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("model", {"in_channels": 100_000_000}),
        ("model", {"psp_out_channels": -1}),
        ("model", {"psp_out_channels": 0}),
        ("model", {"classes": 10**12}),
        ("model", {"classes": "many"}),
        ("model", {"aux_params": {"classes": 10**10}}),
        ("model", {"encoder_image_size": [10**9, 10**9]}),
        ("model", {"encoder_name": ["resnet18"]}),
        ("model", {"decoder_use_norm": {"type": "batchnorm", "epsilon": 1}}),
        ("preprocess", {"std": [0, 1, 1]}),
        ("preprocess", {"range": 0}),
        ("preprocess", {"max_pixels": 0}),
        ("preprocess", {"mean": "abc"}),
        ("labels", {"names": ["a", "b"], "colors": [[0, 0, 0], [1, 1, 1]]}),
    ],
)
def test_a_config_that_cannot_be_is_refused_at_once(change, part, values):
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(WeightsError, match=r"describes a network that cannot be built"):
        from_pretrained(change(part, **values))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes
    assert time.process_time() - start < 10


def test_a_config_nested_without_end_is_refused(change):
    folder = change("model")
    (folder / CONFIG_FILE).write_text("[" * 200_000)
    with pytest.raises(WeightsError, match="is not JSON"):
        from_pretrained(folder)
    (folder / CONFIG_FILE).write_text(" " * (17 << 20))
    with pytest.raises(WeightsError, match="a config has at most"):
        from_pretrained(folder)


def test_the_encoder_weights_of_smps_configs_are_no_matter(change):
    assert from_pretrained(change("model", encoder_weights="imagenet")).classes == 3


def test_a_list_in_a_config_comes_back_as_a_tuple(tmp_path):
    net = PSPNet("pit_ti_224", None, classes=2, psp_out_channels=8, encoder_image_size=(224, 256))
    loaded = from_pretrained(net.save_pretrained(tmp_path))
    assert loaded.config == net.config and loaded.config["encoder_image_size"] == (224, 256)


def test_an_archive_that_would_inflate_is_not_opened(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", bytes(50_000_000))
    with pytest.raises(WeightsError, match="bytes would inflate to 50,0"):
        read_checkpoint(path)


def test_torchs_advice_to_switch_the_safety_off_is_not_passed_on(tmp_path):
    import torch

    class Evil:
        def __reduce__(self):
            return os.system, ("echo harm",)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"asks for '(posix|nt)\.system', which is not plain data") as caught:
        read_checkpoint(tmp_path / "evil.pth")
    assert "weights_only" not in str(caught.value)


def test_a_written_file_has_the_permissions_that_the_umask_leaves(tmp_path, monkeypatch):
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask is the whole process's"))
        write_atomically(tmp_path / "file", b"x")
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640 and len(list(tmp_path.iterdir())) == 1


def test_a_link_in_the_way_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "out.png").symlink_to(tmp_path / "mine.txt")
    write_atomically(tmp_path / "out.png", b"new")
    assert (tmp_path / "mine.txt").read_text() == "mine" and not (tmp_path / "out.png").is_symlink()
