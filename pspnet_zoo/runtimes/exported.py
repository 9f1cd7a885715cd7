"""What an exported network says of itself: the metadata that `pspnet_zoo.export` writes into the file."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..meta import Labels, Preprocess
from ..storage.errors import WeightsError
from ..storage.files import file_digest

KEY = "pspnet_zoo"
"""The name of the entry: of an ONNX file's metadata_props, of an OpenVINO model's rt_info, of a program's extra files."""
_VERSION = 1
Precision = Literal["float32", "float16", "bfloat16", "int8"]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What a program has to know to use the network, and where it comes from."""

    input: Literal["float32", "uint8"]
    """"float32": (N, channels, H, W), normalised by `preprocess`. "uint8": (N, 3, H, W), RGB, 0 to 255; normalised inside."""
    output: Literal["logits", "ids"]
    """"logits": (N, classes, H, W) float32. "ids": (N, H, W), the likeliest class, uint8 (int32 above 256 classes)."""
    classes: int
    channels: int
    """Of the input."""
    image_size: tuple[int, int] | None
    """Height and width of the only image that the network takes, in pixels; None for any."""
    precision: Precision
    activation: str | None
    """What the logits went through, by smp's names; None for nothing."""
    labels: Labels | None
    preprocess: Preprocess
    provenance: dict[str, Any] | None
    """Where the weights come from, as in a checkpoint's config.json."""
    versions: dict[str, str]
    """Of the packages that made the file."""
    check: dict[str, Any]
    """What the comparison with the network found before the file was kept."""

    def to_json(self) -> str:
        """Everything as a JSON object, with the version of this format."""
        return json.dumps({"format_version": _VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str, path: Path) -> "Exported":
        """What `to_json` wrote.

        Raises:
            WeightsError: If it is something else, naming the file.
        """
        try:
            values = json.loads(text)
            if values.pop("format_version") != _VERSION:
                raise ValueError("it is of another version of pspnet_zoo")
            labels, preprocess, size = values["labels"], values["preprocess"], values["image_size"]
            values["labels"] = Labels(tuple(labels["names"]), tuple(map(tuple, labels["colors"]))) if labels else None
            values["preprocess"] = Preprocess.from_dict(preprocess)
            values["image_size"] = tuple(size) if size else None
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise WeightsError(f"The metadata '{KEY}' in '{path}' cannot be used: {error!r}. Export the network again") from None


class ExportedRuntime:
    """What an exported network has in common in all runtimes.

    Args:
        path: Of the file.
        spec: What the file says of itself.
        run: Maps an array, as in `Exported.input`, to an array, as in `Exported.output`.
    """

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, path: Path, spec: Exported, run: Callable[[Any], Any]) -> None:
        self.path = path
        self.spec = spec
        self.labels: Labels | None = spec.labels
        self.provenance = spec.provenance
        self.classes = spec.classes
        self.image_size = spec.image_size
        self.activation: str | Callable[[], nn.Module] | None = "argmax" if spec.output == "ids" else spec.activation
        self.preprocess = spec.preprocess
        if spec.input == "uint8":  # normalised inside: until there, pixels of 0 to 255 with the mean colour at 0
            mean = tuple(m * 255 / spec.preprocess.range for m in spec.preprocess.mean)
            self._mean = torch.tensor(mean).view(-1, 1, 1)
            self.preprocess = replace(spec.preprocess, mean=mean, std=(1.0,) * len(mean), range=255.0, input_scale=1.0)
        self._run = run

    @property
    def weights_sha256(self) -> str:
        """Of the file that holds the weights."""
        return file_digest(files_of(self.path)[-1], "sha256")

    def run(self, x: Tensor) -> Tensor:
        """The input of the file, see `Exported.input`, to its output."""
        return torch.from_numpy(self._run(x.contiguous().numpy()))

    def __call__(self, x: Tensor, /) -> Tensor:
        """(N, channels, H, W) float32, normalised by `preprocess`, to the output of the file.

        Raises:
            ValueError: If the file takes one size, and this is another.
        """
        height, width = x.shape[-2:]
        if self.image_size is not None and self.image_size != (height, width):
            raise ValueError(
                f"'{self.path}' takes images of {self.image_size[0]}x{self.image_size[1]} pixels, larger ones in parts of that "
                f"size, and none of {height}x{width}; enlarge the image, or use the network that it was exported from"
            )
        if self.spec.input == "uint8":
            x = (x + self._mean).round().clamp(0, 255).to(torch.uint8)
            x = x.flip(-3) if self.spec.preprocess.order == "BGR" else x
        return self.run(x)


def files_of(path: Path) -> list[Path]:
    """All files of an exported network, by the one that is opened."""
    beside = {".xml": path.with_suffix(".bin"), ".onnx": path.with_name(f"{path.name}.data")}.get(path.suffix.lower())
    return [path, *([beside] if beside and beside.is_file() else [])]


def foreign(path: Path) -> WeightsError:
    """The error for a network that carries no metadata of ours."""
    return WeightsError(
        f"'{path}' was not made by pspnet-zoo export: it lacks the metadata '{KEY}', so its classes and preprocessing are unknown"
    )


def unreadable(path: Path, error: Exception) -> WeightsError:
    """The error for a file that its runtime cannot read, with the runtime's reason."""
    reason = " ".join(str(error).split())
    return WeightsError(f"'{path}' cannot be read; it may be cut short. Export it again ({reason[:200]})")
