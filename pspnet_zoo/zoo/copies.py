"""Copies of the zoo's checkpoints on the Hugging Face Hub, pinned: `tools/publish_weights.py pin` writes the entries."""

from collections.abc import Mapping

from .entries import HubCopy

COPIES: Mapping[str, HubCopy] = {}
