"""The table in the docs is the one that the entries make."""

import re
from pathlib import Path

from pspnet_zoo.zoo.registry import CHECKPOINTS
from pspnet_zoo.zoo.table import markdown_page, markdown_table

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "checkpoints.md"


def test_every_row_is_a_line_with_all_columns():
    lines = markdown_table().splitlines()[2:]
    assert {re.search(r"`([^`]+)`", line)[1] for line in lines} == {entry.name for entry in CHECKPOINTS}
    assert {line.count(" | ") for line in lines} == {7}


def test_a_number_has_its_protocol_and_who_claims_it():
    line = next(line for line in markdown_table().splitlines() if "`pspnet_r101d.paddleseg_cityscapes`" in line)
    assert "| 80.48 | 81.29 | 86.9 M | Apache-2.0 | Cityscapes val, whole image, 2048x1024; no flip (claimed) |" in line


def test_the_page_in_the_docs_is_up_to_date():
    assert PAGE.read_text() == markdown_page(), "run: python -m pspnet_zoo.zoo.table > docs/reference/checkpoints.md"
