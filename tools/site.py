"""Build the documentation site into build/site. A warning, a broken link or a missing name of the API is an error.

python tools/site.py     # needs the extra 'docs', and npm for the page that runs in the browser
"""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

sys.path.insert(0, str(Path(__file__).parent.parent))  # a checkout that is not installed

from tools import browser, site_korean, site_pages

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build"
DOCS, SITE = BUILD / "docs", BUILD / "site"
SECTIONS = {"Tutorials": "tutorial", "How to": "how-to", "Reference": "reference", "Explanation": "explanation"}
TUTORIALS = ["first-image.md", "outlines.md", "outlines.ko.md", "pspnet.md", "pspnet.ko.md"]
FIRST = [*TUTORIALS, "choose-a-model.md", "questions.md", "api.md", "checkpoints.md"]
"""Pages that come first in their section; the others follow by title."""


def main() -> None:
    """Stage, generate, build, check."""
    shutil.rmtree(BUILD, ignore_errors=True)
    shutil.copytree(ROOT / "docs", DOCS)
    shutil.copy(ROOT / "CHANGELOG.md", DOCS / "changes.md")
    for path, text in site_pages.pages().items():
        (DOCS / path).parent.mkdir(parents=True, exist_ok=True)
        (DOCS / path).write_text(text)
    browser.build(DOCS / "try")
    config = (ROOT / "zensical.toml").read_text().replace("[project]\n", f"[project]\nnav = {_nav()}\n", 1)
    if repository := os.environ.get("GITHUB_REPOSITORY"):
        owner, name = repository.split("/")
        site = f'site_url = "https://{owner.lower()}.github.io/{name}/"\n'
        source = f'repo_url = "https://github.com/{repository}"\nedit_uri = "edit/main/docs/"\n'
        config = config.replace("[project]\n", f"[project]\n{source}{site}", 1)
    (ROOT / "build.zensical.toml").write_text(config)
    try:
        subprocess.run(
            [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", "build.zensical.toml"], cwd=ROOT, check=True
        )
    finally:
        (ROOT / "build.zensical.toml").unlink()
    for korean in SITE.glob("tutorial/*.ko/index.html"):
        korean.write_text(site_korean.translate(korean.read_text()))
    leave_out_internals(SITE / "search.json")
    if problems := [*broken_links(SITE), *site_pages.missing_names(SITE)]:
        sys.exit("\n".join(problems))
    size = sum(file.stat().st_size for file in SITE.rglob("*") if file.is_file())
    print(f"Wrote {SITE}, {len(list(SITE.rglob('*.html')))} pages, {size / 1e6:.1f} MB, no broken link")


def _nav() -> str:
    """The pages of each section, by title, as TOML."""
    nav: list[dict] = [{"Home": "index.md"}, {"Try it": "try.md"}]
    for section, folder in SECTIONS.items():
        files = sorted(
            (DOCS / folder).glob("*.md"), key=lambda f: (FIRST.index(f.name) if f.name in FIRST else len(FIRST), _title(f))
        )
        nav.append({section: [{_title(file): f"{folder}/{file.name}"} for file in files]})
    nav.append({"Changes": "changes.md"})
    return re.sub(r'(?<=")(: )', " = ", json.dumps(nav, ensure_ascii=False))


def _title(page: Path) -> str:
    found = re.search("^# (.+)$", page.read_text(), re.MULTILINE)
    if found is None:
        sys.exit(f"'{page}' has no title; it needs a line that begins with '# '")
    return found[1].replace("`", "").replace('"', "'")


def leave_out_internals(index: Path) -> None:
    """Take from the search index what hides the guides: modules behind the public API, and all of a model's page but its title."""
    search = json.loads(index.read_text())
    search["items"] = [
        item
        for item in search["items"]
        if not item["location"].startswith("reference/api-") and not (item["location"].startswith("models/") and item["level"] > 1)
    ]
    index.write_text(json.dumps(search))


class _Page(HTMLParser):
    """The addresses that a page names, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in ("id", "name") and value:
                self.anchors.add(value)
            if key in ("href", "src") and value and tag != "base":
                self.targets.append(value)


def broken_links(site: Path) -> list[str]:
    """A line for each link, image, script and anchor of the site that leads nowhere; other hosts are not asked."""
    pages = {file: _Page(file.read_text()) for file in site.rglob("*.html")}
    problems = []
    for file, page in pages.items():
        if file.name == "404.html":
            continue  # it is shown at every address, and takes its own from the site's
        for target in page.targets:
            link = urlsplit(target)
            if link.scheme or link.netloc:
                continue
            to = (file.parent / unquote(link.path)).resolve() if link.path else file
            to = to / "index.html" if to.is_dir() else to
            if not to.is_file():
                problems.append(f"{file.relative_to(site)}: no '{target}'")
            elif link.fragment and to in pages and unquote(link.fragment) not in pages[to].anchors | {"__top", "top"}:
                problems.append(f"{file.relative_to(site)}: no anchor '{target}'")
    return problems


if __name__ == "__main__":
    main()
