"""A network and its checkpoint: from a folder or the Hub, to a folder, to the Hub.

Loading needs no entry of the zoo, no backbone download and no pickle, and is strict.
"""

import logging
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..meta import Labels, Metric, Preprocess
from ..model_source import OPENVINO_FILE, Folder, Repository, parse
from ..storage import hub
from ..storage.files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    WeightsError,
    check_pair,
    read_config,
    read_safetensors,
    read_shapes,
    write_atomically,
    write_checkpoint,
)
from ..storage.publish import CARD_FILE, push, stage
from .heads import check_counts, initialize
from .input_channels import adapt_preprocess, adapt_tensors

_log = logging.getLogger(__name__)
_Network = TypeVar("_Network", bound="Pretrained")


class Pretrained(nn.Module):
    """The part of a PSPNet that reads and writes checkpoints; see its attributes there."""

    config: dict[str, Any]
    preprocess: Preprocess
    labels: Labels | None
    threshold: float | tuple[float, ...] | None = None
    provenance: dict[str, Any] | None
    _built_shapes: dict[str, tuple[int, ...]]
    """Shapes of the tensors of the network that `config` builds."""

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
            strict: False leaves tensors that the file lacks untrained and drops those that the network lacks; a UserWarning says
                which.
            classes: Another number of classes re-makes the classifier, untrained, and keeps everything else.
            options: Arguments of PSPNet that replace those of `config.json` and change no tensor, such as `psp_dropout`;
                `aux_head` may be switched, and with other `in_channels` the first convolution is adapted as timm does.

        Raises:
            WeightsError: If the checkpoint cannot be had, is not what the Hub says it is, or does not fit its own config.
            FileNotFoundError: If the folder does not exist.
            ValueError: If two revisions are asked for, or one of a folder, it is neither folder nor repository, `classes` is no
                whole number of 1 or more, or `encoder_weights` are asked for.
            TypeError: If an option is no argument of PSPNet.
        """
        check_counts({"classes": classes})
        if weights := options.pop("encoder_weights", None):
            raise ValueError(f"'{source}' has weights for the encoder too; leave out encoder_weights={weights!r}")
        found = parse(source)
        if isinstance(found, Folder):
            if revision is not None:
                raise ValueError(f"'{source}' is a folder, which has no revision {revision!r}; leave it out")
            folder = found.path
        elif isinstance(found, Repository):
            if found.revision and revision and found.revision != revision:
                raise ValueError(f"'{source}' asks for '{found.revision}', but revision={revision!r}; give one of them")
            folder = hub.download_checkpoint(
                found.name,
                revision=revision or found.revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
        else:
            raise ValueError(f"'{source}' is neither a folder nor a repository; pspnet_zoo.load takes names of the zoo too")
        model = _read_folder(cls, folder, strict, options)
        if classes is not None and classes != (before := model.config["classes"]):
            remade = model.reset_classifier(classes)
            _log.warning("The classifier has %d classes instead of %d and is untrained: %s", classes, before, ", ".join(remade))
            if not strict:  # where smp warns
                warnings.warn(f"Mismatched keys, untrained: {', '.join(remade)}. Train them before use", stacklevel=2)
        return model.eval()

    def save_pretrained(
        self,
        folder: str | PathLike[str],
        *,
        dtype: torch.dtype | None = None,
        dataset: str | None = None,
        metrics: Mapping[str, float] | None = None,
        model_card_kwargs: Mapping[str, Any] | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
    ) -> Path:
        """Write `model.safetensors` and `config.json`; equal weights give equal bytes.

        The arguments from `dataset` on are smp's: given any of them, a model card is written as `README.md` too.

        Args:
            folder: Made if it does not exist. Each file is replaced whole or not at all.
            dtype: Of the floating-point tensors in the file; None keeps theirs. One with values beyond its range keeps its own.
            dataset: For the card: what the network was measured on.
            metrics: For the card: numbers by name, measured by whoever saves, under a protocol that is not stated.
            model_card_kwargs: For the card: `license`, of the weights.
            push_to_hub: Also publish it as `repo_id`, see `push_to_hub`.
            repo_id: "org/name" on the Hub.

        Returns:
            The folder.

        Raises:
            WeightsError: If the config cannot be written as JSON, as with a callable activation; or the Hub refuses.
            ValueError: If `push_to_hub` goes without `repo_id`, layers, labels or preprocessing do not fit `config`, so that it
                would not load, or the folder holds an exported network.
            TypeError: If `model_card_kwargs` has something else than a license.
            OSError: If the folder cannot be written.
        """
        if unknown := (model_card_kwargs or {}).keys() - {"license"}:
            raise TypeError(f"model_card_kwargs has {', '.join(map(repr, sorted(unknown)))}; it can have 'license'")
        if push_to_hub and repo_id is None:
            raise ValueError("push_to_hub needs repo_id='org/name'")
        if (exported := Path(folder, OPENVINO_FILE)).is_file():
            raise ValueError(f"'{exported}' is an exported network, and would be loaded instead; choose another folder")
        config = {
            "model": self.config,
            "preprocess": asdict(self.preprocess),
            "labels": {"names": self.labels.names, "colors": self.labels.colors} if self.labels else None,
            "provenance": self.provenance,
        }
        if self.threshold is not None:
            config["threshold"] = checked_threshold(self.threshold, self.config["classes"], self.multilabel)
        tensors = self.state_dict()
        self._check_loadable(tensors)
        if dtype is not None:
            tensors = {k: _converted(v, dtype) if v.is_floating_point() else v for k, v in tensors.items()}
        write_checkpoint(Path(folder), tensors, config)
        if dataset or metrics or model_card_kwargs or push_to_hub:
            unstated = (dataset or "not stated", "not stated", "not stated", "measured")
            with tempfile.TemporaryDirectory() as temporary:
                staged = Path(temporary)
                stage(
                    Path(folder),
                    staged,
                    repo_id or f"local/{Path(folder).resolve().name}",
                    load=type(self).from_pretrained,
                    license=(model_card_kwargs or {}).get("license"),
                    metrics=[Metric(name, value, *unstated) for name, value in (metrics or {}).items()],
                )
                write_atomically(Path(folder) / CARD_FILE, (staged / CARD_FILE).read_bytes())
                if push_to_hub and repo_id is not None:
                    push(staged, repo_id)
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

    def _check_loadable(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise a ValueError for what could be saved, but not loaded."""
        changed = [
            f"{key} is {tuple(tensors[key].shape) if key in tensors else 'missing'}, by the config {shape or 'not there'}"
            for key, shape in {**dict.fromkeys(tensors), **self._built_shapes}.items()
            if key not in tensors or tuple(tensors[key].shape) != shape
        ]
        if changed:
            raise ValueError(
                f"This network is not the one that its config builds, and could not be loaded again: {'; '.join(changed[:3])}. "
                "Make another classifier by reset_classifier(CLASSES), and other layers by the arguments of PSPNet"
            )
        if self.labels is not None and not _fit(self.labels, self.config["classes"]):
            raise ValueError(f"The network has {len(self.labels)} labels for {self.config['classes']} classes; set .labels anew")
        if (numbers := len(self.preprocess.mean)) != (channels := self.config["in_channels"]):
            raise ValueError(f"The network's preprocess is of {numbers} channels, and it reads {channels}; set .preprocess anew")

    @property
    def multilabel(self) -> bool:
        """Whether a pixel may be of several classes, or of none."""
        return self.config["multilabel"]

    def reset_classifier(self, classes: int) -> list[str]:
        """Give the network new classifiers; implemented by PSPNet."""
        raise NotImplementedError


def _converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in another type; as it is, if a number would become Inf."""
    converted = tensor.to(dtype)
    return tensor if (converted.isinf() & tensor.isfinite()).any() else converted


def _read_folder(cls: type[_Network], folder: Path, strict: bool, options: dict[str, Any]) -> _Network:
    config = read_config(folder)
    parameters = signature(cls).parameters
    own: dict[str, Any] = {name: p.default for name, p in parameters.items() if p.default is not p.empty}  # for what it leaves out
    own |= {key: tuple(value) if isinstance(value, list) else value for key, value in config["model"].items()}
    own.pop("encoder_weights", None)  # smp's configs have it; the checkpoint has all weights
    if unknown := options.keys() - parameters.keys():
        raise TypeError(f"{cls.__name__} has no argument {', '.join(map(repr, sorted(unknown)))}")
    weights = folder / WEIGHTS_FILE
    _check_numbers(own, read_shapes(weights), folder / CONFIG_FILE)
    check_pair(config, weights, hub.verified_sha256(weights))
    try:
        with torch.device("meta" if strict else "cpu"):
            model = cls(encoder_weights=None, **{**own, **options})
    except Exception as error:  # what a foreign config asks of torch and timm can fail in any way
        if options and isinstance(error, TypeError | ValueError | KeyError):
            raise
        raise WeightsError(f"'{folder / CONFIG_FILE}' describes a network that cannot be built: {error}") from error
    try:
        preprocess = _preprocess(config["preprocess"], own["in_channels"])
        model.labels = _labels(config["labels"], own["classes"])
        if model.multilabel == own["multilabel"]:  # else the thresholds are of another decision
            model.threshold = checked_threshold(config.get("threshold"), own["classes"], model.multilabel)
    except Exception as error:
        raise WeightsError(f"'{folder / CONFIG_FILE}' describes a network that cannot be built: {error}") from error
    model.preprocess = adapt_preprocess(preprocess, model.config["in_channels"], folder)
    model.provenance = config["provenance"]
    tensors = read_safetensors(weights)
    if model.config["in_channels"] != own["in_channels"]:
        tensors = adapt_tensors(tensors, own["in_channels"], model, folder)
    if strict:
        misfit = f"'{weights}' does not fit the network of its {CONFIG_FILE}"
        load_tensors(model, tensors, misfit, aux_head_switched=model.config["aux_head"] != own["aux_head"])
    else:
        left = model.load_state_dict(tensors, strict=False)
        if left.missing_keys:
            warnings.warn(f"Untrained, because '{weights}' lacks them: {', '.join(left.missing_keys)}", stacklevel=3)
        if left.unexpected_keys:
            warnings.warn(f"Dropped, because the network lacks them: {', '.join(left.unexpected_keys)}", stacklevel=3)
    return model


_LARGEST_NUMBER = 4096  # of a config, where no tensor has a longer side


def _check_numbers(config: dict[str, Any], shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Refuse a network that is larger than its tensors, before anything is allocated for it."""
    most = max(_LARGEST_NUMBER, *(side for shape in shapes.values() for side in shape), 0)

    def check(value: Any, key: str) -> None:
        if isinstance(value, int | float) and not 0 <= value <= most:
            raise WeightsError(f"'{path}' describes a network that cannot be built: {key} is {value}, outside 0 to {most}")
        parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
        for part, inner in parts:
            check(inner, f"{key}.{part}")

    for key, value in config.items():
        check(value, key)


def _preprocess(values: dict[str, Any], channels: int) -> Preprocess:
    for key in ("mean", "std"):
        if not isinstance(values.get(key), list) or len(values[key]) != channels:
            raise ValueError(
                f"{key} of its preprocess is {values.get(key)!r}; it must be a list of {channels} numbers, one a channel"
            )
    return Preprocess.from_dict(values)


def _labels(values: dict[str, Any] | None, classes: int) -> Labels | None:
    if not values:
        return None
    labels = Labels(tuple(values["names"]), tuple(map(tuple, values["colors"])))
    if not _fit(labels, classes):
        raise ValueError(f"it has {len(labels)} labels for {classes} classes")
    return labels


def checked_threshold(threshold: Any, classes: int, multilabel: bool = False) -> float | tuple[float, ...] | None:
    """The threshold itself, if a network with so many classes can have it; a list of multi-label as a tuple.

    Raises:
        ValueError: If it is not between 0 and 1, the network tells more than two classes apart, or does not have one a class.
    """
    if threshold is None:
        return None
    is_list = isinstance(threshold, list | tuple)
    each = list(threshold) if is_list else [threshold]
    if any(isinstance(t, bool) or not isinstance(t, int | float) or not 0 < t < 1 for t in each):
        raise ValueError(f"threshold is {threshold!r}; it must be between 0 and 1, or None for the more probable class")
    if multilabel != is_list or (is_list and len(each) != classes):
        kind = (
            f"a multi-label network of {classes} classes has a tuple of one a class"
            if multilabel
            else "this network has one number"
        )
        raise ValueError(f"threshold is {threshold!r}; {kind}, or None")
    if not multilabel and classes > 2:
        raise ValueError(f"threshold is {threshold}, which is for two classes, and the network has {classes}; set it to None")
    return tuple(map(float, each)) if multilabel else float(each[0])


def _fit(labels: Labels, classes: int) -> bool:
    return len(labels) in (classes, max(classes, 2))  # a binary network may name its background


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], misfit: str, *, aux_head_switched: bool = False) -> None:
    """Give a network on the meta device its tensors, strictly; only a switched auxiliary head may be missing or left over.

    Raises:
        WeightsError: If names or shapes differ, or integers stand for numbers with a fraction: `misfit`, and the first of them.
    """
    own = model.state_dict()
    missing, unexpected = own.keys() - tensors.keys(), tensors.keys() - own.keys()
    if aux_head_switched:
        aside = {k for k in missing | unexpected if k.startswith("auxiliary_head.")}
        missing, unexpected = missing - aside, unexpected - aside
    shared = own.keys() & tensors.keys()
    wrong = [k for k in shared if own[k].shape != tensors[k].shape]
    integers = [k for k in shared if own[k].is_floating_point() != tensors[k].is_floating_point()]
    problems = [
        f"{what}: {', '.join(sorted(keys)[:5])}{' ...' if len(keys) > 5 else ''}"
        for what, keys in (
            ("missing", missing),
            ("not in the network", unexpected),
            ("of another shape", wrong),
            ("of another type", integers),
        )
        if keys
    ]
    if problems:
        raise WeightsError(f"{misfit}; {'; '.join(problems)}")
    tensors = {k: tensors[k].to(own[k].dtype) for k in shared}
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
