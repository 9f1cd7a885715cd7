"""A network and its checkpoint: from a folder or the Hub, to a folder, to the Hub.

Loading needs no registry row, no backbone download and no pickle, and is strict.
"""

import logging
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..meta import Labels, Preprocess
from ..storage import hub
from ..storage.files import CONFIG_FILE, WEIGHTS_FILE, WeightsError, read_config, read_safetensors, write_checkpoint
from ..storage.publish import push, stage
from .heads import initialize

_REPO = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>.+))?", re.ASCII)

_log = logging.getLogger(__name__)
_Network = TypeVar("_Network", bound="Pretrained")


class Pretrained(nn.Module):
    """The part of a PSPNet that reads and writes checkpoints; see its attributes there."""

    config: dict[str, Any]
    preprocess: Preprocess
    labels: Labels | None
    provenance: dict[str, Any] | None

    @classmethod
    def from_pretrained(
        cls: type[_Network],
        source: str | PathLike[str],
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        strict: bool = True,
        classes: int | None = None,
        **options: Any,
    ) -> _Network:
        """The network of a checkpoint on the Hub or in a folder, in evaluation mode.

        A repository at a full commit that is in the cache is loaded without a request; at a branch or tag, the Hub is asked where
        it is now, and the cached copy serves while the Hub is down. `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_OFFLINE` and `HF_TOKEN` mean
        what they mean to huggingface_hub.

        Args:
            source: "org/repo", "org/repo@revision", or the folder that `save_pretrained` wrote; a folder that exists comes first.
            revision: Commit, tag or branch of a repository; None for "main".
            token: For private and gated repositories; None takes the one that is logged in.
            cache_dir: Of the Hub's files; None for huggingface_hub's.
            local_files_only: Make no request; take what is in the cache.
            strict: False leaves tensors that the file lacks untrained and drops those that the network lacks, and logs which.
            classes: Another number of classes re-makes the classifier, untrained, and keeps everything else.
            options: Arguments of PSPNet that replace those of `config.json` and change no tensor, such as `psp_dropout`;
                `aux_head` may be switched.

        Raises:
            WeightsError: If the checkpoint cannot be had, is not what the Hub says it is, or does not fit its own config.
            ValueError: If two revisions are asked for, or one of a folder.
            TypeError: If an option is no argument of PSPNet.
        """
        match = _REPO.fullmatch(source) if isinstance(source, str) and not Path(source).is_dir() else None
        if match is None:
            if revision is not None:
                raise ValueError(f"'{source}' is a folder, which has no revision {revision!r}; leave it out")
            folder = Path(source)
        else:
            named = match["revision"]
            if named and revision and named != revision:
                raise ValueError(f"'{source}' asks for '{named}', but revision={revision!r}; give one of them")
            folder = hub.download(
                match["repo"],
                revision=revision or named,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
        model = _read_folder(cls, folder, strict, options)
        if classes is not None and classes != (before := model.config["classes"]):
            remade = model.reset_classifier(classes)
            _log.warning("The classifier has %d classes instead of %d and is untrained: %s", classes, before, ", ".join(remade))
        return model.eval()

    def save_pretrained(self, folder: str | PathLike[str], *, dtype: torch.dtype | None = None) -> Path:
        """Write `model.safetensors` and `config.json`; equal weights give equal bytes.

        Args:
            folder: Made if it does not exist. Each file is replaced whole or not at all.
            dtype: Of the floating-point tensors in the file; None keeps theirs.

        Returns:
            The folder.

        Raises:
            WeightsError: If the config cannot be written as JSON, as with a callable activation.
            OSError: If the folder cannot be written.
        """
        config = {
            "model": self.config,
            "preprocess": asdict(self.preprocess),
            "labels": {"names": self.labels.names, "colors": self.labels.colors} if self.labels else None,
            "provenance": self.provenance,
        }
        tensors = self.state_dict()
        if dtype is not None:
            tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
        write_checkpoint(Path(folder), tensors, config)
        return Path(folder)

    def push_to_hub(
        self, repo_id: str, *, private: bool = False, token: str | None = None, commit_message: str = "Upload the network"
    ) -> str:
        """Publish the network with a model card in one commit.

        Args:
            repo_id: "org/name" on the Hub; made if it is not there.
            private: Only for a repository that is made.
            token: That may write; None takes the one that is logged in.
            commit_message: First line of the commit.

        Returns:
            The address of the commit.

        Raises:
            WeightsError: If the Hub refuses, or gives back other bytes.
            ValueError: If `repo_id` is not "org/name".
        """
        with tempfile.TemporaryDirectory() as temporary:
            source, folder = Path(temporary, "source"), Path(temporary, "staged")
            self.save_pretrained(source)
            stage(source, folder, repo_id, load=type(self).from_pretrained)
            return push(folder, repo_id, private=private, token=token, commit_message=commit_message).url

    def reset_classifier(self, classes: int) -> list[str]:
        """Give the network fresh classifiers; the network says how."""
        raise NotImplementedError


def _read_folder(cls: type[_Network], folder: Path, strict: bool, options: dict[str, Any]) -> _Network:
    config = read_config(folder)
    own = config["model"]
    if unknown := options.keys() - signature(cls).parameters.keys():
        raise TypeError(f"{cls.__name__} has no argument {', '.join(map(repr, sorted(unknown)))}")
    try:
        with torch.device("meta" if strict else "cpu"):
            model = cls(encoder_weights=None, **{**own, **options})
        model.preprocess = _preprocess(config["preprocess"])
        model.labels = _labels(config["labels"])
    except (TypeError, ValueError, KeyError) as error:
        if options:
            raise
        raise WeightsError(f"'{folder / CONFIG_FILE}' describes a network that cannot be built: {error}") from error
    model.provenance = config["provenance"]
    tensors = read_safetensors(folder / WEIGHTS_FILE)
    if strict:
        misfit = f"'{folder / WEIGHTS_FILE}' does not fit the network of its {CONFIG_FILE}"
        load_tensors(model, tensors, misfit, aux_head_switched=model.config["aux_head"] != own["aux_head"])
    else:
        left = model.load_state_dict(tensors, strict=False)
        _log.warning("Untrained, because '%s' lacks them: %s", folder / WEIGHTS_FILE, ", ".join(left.missing_keys) or "none")
        _log.warning("Dropped, because the network lacks them: %s", ", ".join(left.unexpected_keys) or "none")
    return model


def _preprocess(values: dict[str, Any]) -> Preprocess:
    return Preprocess(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


def _labels(values: dict[str, Any] | None) -> Labels | None:
    return Labels(tuple(values["names"]), tuple(map(tuple, values["colors"]))) if values else None


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], misfit: str, *, aux_head_switched: bool = False) -> None:
    """Give a network on the meta device its tensors, strictly; only a switched auxiliary head may be missing or left over.

    Raises:
        WeightsError: If names or shapes differ: `misfit`, and the first of them.
    """
    own = model.state_dict()
    missing, unexpected = own.keys() - tensors.keys(), tensors.keys() - own.keys()
    if aux_head_switched:
        aside = {k for k in missing | unexpected if k.startswith("auxiliary_head.")}
        missing, unexpected = missing - aside, unexpected - aside
    wrong = [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
    problems = [
        f"{what}: {', '.join(sorted(keys)[:5])}{' ...' if len(keys) > 5 else ''}"
        for what, keys in (("missing", missing), ("not in the network", unexpected), ("of another shape", wrong))
        if keys
    ]
    if problems:
        raise WeightsError(f"{misfit}; {'; '.join(problems)}")
    tensors = {k: tensors[k].to(own[k].dtype) for k in own.keys() & tensors.keys()}
    model.load_state_dict(tensors, strict=False, assign=True)
    if aux_head_switched and isinstance(model.auxiliary_head, nn.Module):
        initialize(model.auxiliary_head.to_empty(device="cpu"))
    module: Any
    for module in model.modules():
        left = [n for n, b in module.named_buffers(recurse=False) if b.is_meta]
        for buffer in left:
            setattr(module, buffer, torch.empty_like(getattr(module, buffer), device="cpu"))
        if left:
            module.init_non_persistent_buffers()  # timm's name for it
