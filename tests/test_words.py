"""Code, messages, help and documents are written in the words of the field."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON = [
    ROOT / "hubconf.py",
    *(f for folder in ("pspnet_zoo", "tools", "benchmarks") for f in sorted((ROOT / folder).rglob("*.py"))),
]
TEXTS = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "LICENSE-weights", "CHANGELOG")),
    *(f for folder in ("docs", "pspnet_zoo", ".github") for f in sorted((ROOT / folder).rglob("*")) if f.suffix in (".md", ".yml")),
    *(f for f in sorted((ROOT / "pspnet_zoo").rglob("*")) if f.suffix in (".html", ".js", ".j2")),
    *sorted((ROOT / "docs").rglob("*.js")),
]

MAP = r"(?<!feature )(?<!feature-)\b(the|a|an|whole|dense|native|pooled|resized|coarse) maps?\b"

PHRASES = {
    r"\bpictures?\b": "image",
    r"\bdata sets?\b": "dataset",
    r"\btwins?\b": "dilated equivalent, or the entry with the same weights",
    r"\btelltales?\b": "signature key",
    r"\bgr[e]y(scale)?\b": "gray, grayscale",
    r"\bat hand\b": "local, cached, loaded",
    r"\b(go|goes|going|gone|went) on\b": "resume, continue",
    r"\bnot finite\b|\bnon-finite\b": "NaN or Inf",
    r"\benlarg\w+": "upsample, resize; input scale factor",
    r"\bshares? of (the|a|each|every|all|its|pixels?|classe?s?)\b|\bclass shares?\b|\bshares_\w+": "class fraction",
    r"(?<!ground )\btruths?\b": "ground truth, label, target",
    r"\blikeliest\b": "argmax, most probable",
    r"\b(network|model|teacher|student|predictor)s? (sees?|says?|saw|said)\b|\bseen (enlarged|at|by)\b": "predicts; input",
    r"\btaught\b|\bteach(es)?\b(?!\.md)": "knowledge distillation; to distill",
    r"\brows? of the (zoo|registry|table of checkpoints)\b|\b(registry|zoo) rows?\b": "checkpoint entry",
    r"\bcells?\b": "feature-map position; region",
    MAP: "feature map",
    r"\bas before\b|\bof before\b|\btoday'?s?\b|\bthose before\b": "the version and the number",
    r"\b(is|are) not read\b|\bnot read yet\b": "not supported",
    r"\bparts of (a|the) (step|batch)\b": "micro-batches",
    r"\bborders?\b": "padding",
    r"\bengines?\b": "runtime",
    r"\bWeight of the past\b|\bPeople who wait\b|\bto the power of minus\b|\bbecause that it\b": "see STYLE: a plain sentence",
    r"(?m)^Likewise\b": "the sentence itself",
    r"(?m)^#+ What \w+ (is|are|was|has)( \w+)?$": "a heading that names its subject",
}
"""What not to write, and what to write instead."""

EXCEPTIONS = {
    r"\btwins?\b": ("`?\\bt?twins\\b`? \\|", "twins_", "Upstream[.]twin"),  # families of timm
    MAP: ("coordinate", "GeoTIFF", "beside the map", "a map holds", "of a map, y goes up"),
    r"\benlarg\w+": ('^"enlarge"$', "`enlarge`", "Preprocess.enlarge"),  # the key of configurations that were saved before 0.1.0
    r"\bcells?\b": (
        r"[.]cells",
        '^"cells"$',
        "notebook",
        "code cell",
        "cell_type",
        "cell-",
        "_cell",
        "cell phone",
        "microscop",
        "nucle",
        "of a table",
        "tissue",
    ),
    r"\bborders?\b": ('^"border"$', "border:", "border-", "border_", "BORDER_"),  # CSS and OpenCV
    r"\bengines?\b": ("saveEngine", "street.engine", "TensorRT", "--engines"),
    r"\bpictures?\b": ("figure",),
}
"""Contexts, on the same line, in which a phrase has another meaning: others' names, maps of GeoTIFF, cells in microscopy."""


def texts_of_python(source: str) -> Iterator[tuple[int, str]]:
    """The line number and the text of every comment and string."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING) or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            yield token.start[0], token.string


def findings(name: str, texts: Iterator[tuple[int, str]]) -> list[str]:
    """A line for each phrase found."""
    found = []
    for start, text in texts:
        for phrase, instead in PHRASES.items():
            for match in re.finditer(phrase, text, re.IGNORECASE):
                line = text[text.rfind("\n", 0, match.start()) + 1 :].partition("\n")[0]
                if not any(re.search(exception, line) for exception in EXCEPTIONS.get(phrase, ())):
                    number = start + text.count("\n", 0, match.start())
                    found.append(f"{name}:{number}: '{match[0]}' in '{line.strip()[:90]}'; write: {instead}")
    return found


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_comments_docstrings_and_messages_use_the_words_of_the_field(path):
    assert findings(path.relative_to(ROOT).as_posix(), texts_of_python(path.read_text())) == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_documents_use_the_words_of_the_field(path):
    assert findings(path.relative_to(ROOT).as_posix(), iter([(1, path.read_text())])) == []


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_docstrings_begin_with_a_sentence_or_a_noun(path):
    dangling = r"(Of|As|Likewise|By|Where|What|How)\b"
    docstrings = [
        node.value.value.strip()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    assert [text.splitlines()[0] for text in docstrings if re.match(dangling, text)] == []


def test_a_phrase_is_found_and_an_exception_is_not():
    source = '"""What a Picture is, at hand."""\nx = "twins_svt"  # enlarged\ny = f"{x} of the truth"\n'
    found = findings("a.py", texts_of_python(source))
    assert [line.partition(" in ")[0] for line in found] == [
        "a.py:1: 'Picture'",
        "a.py:1: 'at hand'",
        "a.py:2: 'enlarged'",
        "a.py:3: 'truth'",
    ]
