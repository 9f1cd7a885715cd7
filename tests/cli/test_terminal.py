"""What the commands show is whole and readable in 80 columns, on light and dark terminals."""

import json
import logging
import os
import re
import subprocess
import sys

import pytest
from PIL import Image
from typer.core import TyperGroup
from typer.main import get_command

from pspnet_zoo.cli import app as cli
from pspnet_zoo.cli import terminal
from pspnet_zoo.zoo.registry import find_checkpoint


def _commands(command, words=()):
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from _commands(below, (*words, name))


COMMANDS = dict(_commands(get_command(cli.app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_has_every_option_and_what_each_command_does_whole_in_80_columns(run, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(*words, "--help")
    assert code == 0 and max(map(len, out.splitlines())) <= 80 and "…" not in out
    command = COMMANDS[words]
    options = [name for p in command.params if p.param_type_name == "option" for name in (*p.opts, *p.secondary_opts)]
    assert not set(options) - set(re.findall(r"(?<!\S)-[-\w]+", out))
    if isinstance(command, TyperGroup):
        for name, below in command.commands.items():
            first = below.get_short_help_str(1000).removesuffix(".")
            assert re.search(rf"^  {name} +{re.escape(first)}\.?$", out, re.MULTILINE), name


def test_help_has_its_sections(run):
    _, out, _ = run("train", "--help")
    sections = re.split(r"^(\S.*):$", out, flags=re.MULTILINE)
    assert sections[1::2] == ["Options", "Knowledge distillation", "Settings of the recipe"]
    assert "--resume" in sections[2] and "--teacher-mapping" in sections[4] and "--ema-decay" in sections[6]


@pytest.fixture
def narrow(monkeypatch):
    """A terminal of 80 columns."""
    monkeypatch.setattr(terminal.out, "_force_terminal", True)
    monkeypatch.setattr(terminal.out, "_width", 80)


def test_addresses_are_whole_and_text_is_wrapped(run, narrow):
    row = find_checkpoint("pspnet_r101c.mmseg_cityscapes")
    _, out, _ = run("info", row.name)
    lines = out.splitlines()
    assert {line.strip() for line in lines} >= set(row.upstream.urls)
    assert max(len(line) for line in lines if "https://" not in line) <= 80
    assert "\n                  513, on 2049x1025" in out, "the second line is under the first"


def test_long_commands_are_wrapped_so_that_they_can_be_copied(run, narrow):
    _, out, _ = run("info", "pspnet_lite0.camvid")
    # a word that is longer than a line, such as a path, stays whole
    assert max(len(line) for line in out.splitlines() if "https://" not in line and len(line.split()) > 2) <= 80
    whole = out.replace(" \\\n      ", " ")
    assert re.search(r"^  pspnet-zoo train --recipe camvid .* --evaluate-every 0$", whole, re.MULTILINE)


def test_a_quoted_word_of_a_command_is_never_broken(narrow):
    words = "a long quoted word " * 3
    wrapped = terminal._wrapped_command(f"pspnet-zoo train --data 'first {words}' --model pspnet_lite0 -o 'second {words}'")
    assert f"'first {words}' \\\n" in wrapped and f"'second {words}'" in wrapped


def test_help_takes_the_width_of_the_terminal_and_no_name_of_a_python_type(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    for words in COMMANDS:
        _, out, _ = run(*words, "--help")
        assert "list[" not in out and max(map(len, out.splitlines())) <= 120
    _, out, _ = run("train", "--help")
    assert max(map(len, out.splitlines())) > 100


def test_what_is_piped_has_a_line_a_value(run):
    _, out, _ = run("info", "pspnet_r101c.mmseg_cityscapes")
    assert re.search(r"^labels +road, .*, bicycle$", out, re.MULTILINE)


def test_numbers_are_at_the_right_and_headings_as_they_are():
    table = terminal.number_table("class", "[red]x[b].jpg", title="[of] an image")
    for name, number in (("sky", "12.0%"), ("road", "3.0%")):
        table.add_row(name, number)
    with terminal.out.capture() as printed:
        terminal.out.print(table)
    text = printed.get()
    assert "[red]x[b].jpg" in text and "[of] an image" in text
    assert len({line.index("%") for line in text.splitlines() if "%" in line}) == 1


def test_an_error_before_anything_is_counted_stands_alone(run):
    assert run("data", "check", "/nowhere") == (2, "", "Error: No folder '/nowhere'\n")


def test_progress_has_no_yellow_which_is_lost_on_white():
    styles = {column.style for column in terminal.progress_bar().columns if hasattr(column, "style")}
    shown = {*styles, "progress.elapsed", "progress.remaining", "progress.download", "bar.complete", "bar.finished"}
    colours = {terminal.err.get_style(name).color for name in shown}
    assert not any(colour and colour.name in ("yellow", "bright_yellow", "white", "bright_white") for colour in colours)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä 道.png", "plain ä 道.png"),
        ("\x1b[2Jgone\x07.png", "\\x1b[2Jgone\\x07.png"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("caf\udce9.png", "caf\\udce9.png"),
        ("\x9b31m\r.png", "\\x9b31m\\r.png"),
    ],
)
def test_a_terminal_obeys_no_name(text, shown, capsys):
    terminal.say(text)
    terminal.complain(text)
    assert capsys.readouterr() == (f"{shown}\n", f"Error: {shown}\n")
    assert terminal.cell(f"[red]{text}") == f"\\[red]{shown}"


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    with terminal.progress_bar() as bar:
        task = bar.add_task(terminal.cell("[a] photos"), total=100)
        for _ in range(100):
            clock[0] += 1
            bar.advance(task)
    lines = [line for line in capsys.readouterr().err.splitlines() if " in " in line]
    assert [line.partition(" in ")[0] for line in lines] == [f"[a] photos: {n}/100" for n in (15, 30, 45, 60, 75, 90)]


def test_a_bar_that_ends_before_its_total_is_known_leaves_nothing(capsys):
    """It sets `Live.transient`: if rich renames that, this fails, and the bar stays on the screen."""
    from rich.live import Live

    assert "transient" in vars(Live())
    with pytest.raises(ValueError), terminal.progress_bar() as bar:
        bar.add_task("starting", total=None)
        raise ValueError
    assert capsys.readouterr() == ("", "")


def test_names_of_files_can_give_a_terminal_no_orders_and_no_lines():
    assert terminal.printable("two\nlines\tand") == r"two\nlines\tand"
    assert terminal.printable("a\x1b[2J\u202eb\udcff\u2028c\u2029") == r"a\x1b[2J\u202eb\udcff\u2028c\u2029"


NAME = "a\nError: 'b'\x1b[2J"
SHOWN = r"a\nError: 'b'\x1b[2J"


def test_a_name_of_a_file_stays_in_its_line_wherever_it_is_printed(run, tmp_path, caplog):
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / "data" / split / kind).mkdir(parents=True)
            Image.new("L" if kind == "masks" else "RGB", (64, 48)).save(tmp_path / "data" / split / kind / "a.png")
    (tmp_path / "data" / "train" / "images" / f"{NAME}.png").write_bytes(b"no image")
    Image.new("L", (8, 8)).save(tmp_path / "data" / "train" / "masks" / f"{NAME}.png")
    (tmp_path / "data" / "classes.json").write_text(json.dumps({"names": ["road", NAME]}))
    Image.new("RGBA", (8, 8), 0).save(tmp_path / f"{NAME}.png")
    (tmp_path / f"{NAME}.gif").write_bytes(b"no image")
    for command in (
        ("data", "check", tmp_path / "data"),
        ("predict", tmp_path, "-o", tmp_path / "out"),  # one fails, and of the other something is logged
        ("predict", tmp_path, "-o", tmp_path / f"{NAME}.gif"),
        ("rank", tmp_path, "-o", tmp_path / "r.csv"),
    ):
        code, out, err = run(*command)
        assert code == 2 and SHOWN in err and "\x1b" not in out + err, command
        assert not any(line.startswith("Error: 'b'") for line in (out + err).splitlines())


def test_what_is_logged_is_shown_with_its_traceback(capsys):
    try:
        raise ValueError("of a visitor")
    except ValueError:
        record = logging.LogRecord("pspnet_zoo", logging.ERROR, "", 1, "'%s' failed", ("a\nb",), sys.exc_info())
    terminal.LogLines().emit(record)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == r"'a\nb' failed" and lines[-1] == "ValueError: of a visitor"


def test_a_name_that_the_encoding_of_a_log_lacks_does_not_end_the_work(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "道.png")
    command = [sys.executable, "-m", "pspnet_zoo.cli", "predict", str(tmp_path), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True)
    assert done.returncode == 0 and rb"\u9053" in done.stdout


def test_a_variable_of_torchrun_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match="WORLD_SIZE is 'two' in the environment.*unset WORLD_SIZE"):
        terminal.torchrun_process()
