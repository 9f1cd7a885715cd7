"""Image in, image out."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, cast, overload

import numpy as np
import torch
from PIL import Image

from ..data.images import ImageError, read_image, to_rgb
from ..models.pspnet import PSPNet
from ..runtimes.exported import Precision
from ..runtimes.open import open_runtime
from ..runtimes.torch import TorchRuntime
from ..streams.pipeline import WORKERS, segment_all
from ..streams.video import segment_video
from ..zoo.registry import DEFAULT_MODEL as DEFAULT_MODEL
from .prediction import Prediction
from .scores import class_scores, labels_of, largest, probabilities_of, stored

ImageInput = str | PathLike[str] | BinaryIO | Image.Image | np.ndarray | torch.Tensor
"""What a predictor takes for an image."""

_log = logging.getLogger(__name__)


class Predictor:
    """Segments images with a trained network.

    Args:
        model: A network with labels, a checkpoint's name or folder, its repository on the Hub, "org/repo", or what
            `pspnet_zoo.export` wrote, an .onnx or .xml file or a folder.
        device: Where to run, such as "cpu" or "cuda"; None for a GPU if there is one.
        precision: "float32", or "bfloat16": about half the time on processors made for it, and nearly the same classes.
        compile: Compile the network by `torch.compile`.
        fast: On CPUs, run the network in less time with the same arithmetic but for rounding; see
            `pspnet_zoo.runtimes.cpu.folding`. The network itself stays as it is.
        threads: Of the CPU; None for what the runtime takes.

    Attributes:
        model: The network, or the exported one in its runtime.
        labels: What the ids mean.

    Raises:
        ValueError: If the name is unknown, the network has no labels, or an option does not go with an exported file.
        WeightsError: If the weights cannot be loaded.
        ImportError: If the runtime of an exported file is not installed.
    """

    def __init__(
        self,
        model: PSPNet | str | PathLike[str] = DEFAULT_MODEL,
        *,
        device: str | torch.device | None = None,
        precision: Precision | None = None,
        compile: bool = False,
        fast: bool | None = None,
        threads: int | None = None,
    ) -> None:
        self.runtime = open_runtime(model, device=device, precision=precision, compile=compile, fast=fast, threads=threads)
        self.model: Any = self.runtime.network if isinstance(self.runtime, TorchRuntime) else self.runtime
        labels = labels_of(self.runtime)
        if labels is None:
            raise ValueError("This network has no labels, so its classes have no names; set model.labels to pspnet_zoo.Labels")
        if (channels := len(self.runtime.preprocess.mean)) != 3:
            raise ValueError(
                f"This network reads {channels} channels, and images have 3. Use "
                "pspnet_zoo.inference.scores.class_ids(model, images), images: (N, channels, H, W) uint8"
            )
        self.labels = labels
        self.device = self.runtime.device

    @overload
    def __call__(self, image: list[ImageInput], *, probabilities: bool = False) -> list[Prediction]: ...

    @overload
    def __call__(self, image: ImageInput, *, probabilities: bool = False) -> Prediction: ...

    def __call__(self, image: ImageInput | list[ImageInput], *, probabilities: bool = False) -> Prediction | list[Prediction]:
        """Segment one image, or each of a list.

        Args:
            image: A file or open file, a PIL image of any mode, an (H, W, 3) uint8 RGB array or a (3, H, W) uint8 RGB tensor. One
                with more pixels than `model.preprocess.max_pixels` is shrunk for the network; the result has its full size. An
                encoder that knows one size only sees it through windows of that size.
            probabilities: Keep those of the classes, which take 4 bytes for each class and pixel.

        Raises:
            FileNotFoundError: If there is no such file.
            ImageError: If it is not an image.
        """
        if isinstance(image, list):
            return [self(one, probabilities=probabilities) for one in image]
        pixels = self.read(image)
        scores = self._scores([pixels])
        prediction = self._predictions(scores, [pixels])[0]
        if not probabilities:
            return prediction
        found = probabilities_of(scores, (pixels.shape[0], pixels.shape[1]))[0]
        return replace(prediction, probabilities=found.cpu().numpy())

    @staticmethod
    def read(image: ImageInput) -> np.ndarray:
        """The pixels of what `__call__` takes, (H, W, 3) uint8 RGB. Safe in threads."""
        if isinstance(image, str | PathLike):
            return read_image(Path(image))
        if hasattr(image, "read"):
            return read_image(cast(BinaryIO, image))
        try:
            return to_rgb(image)
        except ImageError as error:
            raise ImageError(f"The image {error}") from None

    def stream(self, images: Iterable[ImageInput], *, batch_size: int = 1, workers: int = WORKERS) -> Iterator[Prediction]:
        """Segment many images, in order, while the next ones are read in threads.

        An image that cannot be read is left out, with a warning in the log; `pipeline.segment_all` tells which.

        Args:
            images: Each as `__call__` takes it; taken one by one, so that they may be endless.
            batch_size: Neighbours of one size that a GPU is given at once. A CPU takes them one by one: batches there gain no time,
                and would change the last bits of the scores.
            workers: Threads that read.

        Raises:
            ValueError: If a number is not positive.
        """
        for result in segment_all(self.segment, self.read, images, batch_size=batch_size, workers=workers):
            if result.prediction is not None:
                yield result.prediction
            else:
                _log.warning("An image was left out: %s", result.error)

    def video(self, path: str | PathLike[str], *, every: int = 1, smooth: float = 0.0) -> Iterator[tuple[float, Prediction]]:
        """Segment the frames of a video while the next ones are decoded. Needs the extra `video`.

        Args:
            path: Of any format that FFmpeg reads.
            every: 2 takes every second frame, and so on.
            smooth: See `smoothed`.

        Yields:
            When a frame is shown, in seconds from the beginning, and its prediction, turned as the file says.

        Raises:
            ValueError: If `every` is not positive, or `smooth` not from 0 to below 1.
            FileNotFoundError: If there is no such file.
            VideoError: If it is not a video; after the last frame, if its end is missing.
            ImportError: If PyAV is not installed.
        """
        for frame, prediction in segment_video(self.smoothed(smooth), path, every=every):
            yield frame.time, prediction

    def smoothed(self, past: float) -> Callable[[np.ndarray], Prediction]:
        """A function of a video's frames, in order, whose class probabilities are averaged over time.

        It calms edges that flicker where the camera stands still. What moves is dragged: the past is not moved along.

        Args:
            past: Weight of the average so far, from 0 (none) to below 1; the frame before the n-th last has the weight
                (1 - past) * past ** n.

        Returns:
            Maps (H, W, 3) uint8 RGB to a prediction. A frame of another size begins a new average.

        Raises:
            ValueError: If `past` is out of range.
        """
        if not 0 <= past < 1:
            raise ValueError(f"smooth is {past}; it must be from 0 (each frame alone) to below 1")
        if past == 0:
            return lambda pixels: self.segment([pixels])[0]
        average: torch.Tensor | None = None

        def segment(pixels: np.ndarray) -> Prediction:
            nonlocal average
            now = self._scores([pixels]).softmax(dim=1)
            average = now if average is None or average.shape != now.shape else average.mul_(past).add_(now, alpha=1 - past)
            return self._predictions(average, [pixels])[0]

        return segment

    def segment(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Segment (H, W, 3) uint8 RGB arrays of one size: on a GPU at once, on a CPU one by one; see `stream`."""
        if self.device.type == "cpu" and len(images) > 1:
            return [self.segment([image])[0] for image in images]
        return self._predictions(self._scores(images), images)

    def _scores(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Of images of one size, see `class_scores`."""
        return class_scores(self.runtime, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))

    def _predictions(self, scores: torch.Tensor, images: Sequence[np.ndarray]) -> list[Prediction]:
        masks = (largest(one[None], (p.shape[0], p.shape[1]))[0] for one, p in zip(scores, images, strict=True))
        kept = [stored(mask, len(self.labels)).numpy() for mask in masks]
        return [Prediction(pixels, mask, self.labels) for pixels, mask in zip(images, kept, strict=True)]
