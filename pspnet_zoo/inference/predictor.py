"""Segmentation of images by a trained network."""

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
from ..data.rasters import Raster, is_map, read_bands
from ..factory import known_preprocess
from ..meta import IGNORE, Decision
from ..models.pspnet import PSPNet
from ..runtimes.exported import Precision
from ..runtimes.open import open_runtime
from ..runtimes.torch import TorchRuntime
from ..streams.pipeline import WORKERS, segment_all
from ..streams.video import segment_video
from ..zoo.registry import DEFAULT_MODEL as DEFAULT_MODEL
from .draw import band_indexes, check_stretch, stretched
from .prediction import Prediction
from .scores import as_read, class_scores, confidences, decided, decision_of, labels_of, probabilities_of, reads_photos, stored
from .tiles import open_image, segment_raster, tiled_scores, tiling_for

ImageInput = str | PathLike[str] | BinaryIO | Image.Image | np.ndarray | torch.Tensor
"""An image for a predictor."""

_log = logging.getLogger(__name__)


class Predictor:
    """Segments images with a trained network. Safe in threads; each call gives what it gives alone.

    A network that is given stays in its mode and on its device, and is run in evaluation mode. Later changes of it count, see
    `pspnet_zoo.runtimes.torch.TorchRuntime`.

    Args:
        model: A network with labels, a checkpoint's name or folder, its repository on the Hub, "org/repo", or an .onnx or .xml file
            or folder that `pspnet_zoo.export` wrote.
        device: Where to run, such as "cpu" or "cuda"; None for a GPU if there is one.
        precision: "bfloat16" takes about half the time on processors made for it, and gives nearly the same classes. None for the
            precision of the weights or the exported file.
        compile: Compile the network by `torch.compile`.
        fast: On CPUs, compute in less time with the same results but for rounding. None does so where it can, True requires it,
            False computes layer by layer.
        threads: Number of CPU threads; None leaves the choice to the runtime.
        tile: Segment images in tiles of this side, in pixels, each at full size, see `pspnet_zoo.inference.tiles`; None segments
            them whole.
        overlap: Pixels that neighbouring tiles share, at most half of a tile; None for a quarter.
        blend: Fade tiles into each other, so that no seam shows; False averages them evenly. None is True.
        overlay_bands: One or three bands that overlays show, by name or number from 1, where a network reads other bands than RGB;
            None for the first three.
        stretch: Percentiles of those bands that become black and white; None for 2 and 98.

    Attributes:
        model: The network, or the exported one in its runtime.
        labels: Names and colors of the ids.
        reads_bands: Whether the network reads other images than 8-bit RGB or grayscale, by `pspnet_zoo.data.rasters`.

    Raises:
        ValueError: If the name is unknown, the network has no labels, or an option is not for this model.
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
        tile: int | None = None,
        overlap: int | None = None,
        blend: bool | None = None,
        overlay_bands: Sequence[int | str] | None = None,
        stretch: tuple[float, float] | None = None,
    ) -> None:
        if tile is not None and (known := known_preprocess(model)):
            tiling_for(known, tile, overlap, blend)  # before seconds or minutes of loading
        self.runtime = open_runtime(model, device=device, precision=precision, compile=compile, fast=fast, threads=threads)
        self.model: Any = self.runtime.network if isinstance(self.runtime, TorchRuntime) else self.runtime
        labels = labels_of(self.runtime)
        if labels is None:
            raise ValueError("This network has no labels, so its classes have no names; set model.labels to pspnet_zoo.Labels")
        preprocess = self.runtime.preprocess
        self.reads_bands = not reads_photos(preprocess)
        self.tiling = tiling_for(preprocess, tile, overlap, blend)
        for name, value in (("overlay_bands", overlay_bands), ("stretch", stretch)):
            if value is not None and not self.reads_bands:
                raise ValueError(f"{name} is {value}; this network reads 8-bit RGB, which is shown as it is")
        self._look = band_indexes(preprocess, overlay_bands), check_stretch(stretch or (2, 98))
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
                with more pixels than `model.preprocess.max_pixels` is downsampled for the network; the result has its full size. An
                encoder of one size gets windows of that size. A network of one channel gets the luma of the colors. A network of
                other bands or depths reads a file that `open_raster` does, an (H, W, bands) array or a (bands, H, W) tensor; pixels
                without data are 255 in its mask.
            probabilities: Keep the probabilities of the classes, 4 bytes for each class and pixel.

        Raises:
            FileNotFoundError: If there is no such file.
            ImageError: If it cannot be read as an image.
        """
        if isinstance(image, list):
            return [self(one, probabilities=probabilities) for one in image]
        pixels = self.read(image)
        scores = self._scores([pixels])
        prediction = self._predictions(scores, [pixels])[0]
        if not probabilities:
            return prediction
        found = probabilities_of(scores, (pixels.shape[0], pixels.shape[1]), decision_of(self.runtime))[0]
        return replace(prediction, probabilities=found.cpu().numpy())

    def read(self, image: ImageInput) -> np.ndarray:
        """Read an image as `__call__` takes it, to (H, W, 3) uint8 RGB, or (H, W, bands), masked without data. Safe in threads."""
        if self.reads_bands:
            return self._read_bands(image)
        if isinstance(image, str | PathLike):
            return self._read_map(Path(image)) if is_map(Path(image)) else read_image(Path(image))
        if hasattr(image, "read"):
            return read_image(cast(BinaryIO, image))
        try:
            return to_rgb(image)
        except ImageError as error:
            raise ImageError(f"The image {error}") from None

    def _read_map(self, path: Path) -> np.ndarray:
        with self.open(path) as raster:
            pixels, valid = raster.filled(self.runtime.preprocess.mean_color)
        if not valid.any():
            raise ImageError(f"'{path}' has no data in any pixel")
        return _masked(pixels, np.asarray(valid.any(axis=0)))

    def _read_bands(self, image: Any) -> np.ndarray:
        if isinstance(image, str | PathLike):
            return _masked(*read_bands(Path(image), self.runtime.preprocess))
        if isinstance(image, torch.Tensor):
            image = image.detach().cpu().movedim(0, -1).numpy()
        channels = len(self.runtime.preprocess.mean)
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != channels:
            shape = f" of the shape {tuple(image.shape)}" if hasattr(image, "shape") else ""
            raise ImageError(
                f"The image is a {type(image).__name__}{shape}; this network reads {channels} bands: a file of them, an array "
                f"(H, W, {channels}) or a tensor ({channels}, H, W)"
            )
        return image

    def open(self, path: str | PathLike[str]) -> Raster:
        """An image file as the network reads it, region by region; see `pspnet_zoo.inference.tiles.open_image`."""
        return open_image(path, self.runtime.preprocess)

    def rows(
        self, image: str | PathLike[str] | Raster, *, first_row: int = 0, tile_done: Callable[[int], None] | None = None
    ) -> Iterator[np.ndarray]:
        """Segment a file larger than memory in tiles; every row comes once, from the top.

        Args:
            image: A file, or an open one, see `open`.
            first_row: Leave out the rows above.
            tile_done: Called after each tile with its new pixels, which add up to those of the image.

        Yields:
            (rows, width) uint8 class ids, 255 where there is no data.

        Raises:
            ValueError: If the predictor has no `tile`.
            ImageError: If the file cannot be read.
        """
        if self.tiling is None:
            raise ValueError("This predictor segments whole images; give Predictor(tile=512) to segment rows of large ones")
        if not isinstance(image, Raster):
            with self.open(image) as raster:
                yield from self.rows(raster, first_row=first_row, tile_done=tile_done)
            return
        yield from segment_raster(self.runtime, image, self.tiling, first_row=first_row, tile_done=tile_done)

    def stream(self, images: Iterable[ImageInput], *, batch_size: int = 1, workers: int = WORKERS) -> Iterator[Prediction]:
        """Segment many images, in order, while the next ones are read in threads.

        An image that cannot be read is left out, with a warning in the log; `pipeline.segment_all` returns its error.

        Args:
            images: Each as `__call__` takes it; taken one by one, so that they may be endless.
            batch_size: Most neighboring images of one size in a batch on a GPU. A CPU takes them one by one: batches gain no time
                there, and would change the last bits of the scores.
            workers: Number of threads that read.

        Raises:
            ValueError: If a number is not positive.
        """
        for result in segment_all(self.segment, self.read, images, batch_size=batch_size, workers=workers):
            if result.prediction is not None:
                yield result.prediction
            else:
                _log.warning("An image was left out: %s", result.error)

    def require_photos(self, work: str) -> None:
        """Raise a ValueError if the network reads other images than photos, which `work`, the subject of a sentence, has."""
        if self.reads_bands:
            preprocess = self.runtime.preprocess
            bands = f"{len(preprocess.mean)} bands" + (f" ({', '.join(preprocess.bands)})" if preprocess.bands else "")
            raise ValueError(
                f"{work} takes 8-bit RGB images, and this network reads {bands} in which white is {preprocess.white:g}; segment "
                "files of them by pspnet-zoo predict, or arrays by Predictor"
            )

    def require_one_class(self, what: str) -> None:
        """Raise a ValueError if the network is multi-label, and `what`, the subject of a sentence, is of one class a pixel."""
        if self.labels.multilabel:
            raise ValueError(
                f"{what} is of one class a pixel, and this network is multi-label; use Predictor or pspnet-zoo predict, which give "
                "a mask a class"
            )

    def video(self, path: str | PathLike[str], *, every: int = 1, smooth: float = 0.0) -> Iterator[tuple[float, Prediction]]:
        """Segment the frames of a video while the next ones are decoded. Needs the extra `video`.

        Args:
            path: A video of any format that FFmpeg reads.
            every: Step between frames; 2 takes every second one.
            smooth: See `smoothed`.

        Yields:
            The time of a frame, in seconds from the beginning, and its prediction, turned as the file states.

        Raises:
            ValueError: If `every` is not positive, or `smooth` not from 0 to below 1.
            FileNotFoundError: If there is no such file.
            VideoError: If it is not a video; after the last frame, if its end is missing.
            ImportError: If PyAV is not installed.
        """
        for frame, prediction in segment_video(self.smoothed(smooth), path, every=every):
            yield frame.time, prediction

    def smoothed(self, past: float) -> Callable[[np.ndarray], Prediction]:
        """Make a function that segments a video's frames in order, with class probabilities averaged over time.

        This reduces flicker where the camera stands still. Things that move leave traces, since earlier frames are not aligned.

        Args:
            past: Weight of the average so far, from 0 (none) to below 1; the n-th frame before the last has the weight
                (1 - past) * past ** n.

        Returns:
            A function of (H, W, 3) uint8 RGB that returns a prediction; not for several threads. A frame of another size begins a
            new average.

        Raises:
            ValueError: If `past` is out of range.
        """
        self.require_photos("A video")
        if not 0 <= past < 1:
            raise ValueError(f"smooth is {past}; it must be from 0 (each frame alone) to below 1")
        if past == 0:
            return lambda pixels: self.segment([pixels])[0]
        average: torch.Tensor | None = None

        def segment(pixels: np.ndarray) -> Prediction:
            nonlocal average
            decision = decision_of(self.runtime)
            now = decision.probabilities(self._scores([pixels]))
            average = now if average is None or average.shape != now.shape else average.mul_(past).add_(now, alpha=1 - past)
            # the argmax of probabilities is that of their scores, but for rounding
            scores = average if decision == Decision() else decision.scores(average)
            return self._predictions(scores, [pixels])[0]

        return segment

    def segment(self, images: Sequence[np.ndarray], *, confidence: bool = False) -> list[Prediction]:
        """Segment (H, W, 3) uint8 RGB arrays of one size: on a GPU at once, on a CPU one by one; see `stream`.

        Args:
            images: The arrays.
            confidence: Also compute `Prediction.confidence`.

        Raises:
            ValueError: If a confidence is asked of a multi-label network.
        """
        if confidence:
            self.require_one_class("A confidence")
        if self.device.type == "cpu" and len(images) > 1:
            return [self.segment([image], confidence=confidence)[0] for image in images]
        return self._predictions(self._scores(images), images, confidence)

    def _scores(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Scores of images of one size, see `class_scores`."""
        pixels = self.tensor(images)
        if self.tiling is not None:
            return torch.stack([tiled_scores(self.runtime, one, self.tiling) for one in pixels])
        return class_scores(self.runtime, pixels)

    def tensor(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Images of `read`, of one size, as `class_scores` takes them, (N, C, H, W)."""
        stacked = np.stack([np.ma.getdata(image) for image in images])
        if self.reads_bands:
            if stacked.shape[-1] != (channels := len(self.runtime.preprocess.mean)):
                raise ImageError(f"The image has {stacked.shape[-1]} channels, and this network reads {channels}")
            stacked = stacked if stacked.dtype == np.uint8 else stacked.astype(np.float32)
        pixels = torch.from_numpy(stacked).permute(0, 3, 1, 2)
        return as_read(pixels, self.runtime.preprocess)

    def _predictions(self, scores: torch.Tensor, images: Sequence[np.ndarray], confidence: bool = False) -> list[Prediction]:
        return [self._prediction(one[None], pixels, confidence) for one, pixels in zip(scores, images, strict=True)]

    def _prediction(self, scores: torch.Tensor, pixels: np.ndarray, confidence: bool) -> Prediction:
        ids = decided(scores, (pixels.shape[0], pixels.shape[1]), decision_of(self.runtime))
        mask = stored(ids[0], len(self.labels)).numpy()
        sure = confidences(scores, ids)[0].cpu().numpy() if confidence else None
        if isinstance(pixels, np.ma.MaskedArray):
            gaps = np.ma.getmaskarray(pixels).all(axis=-1)
            if gaps.any() and not self.labels.multilabel and len(self.labels) > IGNORE:
                raise ImageError(
                    f"The image has pixels without data, {IGNORE} in masks, and the network has {len(self.labels)} classes"
                )
            mask[..., gaps] = False if self.labels.multilabel else IGNORE
            if sure is not None:
                sure[gaps] = 0
        return Prediction(self.shown(pixels), mask, self.labels, confidence=sure)

    def shown(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 for a screen, of pixels as `read` gives them."""
        return stretched(pixels, *self._look) if self.reads_bands else np.ma.getdata(pixels)


def _masked(pixels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(H, W, bands) of (bands, H, W), masked where (H, W) bool is False."""
    gaps = np.broadcast_to(~known[..., None], (*known.shape, len(pixels)))
    pixels = np.moveaxis(pixels, 0, -1)
    return pixels if known.all() else np.ma.MaskedArray(pixels, gaps)
