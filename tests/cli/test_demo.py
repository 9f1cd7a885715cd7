"""The command `pspnet-zoo demo`; the page itself is in tests/demo."""

import pytest
from typer.testing import CliRunner

from pspnet_zoo.cli.app import app


def test_the_page_is_given_what_was_typed(monkeypatch):
    page = pytest.importorskip("pspnet_zoo.demo.app", reason="needs the extra 'demo'")
    given = {}

    class Blocks:
        def close(self, verbose):
            given["closed"] = True

    monkeypatch.setattr(page, "build", lambda models, zoo: given.update(models=models, zoo=zoo) or Blocks())
    monkeypatch.setattr(page, "launch", lambda blocks, **options: given.update(options) or (None, "http://here", "http://there"))
    monkeypatch.setattr("threading.Event.wait", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    options = ["--host", "0.0.0.0", "--port", "7999", "--share", "--no-browser", "--no-zoo", "--auth", "a:b"]
    result = CliRunner().invoke(app, ["demo", *options])
    assert "http://here and http://there" in result.output and given.pop("closed")
    assert given == {
        **{"models": ["pspnet_lite0.camvid"], "zoo": False, "prevent_thread_lock": True, "auth": ("a", "b")},
        **{"server_name": "0.0.0.0", "server_port": 7999, "share": True, "inbrowser": False},
    }


def test_a_wrong_name_is_told_at_once():
    result = CliRunner().invoke(app, ["demo", "--model", "pspnet_lite1.camvid"])
    assert isinstance(result.exception, ValueError) and "pspnet_lite1" in str(result.exception)


def test_a_password_needs_a_user(monkeypatch):
    pytest.importorskip("gradio", reason="needs the extra 'demo'")
    result = CliRunner().invoke(app, ["demo", "--auth", "secret"])
    assert isinstance(result.exception, ValueError) and "USER:PASSWORD" in str(result.exception)
    assert "secret" not in str(result.exception)
