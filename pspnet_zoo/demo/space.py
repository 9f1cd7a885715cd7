"""A folder that is a Hugging Face Space: the demo, the package itself, and the networks that are not in the zoo."""

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from ..model_source import ExportedFile, Folder, parse_weights
from .models import Models

_PACKAGE = Path(__file__).parent.parent
_NEEDS = (  # of pyproject.toml, which a wheel does not have
    *("torch", "torchvision", "timm", "safetensors", "huggingface_hub", "filelock", "pillow", "numpy"),
    *("jinja2", "typer", "rich"),
)

_README = """---
title: PSPNet
emoji: 🛣️
colorFrom: indigo
colorTo: gray
sdk: gradio
sdk_version: {gradio}
python_version: "{python}"
app_file: app.py
license: apache-2.0
short_description: Segment a photo with a PSPNet
---

Segments photos with [PSPNet](https://arxiv.org/abs/1612.01105). Code: Apache-2.0. The bundled weights `pspnet_lite0.camvid` were
trained on CamVid and are for research and non-commercial use; example photos are from mapillary/OpenSfM (BSD-2-Clause).

Publish this folder: `hf upload --repo-type space YOU/NAME . .`
"""

_APP = '''"""The Space: the page of `pspnet-zoo demo`."""

from pathlib import Path

from pspnet_zoo.demo.app import build, launch

HERE = Path(__file__).parent

page = build({models}, zoo=False)

if __name__ == "__main__":
    launch(page)
'''


def write(folder: Path, models: Sequence[str]) -> None:
    """Write a Space that offers these networks, and no others: a visitor should not fill its disk.

    Args:
        folder: Must not exist, or be empty.
        models: Names of the zoo and repositories, which the Space fetches itself; folders and files, which are copied.

    Raises:
        ValueError: If a name is unknown, or two copies would have one name.
        FileExistsError: If the folder holds something.
    """
    import gradio

    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"'{folder}' is not empty; name a new folder")
    Models(models, zoo=False)  # refuses unknown names
    paths = [Path(name) for name in models if isinstance(parse_weights(name), ExportedFile | Folder)]
    if len({path.name for path in paths}) < len(paths):
        raise ValueError(f"{', '.join(map(str, paths))}: two have the same name; rename one")
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for name in models:
        path = Path(name)
        if path not in paths:
            listed.append(repr(name))
            continue
        (folder / "models").mkdir(exist_ok=True)
        target = folder / "models" / path.name
        shutil.copytree(path, target) if path.is_dir() else shutil.copyfile(path, target)
        listed.append(f'str(HERE / "models" / {path.name!r})')
    shutil.copytree(_PACKAGE, folder / "pspnet_zoo", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "app.py").write_text(_APP.format(models=f"[{', '.join(listed)}]"))
    needs = [f"{name}=={version(name).partition('+')[0]}" for name in _NEEDS]
    (folder / "requirements.txt").write_text("\n".join(needs) + "\n")
    (folder / "README.md").write_text(_README.format(gradio=gradio.__version__, python="3.12"))
    (folder / ".gitattributes").write_text(
        "".join(f"*.{kind} filter=lfs diff=lfs merge=lfs -text\n" for kind in ("safetensors", "onnx", "jpg"))
    )
