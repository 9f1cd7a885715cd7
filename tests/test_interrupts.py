"""An interrupt waits for the end of an import by this package, which it would break, and for nothing else."""

import subprocess
import sys

import pytest

IMPORTED = "import signal\nsignal.raise_signal(signal.SIGINT)\nprint('whole')\n"
PROGRAM = """
import signal, time
from pspnet_zoo.interrupts import postpone

def interrupt(number, frame):
    if not postpone(number, frame):
        raise KeyboardInterrupt

signal.signal(signal.SIGINT, interrupt)
try:
    exec("import imported", {"__name__": "IMPORTER"})
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(("importer", "lines"), [("pspnet_zoo.cli.train", ["whole", "interrupted"]), ("launcher", ["interrupted"])])
def test_only_what_this_package_imports_is_imported_whole_first(tmp_path, importer, lines):
    (tmp_path / "imported.py").write_text(IMPORTED)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PROGRAM.replace('IMPORTER', importer)}"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert run.stdout.split() == lines and not run.stderr


def test_a_signal_that_arrives_in_the_last_import_of_a_command_is_forgotten(tmp_path):
    """By then nobody would handle it."""
    (tmp_path / "imported.py").write_text("import signal\nsignal.raise_signal(signal.SIGTERM)\n")
    program = """
import sys, time
from pspnet_zoo.cli import app
sys.path.insert(0, sys.argv.pop())
with app._signals_as_interrupts():
    exec("import imported", {"__name__": "pspnet_zoo.cli.train"})
time.sleep(0.3)
print("whole")
"""
    run = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=50)
    assert run.stdout == "whole\n" and run.returncode == 0, run.stderr
