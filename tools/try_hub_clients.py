"""Run the tests of the Hub on the oldest, a middle and the newest huggingface_hub that the package declares.

    python tools/try_hub_clients.py [VERSION ...]

Each version is installed into a temporary folder that goes first on the path of this Python, which has everything else.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

VERSIONS = ("==1.20.*", "<2", "<3")
ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """See the module."""
    failed = []
    for version in sys.argv[1:] or VERSIONS:
        with tempfile.TemporaryDirectory() as folder:
            requirement = f"huggingface_hub{version}"
            subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", folder, requirement], check=True)
            path = os.pathsep.join([folder, str(ROOT)])
            show = "import huggingface_hub; print(huggingface_hub.__version__, huggingface_hub.__file__)"
            environment = {**os.environ, "PYTHONPATH": path}
            subprocess.run([sys.executable, "-c", show], env=environment, check=True)
            # what old clients' own dependencies deprecate is not for us to mend
            tests = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-W", "ignore::DeprecationWarning", "tests/hub"]
            if subprocess.run(tests, env=environment, cwd=ROOT).returncode:
                failed.append(requirement)
    sys.exit(f"Failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
