"""Commands as a person types them."""

import sys

import pytest

from pspnet_zoo.cli import app as cli


@pytest.fixture
def run(monkeypatch, capsys):
    """Type a command; gives (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["pspnet-zoo", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        return (exit.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def model(net, tmp_path):
    return net.save_pretrained(tmp_path / "model")
