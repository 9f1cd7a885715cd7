"""Time and memory of the head, textbook against factored, side by side.

    python -m benchmarks.pyramid [--channels 2048] [--size 64x128] [--batch 1] [--repeats 5]

Each form runs in a process of its own; both alternate, so that a change of load on the machine hits both. Peak memory is what the
process needed beyond the built head and its input.
"""

import argparse
import gc
import resource
import sys
import time
import warnings
from multiprocessing import get_context

import torch

from pspnet_zoo.models.pyramid import BatchNorm2d, PyramidPooling
from tests.models.textbook import textbook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--size", default="64x128", help="HEIGHTxWIDTH of the feature map")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    shape = (arguments.batch, arguments.channels, *map(int, arguments.size.split("x")))
    print(
        f"head on {shape}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32, CPU; best of {arguments.repeats}"
    )
    print(f"{'':18}{'textbook':>22}{'factored':>22}{'ratio of times':>18}")
    for backward in (False, True):
        results: dict[str, tuple[float, float]] = {}
        for _ in range(arguments.repeats):
            for form in ("textbook", "factored"):
                with get_context("spawn").Pool(1) as pool:
                    seconds, mebibytes = pool.apply(measure, (form, shape, backward))
                best = results.get(form, (float("inf"), float("inf")))
                results[form] = min(best[0], seconds), min(best[1], mebibytes)
        figures = "".join(f"{seconds:>11.3f} s {mebibytes:>5.0f} MiB" for seconds, mebibytes in results.values())
        ratio = results["factored"][0] / results["textbook"][0]
        print(f"{'forward+backward' if backward else 'forward':18}{figures}{ratio:>18.2f}", flush=True)


def measure(form: str, shape: tuple[int, ...], backward: bool) -> tuple[float, float]:
    """Seconds of the second run, and MiB of the process's peak beyond what it had before the first."""
    torch.manual_seed(0)
    pyramid = PyramidPooling(shape[1], 512, norm=BatchNorm2d).train(backward)
    x = torch.randn(shape, requires_grad=backward)
    gc.collect()
    before = _peak()
    warnings.filterwarnings("ignore", message="A training batch of one")
    with torch.set_grad_enabled(backward):
        for _ in range(2):
            start = time.perf_counter()
            out = textbook(pyramid, x) if form == "textbook" else pyramid(x)
            if backward:
                out.sum().backward()
            seconds = time.perf_counter() - start
            del out
    return seconds, (_peak() - before) / 2**20


def _peak() -> int:
    """Bytes; Linux counts in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
