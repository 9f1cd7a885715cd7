"""The command `pspnet-zoo demo`; the page itself is in tests/demo."""

import pytest
from typer.testing import CliRunner

from pspnet_zoo.cli.app import app


def test_a_wrong_name_is_told_at_once():
    result = CliRunner().invoke(app, ["demo", "--model", "pspnet_lite1.camvid"])
    assert isinstance(result.exception, ValueError) and "pspnet_lite1" in str(result.exception)


def test_a_password_needs_a_user(monkeypatch):
    pytest.importorskip("gradio", reason="needs the extra 'demo'")
    result = CliRunner().invoke(app, ["demo", "--auth", "secret"])
    assert isinstance(result.exception, ValueError) and "USER:PASSWORD" in str(result.exception)
    assert "secret" not in str(result.exception)
