"""Where checkpoints of the zoo are on the Hugging Face Hub, pinned: `tools/publish_weights.py pin` writes the entries."""

from collections.abc import Mapping

from .entries import HubCopy

COPIES: Mapping[str, HubCopy] = {}
