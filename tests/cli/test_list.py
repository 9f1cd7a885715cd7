"""What `pspnet-zoo list` prints."""

import re
import sys

import pytest

from pspnet_zoo.cli import app, terminal
from pspnet_zoo.zoo.registry import CHECKPOINTS


@pytest.fixture
def lines(monkeypatch, capsys):
    """The lines of `pspnet-zoo list` on a terminal of 80 columns."""
    monkeypatch.setattr(terminal.out, "_force_terminal", True)
    monkeypatch.setattr(terminal.out, "_width", 80)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["pspnet-zoo", "list", *arguments])
        with pytest.raises(SystemExit) as exit:
            app.main()
        out, err = capsys.readouterr()
        return re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines(), err, exit.value.code or 0

    return run


def test_every_name_is_whole_in_80_columns_and_no_two_rows_look_alike(lines):
    printed, _, code = lines()
    assert code == 0 and max(map(len, printed)) <= 80
    assert {line.split()[0] for line in printed[1 : 1 + len(CHECKPOINTS)]} == {row.name for row in CHECKPOINTS}
    assert len(set(printed[: 1 + len(CHECKPOINTS)])) == 1 + len(CHECKPOINTS)


def test_a_row_has_dataset_numbers_parameters_and_licence(lines):
    (line,) = [line for line in lines()[0] if line.startswith("pspnet_r101c.mmseg_cityscapes ")]
    assert line.split() == ["pspnet_r101c.mmseg_cityscapes", "Cityscapes", "79.8", "81.1", "68M", "Apache"]
    (line,) = [line for line in lines("*lite0*")[0] if line.startswith("pspnet_lite0.camvid")]
    assert re.search(r" CamVid +\d\d\.\d\*", line), "measured by this project"


def test_filters_and_order(lines):
    printed, _, _ = lines("--dataset", "ade20k", "--license", "bsd", "--sort", "parameters")
    names = [line.split()[0] for line in printed[1:-3]]
    chosen = [row for row in CHECKPOINTS if row.dataset == "ADE20K" and "BSD" in row.license]
    assert names == [row.name for row in sorted(chosen, key=lambda row: (row.parameters, row.name))] and len(names) == 5
    by_miou = [float(line.split()[2]) for line in lines("*mmseg_cityscapes*", "--sort", "miou")[0][1:-3]]
    assert by_miou[0] == max(by_miou)


@pytest.mark.parametrize("arguments", [["*zzz*"], ["--dataset", "nowhere"], ["--architectures", "*zzz*"]])
def test_nothing_found_is_an_error_that_names_the_filter(lines, arguments):
    printed, err, code = lines(*arguments)
    assert code == 2 and not printed and arguments[-1] in err
