"""Writes the folder of a Hugging Face Space: the demo, the package itself, and the models that are not in the zoo."""

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from ..model_source import ExportedFile, Folder, parse_weights
from ..runtimes.exported import files_of
from ..storage.files import new_folder
from .models import page_predictor

_PACKAGE = Path(__file__).parent.parent
_NEEDS = (  # of pyproject.toml, which a wheel does not have
    *("torch", "torchvision", "timm", "safetensors", "huggingface_hub", "filelock", "pillow", "numpy"),
    *("jinja2", "typer", "rich"),
)
_RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "executorch": "executorch"}  # packages that run exported files

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


def write_space(folder: Path, models: Sequence[str]) -> None:
    """Write a Space that offers these models, and no others: a visitor should not fill its disk. It is whole or absent.

    Args:
        folder: Must not exist, or be empty.
        models: Names of the zoo and repositories, which the Space downloads itself; folders and exported files, which are copied.

    Raises:
        ValueError: If a name is unknown, two copies would have one name, or a model has no labels.
        WeightsError: If a folder or file cannot be loaded.
        FileNotFoundError: If a path does not exist.
        FileExistsError: If the folder holds something.
    """
    import gradio

    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"'{folder}' is not empty; name a new folder")
    sources = {name: parse_weights(name) for name in models}
    copied = {name: Path(name).resolve() for name, source in sources.items() if isinstance(source, ExportedFile | Folder)}
    if len({path.name for path in copied.values()}) < len(copied):
        raise ValueError(f"{', '.join(copied)}: two have the same name; rename one")
    for name in copied:
        page_predictor(name)  # a model that cannot be loaded here cannot be there
    with new_folder(folder) as draft:
        for name, path in copied.items():
            source = sources[name]
            files = files_of(source.path.resolve()) if isinstance(source, ExportedFile) else list(path.iterdir())
            target = draft / "models" / path.name if path.is_dir() else draft / "models"
            target.mkdir(parents=True, exist_ok=True)
            for file in files:
                if file.is_file():
                    shutil.copyfile(file, target / file.name)
        listed = [f'str(HERE / "models" / {copied[name].name!r})' if name in copied else repr(name) for name in sources]
        try:
            shutil.copytree(_PACKAGE, draft / "pspnet_zoo", ignore=shutil.ignore_patterns("__pycache__"))
        except shutil.Error as error:  # a list of all files
            raise OSError(f"'{folder}' cannot be written: {error.args[0][0][2]}. Free some space, or name another folder") from None
        (draft / "app.py").write_text(_APP.format(models=f"[{', '.join(listed)}]"))
        formats = {source.format for source in sources.values() if isinstance(source, ExportedFile)}
        needs = [*_NEEDS, *(package for format, package in _RUNTIMES.items() if format in formats)]
        pinned = [f"{name}=={version(name).partition('+')[0]}" for name in needs]
        (draft / "requirements.txt").write_text("\n".join(pinned) + "\n")
        (draft / "README.md").write_text(_README.format(gradio=gradio.__version__, python="3.12"))
        large = ("safetensors", "onnx", "data", "bin", "pte", "jpg")
        (draft / ".gitattributes").write_text("".join(f"*.{kind} filter=lfs diff=lfs merge=lfs -text\n" for kind in large))
