"""Predictor and Prediction."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pspnet_zoo import Predictor, PSPNet
from pspnet_zoo.data.images import ImageError
from pspnet_zoo.data.labels import CAMVID, Labels
from pspnet_zoo.inference.prediction import class_fractions_of
from pspnet_zoo.inference.scores import class_ids, size_factor
from pspnet_zoo.meta import Preprocess
from pspnet_zoo.runtimes.open import open_runtime


@pytest.fixture
def predictor(net):
    return Predictor(net, device="cpu")


def noise(height=40, width=56):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_mask_is_the_networks_argmax(predictor, net):
    image = noise()
    prediction = predictor(image)
    logits = net.predict(net.preprocess(torch.from_numpy(image).permute(2, 0, 1)[None]))
    assert prediction.mask.dtype == np.uint8
    assert np.array_equal(prediction.mask, logits[0].argmax(0).numpy())
    assert prediction.labels is CAMVID and np.array_equal(prediction.image, image)


def test_a_file_a_pil_image_and_an_array_give_the_same(predictor, tmp_path):
    image = noise()
    Image.fromarray(image).save(tmp_path / "image.png")
    masks = [predictor(x).mask for x in (image, Image.fromarray(image), tmp_path / "image.png", str(tmp_path / "image.png"))]
    assert all(np.array_equal(m, masks[0]) for m in masks)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (97, 31)])
def test_any_size_works(predictor, size):
    assert predictor(noise(*size)).mask.shape == size


def test_a_larger_image_is_shrunk_for_the_network_and_comes_back_whole(net):
    small = Predictor(net, device="cpu", fast=False)
    net.preprocess = Preprocess((0.5,) * 3, (0.5,) * 3, max_pixels=40 * 56)
    seen = []
    net.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    mask = small(noise(80, 112)).mask
    assert seen == [(1, 3, 40, 56)] and mask.shape == (80, 112)


@pytest.mark.parametrize(
    ("size", "input_scale", "seen"),
    [((40, 56), 1.5, (60, 84)), ((60, 84), 1.5, (80, 112)), ((80, 112), 1.5, (80, 112)), ((160, 224), 1.5, (80, 112))],
    ids=["enlarged", "within max_pixels", "as it is", "shrunk"],
)
def test_the_network_sees_an_image_at_its_scale(net, size, input_scale, seen):
    net.preprocess = Preprocess((0.5,) * 3, (0.5,) * 3, max_pixels=80 * 112, input_scale=input_scale)
    sizes = []
    net.encoder.register_forward_pre_hook(lambda module, inputs: sizes.append(tuple(inputs[0].shape[-2:])))
    mask = Predictor(net, device="cpu", fast=False)(noise(*size)).mask
    assert sizes == [seen] and mask.shape == size


def test_an_enlarged_image_has_the_ids_that_evaluation_sees(net):
    net.preprocess = Preprocess((0.5,) * 3, (0.5,) * 3, input_scale=1.5)
    image = noise(41, 57)
    ids = class_ids(net, torch.from_numpy(image).permute(2, 0, 1)[None])[0]
    assert np.array_equal(Predictor(net, device="cpu", fast=False)(image).mask, ids.numpy())


def test_class_fractions_add_up_to_one(predictor):
    prediction = predictor(noise())
    assert sum(prediction.class_fractions.values()) == pytest.approx(1)
    assert prediction.class_fractions["sky"] == pytest.approx((prediction.mask == 0).mean())


def test_class_fractions_are_of_every_class_and_of_no_id_without_a_name():
    assert class_fractions_of(np.array([[0, 1], [1, 1]]), ("a", "b", "c")) == {"a": 0.25, "b": 0.75, "c": 0.0}
    with pytest.raises(ValueError, match="The mask has id 2, and there are 2 classes"):
        class_fractions_of(np.array([[0, 2]]), ("a", "b"))


def test_predictions_are_equal_where_image_mask_and_labels_are(predictor):
    one = predictor(noise())
    others = [
        replace(one, mask=(one.mask + 1) % 11),
        replace(one, image=255 - one.image),
        replace(one, labels=Labels(tuple("abcdefghijk"))),
    ]
    assert one == replace(one, probabilities=np.zeros(1)) and one != "an image"
    assert all(one != other for other in others)


def test_a_saved_mask_has_the_ids_and_the_palette(predictor, tmp_path):
    prediction = predictor(noise())
    prediction.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as saved:
        assert saved.mode == "P" and np.array_equal(np.array(saved), prediction.mask)
        assert np.array_equal(np.array(saved.convert("RGB")), np.array(prediction.colorize()))
    with pytest.raises(ValueError, match=r"does not end in .png"):
        prediction.save(tmp_path / "mask.jpg")


def test_overlay_goes_from_image_to_colours(predictor):
    prediction = predictor(noise())
    assert np.array_equal(np.array(prediction.overlay(0)), prediction.image)
    assert np.array_equal(np.array(prediction.overlay(1)), np.array(prediction.colorize()))
    half = np.array(prediction.overlay(0.5)).astype(int)
    assert np.abs(half - (prediction.image.astype(int) + np.array(prediction.colorize())) / 2).max() <= 0.5
    with pytest.raises(ValueError, match="alpha is 2"):
        prediction.overlay(2)


def test_a_legend_is_added_beside_the_image(predictor):
    prediction = predictor(noise())
    with_legend = prediction.overlay(legend=True)
    assert with_legend.width > 56 and with_legend.height >= 40
    assert np.array_equal(np.array(with_legend)[:40, :56], np.array(prediction.overlay()))


def test_a_network_that_also_labels_the_image_predicts(tmp_path):
    network = PSPNet("test_efficientnet", None, classes=11, psp_out_channels=8, aux_params={"classes": 2})
    network.labels = CAMVID
    assert Predictor(network, device="cpu")(noise()).mask.shape == (40, 56)


def test_a_model_is_taken_from_a_folder(net, tmp_path):
    net.save_pretrained(tmp_path / "model")
    assert np.array_equal(Predictor(tmp_path / "model", device="cpu")(noise()).mask, Predictor(net, device="cpu")(noise()).mask)


def test_every_option_reaches_the_runtime(net, monkeypatch):
    seen = []

    def noted(model, **options):
        seen.append(options)
        return open_runtime(model)

    monkeypatch.setattr("pspnet_zoo.inference.predictor.open_runtime", noted)
    Predictor(net)
    options = {"device": "cpu", "precision": "bfloat16", "compile": True, "fast": False, "threads": 3}
    Predictor(net, **options)
    assert seen == [{"device": None, "precision": None, "compile": False, "fast": None, "threads": None}, options]


def test_numbers_of_a_stream_are_checked(predictor):
    for numbers in ({"batch_size": 0}, {"workers": 0}):
        with pytest.raises(ValueError, match=next(iter(numbers))):
            list(predictor.stream([noise()], **numbers))


def test_smoothing_averages_probabilities_over_frames_of_one_size(net):
    torch.nn.init.normal_(net.segmentation_head[0].weight)
    predictor = Predictor(net, device="cpu")
    frames = [np.random.default_rng(i).integers(0, 256, (40, 56, 3), dtype=np.uint8) for i in range(3)]
    alone = [predictor(frame, probabilities=True) for frame in frames]
    calm, average = predictor.smoothed(0.75), alone[0].probabilities
    for frame, one in zip(frames, alone, strict=True):
        average = average * 0.75 + one.probabilities * 0.25
        assert (calm(frame).mask == average.argmax(0)).mean() > 0.999  # but for rounding
    assert calm(frames[0][:20]) == predictor(frames[0][:20])  # of another size: a new average
    each = predictor.smoothed(0.0)
    assert [each(frame) for frame in frames] == alone
    assert any((calm(frame).mask != one.mask).any() for frame, one in zip(frames, alone, strict=True))


@pytest.mark.parametrize("past", [-0.1, 1.0])
def test_a_weight_of_the_past_outside_its_range_is_refused(predictor, past):
    with pytest.raises(ValueError, match=f"smooth is {past}; it must be from 0"):
        predictor.smoothed(past)


def test_images_are_segmented_one_by_one_on_a_cpu(predictor):
    frames = [noise(), noise()[::-1].copy()]
    assert predictor.segment(frames) == [predictor(frame) for frame in frames]
    sizes = []
    predictor.runtime.network.encoder.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    predictor.segment(frames)
    assert set(sizes) == {1}


def test_options_of_a_video_are_passed_on(predictor, monkeypatch):
    seen = []
    monkeypatch.setattr(predictor, "smoothed", lambda past: seen.append(past))
    monkeypatch.setattr("pspnet_zoo.inference.predictor.segment_video", lambda segment, path, *, every: seen.append(every) or [])
    assert not [*predictor.video("a.mp4"), *predictor.video("a.mp4", every=3, smooth=0.5)]
    assert seen == [0.0, 1, 0.5, 3]


def test_a_network_without_labels_is_refused():
    with pytest.raises(ValueError, match="no labels"):
        Predictor(PSPNet("test_efficientnet", None, classes=2, psp_out_channels=8))


def test_an_encoder_of_one_size_sees_larger_images_through_windows():
    net = PSPNet("pit_ti_224", None, classes=3, psp_out_channels=8)
    net.labels = Labels(("a", "b", "c"), ((0, 0, 0), (9, 9, 9), (99, 99, 99)))
    pixels = np.random.default_rng(0).integers(0, 256, (240, 310, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="sliding-window inference"):
        net.eval()(torch.zeros(1, 3, 240, 310))
    assert Predictor(net)(pixels).mask.shape == (240, 310)
    corner = Predictor(net)(pixels[:224, :224])  # one window is the image itself
    logits = net.predict(net.preprocess(torch.from_numpy(pixels[:224, :224].copy()).permute(2, 0, 1)[None]))
    assert (corner.mask == logits[0].argmax(0).numpy()).all()


def test_whatever_holds_an_image_is_taken(predictor, tmp_path):
    image = noise()
    Image.fromarray(image).save(tmp_path / "image.png")
    expected = predictor(image)
    with (tmp_path / "image.png").open("rb") as file:
        assert predictor(file) == expected
    assert predictor(torch.from_numpy(image).permute(2, 0, 1)) == expected
    assert predictor(np.asarray(Image.fromarray(image))) == expected  # which is not writable
    assert predictor([image, tmp_path / "image.png"]) == [expected, expected]
    mirrored = predictor(image[..., ::-1])  # as everyone with OpenCV writes
    assert mirrored == predictor(image[..., ::-1].copy()) and mirrored != expected
    assert len({expected, predictor(image)}) == 1


@pytest.mark.parametrize(
    "nothing", [None, 7, Image.new("RGB", (0, 5)), np.zeros((4, 4, 3)), torch.zeros(3, 4, 4), torch.zeros(4, 4, dtype=torch.uint8)]
)
def test_what_is_no_image_is_refused_in_words(predictor, nothing):
    with pytest.raises(ImageError, match="The image"):
        predictor(nothing)


def test_probabilities_come_on_request(predictor):
    image = noise()
    assert predictor(image).probabilities is None
    prediction = predictor(image, probabilities=True)
    assert prediction.probabilities.shape == (11, 40, 56) and prediction.probabilities.sum(0) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(prediction.probabilities.argmax(0), prediction.mask)
    (listed,) = predictor([image], probabilities=True)
    assert np.array_equal(listed.probabilities, prediction.probabilities) and predictor([image])[0].probabilities is None


def test_a_network_of_one_channel_reads_gray_as_it_is_and_colors_as_pillow_converts_them():
    net = PSPNet("test_resnet", None, classes=2, psp_out_channels=8, in_channels=1).eval()
    net.labels = Labels(("a", "b"))
    predictor, seen = Predictor(net, device="cpu", fast=False), []
    net.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for image in (Image.fromarray(noise()), Image.fromarray(noise()).convert("L")):
        prediction = predictor(image)
        gray = torch.from_numpy(np.array(image.convert("L")))[None, None]
        assert torch.equal(seen[-1], net.preprocess(gray)) and prediction.image.shape == (40, 56, 3)


def test_an_image_that_is_very_long_is_downsampled_to_a_side_that_memory_holds(net):
    net.preprocess = replace(net.preprocess, input_scale=2.0)
    assert size_factor(net.preprocess, 1, 100_000) == 16384 / 100_000
    assert size_factor(net.preprocess, 1, 10_000) == 1.6384  # nor is it enlarged beyond
    assert size_factor(net.preprocess, 768, 1024) == (2048 / 768) ** 0.5
    sizes = []
    predictor = Predictor(net, device="cpu", fast=False)
    net.encoder.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[-2:]))
    assert predictor(np.zeros((1, 40_000, 3), np.uint8)).mask.shape == (1, 40_000) and sizes == [(1, 16384)]


@pytest.fixture
def net_of_bands():
    """A PSPNet of four bands of 16 bits."""
    network = PSPNet("test_resnet", None, classes=3, in_channels=4)
    network.labels = Labels(("a", "b", "c"))
    network.preprocess = Preprocess((0.5,) * 4, (0.25,) * 4, white=65535, bands=("blue", "green", "red", "nir"))
    return network


def test_a_network_of_bands_predicts_from_arrays_tensors_and_files(net_of_bands, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (40, 56, 4), np.uint16)
    np.save(tmp_path / "bands.npy", np.moveaxis(pixels, -1, 0))
    predictor = Predictor(net_of_bands, device="cpu")
    expected = class_ids(predictor.runtime, torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None])[0].numpy()
    for image in (pixels, torch.from_numpy(np.moveaxis(pixels, -1, 0).astype(np.int32)), tmp_path / "bands.npy"):
        prediction = predictor(image)
        assert np.array_equal(prediction.mask, expected)
        assert prediction.image.shape == (40, 56, 3) and prediction.image.dtype == np.uint8
    for wrong in (pixels[..., :3], np.zeros((4, 40, 56), np.uint16), Image.new("RGB", (9, 9))):
        with pytest.raises(ImageError, match="reads 4 bands"):
            predictor(wrong)


def test_pixels_without_data_are_ignored_in_the_mask_and_do_not_count(net_of_bands, tmp_path):
    pytest.importorskip("rasterio", reason="the extra raster is not installed")
    from tests.data.test_rasters import noise as noise_of
    from tests.data.test_rasters import write_tiff

    pixels = noise_of("uint16", 4, (40, 56)) + 1
    pixels[:, 10:20, 30:40] = 0
    path = write_tiff(tmp_path / "a.tif", pixels, names=("blue", "green", "red", "nir"), nodata=0)
    prediction = Predictor(net_of_bands, device="cpu")(path)
    assert (prediction.mask[10:20, 30:40] == 255).all() and (prediction.mask == 255).sum() == 100
    assert sum(prediction.class_fractions.values()) == pytest.approx(1) and (prediction.image[10:20, 30:40] == 0).all()
