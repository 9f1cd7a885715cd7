"""Who may use the server: the token, the address, and the command's options."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from pspnet_zoo.cli.app import app
from pspnet_zoo.serve.access import VARIABLE, find_token
from pspnet_zoo.serve.limits import ServerLimits

from .conftest import image_file

TOKEN = "a-token-of-24-characters"


def test_with_a_token_only_health_and_the_description_are_open(serve):
    server = serve(token=TOKEN)
    with server.client() as client:
        for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200
        for path in ("/v1/models", "/metrics"):
            refused = client.get(path)
            assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
            assert "Authorization: Bearer" in refused.json()["detail"]
            assert client.get(path, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    for given in ("", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer", "Bearer \xe9"):
        refused = server.send(image_file(), authorization=given.encode("latin-1"))
        assert refused.status_code == 401 and TOKEN not in refused.text
    assert server.send(image_file(), authorization=f"Bearer {TOKEN}").status_code == 200
    assert server.send(b"", authorization=f"Bearer {TOKEN}").status_code == 400


def test_a_token_comes_from_the_environment_or_a_file(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert find_token(tmp_path / "token", none=False, local=False) == TOKEN
    assert find_token(None, none=False, local=True) is None
    assert find_token(None, none=True, local=False) is None
    with pytest.raises(ValueError, match=f"requests need a token: set one by {VARIABLE} or --token-file, or .* by --no-token"):
        find_token(None, none=False, local=False)
    monkeypatch.setenv(VARIABLE, TOKEN)
    assert find_token(None, none=False, local=True) == TOKEN
    for options in ({"file": tmp_path / "token", "none": False}, {"file": None, "none": True}):
        with pytest.raises(ValueError, match="in two ways"):
            find_token(options["file"], none=options["none"], local=True)


@pytest.mark.parametrize("token", ["", "short", "fifteen-letters", "with a space in it, though long", "ümlaut-ümlaut-ümlaut"])
def test_a_token_that_is_too_weak_or_cannot_be_sent_is_refused_without_being_said(monkeypatch, token):
    monkeypatch.setenv(VARIABLE, token)
    with pytest.raises(ValueError, match="16 or more ASCII characters") as error:
        find_token(None, none=False, local=True)
    assert not token or token not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["pspnet_lite0.camvdi"], "camvid"),
        (["{tiny}", "--host", "0.0.0.0"], "need a token"),
        (["{tiny}", "--workers", "0"], "workers is 0"),
        (["{tiny}", "--timeout", "0"], "seconds is 0"),
        (["{tiny}", "--max-megapixels", "0"], "pixels is 0"),
        (["{tiny}", "--queue", "-1"], "waiting is -1"),
        (["{tiny}", "--host", "192.0.2.1", "--no-token"], "cannot listen on '192.0.2.1', port 8000"),
        (["{tiny}", "--token-file", "nowhere"], "nowhere"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_at_once(tiny, monkeypatch, tmp_path, arguments, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    result = CliRunner().invoke(app, ["serve", *[argument.format(tiny=tiny) for argument in arguments]])
    assert isinstance(result.exception, ValueError | OSError) and text in str(result.exception)


def test_a_model_that_cannot_be_loaded_ends_the_server(tiny):
    command = [sys.executable, "-m", "pspnet_zoo.cli", "serve", str(tiny), "--device", "nowhere", "--port", "0"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2 and "device is 'nowhere'" in run.stderr.splitlines()[-1]


def test_the_command_hands_its_options_on(tiny, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    seen = {}
    monkeypatch.setattr("pspnet_zoo.serve.server.serve_forever", lambda *given, **options: seen.update(options, given=given))
    numbers = {"--max-megabytes": 1, "--max-megapixels": 2, "--timeout": 9, "--queue": 3, "--workers": 2, "--precision": "bfloat16"}
    words = [str(word) for pair in numbers.items() for word in pair]
    result = CliRunner().invoke(app, ["serve", str(tiny), "--port", "0", *words])
    assert result.exit_code == 0, result.output
    listener, name, load = seen["given"]
    listener.close()
    assert seen["limits"] == ServerLimits(bytes=1_000_000, pixels=2_000_000, seconds=9, waiting=3, workers=2)
    assert name == "tiny" and seen["token"] is None and load().runtime.precision == "bfloat16"


def test_a_taken_port_is_told(tiny, server):
    result = CliRunner().invoke(app, ["serve", str(tiny), "--port", str(server.port)])
    assert isinstance(result.exception, OSError) and "Choose another --host or --port" in str(result.exception)


def test_a_file_of_another_encoding_is_no_token(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    (tmp_path / "token").write_text(TOKEN, encoding="utf-16")
    with pytest.raises(ValueError, match=r"token' is not text in UTF-8; save") as error:
        find_token(tmp_path / "token", none=False, local=False)
    assert TOKEN not in str(error.value)
