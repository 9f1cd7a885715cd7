"""Features of a frozen encoder, computed once and cached on disk."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ...models.encoder import Encoder
from ...models.pspnet import PSPNet
from ...storage.errors import WeightsError
from ...storage.files import read_state, weights_digest, write_state
from ..recipes import Recipe
from ..stream import Stream

_SETTINGS = (
    *("crop", "scale", "full_size", "rotate", "blur", "cat_max_ratio", "rare_crops", "photometric"),
    *("seed", "views", "precision"),
)


class FeatureCache:
    """Features and masks of the augmented crops of a run, in one folder for an encoder and an augmentation.

    Features are float16, or float32 where a value is too large for it. Files are verified when the run begins, and only read after.

    Args:
        folder: Of caches; different runs may share it.
        model: Its encoder is hashed.
        stream: The images; with `views`, so that they repeat.
        recipe: The augmentation's settings are part of the cache's name.
    """

    def __init__(self, folder: Path, model: PSPNet, stream: Stream, recipe: Recipe) -> None:
        numbers = {key: value for key, value in asdict(recipe).items() if key in _SETTINGS}
        config = {
            key: value for key, value in model.config.items() if key.startswith("encoder") or key in ("dilation", "shortcut_pool")
        }
        settings = [weights_digest(model.encoder.state_dict()), config, repr(model.preprocess), numbers]
        self.folder = folder / hashlib.sha256(json.dumps(settings, default=str).encode()).hexdigest()[:16]
        self.dataset, self.views = stream.dataset, recipe.views
        self._stream, self._names = stream, [self._name(index) for index in range(len(stream.dataset))]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_stream": None, "dataset": None}  # for workers, which only read

    def __getitem__(self, place: tuple[int, int]) -> tuple[list[Tensor], Tensor]:
        """The features and the mask of the image and view with these numbers, see `Stream.view`.

        Raises:
            WeightsError: If the file is missing or damaged.
        """
        tensors, _ = read_state(self.path(*place))
        return [tensors[str(i)] for i in range(len(tensors) - 1)], tensors["mask"]

    def path(self, index: int, view: int) -> Path:
        """The file of an image's view; it is named by the content of the image and mask."""
        return self.folder / f"{self._names[index]}-{view // len(self._names)}.safetensors"

    @torch.no_grad()
    def prepare(self, model: PSPNet, accelerator: Accelerator) -> int:
        """Compute what is missing or damaged; the processes divide the crops among them.

        Returns:
            How many crops this process computed.

        Raises:
            OSError: If there is no space left, or the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        count, done = len(self._names), 0
        mine = range(accelerator.process_index, count * self.views, accelerator.num_processes)
        outputs: list[Sequence[Tensor]] = []
        handle = model.encoder.model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        was_training = model.training
        model.eval()
        try:
            for view in mine:
                path = self.path(view % count, view)
                if _is_whole(path):
                    continue
                image, mask, _ = self._stream.augmented(view % count, view)
                with accelerator.autocast():
                    model.encoder(model.preprocess(image[None].to(accelerator.device)))
                tensors = {str(i): _stored(feature[0]) for i, feature in enumerate(outputs.pop())} | {"mask": mask.to(torch.uint8)}
                size = sum(t.numel() * t.element_size() for t in tensors.values())
                left = len(mine) - mine.index(view)
                if size * left > shutil.disk_usage(self.folder).free:
                    raise OSError(
                        f"No space for the features in '{self.folder}': {left} crops need {size / 1e6:.1f} MB each. Free some, or "
                        "choose fewer views or another folder"
                    )
                write_state(path, tensors, {"sha256": _digest(tensors)})
                done += 1
        finally:
            handle.remove()
            model.train(was_training)
        accelerator.wait_for_everyone()
        return done

    def _name(self, index: int) -> str:
        """A digest of an image and its class ids: of the image's file, or of its pixels where there is none."""
        digest = hashlib.sha256()
        file = Path(self.dataset.images[index]) if index < len(self.dataset.images) else None
        if file and file.is_file():
            digest.update(file.read_bytes())
            tensors = [self.dataset.mask(index)]  # its ids depend on classes.json too
        else:
            tensors = [*self.dataset[index]]
        for tensor in tensors:
            digest.update(repr(tensor.shape).encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:24]


@contextmanager
def features_given(encoder: Encoder, features: list[Tensor]) -> Iterator[None]:
    """In the block, the encoder's model returns these features, whatever the image; with none it computes its own."""
    if not features:
        yield
        return
    dtype = next(encoder.parameters()).dtype
    encoder.model.forward = lambda x: [feature.to(dtype) for feature in features]
    try:
        yield
    finally:
        del encoder.model.forward


def check_features(model: PSPNet, recipe: Recipe, *, has_teacher: bool, compile: bool) -> None:
    """Refuse a cache of features where it would be wrong.

    Raises:
        ValueError: It names what does not fit.
    """
    if recipe.freeze != "encoder":
        raise ValueError(
            f"feature_cache needs an encoder that does not learn, and freeze is '{recipe.freeze}'; set freeze='encoder'"
        )
    if not recipe.views:
        raise ValueError("feature_cache needs crops that repeat, and views is 0; set views, such as 4")
    wrong = {"a teacher": has_teacher, "compile": compile, "aux_from": bool(model.config.get("aux_from"))}
    for name in (name for name, is_given in wrong.items() if is_given):
        raise ValueError(f"feature_cache does not go with {name}; leave out one of them")


def _stored(feature: Tensor) -> Tensor:
    feature = feature.detach().float().cpu().contiguous()
    return feature.half() if feature.abs().max() < 65504 else feature


def _is_whole(path: Path) -> bool:
    try:
        tensors, state = read_state(path)
    except (WeightsError, OSError):
        return False
    return state.get("sha256") == _digest(tensors)


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
