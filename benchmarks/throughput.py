"""Images through the pipeline against the network alone, bulk work with one and two workers, one predictor in one and two threads.

The network alone gets the same images, read before; the pipeline reads them, segments them and writes masks and overlays. They
take turns in one process, and the median of the ratios is printed, so that other load on the machine hits both.

    python benchmarks/throughput.py pipeline FOLDER --images 200 --threads 1
    python benchmarks/throughput.py memory FOLDER
    python benchmarks/throughput.py bulk FOLDER
    python benchmarks/throughput.py threads FOLDER --images 20 --model NAME_OR_FILE
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import torch

from pspnet_zoo import Predictor
from pspnet_zoo.data.find import find_files
from pspnet_zoo.inference.predictor import DEFAULT_MODEL
from pspnet_zoo.results.jobs import Job
from pspnet_zoo.results.sink import ResultSink
from pspnet_zoo.streams.pipeline import WORKERS


def through_pipeline(predictor: Predictor, files: list[Path], output: Path, workers: int) -> None:
    """Segment images and write their files, like `pspnet-zoo predict`."""
    jobs = [Job(file, str(i), output / f"{i}_overlay.png", output / f"{i}_mask.png") for i, file in enumerate(files)]
    for _, row in ResultSink("model", "digest").segment(predictor, jobs, workers=workers):
        assert row.error is None


def pipeline(model: str, files: list[Path], rounds: int, workers: int) -> None:
    predictor = Predictor(model)
    parts = [files[i::rounds] for i in range(rounds)]
    predictor.segment([predictor.read(files[0])])
    ratios, alone, piped, work = [], 0.0, 0.0, [0.0, 0.0]
    for part in parts:
        pixels = [predictor.read(file) for file in part]
        with tempfile.TemporaryDirectory() as output:
            start, worked = time.perf_counter(), time.process_time()
            for image in pixels:
                predictor.segment([image])
            middle, between = time.perf_counter(), time.process_time()
            through_pipeline(predictor, part, Path(output), workers)
            end, finished = time.perf_counter(), time.process_time()
        work = [work[0] + between - worked, work[1] + finished - between]
        alone, piped = alone + middle - start, piped + end - middle
        ratios.append((end - middle) / (middle - start))
        print(
            f"{len(part)} images: alone {middle - start:.2f} s, pipeline {end - middle:.2f} s, ratio {ratios[-1]:.3f}", flush=True
        )
    print(f"{len(files)} images, {torch.get_num_threads()} threads, {workers} workers: alone {len(files) / alone:.2f}/s, ", end="")
    print(f"pipeline {len(files) / piped:.2f}/s, ratio of the sums {piped / alone:.3f}, median {statistics.median(ratios):.3f}")
    print(f"processor time an image: alone {1000 * work[0] / len(files):.0f} ms, pipeline {1000 * work[1] / len(files):.0f} ms")


def memory(model: str, folder: Path, count: int) -> None:
    """Peak memory of one process that segments `count` images."""
    files = list(islice(cycle(f.path for f in find_files(folder)), count))
    with tempfile.TemporaryDirectory() as output:
        through_pipeline(Predictor(model), files, Path(output), WORKERS)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def bulk(model: str, files: list[Path]) -> None:
    from pspnet_zoo.bulk.driver import run

    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "list.txt").write_text("\n".join(str(file.resolve()) for file in files))
            summary = run(f"{folder}/list.txt", f"{folder}/out", model, workers=workers, rows_per_shard=16)
        print(f"{workers} workers: {summary.images} images in {summary.seconds:.1f} s, {summary.images / summary.seconds:.2f}/s")


def threads(model: str, files: list[Path], rounds: int) -> None:
    """One predictor whose calls take a core each: calls from two threads against as many from one."""
    predictor = Predictor(model, threads=1)
    pixels = [predictor.read(file) for file in files]
    ratios = []
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(predictor, pixels[:4]))
        for _ in range(rounds):
            start = time.perf_counter()
            alone = [predictor(image).mask for image in pixels]
            middle = time.perf_counter()
            together = list(pool.map(lambda image: predictor(image).mask, pixels))
            end = time.perf_counter()
            assert all((one == other).all() for one, other in zip(alone, together, strict=True))
            ratios.append((middle - start) / (end - middle))
            print(f"{len(files)} images: 1 thread {middle - start:.2f} s, 2 threads {end - middle:.2f} s", flush=True)
    print(f"2 threads have {statistics.median(ratios):.2f} times the throughput of 1 (median of {rounds})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pipeline", "memory", "bulk", "threads"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--rounds", type=int, default=5, help="turns that the two take")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--workers", type=int, default=WORKERS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    files = list(islice(cycle(f.path for f in find_files(options.folder)), options.images))
    if options.what == "pipeline":
        pipeline(options.model, files, options.rounds, options.workers)
    elif options.what == "bulk":
        bulk(options.model, files)
    elif options.what == "threads":
        threads(options.model, files, options.rounds)
    elif options.images != 200:
        memory(options.model, options.folder, options.images)
    else:
        for count in (200, 2000):
            command = [sys.executable, __file__, "memory", options.folder, "--images", str(count + 1), "--model", options.model]
            peak = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
            print(f"{count + 1} images: peak {peak} MiB", flush=True)


if __name__ == "__main__":
    main()
