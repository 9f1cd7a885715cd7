"""The fields of a checkpoint entry."""

import re
from dataclasses import dataclass
from typing import Literal

from ..meta import Labels, Metric, Preprocess
from .policies import Dilation, ShortcutPool

Family = Literal["mmseg", "semseg", "pytorchcv", "paddleseg", "ptsemseg", "segmentron", "csail", "gluoncv", "caffe"]
"""The project whose keys a state dict has. Files of "gluoncv" and "caffe" are not supported; others have the same weights."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Arguments of `PSPNet` for a published checkpoint: how its network was built, where the weights do not tell."""

    classes: int
    align_corners: bool
    dilation: Dilation = "atrous"
    shortcut_pool: ShortcutPool = "dilated"
    encoder_output_stride: int = 8
    psp_out_channels: int = 512
    psp_bin_channels: int | None = None
    aux_head: bool = True
    aux_channels: int | None = None
    aux_from: str | None = None


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """Another project's checkpoint: where its file is, how to read it, and the network that it is for."""

    id: str
    """The upstream's own name of the checkpoint; `find` takes it too."""
    family: Family
    page: str
    """Address of a page where a person finds the files."""
    files: tuple[str, ...]
    """Their names; two for CSAIL, whose encoder and decoder are apart."""
    network: NetworkConfig
    preprocess: Preprocess
    """Preprocessing that the network was trained with."""
    urls: tuple[str, ...] = ()
    """Their direct addresses, in the same order; empty if there are none. A .zip holds the file of that name."""
    hash: str | None = None
    """ "sha256:" or "sha1:" and the first hexadecimal digits of the one file's digest; None if none is published."""
    same_weights_as: str | None = None
    """The checkpoint that has the same weights as a PyTorch file, where this file is not supported."""


@dataclass(frozen=True, kw_only=True)
class HubCopy:
    """The place of a checkpoint on the Hugging Face Hub, pinned; `pspnet-zoo publish` prints it."""

    repo: str
    """The repository's name below `pspnet_zoo.storage.hub.namespace()`."""
    revision: str
    """The full commit, 40 hexadecimal digits."""
    sha256: str
    """sha256 of `model.safetensors`."""
    size: int
    """Size of `model.safetensors`, in bytes."""

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{40}", self.revision) or not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"The copy '{self.repo}' needs a full commit and a full sha256, as 'pspnet-zoo publish' prints them")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Published weights: of this package (`folder`), of another project (`upstream`), or a copy on the Hub (`hub`)."""

    architecture: str
    tag: str
    """Who trained it, on what, and what sets it apart."""
    parameters: int
    license: str
    metrics: tuple[Metric, ...]
    trained_on: str | None = None
    """The dataset, where no metric tells it."""
    folder: str | None = None
    """Below `pspnet_zoo/zoo/bundled`: these weights ship with the package."""
    sha256: str | None = None
    """sha256 of `model.safetensors` in `folder`."""
    upstream: Upstream | None = None
    """The checkpoint in another project; None for this project's own."""
    labels: Labels | None = None
    """Names and colours of its classes; None if the upstream's names could not be sourced."""
    hub: HubCopy | None = None
    """None while it is not published there."""

    @property
    def name(self) -> str:
        """`architecture.tag`."""
        return f"{self.architecture}.{self.tag}"

    @property
    def dataset(self) -> str:
        """The dataset whose classes the network knows."""
        return self.trained_on or self.metrics[0].dataset
