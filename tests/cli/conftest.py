"""Commands as a person types them; `run` is of all tests."""

import pytest


@pytest.fixture
def model(net, tmp_path):
    return net.save_pretrained(tmp_path / "model")
