"""A Hub on this machine, and the real client pointed at it."""

import json
import time

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from pspnet_zoo import PSPNet
from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.storage.files import CONFIG_FILE
from tests.storage.server import Hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The Hub. huggingface_hub reads its environment at import, which has been, so its constants are set."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("PSPNET_ZOO_CACHE", str(tmp_path / "zoo"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with Hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
        # the pauses between attempts are the client's and ours; the tests wait for none of them
        sleep = time.sleep
        monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
        huggingface_hub.close_session()
        yield hub
        huggingface_hub.close_session()


def assert_equal(loaded: PSPNet, tiny: PSPNet) -> None:
    """Same tensors bit for bit, same logits."""
    ours, theirs = loaded.state_dict(), tiny.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    x = torch.randn(1, 3, 33, 65)
    torch.testing.assert_close(loaded(x), tiny(x))


@pytest.fixture
def tiny() -> PSPNet:
    """A tiny trained-looking network with labels and provenance."""
    network = PSPNet("test_efficientnet", None, classes=len(CAMVID), psp_out_channels=8).eval()
    torch.nn.init.normal_(network.segmentation_head[0].weight)
    network.labels = CAMVID
    network.provenance = {"license": "Apache-2.0", "data": "made up"}
    return network


@pytest.fixture
def folder(tiny, tmp_path):
    return tiny.save_pretrained(tmp_path / "checkpoint")


@pytest.fixture
def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def forget_digest(folder):
    """As in a checkpoint that was saved before config.json held the digest of the weights."""
    config = json.loads((folder / CONFIG_FILE).read_text())
    config.pop("weights_sha256", None)
    (folder / CONFIG_FILE).write_text(json.dumps(config))
