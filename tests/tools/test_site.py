"""The documentation site: built strictly, looked at in a real browser (Chromium), and its page that runs the network there."""

import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo import Predictor

pytest.importorskip("zensical", reason="needs the extra 'docs'")
pytest.importorskip("mkdocstrings")
pytest.importorskip("onnxscript")

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tools.browser import LIMIT, ORT_FILES  # noqa: E402
from tools.site import broken_links  # noqa: E402


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Built by the one command, in a copy of the checkout."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm, which fetches onnxruntime-web")
    copy = tmp_path_factory.mktemp("checkout")
    for part in ("docs", "pspnet_zoo", "tools"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("CHANGELOG.md", "README.md", "zensical.toml"):
        shutil.copy(ROOT / part, copy)
    done = subprocess.run([sys.executable, "-W", "ignore", "tools/site.py"], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return copy / "build" / "site"


class Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".wasm": "application/wasm"}

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address(site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def serious(page) -> list:
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    found = page.evaluate("axe.run()")["violations"]
    return [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]


def test_the_page_loads_itself_again_once_and_then_uses_threads(address, browse, tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "small.png")
    cores = "Object.defineProperty(navigator, 'hardwareConcurrency', { value: 4 })"
    page = browse(f"{address}/try/", lambda context: context.add_init_script(cores))
    page.wait_for_function("crossOriginIsolated")  # by the headers of its service worker
    page.set_input_files("#try-file", tmp_path / "small.png")
    page.wait_for_selector("#try-status:has-text('Segmented')")
    assert page.inner_text("#try-runtime").startswith("Computed with WebAssembly in 2 threads, because ")
    assert page.evaluate("performance.getEntriesByType('navigation')[0].type") == "reload"


def test_the_page_in_the_browser_predicts_what_the_predictor_does(address, site, browse):
    sizes = {f.name: f.stat().st_size for f in (site / "try").rglob("*") if f.is_file()}
    page_alone = sum(size for name, size in sizes.items() if not name.endswith((".wasm", ".mjs", "nuclei.onnx")))
    assert all(page_alone + sum(sizes[file] for file in ORT_FILES[kind]) < limit for kind, limit in LIMIT.items())
    photo = ROOT / "docs" / "assets" / "lund_20.jpg"
    page = browse(f"{address}/try/", viewport={"width": 1280, "height": 1400}, service_workers="block")  # all in sight
    page.click(".try-example")
    page.wait_for_selector("#try-fractions tr")
    times = r"Computed with WebAssembly in .* threads?, because .*WebGPU.*\. The first result took \d+\.\d s with loading\."
    assert re.fullmatch(times, page.inner_text("#try-runtime"))
    assert re.search(r"^Segmented 1024 x 768 pixels in \d+\.\d s\.", page.inner_text("#try-status"))
    ids = page.evaluate("Array.from(pspnetTry.shown().ids)")
    mask = Predictor()(photo).mask
    assert (np.array(ids).reshape(mask.shape) == mask).mean() >= 0.99
    box = page.locator("#try-mask").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.76, box["y"] + box["height"] * 0.8)
    assert page.inner_text("#try-tip") == "car"
    with page.expect_download() as download:
        page.click("#try-save-mask")
    assert download.value.suggested_filename == "mask.png"
    assert serious(page) == []
    page.set_input_files("#try-file", {"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"a text"})
    page.wait_for_selector("#try-status:has-text('not an image')")
    assert not page.is_visible("#try-result")  # a bad file leaves no older result
    page.set_input_files("#try-file", photo)
    page.wait_for_selector("#try-status:has-text('Segmented 1024')")
    page.select_option("#try-model", "pspnet_lite0.nuclei")
    assert not page.is_visible("#try-result")
    page.click(".try-example[data-photo='nuclei_example.png']")
    page.wait_for_selector("#try-fractions tr:has-text('nucleus')")
    shown = page.evaluate("({ids: Array.from(pspnetTry.shown().ids), width: pspnetTry.shown().width})")
    network = Predictor("pspnet_lite0.nuclei").model
    network.preprocess = replace(network.preprocess, max_pixels=1024 * 768)
    mask = Predictor(network)(ROOT / "docs" / "assets" / "nuclei_example.png").mask
    ids = Image.fromarray(np.array(shown["ids"], np.uint8).reshape(-1, shown["width"])).resize(mask.shape[::-1])
    assert (np.asarray(ids) == mask).mean() >= 0.97


ORT = """
export const env = { wasm: {} };
export class Tensor { constructor(type, data, dims) { this.dims = dims; } }
export const InferenceSession = { async create(model, { executionProviders: [provider] }) {
  const webgpu = provider === "webgpu";
  CREATE;
  return { release() {}, async run({ rgba: { dims: [height, width] } }) {
    RUN;
    return { ids: { data: new Uint8Array(height * width).fill(webgpu ? IDS : 0) } };
  } };
} };
"""
"""Stands for onnxruntime-web, with statements in the places of the capitals."""
PROCESSOR = "async () => ({})"


@pytest.mark.parametrize(
    ("adapter", "faults", "runtime"),
    [
        (None, {}, "WebAssembly in one thread, because this browser has no WebGPU"),
        ("async () => null", {}, "WebAssembly in one thread, because WebGPU finds no graphics processor here"),
        ("async () => ({ info: { isFallbackAdapter: true } })", {}, "WebAssembly in one thread, because WebGPU finds no graphics"),
        ("async () => { throw new Error('lost') }", {}, "WebAssembly in one thread, because WebGPU failed: lost. The"),
        (
            PROCESSOR,
            {"CREATE": "if (webgpu) throw new Error('no shader.')"},
            "WebAssembly in one thread, because WebGPU failed: no shader. The",
        ),
        (
            PROCESSOR,
            {"RUN": "if (webgpu && width > 256) throw new Error('lost')"},
            "WebAssembly in one thread, because WebGPU failed: lost.",
        ),
        (
            PROCESSOR,
            {"RUN": "if (webgpu) await new Promise(() => {})"},
            "WebAssembly in one thread, because WebGPU failed: it gave no answer within a minute. The",
        ),
        (PROCESSOR, {"IDS": "1"}, "WebAssembly in one thread, because WebGPU failed: it gave 100.0 % of the pixels another class"),
        (PROCESSOR, {"RUN": "if (!webgpu && width > 256) throw new Error('slow')"}, "WebGPU. The first result took"),
    ],
)
def test_webgpu_is_used_where_it_works_and_gives_the_same_classes(address, browse, adapter, faults, runtime):
    code = ORT
    for place in ("CREATE", "RUN", "IDS"):
        code = code.replace(place, faults.get(place, "0"))

    def prepare(context):
        gpu = f"{{ requestAdapter: {adapter} }}" if adapter else "undefined"
        context.add_init_script(f"Object.defineProperty(navigator, 'gpu', {{ value: {gpu} }})")
        minute = "window.setTimeout = ((later) => (call, ms) => later(call, ms === 60_000 ? 5_000 : ms))(window.setTimeout)"
        context.add_init_script(minute)
        context.route("**/ort/*.min.mjs", lambda route: route.fulfill(body=code, content_type="text/javascript"))
        context.route(re.compile(r"[.](wasm|onnx)$"), lambda route: route.fulfill(body=b"0"))

    page = browse(f"{address}/try/", prepare, service_workers="block")
    page.click(".try-example")
    page.wait_for_selector("#try-status:has-text('Segmented 1024')")
    assert page.inner_text("#try-runtime").startswith(f"Computed with {runtime}")
    assert page.evaluate("pspnetTry.shown().ids.every((id) => id === 0)")


def test_a_browser_whose_webgpu_fails_in_onnxruntime_gets_the_result_by_webassembly(address, browse, tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "small.png")
    adapter = f"Object.defineProperty(navigator, 'gpu', {{ value: {{ requestAdapter: {PROCESSOR} }} }})"  # not in the worker
    page = browse(f"{address}/try/", lambda context: context.add_init_script(adapter), service_workers="block")
    page.set_input_files("#try-file", tmp_path / "small.png")
    page.wait_for_selector("#try-status:has-text('Segmented')")
    assert page.inner_text("#try-runtime").startswith("Computed with WebAssembly in one thread, because WebGPU failed: ")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tutorial/pspnet/",
        pytest.param("tutorial/pspnet.ko/", marks=pytest.mark.slow),
        pytest.param("reference/api/", marks=pytest.mark.slow),  # long
        "reference/checkpoints/",
    ],
)
def test_pages_have_no_serious_violation_and_fit_a_phone(address, browse, path):
    for scheme in ("light", "dark"):
        page = browse(f"{address}/{path}", viewport={"width": 390, "height": 844}, color_scheme=scheme)
        assert serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        words = page.evaluate("[...document.querySelectorAll('article code .whole')].map(word => word.getClientRects().length)")
        assert set(words) <= {1}, "an option broken behind its hyphens"
        if path.startswith("tutorial/"):
            assert words


def test_checkpoints_can_be_sorted_and_filtered(address, browse):
    page = browse(f"{address}/reference/checkpoints/")

    def column(number: int) -> list[str]:
        visible = page.locator("article table tbody tr:not([hidden])")
        return [text.strip() for text in visible.locator(f"td:nth-child({number})").all_inner_texts()]

    everything = len(column(1))
    page.get_by_label("Dataset").select_option("Cityscapes")
    page.get_by_label("Backbone").select_option("r101c")
    names = column(1)
    assert 0 < len(names) < everything and all(name.startswith("pspnet_r101c.") for name in names)
    assert set(column(2)) == {"Cityscapes"}
    page.get_by_role("button", name="mIoU", exact=True).click()
    numbers = [float(text) for text in column(3) if text]
    assert numbers == sorted(numbers, reverse=True)
    page.get_by_role("button", name="Parameters").click()
    page.get_by_role("button", name="Parameters").click()
    sizes = [float(text.split()[0]) for text in column(5)]
    assert sizes == sorted(sizes)
    for kind in ("fetched", "by hand", "not supported"):
        page.reload()
        page.get_by_label("Weights").select_option(kind)
        assert set(column(7)) == {kind}
    page.reload()
    page.locator(".filter input[type=search]").fill("769")
    assert all("769" in row for row in page.locator("article table tbody tr:not([hidden])").all_inner_texts())


@pytest.mark.parametrize("width", [1280, 390])
def test_the_table_of_checkpoints_fits(address, browse, width):
    page = browse(f"{address}/reference/checkpoints/", viewport={"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    frame = "t.closest('.md-typeset__scrollwrap') || t.closest('article')"  # the theme's frame reaches into the margins
    table, room = page.evaluate(f"(t => [t.scrollWidth, ({frame}).clientWidth])(document.querySelector('.checkpoints'))")
    assert table <= room


@pytest.mark.parametrize("name", ["pspnet.ko", "outlines.ko"])
def test_a_korean_page_has_korean_navigation(site, name):
    page = (site / "tutorial" / name / "index.html").read_text()
    assert '<html lang="ko"' in page
    navigation = page.partition("md-nav--primary")[2].partition("<article")[0]
    titles = {title.strip() for title in re.findall(r'<span class="md-ellipsis">([^<]*)</span>', navigation)} - {""}
    assert "튜토리얼" in titles and "Tutorials" not in titles


def test_the_search_index_has_guides_and_public_names_and_no_internals(site):
    locations = [item["location"] for item in json.loads((site / "search.json").read_text())["items"]]
    assert any(location.startswith("how-to/segment-videos") for location in locations)
    assert any(location.startswith("reference/api/") for location in locations)
    assert not any(location.startswith("reference/api-") for location in locations)


def test_broken_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here">b</a><a href="c.html">c</a><img src="d.png"><a href="https://example.org">e</a>'
    )
    (tmp_path / "b.html").write_text('<h1 id="there">b</h1>')
    assert broken_links(tmp_path) == ["a.html: no anchor 'b.html#here'", "a.html: no 'c.html'", "a.html: no 'd.png'"]
