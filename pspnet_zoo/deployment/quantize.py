"""Eight-bit networks by NNCF's post-training quantization, for OpenVINO."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import SegmentationDataset
from ..data.images import read_image
from ..data.pairs import list_images
from ..inference.scores import as_logits, as_read, class_scores, reads_photos
from ..models.pspnet import PSPNet
from ..runtimes.exported import Exported, ExportedRuntime
from .graph import RuntimeCall
from .verify import logits_of

_MOST = 100  # images; 92 kept 0.6662 of 0.6669 mIoU of the bundled network
_COMPARED = 10  # images
AGREEMENT = 0.9
"""The fraction of the pixels that have to keep their class."""


class Calibration:
    """Images to quantize with, read and preprocessed as for prediction.

    Args:
        source: A folder, files or a dataset; of more than 100 images, 100 at equal distances.
        spec: Of the file, whose input they become.

    Raises:
        ValueError: If the network reads other images than 8-bit RGB or gray.
        FileNotFoundError: If there is no such folder, or no image in it.
    """

    def __init__(self, source: str | PathLike[str] | SegmentationDataset | Sequence[Path], spec: Exported) -> None:
        if not reads_photos(spec.preprocess):
            raise ValueError(
                f"int8 is calibrated on 8-bit RGB images, and this network reads {len(spec.preprocess.mean)} bands in which white "
                f"is {spec.preprocess.white:g}; export it in float32"
            )
        if isinstance(source, str | PathLike):
            files = list_images(Path(source), have_masks=False)
        else:
            files = tuple(source) if isinstance(source, list | tuple) else tuple(source.images)  # type: ignore[union-attr]
        if not files:
            raise FileNotFoundError("No images to calibrate with")
        self.spec = spec
        self.files = [files[i] for i in np.linspace(0, len(files) - 1, min(_MOST, len(files))).round().astype(int)]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, file: Path) -> np.ndarray:
        """An image as the file's input; its first window, if the network takes one size."""
        seen: list[np.ndarray] = []

        def run(x: np.ndarray) -> Any:
            seen.append(x)
            shape = (len(x), *((self.spec.classes,) if self.spec.output == "logits" else ()), *x.shape[2:])
            zeros = np.zeros(shape, np.float32)
            return (zeros, zeros) if self.spec.output == "ids+confidence" else zeros

        image = torch.from_numpy(read_image(file)).permute(2, 0, 1)[None]
        class_scores(ExportedRuntime(file, self.spec, run), as_read(image, self.spec.preprocess))
        return seen[0]

    def quantized(self, graph: Any) -> Any:
        """An `openvino.Model` in int8, of one in float32."""
        import nncf

        nncf.set_log_level(logging.ERROR)
        with _quiet_about_cuda():
            return nncf.quantize(
                graph,
                nncf.Dataset(self.files, self.read),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(self.files),
                fast_bias_correction=True,
            )

    def agreement(self, network: PSPNet, run: RuntimeCall) -> dict[str, Any]:
        """The fraction of the pixels of ten of the images that have the network's class.

        Raises:
            ValueError: If it is below `AGREEMENT`.
        """
        files = self.files[:: max(len(self.files) // _COMPARED, 1)][:_COMPARED]
        same, total = 0, 0
        for file in files:
            images = torch.from_numpy(self.read(file))
            logits = logits_of(network, self.spec, images)
            found = _ids(run(images), self.spec)
            wanted = _ids(logits, self.spec) if self.spec.output == "logits" else self.spec.decision(logits)
            same, total = same + int((found == wanted).sum()), total + wanted.numel()
        fraction = same / total
        if fraction < AGREEMENT:
            raise ValueError(
                f"In int8, {fraction:.1%} of the pixels keep their class; {AGREEMENT:.0%} are required, so the file is not kept. "
                "Calibrate with images like those it is for, or use bfloat16"
            )
        return {"calibration_images": len(self), "compared_images": len(files), "fraction_of_pixels_with_the_same_class": fraction}


@contextmanager
def _quiet_about_cuda() -> Iterator[None]:
    """Drop one warning: NNCF imports torch's builder of CUDA extensions, which warns where nvcc is installed without a GPU."""
    logger = logging.getLogger("torch.utils.cpp_extension")

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No CUDA runtime is found")

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _ids(found: Tensor | Sequence[Tensor], spec: Exported) -> Tensor:
    """The ids in a file's output, decided as for prediction."""
    found = found if isinstance(found, Tensor) else found[0]
    if spec.output != "logits":
        return found.long()
    return spec.decision(as_logits(found, spec.activation, spec.classes, spec.multilabel))
