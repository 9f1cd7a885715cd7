"""Segments millions of images with Ray Data, on one machine or a cluster.

The source is cut into shards of neighbouring images. A row of the Ray dataset names a shard, so that images never pass through the
driver: an actor, which holds the network, reads the shard's images, segments them and writes the shard, whole or not at all. A
shard that exists is done; one that was lost with its actor is made again, with the same contents.

Needs the extra `bulk` (Ray, pyarrow).

Docs: docs/how-to/segment-in-bulk.md, docs/explanation/scale.md.
"""

import errno
import hashlib
import json
import logging
import math
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
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

from ..data.images import ImageError, read_image
from ..data.rasters import is_map
from ..inference.prediction import Prediction
from ..inference.predictor import Predictor
from ..model_source import format_of
from ..results.rows import ResultRow, named_error
from ..results.sink import model_digest
from ..runtimes.exported import ExportedRuntime, files_of
from ..streams.pipeline import Segmented, in_order, segment_all
from .shards import Destination, Manifest, mask_name
from .sources import BulkSource, DamagedFileError, Input, Kind, open_source, read_part

READERS = 4
"""Number of threads of a worker that read ahead."""
MOST_GONE = 3
"""Number of files that cannot even be opened, one after another, at which a run ends: all were opened at its beginning."""


@dataclass
class Summary:
    """The numbers of a run."""

    source: str = ""
    """Description of the source: the number and place of the images, and the kind that it was taken for."""
    images: int = 0
    """Number of images of this run."""
    failures: int = 0
    """Number of those images whose row has an error."""
    skipped: int = 0
    """Number of images whose shards were there already."""
    errors: tuple[OSError, ...] = ()
    """Errors of folders of the source that cannot be read."""
    seconds: float = 0.0
    """Time from the first shard's start to the last one's end, without the start of the workers."""
    workers: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Images and seconds at work, by worker, host:process."""

    def add(self, result: Mapping[str, Any], started: float) -> None:
        """Count a shard that is done.

        Args:
            result: Of `_Worker`.
            started: Time at which the first shard was begun.
        """
        self.seconds = result["ended"] - started
        self.images += result["images"]
        self.failures += result["failures"]
        images, seconds = self.workers.get(result["worker"], (0, 0.0))
        self.workers[result["worker"]] = images + result["images"], seconds + result["seconds"]


def run(
    source: str,
    destination: str,
    model: str,
    *,
    column: str | None = None,
    kind: Kind | None = None,
    workers: int | None = None,
    gpus_per_worker: float = 0,
    rows_per_shard: int = 256,
    as_files: bool = False,
    address: str | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    blend: bool | None = None,
    progress: Callable[[Summary, int], None] | None = None,
) -> Summary:
    """Segment every image of a source exactly once; the same call again does the shards that are missing.

    Args:
        source: See `open_source`.
        destination: A folder for the shards, local or a URI; every machine must reach it under this name.
        model: A name, folder or file, see `Predictor`.
        column: See `open_source`.
        kind: See `open_source`.
        workers: Number of actors, each with the network and one core; None is one for each core of the cluster, or as many as its
            GPUs hold.
        gpus_per_worker: 0.5 lets two workers share a GPU; 0 runs on CPUs.
        rows_per_shard: Images a shard; a shard is made again when its worker is lost.
        as_files: Write each mask as a PNG file below masks/ instead of into the shards.
        address: Address of a running cluster, such as "auto" or "ray://host:10001"; None starts a local one, or takes the
            process's own.
        tile: See `Predictor`, as the next two. Images are decoded whole all the same.
        overlap: Pixels that tiles share.
        blend: Whether tiles fade into each other.
        progress: Called after each shard with the numbers so far and the number of images of the source.

    Raises:
        FileNotFoundError: If the source is not there.
        ValueError: If it holds no images, the destination has results of another model or source, or there are not as many GPUs.
        OSError: If the destination cannot be written, or another run writes to it; and at the end, if shards are missing because
            Parquet files cannot be read.
    """
    if rows_per_shard < 1:
        raise ValueError(f"rows_per_shard is {rows_per_shard}; it must be positive")
    if workers is not None and not 1 <= workers <= 100_000:
        raise ValueError(f"workers is {workers}; it can be 1 to 100,000, those of a cluster together")
    # workers may run in other folders
    source, destination = (value if "://" in value else os.path.abspath(value) for value in (source, destination))
    inputs = open_source(source, column=column, kind=kind, without=destination)
    if column is not None and inputs.kind != "parquet":
        raise ValueError(f"column is '{column}', which is of Parquet, and the source is a {inputs.kind}; leave it out")
    if as_files:
        _check_names(inputs)
    files, digest = pack_model(model, tile, overlap, blend)
    tiles = (tile, overlap, blend)
    tiling = None if tiles == (None, None, None) else json.dumps(tiles)
    manifest = Manifest(source, inputs.digest, len(inputs), rows_per_shard, model, digest, as_files, tiling=tiling)
    with Destination(destination).locked():
        missing = Destination(destination).begin(manifest)
        sizes = {shard: min(rows_per_shard, len(inputs) - shard * rows_per_shard) for shard in missing}
        summary = Summary(str(inputs), skipped=len(inputs) - sum(sizes.values()), errors=inputs.errors)
        if progress:
            progress(summary, len(inputs))
        if not missing:
            return summary
        own = not ray.is_initialized()
        try:
            if own:
                _start(address)
            if address is None and gpus_per_worker:
                _check_gpus(gpus_per_worker)
            started = math.inf
            damaged: dict[int, str] = {}
            gone: set[str] = set()  # in a row
            for result in _results(inputs, missing, destination, manifest, files, workers, gpus_per_worker):
                if result["problem"] and result["damaged"]:
                    damaged[result["shard"]] = result["problem"]
                    gone = set() if result["opens"] else {*gone, result["damaged"]}
                    if len(gone) == MOST_GONE:  # rather the storage than the files
                        raise OSError(
                            f"{MOST_GONE} files in a row cannot be opened; check the storage. The last one: {result['problem']}"
                        )
                    continue
                if result["problem"]:
                    raise OSError(f"The worker {result['worker']} failed: {result['problem']}")
                gone.clear()
                started = min(started, result["ended"] - result["seconds"])
                summary.add(result, started)
                if progress:
                    progress(summary, len(inputs))
        except RayError as error:
            raise OSError(f"The workers failed: {str(error).strip().splitlines()[-1]}") from error
        finally:
            if own:
                ray.shutdown()
    if damaged:
        raise _missing(damaged, sizes, manifest)
    return summary


def _missing(damaged: Mapping[int, str], sizes: Mapping[int, int], manifest: Manifest) -> OSError:
    """The error of a run whose other shards are done."""
    shown = "; ".join(f"part-{shard:06}.parquet: {damaged[shard]}" for shard in sorted(damaged)[:5])
    more = f"; and {len(damaged) - 5:,} more" if len(damaged) > 5 else ""
    images = sum(sizes[shard] for shard in damaged)
    return OSError(
        f"Shards are missing, {len(damaged):,} of {manifest.shards:,} with {images:,} images, since their files cannot be read; "
        f"the other {manifest.images - images:,} images are done. The same command tries the missing ones again. {shown}{more}"
    )


def _check_gpus(gpus_per_worker: float) -> None:
    """Refuse workers that this machine has no GPU for, since Ray would wait for one for ever."""
    gpus = ray.cluster_resources().get("GPU", 0)
    if gpus_per_worker > gpus:
        raise ValueError(f"gpus_per_worker is {gpus_per_worker:g}, and this machine has {gpus:g} GPUs; leave it out")


def _start(address: str | None) -> None:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)  # errors are raised here; progress is our own
    dashboard = None if address else False
    handler = signal.getsignal(signal.SIGTERM)
    # without an address, Ray would join whatever cluster ran here last
    ray.init(address=address or "local", include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray puts its own there, which ends the process with an exit code of its own


def _results(
    inputs: BulkSource,
    missing: list[int],
    destination: str,
    manifest: Manifest,
    files: Mapping[str, bytes],
    workers: int | None,
    gpus_per_worker: float,
) -> Any:
    """Yield a row for each shard when it is done."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    rows = manifest.rows_per_shard
    shards = [{"shard": shard, "part": inputs.part(shard * rows, min((shard + 1) * rows, len(inputs)))} for shard in missing]
    if workers is None:
        workers = _most_workers(ray.cluster_resources(), gpus_per_worker)
    weights = ray.put(files)  # once a cluster; kept for actors that start again
    work = ray.data.from_items(shards, override_num_blocks=len(shards)).map_batches(
        _Worker,
        fn_constructor_args=(weights, destination, manifest, None if gpus_per_worker else "cpu"),
        batch_size=1,
        num_cpus=1,
        num_gpus=gpus_per_worker or None,
        # a node that is lost takes its actors with it; the others continue
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers, initial_size=min(workers, len(shards))),
    )
    yield from work.iter_rows()


def _most_workers(resources: Mapping[str, float], gpus_per_worker: float) -> int:
    """The number of workers that a cluster holds at once, and 1 if that is none, since it may grow."""
    available = resources.get("GPU", 0) / gpus_per_worker if gpus_per_worker else resources.get("CPU", 0)
    return max(int(available), 1)


class _Worker:
    """An actor that holds the network."""

    def __init__(self, files: "ray.ObjectRef", destination: str, manifest: Manifest, device: str | None) -> None:
        # one thread, whatever the machine, so that a mask does not depend on where it was made
        self._predictor = load_files(ray.get(files), device, json.loads(manifest.tiling or "[]"))
        self._destination, self._manifest = Destination(destination), manifest
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        (shard,), (part,) = batch["shard"].tolist(), batch["part"].tolist()
        start = time.time()
        images = failures = 0
        problem, damaged, opens = "", "", True
        try:
            if not self._destination.has(shard):  # else another worker finished it just before it was lost
                rows = segment_part(self._predictor, part, self._manifest, self._destination)
                self._destination.write(shard, rows, self._manifest, self._predictor.labels)
                images, failures = len(rows), sum(row.error is not None for row in rows)
        except (OSError, ValueError) as error:  # errors of the storage; those of single images are rows
            problem = str(error) or type(error).__name__
            if isinstance(error, DamagedFileError):
                damaged, opens = error.path, error.opens
        return {
            "shard": [shard],
            "images": [images],
            "failures": [failures],
            "problem": [problem],
            "damaged": [damaged],
            "opens": [opens],
            "seconds": [time.time() - start],
            "ended": [time.time()],
            "worker": [self._name],
        }


def segment_part(predictor: Predictor, part: str, manifest: Manifest, destination: Destination) -> list[ResultRow]:
    """Segment a part of a source, in order; an image that fails is a row with its error."""
    digests: dict[int, str] = {}  # by id, since a list may name an image twice

    def read(item: Input) -> Any:
        data = item.read()
        digests[id(item)] = hashlib.sha256(data).hexdigest()
        return _read(predictor, item.name, data)

    def row(result: Segmented[Input, Prediction]) -> ResultRow:
        item, prediction = result.source, result.prediction
        fixed = {"path": item.name, "input_sha256": digests.pop(id(item), None), "model": manifest.model}
        fixed["model_sha256"] = manifest.model_sha256
        if prediction is None:
            return ResultRow(**fixed, error=named_error("", result.error or ValueError("it was not segmented")))
        height, width = prediction.mask.shape
        try:
            mask = destination.write_mask(item.place, prediction.png()) if manifest.as_files else prediction.png()
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return ResultRow(**fixed, error=named_error("", error))
        return ResultRow(**fixed, height=height, width=width, mask=mask, class_fractions=prediction.class_fractions)

    results = segment_all(lambda images: [predictor(pixels) for pixels in images], read, read_part(part), workers=READERS)
    return list(in_order(row, results, workers=1, ahead=2))


def _read(predictor: Predictor, name: str, data: bytes) -> Any:
    """Read an image as `predict` does, which finds out in a GeoTIFF where there is no data; that takes a file."""
    if name.lower().endswith((".tif", ".tiff")):
        with tempfile.TemporaryDirectory() as folder:
            (path := Path(folder) / "image.tif").write_bytes(data)
            try:
                if is_map(path):
                    return predictor.read(path)
            except ImageError as error:
                raise ImageError(str(error).replace(f"'{path}'", "The file")) from None
    return read_image(BytesIO(data))


def pack_model(
    model: str, tile: int | None = None, overlap: int | None = None, blend: bool | None = None
) -> tuple[dict[str, bytes], str]:
    """All files of a model by name, those of its checkpoint's folder or the exported ones, and its digest.

    Raises:
        ValueError: If the network reads other images than photos, or the tiles do not fit it.
    """
    predictor = Predictor(model, tile=tile, overlap=overlap, blend=blend)
    predictor.require_photos("Bulk work")
    predictor.require_one_class("Bulk work")
    digest = model_digest(predictor)
    if isinstance(predictor.runtime, ExportedRuntime):
        return {path.name: path.read_bytes() for path in files_of(predictor.runtime.path)}, digest
    with tempfile.TemporaryDirectory() as folder:
        predictor.model.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}, digest


def load_files(files: Mapping[str, bytes], device: str | None = None, tiles: Sequence[Any] = ()) -> Predictor:
    """The predictor of the files of `pack_model`, with one thread; see `Predictor` for the device and for `tiles`."""
    tile, overlap, blend = tiles or (None, None, None)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        exported = next(filter(format_of, files), "")
        return Predictor(Path(folder) / exported, device=device, threads=1, tile=tile, overlap=overlap, blend=blend)


def _check_names(source: BulkSource) -> None:
    if source.kind == "parquet":
        return
    seen: dict[str, str] = {}
    for name in source.files:
        other = seen.setdefault(mask_name(name), name)
        if other is not name:
            raise ValueError(f"'{other}' and '{name}' would have the same mask file; leave out --as-files, or rename one")
