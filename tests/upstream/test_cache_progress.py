"""The bar of a download needs a package that torch.hub does not ask for."""

import sys

from pspnet_zoo.upstream import cache


def test_without_rich_a_download_on_a_terminal_has_no_bar(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with cache._progress_bar("weights.pth") as progress:
        assert progress is None


def test_with_rich_a_download_on_a_terminal_has_a_bar(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with cache._progress_bar("weights.pth") as progress:
        assert progress is not None
        progress(1, 2)
