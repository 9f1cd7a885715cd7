"""A Space is a folder that runs by itself."""

import errno
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from pspnet_zoo import Labels, PSPNet

gradio = pytest.importorskip("gradio", reason="needs the extra 'demo'")

from pspnet_zoo.demo import space  # noqa: E402
from pspnet_zoo.demo.models import Models  # noqa: E402
from pspnet_zoo.model_source import Format  # noqa: E402


def test_a_space_has_all_it_needs_and_starts(tmp_path):
    network = PSPNet("test_efficientnet", None, classes=2, psp_out_channels=16)
    network.labels = Labels(("road", "sky"), ((128, 64, 128), (70, 130, 180)))
    mine = network.save_pretrained(tmp_path / "mine")
    folder = tmp_path / "space"
    space.write_space(folder, [str(mine), "pspnet_lite0.camvid"])
    head = (folder / "README.md").read_text().split("---")[1]
    assert "sdk: gradio" in head and f"sdk_version: {gradio.__version__}" in head and "app_file: app.py" in head
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    dependencies = pyproject.partition("\ndependencies = [")[2].partition("\n]")[0]
    needs = re.findall(r'^    "([\w-]+)', dependencies, re.MULTILINE)
    assert [line.partition("==")[0] for line in (folder / "requirements.txt").read_text().splitlines()] == needs
    script = """
import app, pspnet_zoo
from pathlib import Path
assert Path(pspnet_zoo.__file__).is_relative_to(Path.cwd())
dropdown = next(b for b in app.page.blocks.values() if type(b).__name__ == "Dropdown")
print([label for label, _ in dropdown.choices])
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(["mine", next(label for label, name in Models(["pspnet_lite0.camvid"], zoo=False).choices)])


def test_models_are_copied_whole_whatever_their_paths_look_like(tmp_path, monkeypatch):
    pytest.importorskip("openvino", reason="needs the extra 'openvino'")
    from pspnet_zoo.deployment.export import export

    network = PSPNet("test_efficientnet", None, classes=2, psp_out_channels=16)
    network.labels = Labels(("road", "sky"))
    network.save_pretrained(tmp_path / "run.v2" / "net")
    export(network, tmp_path / "street.xml")
    monkeypatch.chdir(tmp_path / "run.v2" / "net")
    space.write_space(tmp_path / "space", [".", "../../street.xml", "org/repo"])
    copied = [file.relative_to(tmp_path / "space" / "models").as_posix() for file in (tmp_path / "space" / "models").rglob("*.*")]
    assert sorted(copied) == ["net/config.json", "net/model.safetensors", "street.bin", "street.xml"]
    assert "openvino==" in (tmp_path / "space" / "requirements.txt").read_text()
    listed = re.search(r"build\(\[(.*)\], zoo", (tmp_path / "space" / "app.py").read_text())[1]
    assert listed == "str(HERE / \"models\" / 'net'), str(HERE / \"models\" / 'street.xml'), 'org/repo'"


def test_every_format_that_a_predictor_runs_has_its_package_in_a_space():
    assert {*space._RUNTIMES, "program"} == set(get_args(Format))


@pytest.mark.slow  # half a minute
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")  # ExecuTorch's own
def test_a_space_of_an_executorch_file_has_its_runtime(tmp_path):
    pytest.importorskip("executorch.runtime", reason="needs the extra 'executorch'")
    from pspnet_zoo.deployment.export import export

    network = PSPNet("test_efficientnet", None, classes=2, psp_out_channels=16)
    network.labels = Labels(("road", "sky"))
    export(network, tmp_path / "street.pte", size=(33, 65))
    space.write_space(tmp_path / "space", [str(tmp_path / "street.pte")])
    assert "executorch==" in (tmp_path / "space" / "requirements.txt").read_text()
    assert "*.pte filter=lfs" in (tmp_path / "space" / ".gitattributes").read_text()


@pytest.mark.parametrize("name", ["../nowhere/net", "absent.onnx", "pspnet_nowhere.tag"])
def test_a_model_that_is_not_there_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises((ValueError, FileNotFoundError)):
        space.write_space(tmp_path / "space", [name])
    assert not (tmp_path / "space").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        space.write_space(tmp_path, ["pspnet_lite0.camvid"])
    assert [file.name for file in Path(tmp_path).iterdir()] == ["mine.txt"]


def test_a_space_is_whole_or_absent_on_a_full_disk(tmp_path, monkeypatch):
    copy = shutil.copyfile

    def full(source, target, **options):
        if Path(target).name != "model.safetensors":
            return copy(source, target, **options)
        Path(target).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    network = PSPNet("test_efficientnet", None, classes=2, psp_out_channels=16)
    network.labels = Labels(("road", "sky"))
    mine = network.save_pretrained(tmp_path / "mine")
    with pytest.raises(OSError, match="No space left"):
        space.write_space(tmp_path / "space", [str(mine)])
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]
    monkeypatch.undo()
    space.write_space(tmp_path / "space", [str(mine)])
    assert (tmp_path / "space" / "app.py").is_file()


def test_a_disk_that_is_full_of_the_package_is_one_line(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise shutil.Error([("a.py", "b.py", "[Errno 28] No space left on device")] * 100)

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(OSError, match=r"^'\S+space' cannot be written: \[Errno 28\] No space left on device. Free"):
        space.write_space(tmp_path / "space", ["pspnet_lite0.camvid"])
    assert not list(tmp_path.iterdir())


def test_a_network_that_the_page_refuses_is_no_space(tmp_path):
    network = PSPNet("test_efficientnet", None, classes=2, in_channels=6, psp_out_channels=16)
    network.labels = Labels(("road", "sky"))
    network.save_pretrained(tmp_path / "six")
    with pytest.raises(ValueError, match="The page"):
        space.write_space(tmp_path / "space", [str(tmp_path / "six")])
    assert not (tmp_path / "space").exists()
