"""Every code block of the documents works, and every link leads somewhere."""

import ast
import importlib
import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import pspnet_zoo
from pspnet_zoo import PSPNet
from pspnet_zoo.cli.app import app
from pspnet_zoo.data.labels import CITYSCAPES

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "LICENSE-weights")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)


LANGUAGES = {"python", "py", "pycon", "sh", "json", "text", "js", "bibtex"}
"""`python` is run, `py` and `pycon` are checked for names, `sh` for commands and options."""


def fences(document: Path) -> list[tuple[str, str, str]]:
    """The language and the text of each code block, and the line above it."""
    pattern = r"^([^\n]*)\n+ *```([^\n]*)\n(.*?)^ *```$"
    return [
        (language, code, above) for above, language, code in re.findall(pattern, document.read_text(), re.MULTILINE | re.DOTALL)
    ]


def snippets(document: Path) -> list[str]:
    """The blocks of Python, without those that need a package that is not installed."""
    found = []
    for language, code, above in fences(document):
        needed = re.match(r"<!-- needs: (\w+) -->$", above)
        if language == "python" and not (needed and importlib.util.find_spec(needed[1]) is None):
            found.append(code)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_every_block_has_a_language_that_is_tested_or_known(document):
    found = fences(document)
    assert 2 * len(found) == len(re.findall("^ *```", document.read_text(), re.MULTILINE))
    assert {language for language, _, _ in found} <= LANGUAGES
    for language, code, above in found:
        if language == "py":
            assert above.startswith("<!-- not run: "), f"say why this is not run, or run it:\n{code}"
        if language == "json":
            json.loads(code)


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d, "py") or blocks(d, "pycon")], ids=lambda d: d.name)
def test_names_in_python_that_is_not_run_exist(document):
    console = re.sub("^(>>> |[.]{3} )", "", "\n".join(blocks(document, "pycon")), flags=re.MULTILINE)
    for node in ast.walk(ast.parse("\n".join([*blocks(document, "py"), console]))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pspnet_zoo"):
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pspnet_zoo":
            assert hasattr(pspnet_zoo, node.attr)


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d, "sh")], ids=lambda d: d.name)
def test_programs_and_extras_in_commands_exist(document):
    commands = "\n".join(blocks(document, "sh"))
    for file in re.findall(r"python ((?:tools|benchmarks)/\S+)", commands):
        assert (ROOT / file).is_file()
    for module in re.findall(r"-m ((?:tools|benchmarks|pspnet_zoo)\.[\w.]+)", commands):
        assert (ROOT / module.replace(".", "/")).is_dir() or (ROOT / f"{module.replace('.', '/')}.py").is_file()
    known = re.search(
        r"^\[project.optional-dependencies\]\n(.*?)^\[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL
    )
    assert known
    extras = set(re.findall(r"^(\w+) = \[", known[1], re.MULTILINE))
    assert {extra for names in re.findall(r"'\.\[([\w,]+)\]'", commands) for extra in names.split(",")} <= extras


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_nothing_is_installed_from_pypi_before_there_is_a_release(document):
    assert not re.search(r"pip install '?pspnet[-_]zoo", re.sub("`[^`]*` finds nothing", "", document.read_text()))


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec:FutureWarning")  # both of Lightning
@pytest.mark.parametrize(
    "document",
    # tests/test_tutorial.py and tests/test_outlines_tutorial.py run the other two
    [
        pytest.param(d, marks=[pytest.mark.slow] * (d.name == "export.md"), id=d.name)
        for d in DOCUMENTS
        if blocks(d, "python") and not d.name.startswith(("pspnet.", "outlines."))
    ],
)
def test_python_snippets_run(document, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "docs" / "assets", tmp_path / "docs" / "assets")
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(snippets(document)), document.name, "exec"), {"__name__": "__main__"})


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_the_commands_of_fine_tuning_work_in_this_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        for folder, color in (("images", (90, 90, 90)), ("masks", 1)):
            (tmp_path / "my_data" / split / folder).mkdir(parents=True)
            for i in range(2):
                Image.new("L" if folder == "masks" else "RGB", (64, 48), color).save(f"my_data/{split}/{folder}/{i}.png")
    (tmp_path / "my_data" / "classes.txt").write_text("road\nsky\n")
    shutil.copy(ROOT / "docs" / "assets" / "lund_20.jpg", "photo.jpg")
    commands = re.findall("^pspnet-zoo (.+)$", blocks(ROOT / "docs" / "how-to" / "fine-tune.md", "sh")[0], re.MULTILINE)
    assert [c.split()[0] for c in commands] == ["data", "train", "evaluate", "predict"]
    for command in commands:
        shorter = ["--iterations", "2", "--batch-size", "2", "--crop", "48", "64"] if command.startswith("train") else []
        result = CliRunner().invoke(app, [*shlex.split(command), *shorter])
        assert result.exit_code == 0, result.output
    assert (tmp_path / "predictions" / "photo_mask.png").exists()


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("name", ["satellite-images", pytest.param("16-bit-and-medical", marks=pytest.mark.slow)])
def test_the_commands_of_other_bands_work_on_the_dataset_of_their_page(name, tmp_path, monkeypatch):
    for module in ("rasterio", "pydicom", "accelerate", "onnxruntime"):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "how-to" / f"{name}.md"
    exec(compile("\n".join(blocks(page, "python")), name, "exec"), {"__name__": "__main__"})
    commands = re.findall("^pspnet-zoo (.+)$", "\n".join(blocks(page, "sh")), re.MULTILINE)
    assert [c.split()[0] for c in commands][:5] == ["data", "data", "train", "evaluate", "predict" if "sat" in name else "export"]
    if name == "satellite-images":
        shutil.copy("land/val/images/0.tif", "scene.tif")
    for command in commands:
        shorter = ["--iterations", "2", "--evaluate-every", "0", "--cpu"] if command.startswith("train") else []
        command = command.replace("pspnet_r18", "pspnet_test_resnet")
        result = CliRunner().invoke(app, [*shlex.split(command), *shorter])
        assert result.exit_code == 0, (command, result.output)
    assert list(Path("masks").glob("0_mask.*"))


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_the_commands_of_several_classes_a_pixel_work_on_the_dataset_of_their_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "how-to" / "several-classes-a-pixel.md"
    exec(compile(blocks(page, "python")[0], page.name, "exec"), {"__name__": "__main__"})
    for command in re.findall("^pspnet-zoo (.+)$", "\n".join(blocks(page, "sh")), re.MULTILINE):
        shorter = ["--iterations", "2", "--batch-size", "2", "--cpu", "--log", "none"] if command.startswith("train") else []
        result = CliRunner().invoke(app, [*shlex.split(command.replace("pspnet_r18", "pspnet_test_resnet")), *shorter])
        assert result.exit_code == 0, (command, result.output)
    assert Path("out/0_mask.tif").exists() and Path("out/0.json").exists()


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_the_commands_of_teaching_work_with_stand_ins(cityscapes, tmp_path, monkeypatch):
    """Small untrained networks in place of the teachers and the student's encoder, few steps."""
    monkeypatch.chdir(tmp_path)
    for name in ("pspnet_r101c.mmseg_cityscapes", "pspnet_r101d.paddleseg_cityscapes"):
        teacher = PSPNet("test_efficientnet", None, classes=len(CITYSCAPES), psp_out_channels=8)
        teacher.labels = CITYSCAPES
        teacher.save_pretrained(f"weights/{name}")
    for folder, mode, color in (("photos", "RGB", 90), ("more_photos", "RGB", 9), ("images", "RGB", 9), ("masks", "L", 1)):
        where = tmp_path / (f"my_data/train/{folder}" if folder in ("images", "masks") else folder)
        where.mkdir(parents=True)
        for i in range(2):
            Image.new(mode, (64, 48), color if mode == "L" else (color,) * 3).save(where / f"{i}.png")
    shutil.copytree("my_data/train", "my_data/val")
    page = ROOT / "docs" / "how-to" / "teach.md"
    Path("mapping.json").write_text(blocks(page, "json")[0])
    Path("my_data/classes.txt").write_text("\n".join(json.loads(blocks(page, "json")[0])))
    shutil.copy(ROOT / "docs" / "assets" / "lund_20.jpg", "photo.jpg")
    commands = re.findall("^pspnet-zoo (.+)$", "\n".join(blocks(page, "sh")).replace("\\\n", " "), re.MULTILINE)
    assert [c.split()[0] for c in commands] == ["train", "predict", "train", "train", "train"]
    for command in commands:
        command = re.sub(r"--teacher (\S+)", r"--teacher weights/\1", command).replace("CITYSCAPES", str(cityscapes))
        command = command.replace("--model pspnet_lite0 --encoder-weights imagenet", "--model pspnet_test_efficientnet")
        shorter = ["--iterations", "1", "--batch-size", "2", "--crop", "48", "64"] if command.startswith("train") else []
        result = CliRunner().invoke(app, [*shlex.split(command), *shorter])
        assert result.exit_code == 0, result.output
    assert len(json.loads(Path("runs/mine/model/config.json").read_text())["labels"]["names"]) == 4


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_commands_and_their_options_exist(document):
    program = typer.main.get_command(app)
    for line in "\n".join(blocks(document, "sh")).replace("\\\n", " ").splitlines():
        for words in re.findall(r"pspnet-zoo ([^&|#]+)", line):
            command, arguments = program, shlex.split(words)
            while hasattr(command, "commands"):  # a group, such as `pspnet-zoo data`
                command = command.commands[arguments.pop(0)]
            known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
            assert {a for a in arguments if re.match("--?[a-z]", a)} <= known, line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_links_inside_the_repository_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_every_guarantee_names_tests_that_exist():
    existing = {name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())}
    statements = re.split(r"^- ", (ROOT / "docs" / "reference" / "guarantees.md").read_text(), flags=re.MULTILINE)[1:]
    for statement in statements:
        assert (named := set(re.findall(r"`(test_\w+)`", statement))) and named <= existing, statement


def test_the_page_and_the_plot_of_models_are_up_to_date():
    from tools.choose_page import PAGE, PLOT, page, plot

    assert PAGE.read_text() == page(), "run: python -m tools.choose_page"
    assert PLOT.read_text() == plot(), "run: python -m tools.choose_page"
