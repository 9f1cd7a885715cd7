"""Make the tutorials' notebooks from their pages: Python becomes code cells, all else text, images are put in.

In the tutorials of `WITH_COMMANDS` the commands `pspnet-zoo ...` become code cells too.

python tools/notebooks.py
"""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [page for name in ("pspnet", "outlines") for page in sorted((DOCS / "tutorial").glob(f"{name}*.md"))]

WITH_COMMANDS = ("outlines.md", "outlines.ko.md")
"""Pages that are made of commands."""

INSTALL = """\
# outside a clone of the repository, in Colab for one: put in whose copy of it you read
import importlib.util

if importlib.util.find_spec("pspnet_zoo") is None:
    %pip install -q git+https://github.com/OWNER/pspnet_zoo
"""

INSTALL_WITH_DATA = """\
# outside a clone of the repository, in Colab for one: put in whose copy of it you read
import os
from pathlib import Path

if Path("../assets/nuclei").is_dir():
    os.chdir("../..")  # from the folder of this notebook to that of the repository
if not Path("docs/assets/nuclei").is_dir():
    !git clone -q --depth 1 https://github.com/OWNER/pspnet_zoo
    %cd pspnet_zoo
    %pip install -q '.[train,labels,export]'
"""


def notebook(page: Path) -> str:
    """The page as a notebook, in JSON (nbformat 4.5), without outputs."""
    cells = [_cell("code", INSTALL_WITH_DATA if page.name in WITH_COMMANDS else INSTALL)]
    for language, part in parts(page):
        if language == "sh":
            cells.append(_cell("code", re.sub(r"^(?=pspnet-zoo )", "!", part, flags=re.MULTILINE)))
        elif language == "python":
            cells.append(_cell("code", part))
        elif part.strip():
            cells.append(_text(part, page.parent))
    cells[0], cells[1] = cells[1], cells[0]  # the title comes first
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    document = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def parts(page: Path) -> Iterator[tuple[str, str]]:
    """The parts of a page, from top to bottom: ("text", Markdown), ("python", code) and, `WITH_COMMANDS`, ("sh", commands)."""
    run = r"python\n.*?|sh\npspnet-zoo .*?" if page.name in WITH_COMMANDS else r"python\n.*?"
    for i, part in enumerate(re.split(rf"^```({run})^```\n", page.read_text(), flags=re.MULTILINE | re.DOTALL)):
        language, _, block = part.partition("\n") if i % 2 else ("text", "", part)
        yield language, block


def _text(markdown: str, folder: Path) -> dict[str, Any]:
    """A notebook cell with its images inside, so that they are seen in Colab too."""
    attachments = {}
    for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", markdown):
        file = folder / target
        kind = "image/jpeg" if file.suffix == ".jpg" else "image/png"
        attachments[file.name] = {kind: base64.b64encode(file.read_bytes()).decode()}
        markdown = markdown.replace(f"({target})", f"(attachment:{file.name})")
    return _cell("markdown", markdown, **({"attachments": attachments} if attachments else {}))


def _cell(kind: str, source: str, **more: Any) -> dict[str, Any]:
    lines = source.strip("\n").splitlines(keepends=True)
    cell = {"cell_type": kind, "id": "", "metadata": {}, "source": lines, **more}
    return cell | {"execution_count": None, "outputs": []} if kind == "code" else cell


def main() -> None:
    for page in PAGES:
        page.with_suffix(".ipynb").write_text(notebook(page))
        print(f"Wrote {page.with_suffix('.ipynb')}")


if __name__ == "__main__":
    main()
