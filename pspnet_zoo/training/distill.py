"""Knowledge distillation: soft labels of teacher networks, cached on disk and augmented with their image.

The augmentation moves coordinates instead of the soft labels: `coordinates` gives the position of every pixel, every
geometric transform treats it as an image, and `sample` looks the soft labels up once, for the pixels of the crop.

Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2.
"""

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.dataset import SegmentationDataset
from ..data.images import read_image
from ..data.importers.sample import image_header
from ..inference.protocols import InferenceProtocol
from ..inference.scores import as_read, class_probabilities, decision_of, labels_of, named_image, reads_photos
from ..meta import Labels
from ..runtimes.open import Runtime
from ..storage.errors import WeightsError
from ..storage.files import read_state, write_state
from .transforms import Coordinates

Progress = Callable[[int, int], None]
"""Called after each image with the number of images that this process has done, and their total."""


@dataclass(frozen=True)
class Teacher:
    """A source of soft labels: probabilities of the student's classes."""

    name: str
    """Identifies the teacher: soft labels that were cached under this name are used again."""
    probabilities: Callable[[Tensor], Tensor]
    """Maps (3, H, W) uint8 RGB to (C, H, W) float, 0..1. Pixels where they sum to less than 0.5 do not count, nor do classes that
    are not in `known`."""
    known: frozenset[int]
    """The student's classes that the teacher predicts."""


def network_teacher(
    model: Runtime, protocol: InferenceProtocol, labels: Labels, mapping: Mapping[str, Sequence[str]] | None = None
) -> Teacher:
    """A network as a teacher.

    Args:
        model: A runtime from `pspnet_zoo.runtimes.open.open_runtime`: of the zoo, a folder, or an exported file.
        protocol: How it segments an image.
        labels: The student's classes.
        mapping: For each of the student's classes, the teacher's classes whose probabilities are added up to it; an empty list
            where the teacher does not have the class. None where both have the same classes.

    Raises:
        ValueError: If the teacher is multi-label, reads something else than photos or has no labels, the classes differ without a
            mapping, or the mapping does not fit both.
    """
    if decision_of(model).multilabel:
        raise ValueError("The teacher is multi-label, and soft labels are of one class a pixel; choose another")
    if not reads_photos(model.preprocess):
        raise ValueError(
            f"The teacher reads {len(model.preprocess.mean)} bands, and soft labels are made of photos; choose another"
        )
    own = labels_of(model)
    if own is None:
        raise ValueError("The teacher has no labels, so its classes have no names; set model.labels to pspnet_zoo.Labels")
    matrix = _matrix(own.names, labels.names, mapping)

    def probabilities(image: Tensor) -> Tensor:
        scores = class_probabilities(model, as_read(image, model.preprocess)[None], protocol)[0]
        return torch.einsum("sc,chw->shw", matrix.to(scores.device), scores)

    settings = [model.weights_sha256, repr(protocol), repr(model.preprocess), matrix.tolist()]
    known = frozenset(matrix.any(dim=1).nonzero().flatten().tolist())
    return Teacher(hashlib.sha256(json.dumps(settings).encode()).hexdigest(), probabilities, known)


def read_mapping(path: Path) -> dict[str, list[str]]:
    """The mapping of `network_teacher` from a JSON file, {"student's class": ["teacher's class", ...], ...}.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No file '{path}'")
    try:
        mapping = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' is not JSON: {error}") from None
    lists = mapping.values() if isinstance(mapping, dict) else [None]
    if not all(isinstance(names, list) and all(isinstance(n, str) for n in names) for names in lists):
        raise ValueError(f"""'{path}' must be an object of lists of names, as {{"road": ["road", "parking"], "sky": ["sky"]}}""")
    return mapping


def _matrix(teacher: Sequence[str], student: Sequence[str], mapping: Mapping[str, Sequence[str]] | None) -> Tensor:
    """(student's classes, teacher's classes) float: 1 where the teacher's class is part of the student's."""
    if mapping is None:
        if tuple(teacher) != tuple(student):
            raise ValueError(
                f"The teacher's classes are {', '.join(teacher)}; the student's are {', '.join(student)}. Give a mapping that says "
                "which of the teacher's classes form each of the student's"
            )
        return torch.eye(len(student))
    if wrong := sorted(set(student) ^ mapping.keys()):
        raise ValueError(
            f"The mapping must have each of the student's classes and no other; look at {', '.join(wrong)}. An empty list says "
            "that the teacher does not have a class"
        )
    parts = [name for names in mapping.values() for name in names]
    if unknown := sorted(set(parts) - set(teacher)):
        raise ValueError(f"The mapping names {', '.join(unknown)}; the teacher's classes are {', '.join(teacher)}")
    if twice := sorted({name for name in parts if parts.count(name) > 1}):
        raise ValueError(f"The mapping has {', '.join(twice)} more than once; the teacher's classes are each part of one class")
    return torch.tensor([[float(name in mapping[own]) for name in teacher] for own in student])


class TeacherScores:
    """Soft labels of a dataset's images, averaged over teachers and cached on disk.

    Args:
        folder: Of the cache. Several sets of teachers, and images of any dataset, can share it.
        teachers: One or more.
        dataset: Its images are read from their files; its labels are the classes of the teachers' probabilities.
        stride: Pixels of an image in each direction for one soft label: 1 keeps every pixel, 4 takes a sixteenth of the space.
        progress: Told of the images that `prepare` computes.

    Raises:
        ValueError: If there is no teacher, they predict different classes, the stride is not positive, or the dataset states images
            that are no photos.
    """

    def __init__(
        self,
        folder: Path,
        teachers: Sequence[Teacher],
        dataset: SegmentationDataset,
        *,
        stride: int = 1,
        progress: Progress | None = None,
    ) -> None:
        stated = getattr(dataset, "preprocess", None)
        if stated is not None and not reads_photos(stated):
            raise ValueError(
                "A teacher is given photos, 8-bit RGB, and the dataset states other images in preprocess.json; leave it out"
            )
        if not teachers or len({t.known for t in teachers}) > 1:
            raise ValueError(f"{len(teachers)} teachers were given; it takes one or more, with the same classes")
        if stride < 1:
            raise ValueError(f"stride is {stride}; it must be 1 or more")
        self.teachers, self.dataset, self.stride, self.progress = teachers, dataset, stride, progress
        self.known = sorted(teachers[0].known)
        """The student's classes that the teachers predict."""
        names = sorted(teacher.name for teacher in teachers)
        self.name = hashlib.sha256(json.dumps([names, stride]).encode()).hexdigest()
        """Identifies these soft labels."""
        self.folder = folder / self.name[:16]
        self._digests: dict[int, str] = {}
        self._verified: dict[int, tuple[int, int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {
            **vars(self),
            "teachers": (),
            "progress": None,
        }  # for workers, which only read; a network on a GPU cannot be pickled

    def path(self, index: int) -> Path:
        """The file with the soft labels of an image; its name is a digest of the image's file."""
        if index not in self._digests:
            self._digests[index] = hashlib.sha256(Path(self.dataset.images[index]).read_bytes()).hexdigest()
        return self.folder / f"{self._digests[index][:32]}.safetensors"

    def size(self, index: int) -> int:
        """Bytes of the soft labels of an image."""
        height, width = image_header(Path(self.dataset.images[index])).size
        return 2 * len(self.dataset.labels) * -(-height // self.stride) * -(-width // self.stride)

    def compute(self, index: int) -> Tensor:
        """(C, h, w) float16 soft labels of an image, 0..1; h and w are its sides divided by the stride, rounded up."""
        image = torch.from_numpy(read_image(Path(self.dataset.images[index]))).permute(2, 0, 1)
        with named_image(self.dataset.images[index]):
            scores = torch.stack([teacher.probabilities(image).float() for teacher in self.teachers]).mean(dim=0)
        if self.stride > 1:
            size = [-(-side // self.stride) for side in scores.shape[-2:]]
            scores = F.interpolate(scores[None], size=size, mode="bilinear", antialias=True)[0]
        return scores.to("cpu", torch.float16)

    def prepare(self, *, process: int = 0, processes: int = 1) -> int:
        """Compute what is missing or damaged; several processes divide the images among them. What was computed before is kept.

        Returns:
            How many images this process computed.

        Raises:
            OSError: If there is no space left, or the folder cannot be written.
            ImageError: If an image cannot be read.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        todo = [index for index in range(process, len(self.dataset), processes) if self._read(index) is None]
        needed, free = processes * sum(map(self.size, todo)), shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(self._no_space(f"{len(todo)} images need {_gigabytes(needed)}, and {_gigabytes(free)} are free"))
        for done, index in enumerate(todo):
            try:
                self._write(index, self.compute(index))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                left = sum(self.size(i) for i in todo[done:])
                raise OSError(self._no_space(f"{done} of {len(todo)} images are done, {_gigabytes(left)} are left")) from None
            if self.progress:
                self.progress(done + 1, len(todo))
        return len(todo)

    def __getitem__(self, index: int) -> Tensor:
        """(C, h, w) float16, 0..1, as `compute` returned them.

        Raises:
            WeightsError: If the file is missing or damaged; `prepare` mends that.
        """
        scores = self._read(index)
        if scores is None:
            raise WeightsError(
                f"'{self.path(index)}', soft labels of a teacher, was damaged while training; continue with --resume"
            )
        return scores

    def _read(self, index: int) -> Tensor | None:
        """The soft labels of a file that is whole; hashed once, and again only if the file has changed since."""
        path = self.path(index)
        try:
            tensors, state = read_state(path)
            scores, version = tensors["scores"], (path.stat().st_mtime_ns, path.stat().st_size)
        except (WeightsError, KeyError, OSError):
            return None
        if self._verified.get(index) != version:
            if state.get("sha256") != _digest(scores):
                return None
            self._verified[index] = version
        return scores

    def _write(self, index: int, scores: Tensor) -> None:
        state = {"sha256": _digest(scores), "image": Path(self.dataset.images[index]).name}
        write_state(self.path(index), {"scores": scores.contiguous()}, state)

    def _no_space(self, what: str) -> str:
        return (
            f"No space for the soft labels of the teacher in '{self.folder}': {what}. Free some, choose a folder on another disk, "
            "or a larger stride; what was computed is kept"
        )


def _digest(scores: Tensor) -> str:
    return hashlib.sha256(scores.contiguous().numpy().tobytes()).hexdigest()


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def coordinates(height: int, width: int) -> Coordinates:
    """(3, H, W) float: x and y of every pixel's centre, -1..1 between the image's edges, and 1 for inside the image."""
    y = (torch.arange(height) * 2 + 1) / height - 1
    x = (torch.arange(width) * 2 + 1) / width - 1
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.ones(height, width)]).as_subclass(
        Coordinates
    )


def sample(scores: Tensor, where: Tensor) -> Tensor:
    """Soft labels of an augmented image.

    Args:
        scores: (C, h, w), soft labels of the whole image, at any size.
        where: (3, H, W) float, the image's `coordinates` after the augmentation.

    Returns:
        (C, H, W) float32; 0 outside the image.
    """
    grid = where[:2].permute(1, 2, 0)[None]
    found = F.grid_sample(scores[None].float(), grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
    return found * (where[2] > 0.999)


def counted_pixels(target: Tensor, confidence: float) -> Tensor:
    """(N, H, W) bool: the pixels with soft labels whose most likely class has at least this probability."""
    known = target.sum(dim=1) > 0.5
    return known & (target.amax(dim=1) >= confidence) if target.shape[1] else known


def distillation_loss(
    logits: Tensor | tuple[Tensor, Tensor],
    target: Tensor,
    *,
    known: Sequence[int],
    temperature: float = 1.0,
    confidence: float = 0.0,
    aux_weight: float = 0.4,
) -> Tensor:
    """Mean Kullback-Leibler divergence of student and teacher over the `counted_pixels`, times the temperature squared.

    Args:
        logits: (N, C, H, W), or the pair with the auxiliary head's.
        target: (N, C, H, W) float, the teacher's probabilities. They are scaled to sum to 1 over the classes that are compared.
        known: The classes that are compared.
        temperature: Divides both networks' logits; above 1, the less likely classes count more.
        confidence: Pixels whose most likely class has less than this probability do not count, 0 to 1.
        aux_weight: Weight of the auxiliary head's loss.

    Returns:
        A scalar, in nats; 0 if no pixel counts.
    """
    if isinstance(logits, tuple):
        options = {"known": known, "temperature": temperature, "confidence": confidence}
        main, auxiliary = (distillation_loss(part, target, **options) for part in logits)
        return main + aux_weight * auxiliary
    counted = counted_pixels(target, confidence)
    # a teacher's logits are the logarithms of its probabilities, up to a constant that softmax cancels
    chosen = target[:, known].float() ** (1 / temperature)
    wanted = chosen / chosen.sum(dim=1, keepdim=True).clamp(min=1e-12)
    found = (logits[:, known].float() / temperature).log_softmax(dim=1)
    divergence = F.kl_div(found, wanted, reduction="none").sum(dim=1)
    return divergence.where(counted, 0).sum() * temperature**2 / counted.sum().clamp(min=1)
