"""The entries, one by one, without a network."""

import re

import pytest

from pspnet_zoo.upstream.convert import CONVERTERS, build_network
from pspnet_zoo.zoo.checkpoints import DEFAULT_TAGS, UPSTREAM
from pspnet_zoo.zoo.registry import CHECKPOINTS, find_checkpoint

NETWORKS: dict = {}
for entry in UPSTREAM:
    NETWORKS.setdefault((entry.architecture, entry.upstream.network), []).append(entry)


@pytest.mark.parametrize("entries", NETWORKS.values(), ids=lambda entries: entries[0].name)
def test_network_builds_and_has_the_rows_parameters(entries):
    net = build_network(entries[0])
    assert all(p.is_meta for p in net.parameters())
    assert {sum(p.numel() for p in net.parameters())} == {entry.parameters for entry in entries}


@pytest.mark.parametrize("entry", UPSTREAM, ids=lambda entry: entry.name)
def test_row_is_complete(entry):
    source = entry.upstream
    assert entry.folder is None and entry.upstream.network and entry.upstream.preprocess and entry.license and entry.dataset
    assert entry.labels is None or len(entry.labels) == entry.upstream.network.classes
    assert re.fullmatch(r"[a-z0-9_]+", entry.tag) and entry.tag.startswith(source.family)
    assert len(source.files) == len(source.urls) or not source.urls
    assert all(url.startswith("http") for url in source.urls) and "http" in source.page
    assert source.hash is None or re.fullmatch(r"sha256:[0-9a-f]{8}|sha1:[0-9a-f]{40}", source.hash)
    assert (source.family in CONVERTERS) != (source.same_weights_as is not None)
    for metric in entry.metrics:
        assert metric.origin == "claimed" and 0 < metric.value < 1 and metric.dataset and metric.split and metric.protocol


def test_names_and_ids_are_unique_and_found():
    assert len({entry.name for entry in UPSTREAM}) == len({entry.upstream.id for entry in UPSTREAM}) == len(UPSTREAM) == 89
    for entry in (entry for entry in CHECKPOINTS if entry.upstream):
        assert (
            find_checkpoint(entry.name)
            is find_checkpoint(entry.upstream.id)
            is find_checkpoint(entry.architecture, entry.tag)
            is entry
        )


def test_entries_of_the_same_weights_have_the_same_network():
    for entry in UPSTREAM:
        if entry.upstream.same_weights_as:
            other = find_checkpoint(entry.upstream.same_weights_as)
            assert (other.upstream.network, other.architecture, other.upstream.preprocess) == (
                entry.upstream.network,
                entry.architecture,
                entry.upstream.preprocess,
            )


def best_single_scale(entry):
    return max((m.value for m in entry.metrics if m.name == "miou" and not m.multi_scale and m.dataset == entry.dataset), default=0)


@pytest.mark.parametrize("architecture", sorted({entry.architecture for entry in UPSTREAM}))
def test_default_is_the_best_claim_on_cityscapes_of_the_files_with_an_address(architecture):
    entries = [
        entry
        for entry in UPSTREAM
        if entry.architecture == architecture and entry.upstream.urls and not entry.upstream.same_weights_as
    ]
    entries = [entry for entry in entries if entry.dataset == "Cityscapes"] or entries
    assert DEFAULT_TAGS[architecture] == max(entries, key=best_single_scale).tag
    assert find_checkpoint(architecture).tag == DEFAULT_TAGS[architecture]


def test_the_plain_tag_is_the_best_of_its_kind():
    for entry in UPSTREAM:
        siblings = [
            r
            for r in UPSTREAM
            if (r.architecture, r.upstream.family, r.dataset) == (entry.architecture, entry.upstream.family, entry.dataset)
        ]
        if entry.tag == min((r.tag for r in siblings), key=len):
            assert best_single_scale(entry) == max(map(best_single_scale, siblings))
