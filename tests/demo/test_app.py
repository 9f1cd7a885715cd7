"""The page of the demo, in a real browser (Chromium) and by its API."""

import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pspnet_zoo import Predictor

gradio = pytest.importorskip("gradio", reason="needs the extra 'demo'")
gradio_client = pytest.importorskip("gradio_client")

from pspnet_zoo.demo import app  # noqa: E402

pytestmark = pytest.mark.filterwarnings(  # all of them Gradio's own; the last where a browser leaves during a download
    "ignore::DeprecationWarning",
    "ignore::PendingDeprecationWarning",
    "ignore:unclosed file <_io.FileIO name='.*/pspnet_zoo_demo_:ResourceWarning",
    "ignore:Exception ignored in. <_io.FileIO name='.*/pspnet_zoo_demo_:pytest.PytestUnraisableExceptionWarning",
)

PHOTO = Path(__file__).parent.parent.parent / "docs" / "assets" / "lund_20.jpg"


@pytest.fixture(scope="module")
def address(serve, tiny):
    return serve(["pspnet_lite0.camvid", str(tiny)], zoo=True)


@pytest.fixture(scope="module")
def expected():
    return Predictor()(PHOTO)


def upload(page, name: str, content: bytes) -> None:
    """Put a file in, which is enough to have it segmented."""
    page.wait_for_selector("#photo input[type=file]", state="attached")
    with page.expect_response(re.compile("/upload")):
        page.set_input_files("#photo input[type=file]", {"name": name, "mimeType": "image/jpeg", "buffer": content})


def saved(page, button: str) -> np.ndarray:
    with page.expect_download() as download:
        page.click(button)
    with Image.open(download.value.path()) as image:
        return np.asarray(image)


def small_jpeg(color=(10, 120, 200), size=(64, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "JPEG")
    return buffer.getvalue()


def test_an_uploaded_photo_becomes_the_predictors_overlay_mask_and_class_fractions(address, browse, expected):
    page = browse(address)
    upload(page, "street.jpg", PHOTO.read_bytes())
    page.wait_for_selector("#viewer .class_fractions tr")
    shown = dict(
        page.eval_on_selector_all(
            "#viewer .class_fractions tr", "rows => rows.map(r => [r.cells[0].innerText, r.cells[2].innerText])"
        )
    )
    assert shown == {name: f"{fraction:.1%}".replace("%", " %") for name, fraction in expected.class_fractions.items() if fraction}
    assert np.array_equal(saved(page, "#mask"), expected.mask)
    assert np.array_equal(saved(page, "#overlay"), np.asarray(expected.overlay(legend=True)))
    box = page.locator("#viewer .mask").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.76, box["y"] + box["height"] * 0.8)  # the car
    assert page.inner_text("#viewer .tip") == "car"
    page.fill("#viewer .alpha", "0.2")
    assert page.locator("#viewer .mask").evaluate("m => m.style.opacity") == "0.2"
    page.fill("#viewer .cut", "0.5")
    assert "50%" in page.locator("#viewer .mask").evaluate("m => m.style.clipPath")


def test_what_is_no_photo_gets_a_sentence_and_the_page_goes_on(address, browse, tmp_path):
    page = browse(address)
    page.click("#segment")
    page.wait_for_selector("#status :text('Choose a photo first')")
    big = tmp_path / "big.png"
    Image.new("1", (20_000, 10_000)).save(big)  # 200 megapixels in a small file
    large = tmp_path / "large.png"
    Image.new("1", (10_000, 6_000)).save(large)
    thin = tmp_path / "thin.png"
    Image.new("1", (100_000, 1)).save(thin)  # 92 bytes, which a network would enlarge to 100000 x 100000
    eps = tmp_path / "page.eps"
    Image.new("L", (8, 8)).save(eps)
    for name, content, said in (
        ("notes.jpg", b"this is a text", "notes.jpg' is not an image"),
        ("big.png", big.read_bytes(), "more than 50 megapixels"),
        ("large.png", large.read_bytes(), "more than 50 megapixels"),
        ("thin.png", thin.read_bytes(), "100000 x 1 pixels"),
        ("page.png", eps.read_bytes(), "is a EPS file"),
        ("empty.jpg", b"", "empty"),
    ):
        page = browse(address)
        upload(page, name, content)
        page.wait_for_selector(f'#status :text("{said}")')
        assert "Traceback" not in page.inner_text("body") and "/tmp" not in page.inner_text("body")
        assert page.locator("#viewer .viewer").is_hidden()
        page.wait_for_selector("#photo :text('Drop Image Here')")  # instead of a sign that the image is broken


def test_ten_users_at_once_get_their_own_results(address, visit, tiny, tmp_path):
    predictor = Predictor(tiny)

    def use(number: int) -> bool:
        file = tmp_path / f"{number}.jpg"
        file.write_bytes(small_jpeg((25 * number, 255 - 25 * number, 90), (40 + 8 * number, 64)))
        client = visit(address, download_files=tmp_path / f"downloads{number}")
        overlay, mask, class_fractions = client.predict(gradio_client.handle_file(str(file)), "tiny", api_name="/segment")
        mine = predictor(file)
        with Image.open(mask) as shown, Image.open(overlay) as drawn:
            same = np.array_equal(np.asarray(shown), mine.mask) and drawn.height >= 64
        return same and class_fractions == pytest.approx(mine.class_fractions)

    with ThreadPoolExecutor(10) as pool:
        assert all(pool.map(use, range(10)))


def test_the_api_says_what_is_wrong(address, visit, tmp_path):
    client = visit(address)
    text = tmp_path / "notes.jpg"
    text.write_text("a text")
    with pytest.raises(Exception, match=r"notes\.jpg' is not an image"):
        client.predict(gradio_client.handle_file(str(text)), "pspnet_lite0.camvid", api_name="/segment")
    with pytest.raises(Exception, match="not in the list|not one of"):
        client.predict(gradio_client.handle_file(str(PHOTO)), "/etc/passwd", api_name="/segment")


def test_an_example_is_segmented_at_once_and_a_phone_shows_the_result(address, browse):
    page = browse(address, viewport={"width": 390, "height": 844})
    page.click(".gallery-item >> nth=0")
    page.wait_for_selector("#viewer .class_fractions tr")
    page.wait_for_function("document.querySelector('#viewer .mask').getBoundingClientRect().bottom <= innerHeight")


def test_the_progress_covers_no_button(address, browse):
    page = browse(address)
    page.click(".gallery-item >> nth=0")
    progress = page.wait_for_selector("#viewer .progress-text, #viewer .wrap:not(.hide)").bounding_box()
    assert progress["y"] + progress["height"] <= page.locator("#overlay").bounding_box()["y"]
    page.wait_for_selector("#viewer .class_fractions tr")


def test_models_are_listed_with_dataset_accuracy_and_download(tiny):
    page = app.build([str(tiny)])
    menu = next(block for block in page.blocks.values() if isinstance(block, gradio.Dropdown))
    choices = menu.choices
    assert choices[0] == ("tiny", "tiny")
    assert menu.preprocess(str(tiny)) == "tiny"  # which the host's own programs may send
    with pytest.raises(gradio.Error, match="not in the list of choices"):
        menu.preprocess(str(tiny.parent / "other"))
    labels = dict((value, label) for label, value in choices)
    listed = labels["pspnet_r101c.mmseg_cityscapes"]
    assert re.fullmatch(r"pspnet_r101c\.mmseg_cityscapes \(Cityscapes, mIoU 79\.8 % claimed, downloads 2\d\d MB\)", listed)
    assert re.fullmatch(r"pspnet_lite0\.camvid \(CamVid, mIoU \d\d\.\d % measured\)", labels["pspnet_lite0.camvid"])


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="Did you mean"):
        app.build(["pspnet_lite1.camvid"])


def test_axe_finds_nothing_serious(address, browse):
    for options in ({"color_scheme": "light"}, {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}}):
        page = browse(address, **options)
        upload(page, "street.jpg", PHOTO.read_bytes())
        page.wait_for_selector("#viewer .class_fractions tr")
        assert serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def serious(page) -> list[str]:
    """What axe-core finds on the page."""
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    found = page.evaluate("axe.run()")["violations"]
    return [json.dumps([v["id"], v["nodes"][0]["html"]]) for v in found if v["impact"] in ("serious", "critical")]


def test_a_video_of_large_frames_is_refused_by_its_header(tmp_path, monkeypatch):
    pytest.importorskip("av", reason="needs the extra 'video'")
    from pspnet_zoo.demo import video
    from tests.streams.clips import write_clip

    write_clip(tmp_path / "a.mp4", [0, 40])
    monkeypatch.setattr(video, "MAX_PIXELS", 3000)
    with pytest.raises(video.VideoError, match="This video has 64x48 pixels; this page takes up to 0 megapixels"):
        video._overlay(app.Models([], zoo=False), str(tmp_path / "a.mp4"), "none", 1, None)


def test_a_video_gets_its_overlay(address, tiny, browse, tmp_path):
    av = pytest.importorskip("av", reason="needs the extra 'video'")
    file = tmp_path / "street.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("h264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 40 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    page = browse(address)
    page.get_by_role("tab", name="Video").click()
    with page.expect_response(re.compile("/upload")):
        page.set_input_files("#film input[type=file]", str(file))
    page.wait_for_timeout(500)
    page.click("#segment-video")
    page.wait_for_selector("#video-status :text('The video under')")
    page.wait_for_selector("#video-result video")
