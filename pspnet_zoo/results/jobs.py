"""The result files of each image and video of a command. It imports nothing heavy: mistakes are found before torch is loaded."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Literal

from ..data.find import Found
from ..data.rasters import is_map
from ..streams.video import SUFFIXES as VIDEO_SUFFIXES


@dataclass(frozen=True)
class Job:
    """An image or video, and the files of its results."""

    source: Path
    stem: str
    """Name of the results below the output folder, without ending; no two jobs of a command share one."""
    overlay: Path | None
    mask: Path | None
    is_video: bool = False
    confidence: Path | None = None
    """File of the 8-bit confidence of an image; None for none."""

    @property
    def targets(self) -> list[Path]:
        """The files that the job writes, in this order: the mask last, so that it appears only when the others are whole."""
        return [path for path in (self.overlay, self.confidence, self.mask) if path is not None]


@dataclass(frozen=True)
class VideoOptions:
    """Options that change the results of videos."""

    every: int = 1
    """2 takes every second frame, and so on."""
    smooth: float = 0.0
    """See `Predictor.smoothed`."""
    masks: Path | None = None
    """Folder for the mask of each frame; None writes none."""


def plan_jobs(
    found: Sequence[Found],
    output: Path,
    *,
    masks_only: bool,
    tiles: bool = False,
    confidence: bool = False,
    kind: Literal["image", "video"] | None = None,
    masks: Path | None = None,
    fail: Callable[[Exception], object],
) -> list[Job]:
    """Give every image and video the files of its results.

    Args:
        found: The inputs.
        output: Folder for the results.
        masks_only: Write no overlays.
        tiles: Whether images are segmented in tiles. Their masks are TIFF, as those of GeoTIFF always are.
        confidence: Write the confidence of images.
        kind: Take all inputs for images, or for videos; None tells by the name's ending.
        masks: See `VideoOptions`.
        fail: Called with the error of each input that one of the result files would overwrite; it gets no job.
    """
    inputs = {os.path.realpath(file.path) for file in found}
    jobs = []
    for file, stem in zip(found, _unique_stems([f.name for f in found]), strict=True):
        is_video = kind == "video" or (kind is None and file.path.suffix.lower() in VIDEO_SUFFIXES)
        overlay = None if masks_only else output / f"{stem}_overlay.{'mp4' if is_video else 'png'}"
        suffix = "tif" if tiles or is_map(file.path) else "png"
        mask, sure = (None if is_video else output / f"{stem}_{what}" for what in (f"mask.{suffix}", "confidence.png"))
        job = Job(file.path, stem, overlay, mask, is_video, sure if confidence else None)
        if taken := [path for path in job.targets if os.path.realpath(path) in inputs]:
            fail(ValueError(f"'{taken[0]}' is one of the images to segment; choose another folder with -o"))
        elif is_video and masks is not None and (frame := _frame_among(inputs, masks / stem)):
            fail(ValueError(f"'{frame}' is one of the images to segment; choose another folder with --masks"))
        else:
            jobs.append(job)
    return jobs


def _frame_among(inputs: Iterable[str], masks: Path) -> str | None:
    """The input that the mask of a video's frame would overwrite; the number of frames is not known yet."""
    name = re.compile(re.escape(os.path.join(os.path.realpath(masks.parent), masks.name)) + r"_\d{6,}\.png")
    return next(filter(name.fullmatch, inputs), None)


def with_class_masks(jobs: Sequence[Job], frames: Path | None = None) -> list[Job]:
    """The jobs of `plan_jobs` for a multi-label network, whose masks are TIFF files with a page a class.

    Args:
        jobs: The jobs.
        frames: Folder for the masks of a video's frames.

    Raises:
        ValueError: If something would have one class a pixel, or a mask would overwrite one of the images.
    """
    for given, what in ((any(job.confidence for job in jobs), "A confidence (--confidence)"), (frames, "A frame's mask (--masks)")):
        if given:
            raise ValueError(f"{what} is of one class a pixel, and this network is multi-label; leave it out")
    if maps := [job for job in jobs if job.mask is not None and job.mask.suffix == ".tif"]:
        raise ValueError(
            f"'{maps[0].source}' is a GeoTIFF or segmented in tiles, whose masks have one class a pixel, and the network is "
            "multi-label; leave out --tile, or save a GeoTIFF as PNG"
        )
    changed = [replace(job, mask=job.mask and job.mask.with_suffix(".tif")) for job in jobs]
    sources = {os.path.realpath(job.source) for job in jobs}
    if taken := [job.mask for job in changed if job.mask and os.path.realpath(job.mask) in sources]:
        raise ValueError(f"'{taken[0]}' is one of the images to segment; choose another folder with -o")
    return changed


def _unique_stems(names: Sequence[Path]) -> list[str]:
    """Names for the results, with their folders; those that would fall together get numbers."""
    stems: dict[str, None] = {}  # in order
    for name in names:
        stem = name.with_suffix("").as_posix()
        numbered = (f"{stem}_{n}" for n in count(2))
        stems[next(s for s in chain([stem], numbered) if s not in stems)] = None
    return list(stems)
