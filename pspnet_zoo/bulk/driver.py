"""Images by the million, on one machine or a cluster: Ray Data carries the work.

The source is cut into shards of neighbouring images. A row of the Ray dataset is the name of a shard, so that images never
pass through the driver: an actor, which holds the network, reads the shard's images, segments them and writes the shard, whole or
not at all. What exists is done; a shard that was lost with its actor is made again and is the same.

Needs the extra `bulk` (Ray, pyarrow).

Docs: docs/how-to/segment-in-bulk.md, docs/explanation/scale.md.
"""

import hashlib
import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from ..extras import missing_extra

try:
    import pyarrow  # noqa: F401
    import ray.data
    from ray.exceptions import RayError
except ImportError as error:
    raise missing_extra("Bulk work", "bulk", error) from None

from ..data.images import read_image
from ..inference.prediction import Prediction
from ..inference.predictor import Predictor
from ..model_source import format_of
from ..runtimes.exported import ExportedRuntime, files_of
from ..streams.pipeline import in_order, segment_all
from .shards import Destination, Manifest, Row, mask_name
from .sources import Input, Source, open_source, read_part

READERS = 4
"""Threads of a worker that read ahead."""


@dataclass
class Summary:
    """What a run did; what was there before is not counted."""

    images: int = 0
    failures: int = 0
    """Of the images: those whose row has an error."""
    skipped: int = 0
    """Images whose shards were there before."""
    seconds: float = 0.0
    """From the first shard's start to the last one's end, without the start of the workers."""
    workers: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Images and seconds at work, by worker, host:process."""


def run(
    source: str,
    destination: str,
    model: str,
    *,
    column: str | None = None,
    workers: int | None = None,
    gpus_per_worker: float = 0,
    rows_per_shard: int = 256,
    as_files: bool = False,
    address: str | None = None,
    progress: Callable[[Summary, int], None] | None = None,
) -> Summary:
    """Segment every image of a source exactly once; the same call again does what is missing.

    Args:
        source: See `open_source`.
        destination: A folder for the shards, local or a URI; every machine must reach it under this name.
        model: What `Predictor` takes by name, folder or file.
        column: See `open_source`.
        workers: Actors, each with the network and one core; None is one for each core of the cluster, or as many as its GPUs hold.
        gpus_per_worker: 0.5 lets two workers share a GPU; 0 runs on CPUs.
        rows_per_shard: Images a shard, which is also what is done again when a worker is lost.
        as_files: Write each mask as a PNG file below masks/ instead of into the shards.
        address: Of a running cluster, such as "auto" or "ray://host:10001"; None starts a local one, or takes the process's own.
        progress: Called after each shard with what was done so far and the number of images of the source.

    Raises:
        FileNotFoundError: If the source is not there.
        ValueError: If it holds no images, or the destination has results of another model or source.
        OSError: If the destination cannot be written.
    """
    if rows_per_shard < 1:
        raise ValueError(f"rows_per_shard is {rows_per_shard}; it must be positive")
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; it must be positive")
    inputs = open_source(source, column=column)
    if as_files:
        _check_names(inputs)
    files = model_files(model)
    manifest = Manifest(source, inputs.digest, len(inputs), rows_per_shard, model, _digest(files), as_files)
    missing = Destination(destination).begin(manifest)
    sizes = {shard: min(rows_per_shard, len(inputs) - shard * rows_per_shard) for shard in missing}
    summary = Summary(skipped=len(inputs) - sum(sizes.values()))
    if progress:
        progress(summary, len(inputs))
    if not missing:
        return summary
    own = not ray.is_initialized()
    if own:
        _start(address)
    try:
        started: float | None = None
        for result in _results(inputs, missing, destination, manifest, files, workers, gpus_per_worker):
            if result["problem"]:
                raise OSError(f"The worker {result['worker']} failed: {result['problem']}")
            ended = result["ended"]
            started = min(started or ended, ended - result["seconds"])
            summary.seconds = ended - started
            summary.images += result["images"]
            summary.failures += result["failures"]
            images, seconds = summary.workers.get(result["worker"], (0, 0.0))
            summary.workers[result["worker"]] = images + result["images"], seconds + result["seconds"]
            if progress:
                progress(summary, len(inputs))
    except RayError as error:
        raise OSError(f"The workers failed: {str(error).strip().splitlines()[-1]}") from error
    finally:
        if own:
            ray.shutdown()
    return summary


def _start(address: str | None) -> None:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)  # what goes wrong is raised; progress is our own
    # None would join whatever cluster ran here last
    dashboard = None if address else False
    ray.init(address=address or "local", include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)


def _results(
    inputs: Source,
    missing: list[int],
    destination: str,
    manifest: Manifest,
    files: Mapping[str, bytes],
    workers: int | None,
    gpus_per_worker: float,
) -> Any:
    """A row for each shard that is done, as it comes."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    rows = manifest.rows_per_shard
    shards = [{"shard": shard, "part": inputs.part(shard * rows, min((shard + 1) * rows, len(inputs)))} for shard in missing]
    if workers is None:
        resources = ray.cluster_resources()
        available = resources.get("GPU", 0) / gpus_per_worker if gpus_per_worker else resources.get("CPU", 1)
        workers = max(int(available), 1)
    weights = ray.put(files)  # once a cluster; held here for actors that start again
    work = ray.data.from_items(shards, override_num_blocks=len(shards)).map_batches(
        _Worker,
        fn_constructor_args=(weights, destination, manifest, None if gpus_per_worker else "cpu"),
        batch_size=1,
        num_cpus=1,
        num_gpus=gpus_per_worker or None,
        # a node that is lost takes its actors with it; the others go on
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers, initial_size=min(workers, len(shards))),
    )
    yield from work.iter_rows()


class _Worker:
    """An actor with the network."""

    def __init__(self, files: "ray.ObjectRef", destination: str, manifest: Manifest, device: str | None) -> None:
        # one thread, whatever the machine, so that a mask does not depend on where it was made
        self._predictor = load_files(ray.get(files), device)
        self._destination, self._manifest = Destination(destination), manifest
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        (shard,), (part,) = batch["shard"].tolist(), batch["part"].tolist()
        start = time.time()
        images = failures = 0
        problem = ""
        try:
            if not self._destination.has(shard):  # else another worker finished it just before it was lost
                rows = segment_part(self._predictor, part, self._manifest.as_files)
                self._destination.write(shard, rows, self._manifest, self._predictor.labels)
                images, failures = len(rows), sum(row.error is not None for row in rows)
        except OSError as error:  # of the storage; those of single images are rows
            problem = str(error)
        return {
            "shard": [shard],
            "images": [images],
            "failures": [failures],
            "problem": [problem],
            "seconds": [time.time() - start],
            "ended": [time.time()],
            "worker": [self._name],
        }


def segment_part(predictor: Predictor, part: str, as_files: bool = False) -> list[Row]:
    """The results of a part of a source, in order; an image that cannot be read is a row with its error."""
    results = segment_all(
        lambda images: [predictor(pixels) for pixels in images],
        lambda item: read_image(BytesIO(item.read())),
        read_part(part),
        workers=READERS,
    )
    return list(in_order(lambda r: _row(r.source, r.prediction, r.error, as_files), results, workers=1, ahead=2))


def _row(source: Input, prediction: Prediction | None, error: Exception | None, as_files: bool) -> Row:
    if prediction is None:
        return Row(source.name, None, None, None, None, None, str(error) or type(error).__name__)
    file = mask_name(source.place) if as_files else None
    height, width = prediction.mask.shape
    return Row(source.name, file, height, width, prediction.png(), prediction.class_fractions, None)


def model_files(model: str) -> dict[str, bytes]:
    """Everything that makes a model, by file name: its checkpoint's folder, or the exported file."""
    predictor = Predictor(model)
    if isinstance(predictor.runtime, ExportedRuntime):
        return {path.name: path.read_bytes() for path in files_of(predictor.runtime.path)}
    with tempfile.TemporaryDirectory() as folder:
        predictor.model.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def load_files(files: Mapping[str, bytes], device: str | None = None) -> Predictor:
    """The predictor of what `model_files` gave, with one thread; see `Predictor` for the device."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        exported = next(filter(format_of, files), "")
        return Predictor(Path(folder) / exported, device=device, threads=1)


def _digest(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\t{len(files[name])}\n".encode() + files[name])
    return digest.hexdigest()


def _check_names(source: Source) -> None:
    if source.kind == "parquet":
        return
    seen: dict[str, str] = {}
    for name in source.files:
        other = seen.setdefault(mask_name(name), name)
        if other is not name:
            raise ValueError(f"'{other}' and '{name}' would have the same mask file; leave out --as-files, or rename one")
