"""Times requests to a server that this script starts: latency of clients one after another and at once, and answers a second.

Run: python -m benchmarks.serve [MODEL] [--image FILE] [--clients 1 4 16] [--seconds 20] [-- options of pspnet-zoo serve]
"""

import argparse
import io
import os
import re
import secrets
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

PHOTO = Path(__file__).parents[1] / "docs" / "assets" / "lund_20.jpg"
KINDS = ("application/json", "image/png", "image/jpeg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pspnet_lite0.camvid")
    parser.add_argument("--image", type=Path, default=PHOTO)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("options", nargs="*", help="options of pspnet-zoo serve, after --")
    arguments = parser.parse_args()
    token, image = secrets.token_urlsafe(), arguments.image.read_bytes()
    with Image.open(io.BytesIO(image)) as opened:
        print(f"{arguments.model}, {arguments.image.name} ({opened.width}x{opened.height}, {len(image) / 1e6:.1f} MB), seconds")
    command = [sys.executable, "-m", "pspnet_zoo.cli", "serve", arguments.model, "--port", "0", *arguments.options]
    environment = {**os.environ, "PSPNET_ZOO_SERVE_TOKEN": token}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            address = re.search(r"http://\S+?:\d+", server.stdout.readline())
            if address is None or "ready" not in server.stdout.readline():
                raise SystemExit("The server did not start")
            print(f"{'clients':>8} {'Accept':18} {'answers':>8} {'refused':>8} {'p50':>7} {'p95':>7} {'a second':>9} {'MB':>6}")
            for clients in arguments.clients:
                for kind in KINDS:
                    measure(address[0], token, image, kind, clients, arguments.seconds)
        finally:
            server.terminate()


def measure(address: str, token: str, image: bytes, kind: str, clients: int, seconds: float) -> None:
    """Print a line of the table."""
    headers = {"authorization": f"Bearer {token}", "accept": kind, "content-type": "application/octet-stream"}
    end = time.perf_counter() + seconds

    def use(_: int) -> tuple[list[float], int]:
        times, refused = [], 0
        with httpx.Client(base_url=address, headers=headers, timeout=300, trust_env=False) as client:
            while not times or time.perf_counter() < end:
                start = time.perf_counter()
                answer = client.post("/v1/segment", content=image)
                if answer.status_code in (429, 504):
                    refused += 1
                    time.sleep(1)
                    continue
                answer.raise_for_status()
                times.append(time.perf_counter() - start)
        return times, refused

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(use, range(clients)))
    wall = time.perf_counter() - start
    times = np.array([t for one, _ in found for t in one])
    metrics = httpx.get(f"{address}/metrics", headers={"authorization": f"Bearer {token}"}, trust_env=False).text
    memory = re.search(r"^process_resident_memory_bytes (\S+)", metrics, re.MULTILINE)
    p50, p95 = np.percentile(times, [50, 95])
    print(
        f"{clients:8} {kind:18} {len(times):8} {sum(r for _, r in found):8} {p50:7.2f} {p95:7.2f} {len(times) / wall:9.2f} "
        f"{float(memory[1]) / 1e6 if memory else 0:6.0f}"
    )


if __name__ == "__main__":
    main()
