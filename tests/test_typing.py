"""The types that a user's editor shows."""

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_an_installed_wheel_gives_its_types_to_strict_user_code(tmp_path):
    pyright = shutil.which("pyright", path=Path(sys.executable).parent)
    if pyright is None:
        pytest.skip("pyright is not installed; it is in the extra 'dev'")
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, ROOT], check=True)
    subprocess.run([*pip, "install", "--no-deps", *tmp_path.glob("*.whl")], check=True)
    site = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True).strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # torch and others as they are installed here
    user = tmp_path / "user"
    user.mkdir()
    shutil.copy(Path(__file__).parent / "typing" / "user_code.py", user)
    # strict names every value whose type is unknown; without py.typed, the package's stubs are missing
    (user / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict", "reportMissingTypeStubs": "error"}))
    done = subprocess.run([pyright, "--pythonpath", python], cwd=user, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "0 errors, 0 warnings" in done.stdout
