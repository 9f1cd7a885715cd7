"""The tutorial computes what the package computes, in both languages and as a notebook."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch

import pspnet_zoo
from tests.notebook import run_notebook

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "tutorial").glob("pspnet*.md"))
ENGLISH = ROOT / "docs" / "tutorial" / "pspnet.md"


def code(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def cells(notebook: Path) -> list[str]:
    """The code of a notebook, without the cell that installs the package."""
    document = json.loads(notebook.read_text())
    return [
        "".join(cell["source"])
        for cell in document["cells"]
        if cell["cell_type"] == "code" and "%pip" not in "".join(cell["source"])
    ]


def meaning(blocks: list[str]) -> list[str]:
    """What is computed, without comments."""
    return [ast.dump(ast.parse(block)) for block in blocks]


@pytest.fixture(scope="module")
def network() -> dict:
    """The names that the page's network block defines."""
    scope: dict = {"__name__": "tutorial"}
    exec(compile(code(ENGLISH)[0], ENGLISH.name, "exec"), scope)
    return scope


def test_there_are_an_english_and_a_korean_page():
    assert [page.name for page in PAGES] == ["pspnet.ko.md", "pspnet.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_language_and_every_notebook_has_the_same_code(page):
    assert meaning(code(page)) == meaning(code(ENGLISH))
    assert meaning(cells(page.with_suffix(".ipynb"))) == meaning(code(ENGLISH))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_notebooks_are_made_from_the_pages(page):
    from tools.notebooks import notebook  # python tools/notebooks.py

    assert page.with_suffix(".ipynb").read_text() == notebook(page)


def test_the_network_has_forty_lines():
    lines = [line for line in code(ENGLISH)[0].splitlines() if line and not line.startswith(("import ", "from "))]
    assert len(lines) <= 40


def package_network(depth: int, **options) -> pspnet_zoo.PSPNet:
    """With norms as of a trained network: timm's fresh ones switch its residual branches off."""
    net = pspnet_zoo.PSPNet(f"resnet{depth}", None, classes=5, aux_head=True, **options).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(std=0.2)
    return net


@pytest.mark.parametrize("depth", [18, 50])
def test_its_weights_load_into_the_package_and_the_packages_into_it(network, depth):
    import torchvision

    mine = network["PSPNet"](getattr(torchvision.models, f"resnet{depth}")(), classes=5).eval()
    theirs = package_network(depth)
    mine.load_state_dict(dict(zip(mine.state_dict(), theirs.state_dict().values(), strict=True)))
    mine.double(), theirs.double()
    for size in ((65, 97), (48, 64)):
        x = torch.randn(1, 3, *size, dtype=torch.float64)  # so that rounding hides nothing
        with torch.no_grad():
            for ours, other in zip(mine(x), theirs(x, return_aux=True), strict=True):
                torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-5)


def test_equality_needs_the_dilation(network):
    import torchvision

    mine = network["PSPNet"](torchvision.models.resnet18(), classes=5).eval()
    theirs = package_network(18, dilation="uniform")
    mine.load_state_dict(dict(zip(mine.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        assert (mine(x)[0] - theirs(x)).abs().max() > 0.01


def test_the_page_runs_from_start_to_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "\n".join(code(ENGLISH))
    assert text.count("steps = 200") == 1
    exec(compile(text.replace("steps = 200", "steps = 2"), ENGLISH.name, "exec"), {"__name__": "__main__"})


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_notebook_runs_and_the_network_learns(page, tmp_path, monkeypatch):
    document = run_notebook(page, tmp_path, monkeypatch)
    printed = "".join(output.get("text", "") for cell in document.cells for output in cell.get("outputs", []))
    assert float(re.search(r"mIoU ([\d.]+)", printed)[1]) > 0.7
