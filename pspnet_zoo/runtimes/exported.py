"""Exported networks: the metadata that `pspnet_zoo.export` writes into the file, and what their runtimes have in common."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from ..meta import Decision, Labels, Preprocess
from ..storage.errors import WeightsError
from ..storage.files import file_digest, write_atomically

KEY = "pspnet_zoo"
"""Name of the metadata in an ONNX file's metadata_props, an OpenVINO model's rt_info, or a program's extra files."""
UNSEALED = "0" * 64
"""The `file_sha256` of a file that is still being written."""
_VERSION = 1
Precision = Literal["float32", "float16", "bfloat16", "int8"]
Output = Literal["logits", "ids", "ids+confidence"]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Metadata of an exported network: how to call it, and where it comes from."""

    input: Literal["float32", "uint8"]
    """"float32": (N, channels, H, W), normalised by `preprocess`. "uint8": (N, 3, H, W), RGB, 0 to 255; normalised inside."""
    output: Output
    """"logits": (N, classes, H, W) float32. "ids": (N, H, W), the argmax, uint8 (int32 above 256 classes); of a multi-label network
    (N, classes, H, W) uint8, 1 where a pixel is of the class. "ids+confidence": the ids, and (N, H, W) uint8, the probability of
    each pixel's class times 255."""
    classes: int
    channels: int
    """Number of channels of the input."""
    image_size: tuple[int, int] | None
    """Height and width of the only image that the network takes, in pixels; None for any."""
    precision: Precision
    activation: str | None
    """The activation after the logits, by smp's names; None for none."""
    labels: Labels | None
    preprocess: Preprocess
    provenance: dict[str, Any] | None
    """Origin of the weights, as in a checkpoint's config.json."""
    versions: dict[str, str]
    """Versions of the packages that made the file, by name."""
    check: dict[str, Any]
    """Result of the comparison with the network before the file was kept."""
    threshold: float | tuple | None = None
    """Probability above which a pixel has id 1 of two, or one a class of multi-label; ids obey it already. None for the more
    probable one."""
    multilabel: bool = False
    """Whether a pixel may be of several classes, or of none."""
    beside_sha256: str | None = None
    """sha256 of the file beside this one that has the weights; None where there is none."""
    file_sha256: str | None = None
    """sha256 of the file itself with zeros in the place of these digits, see `seal`; None where it is not known."""

    def to_json(self) -> str:
        """The metadata as a JSON object, with the version of this format."""
        return json.dumps({"format_version": _VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str, path: Path) -> "Exported":
        """The metadata that `to_json` wrote.

        Raises:
            WeightsError: If the text is something else; it names the file.
        """
        try:
            values = json.loads(text)
            if values.pop("format_version") != _VERSION:
                raise ValueError("it is of another version of pspnet_zoo")
            labels, preprocess, size = values["labels"], values["preprocess"], values["image_size"]
            values["labels"] = Labels(tuple(labels["names"]), tuple(map(tuple, labels["colors"]))) if labels else None
            values["preprocess"] = Preprocess.from_dict(preprocess)
            values["image_size"] = tuple(size) if size else None
            if isinstance(values.get("threshold"), list):
                values["threshold"] = tuple(values["threshold"])
            spec = cls(**values)
            spec.check_kinds()
            return spec
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise WeightsError(f"The metadata '{KEY}' in '{path}' cannot be used: {error!r}. Export the network again") from None

    def check_kinds(self) -> None:
        """Raise a ValueError if a field is of another kind than it should be, as in a file that somebody edited."""
        for name, hint in get_type_hints(Exported).items():
            value = getattr(self, name)
            kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
            if get_origin(hint) is Literal:
                fits = value in get_args(hint)
            else:
                fits = isinstance(value, tuple(get_origin(kind) or kind for kind in kinds))
            if not fits:
                raise ValueError(f"{name} is {value!r}")
        counts = (self.classes, self.channels, *(self.image_size or ()))
        if len(counts) not in (2, 4) or not all(type(n) is int and n > 0 for n in counts):
            raise ValueError("classes, channels and the sides of image_size must be positive whole numbers")
        if self.channels != len(self.preprocess.mean):
            raise ValueError(f"there are {self.channels} channels, and preprocess has {len(self.preprocess.mean)}")
        if self.input == "uint8" and (self.channels != 3 or self.preprocess.white != 255):
            raise ValueError(
                f"input is 'uint8', which is for three channels of 8 bits; there are {self.channels}, and white is "
                f"{self.preprocess.white:g}"
            )
        # one class may have the background's label too
        if self.labels is not None and len(self.labels) not in (self.classes, max(self.classes, 2)):
            raise ValueError(f"there are {self.classes} classes, and {len(self.labels)} labels")
        if self.multilabel and self.output == "ids+confidence":
            raise ValueError("output is 'ids+confidence', and the network is multi-label")
        each = self.threshold if isinstance(self.threshold, tuple) else (self.threshold,)
        fits = len(each) == self.classes if self.multilabel else self.classes <= 2 and not isinstance(self.threshold, tuple)
        if self.threshold is not None and not (fits and all(isinstance(t, float) and 0 < t < 1 for t in each)):
            raise ValueError(
                f"threshold is {self.threshold}; it is between 0 and 1, of at most two classes, or one a class of multi-label"
            )

    @property
    def decision(self) -> Decision:
        """The rule by which the classes follow from the scores."""
        return Decision(self.multilabel, self.threshold)


class ExportedRuntime:
    """An exported network in any runtime.

    Args:
        path: The file.
        spec: Its metadata.
        run: Maps an array, see `Exported.input`, to an array or two, see `Exported.output`; safe in threads.
    """

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, path: Path, spec: Exported, run: Callable[[Any], Any]) -> None:
        if spec.beside_sha256 is not None and spec.beside_sha256 != beside_digest(path):
            raise WeightsError(f"The weights beside '{path}' are damaged or of another file. Copy both again, or export them again")
        if spec.file_sha256 not in (None, UNSEALED) and not _is_sealed(path, spec.file_sha256):
            raise WeightsError(
                f"'{path}' is damaged, or was changed after its export. Copy it again, or export it again; if you changed it, set "
                f"file_sha256 in its metadata '{KEY}' to null"
            )
        self.path = path
        self.spec = spec
        self.labels: Labels | None = spec.labels
        self.provenance = spec.provenance
        self.threshold = None if spec.output == "ids" else spec.threshold
        self.multilabel = spec.multilabel
        self.classes = spec.classes
        self.image_size = spec.image_size
        self.activation: str | Callable[[], nn.Module] | None = {
            "logits": spec.activation,
            "ids": "clamp" if spec.multilabel else "argmax",
            "ids+confidence": "softmax",
        }[spec.output]
        self.preprocess = spec.preprocess
        if spec.input == "uint8":  # the file normalises: until then, pixels of 0 to 255 with the mean colour at 0
            mean = tuple(m * 255 / spec.preprocess.range for m in spec.preprocess.mean)
            self._mean = torch.tensor(mean).view(-1, 1, 1)
            # the file always upsamples, so an image that the network reads at less than its input scale is shrunk first
            most = max(int(spec.preprocess.max_pixels / spec.preprocess.input_scale**2), 1)
            given = replace(spec.preprocess, mean=mean, std=(1.0,) * len(mean), range=255.0)
            self.preprocess = replace(given, input_scale=1.0, max_pixels=most)
        self._run = run

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the file that holds the weights."""
        return file_digest(files_of(self.path)[-1], "sha256")

    @property
    def gives_ids(self) -> bool:
        """Whether the file gives ids, perhaps with a rounded probability of each."""
        return self.spec.output != "logits"

    @property
    def upsamples(self) -> bool:
        """Whether the file upsamples its images itself, and so any part of one that it is given."""
        return self.spec.input == "uint8" and self.spec.preprocess.input_scale != 1

    def run(self, x: Tensor) -> Any:
        """The file's output for its input, see `Exported.input`: a tensor, or a list of them."""
        found = self._run(x.contiguous().numpy())
        return [torch.from_numpy(each) for each in found] if self.spec.output == "ids+confidence" else torch.from_numpy(found)

    def __call__(self, x: Tensor, /) -> Tensor:
        """The file's output for (N, channels, H, W) float32, normalised by `preprocess`.

        Ids with confidence become probabilities: what a pixel's class leaves is divided among the others.

        Raises:
            ValueError: If the file takes one size and x has another.
        """
        height, width = x.shape[-2:]
        if self.image_size is not None and self.image_size != (height, width):
            raise ValueError(
                f"'{self.path}' takes images of {self.image_size[0]}x{self.image_size[1]} pixels, and larger ones in windows of "
                f"that size, but not {height}x{width}; resize the image, or use the network that it was exported from"
            )
        if self.spec.input == "uint8":
            x = (x + self._mean).round().clamp(0, 255).to(torch.uint8)
            x = x.flip(-3) if self.spec.preprocess.order == "BGR" else x
        found = self.run(x)
        return _probabilities(found[0], found[1], self.classes, self.threshold) if self.spec.output == "ids+confidence" else found


def _probabilities(ids: Tensor, confidence: Tensor, classes: int, threshold: Any) -> Tensor:
    """(N, classes, H, W) float32 that give the ids by the threshold or the largest, though the confidence is rounded."""
    least = torch.full((classes,), 1 / classes) if threshold is None else torch.tensor([1 - threshold, threshold])
    own = torch.maximum(confidence.float() / 255, least[ids.long()] + 1e-6)[:, None]
    others = ((1 - own) / (classes - 1)).expand(-1, classes, -1, -1)
    return others.scatter(1, ids.long()[:, None], own)


def seal(path: Path) -> None:
    """Put the digest of a file into it, in the place of the `UNSEALED` that its metadata hold."""
    data = path.read_bytes()
    if data.count(UNSEALED.encode()) != 1:
        raise AssertionError("the metadata are in the file once")
    write_atomically(path, data.replace(UNSEALED.encode(), hashlib.sha256(data).hexdigest().encode()))


def _is_sealed(path: Path, digest: str) -> bool:
    data = memoryview(whole := path.read_bytes())
    place = whole.rfind(digest.encode())  # the metadata are at the end
    found = hashlib.sha256(data[: max(place, 0)])
    found.update(UNSEALED.encode())
    found.update(data[place + len(UNSEALED) :])
    return found.hexdigest() == digest


def files_of(path: Path) -> list[Path]:
    """All files of an exported network, given the one that is opened; the weights are in the last."""
    beside = {".xml": path.with_suffix(".bin"), ".onnx": path.with_name(f"{path.name}.data")}.get(path.suffix.lower())
    return [path, *([beside] if beside and beside.is_file() else [])]


def check_as_exported(path: Path, spec: Exported, precision: str | None, compile: bool) -> None:
    """Raise a ValueError for options that would have to change an exported file."""
    if precision not in (None, spec.precision):
        raise ValueError(
            f"precision is {precision!r}, and '{path}' was exported in {spec.precision}; leave it out, or export again"
        )
    if compile:
        raise ValueError(f"compile is for PyTorch, and '{path}' runs as it was exported; leave compile out")


def beside_digest(path: Path) -> str | None:
    """sha256 of the file with the weights beside an exported one; None where there is none."""
    _, *beside = files_of(path)
    return file_digest(beside[0], "sha256") if beside else None


def foreign(path: Path) -> WeightsError:
    """The error for a network that carries no metadata of ours."""
    return WeightsError(
        f"'{path}' was not made by pspnet-zoo export: it lacks the metadata '{KEY}', so its classes and preprocessing are unknown"
    )


def unreadable(path: Path, error: Exception) -> WeightsError:
    """The error for a file that its runtime cannot read, with the runtime's reason."""
    reason = " ".join(str(error).split())
    return WeightsError(f"'{path}' cannot be read; it may be cut short. Export it again ({reason[:200]})")
