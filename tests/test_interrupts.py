"""An interrupt waits for the end of an import that it would break, and for nothing else."""

import subprocess
import sys

import pytest

MODULE = "import signal\nsignal.raise_signal(signal.SIGINT)\nprint('whole')\n"
PROGRAM = """
import signal, time
from pspnet_zoo.interrupts import postpone

def interrupt(number, frame):
    if not postpone(number, frame):
        raise KeyboardInterrupt

signal.signal(signal.SIGINT, interrupt)
try:
    import {module}
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    ("module", "lines"),
    [("numpy", ["whole", "interrupted"]), ("torch.nn", ["whole", "interrupted"]), ("torchlike", ["interrupted"])],
)
def test_only_pytorch_and_numpy_are_imported_whole_first(tmp_path, module, lines):
    file = tmp_path / (module.replace(".", "/") + ".py")
    if file.parent != tmp_path:
        file.parent.mkdir()
        (file.parent / "__init__.py").touch()
    file.write_text(MODULE)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PROGRAM.format(module=module)}"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert run.stdout.split() == lines and not run.stderr
