"""The rows, one by one, without a network."""

import re

import pytest

from pspnet_zoo.upstream.convert import CONVERTERS, build
from pspnet_zoo.zoo.checkpoints import DEFAULT_TAGS, UPSTREAM
from pspnet_zoo.zoo.registry import CHECKPOINTS, find

NETWORKS: dict = {}
for row in UPSTREAM:
    NETWORKS.setdefault((row.architecture, row.upstream.network), []).append(row)


@pytest.mark.parametrize("rows", NETWORKS.values(), ids=lambda rows: rows[0].name)
def test_network_builds_and_has_the_rows_parameters(rows):
    net = build(rows[0])
    assert all(p.is_meta for p in net.parameters())
    assert {sum(p.numel() for p in net.parameters())} == {row.parameters for row in rows}


@pytest.mark.parametrize("row", UPSTREAM, ids=lambda row: row.name)
def test_row_is_complete(row):
    source = row.upstream
    assert row.folder is None and row.upstream.network and row.upstream.preprocess and row.license and row.dataset
    assert row.labels is None or len(row.labels) == row.upstream.network.classes
    assert re.fullmatch(r"[a-z0-9_]+", row.tag) and row.tag.startswith(source.family)
    assert len(source.files) == len(source.urls) or not source.urls
    assert all(url.startswith("http") for url in source.urls) and "http" in source.page
    assert source.hash is None or re.fullmatch(r"sha256:[0-9a-f]{8}|sha1:[0-9a-f]{40}", source.hash)
    assert (source.family in CONVERTERS) != (source.twin is not None)
    for metric in row.metrics:
        assert metric.origin == "claimed" and 0 < metric.value < 1 and metric.dataset and metric.split and metric.protocol


def test_names_and_ids_are_unique_and_found():
    assert len({row.name for row in UPSTREAM}) == len({row.upstream.id for row in UPSTREAM}) == len(UPSTREAM) == 89
    for row in (row for row in CHECKPOINTS if row.upstream):
        assert find(row.name) is find(row.upstream.id) is find(row.architecture, row.tag) is row


def test_twins_have_the_same_network():
    for row in UPSTREAM:
        if row.upstream.twin:
            twin = find(row.upstream.twin)
            assert (twin.upstream.network, twin.architecture, twin.upstream.preprocess) == (
                row.upstream.network,
                row.architecture,
                row.upstream.preprocess,
            )


def best_single_scale(row):
    return max((m.value for m in row.metrics if m.name == "miou" and not m.multi_scale and m.dataset == row.dataset), default=0)


@pytest.mark.parametrize("architecture", sorted({row.architecture for row in UPSTREAM}))
def test_default_is_the_best_claim_on_cityscapes_of_the_files_with_an_address(architecture):
    rows = [row for row in UPSTREAM if row.architecture == architecture and row.upstream.urls and not row.upstream.twin]
    rows = [row for row in rows if row.dataset == "Cityscapes"] or rows
    assert DEFAULT_TAGS[architecture] == max(rows, key=best_single_scale).tag
    assert find(architecture).tag == DEFAULT_TAGS[architecture]


def test_the_plain_tag_is_the_best_of_its_kind():
    for row in UPSTREAM:
        siblings = [
            r
            for r in UPSTREAM
            if (r.architecture, r.upstream.family, r.dataset) == (row.architecture, row.upstream.family, row.dataset)
        ]
        if row.tag == min((r.tag for r in siblings), key=len):
            assert best_single_scale(row) == max(map(best_single_scale, siblings))
