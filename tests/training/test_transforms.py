"""Image and mask stay together under augmentation, and each step does what its upstream states."""

import colorsys

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from pspnet_zoo.training.transforms import BandDistortion, PadTo, PhotometricDistortion, RandomCrop, RandomScale, training_transform

MEAN = (123.7, 116.3, 103.5)
FILL = [124, 116, 104]
EVERYTHING = {"rotate": 10, "blur": 0.5, "cat_max_ratio": 0.75}


def pair(height=40, width=60):
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[:, width // 2 :] = 3
    image = mask[None].expand(3, -1, -1).contiguous() * 50
    return tv_tensors.Image(image), tv_tensors.Mask(mask)


def noise(height=40, width=60, classes=5):
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return tv_tensors.Image(image), tv_tensors.Mask(torch.randint(0, classes, (height, width), dtype=torch.uint8))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float])
def test_bands_keep_their_type_under_photometric_changes(dtype):
    image = torch.randint(0, 256, (4, 8, 8), dtype=torch.uint8).to(dtype)
    distort = BandDistortion([120.0] * 4, [200.0] * 4)
    found = [distort(tv_tensors.Image(image)) for _ in range(10)]
    assert all(each.dtype == dtype for each in found) and any(not torch.equal(each, image) for each in found)
    if dtype == torch.uint8:  # beyond the range they stop
        assert any(255 in each and 0 in each for each in found)


def test_crops_have_their_size_and_fill_is_ignored():
    for seed in range(20):
        torch.manual_seed(seed)
        image, mask = training_transform(crop=(64, 96), mean=MEAN)(*pair())
        assert image.shape == (3, 64, 96) and mask.shape == (64, 96) and image.dtype == mask.dtype == torch.uint8
        assert isinstance(image, tv_tensors.Image) and isinstance(mask, tv_tensors.Mask)
        assert set(mask.unique().tolist()) <= {0, 3, 255}
        filled = image[:, mask == 255]
        assert filled.numel() == 0 or filled.unique(dim=1).flatten().tolist() == FILL


def test_padding_is_the_mean_whatever_happened_to_the_colours():
    transform = training_transform(crop=(100, 200), mean=MEAN, scale=(1, 1), blur=1)
    for _ in range(10):
        image, mask = transform(*noise())
        filled = mask == 255
        assert filled.sum() == 100 * 200 - 40 * 60 and not filled[30:70, 70:130].any()  # in the middle, as in semseg
        assert image[:, filled].unique(dim=1).flatten().tolist() == FILL


@pytest.mark.parametrize("options", [{}, EVERYTHING])
def test_mask_and_image_are_moved_alike_and_masks_are_never_blended(options):
    transform = training_transform(crop=(32, 32), mean=(0, 0, 0), photometric=False, **options)
    for seed in range(20):
        torch.manual_seed(seed)
        image, mask = transform(*pair())
        assert set(mask.unique().tolist()) <= {0, 3, 255}
        inside = mask != 255
        agree = (image[0].int() - mask.int() * 50).abs()[inside] <= 30
        assert agree.float().mean() > 0.85


def test_all_randomness_is_from_the_global_generator_of_torch():
    transform = training_transform(crop=(32, 32), mean=MEAN, **EVERYTHING)
    source = noise()
    for seed in range(5):
        torch.manual_seed(seed)
        first = transform(*source)
        torch.manual_seed(seed)
        again = transform(*source)
        assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


def test_a_source_is_left_as_it_was():
    image, mask = noise()
    before = image.clone(), mask.clone()
    for seed in range(5):
        torch.manual_seed(seed)
        training_transform(crop=(32, 32), mean=MEAN, **EVERYTHING)(image, mask)
    assert torch.equal(image, before[0]) and torch.equal(mask, before[1])


@pytest.mark.parametrize("size", [(1, 1), (7, 200), (200, 7), (33, 33)])
def test_odd_sizes_come_out_at_the_crop(size):
    for _ in range(5):
        image, mask = training_transform(crop=(33, 65), mean=MEAN, rotate=10, cat_max_ratio=0.75)(*noise(*size))
        assert image.shape == (3, 33, 65) and mask.shape == (33, 65)


def test_scales_cover_the_range_and_keep_the_aspect():
    scale = RandomScale((0.5, 2.0))
    sizes = [scale(*pair())[1].shape for _ in range(50)]
    assert min(s[0] for s in sizes) < 25 and max(s[0] for s in sizes) > 70
    assert all(abs(width / height - 1.5) < 0.05 for height, width in sizes)


def test_the_smallest_image_is_one_pixel():
    assert RandomScale((0.1, 0.1)).make_params(list(pair(3, 4))) == {"size": [1, 1]}


@pytest.mark.parametrize("angle", [-10.0, 3.0, 10.0])
@pytest.mark.parametrize("size", [(40, 60), (41, 67)])
def test_a_turned_crop_is_torchvisions_rotation_cropped(angle, size):
    image, mask = noise(*size)
    # torchvision darkens the edge of its fill, so a wide margin of the fill keeps that edge out of sight
    wide, wide_mask = v2.functional.pad(image, [20], fill=FILL), v2.functional.pad(mask, [20], fill=255)
    turned = v2.functional.rotate(wide, angle, v2.InterpolationMode.BILINEAR, fill=FILL)
    turned_mask = v2.functional.rotate(wide_mask, angle, fill=255)
    crop = RandomCrop((24, 31), FILL, rotate=10, cat_max_ratio=1)
    for top, left in ((0, 0), (16, 29), (9, 5)):
        params = {"window": (top, left, 24, 31), "angle": angle}
        result, result_mask = crop.transform(image, params), crop.transform(mask, params)
        place = (..., slice(top + 20, top + 44), slice(left + 20, left + 51))
        assert (result.int() - turned[place].int()).abs().max() <= 1
        assert (result_mask == turned_mask[place]).float().mean() > 0.99  # ties between two nearest fall either way


def test_half_of_the_images_are_turned_within_the_bound():
    crop = RandomCrop((20, 20), FILL, rotate=10, cat_max_ratio=1)
    angles = [crop.make_params(list(pair()))["angle"] for _ in range(400)]
    turned = [a for a in angles if a]
    assert 150 < len(turned) < 250 and max(turned) > 9 and min(turned) < -9 and max(map(abs, turned)) <= 10


def test_windows_reach_every_place():
    crop = RandomCrop((38, 57), FILL, rotate=0, cat_max_ratio=1)
    windows = {crop.make_params(list(pair()))["window"] for _ in range(300)}
    assert windows == {(top, left, 38, 57) for top in range(3) for left in range(4)}


def test_cat_max_ratio_is_mmsegs_rule():
    """Against the rule told plainly: of at most eleven windows in their order, the first that is good enough, or the last."""
    mask = tv_tensors.Mask(torch.zeros(30, 30, dtype=torch.uint8))
    mask[:, 15:20], mask[:, 20:25], mask[20:] = 1, 255, 255
    crop, plain = (RandomCrop((10, 10), FILL, rotate=0, cat_max_ratio=r) for r in (0.75, 1))
    tried = []
    for seed in range(200):
        torch.manual_seed(seed)
        windows = [plain.make_params([mask])["window"] for _ in range(11)]
        for number, (top, left, height, width) in enumerate(windows, 1):
            ids, counts = np.unique(mask[top : top + height, left : left + width].numpy(), return_counts=True)
            counts = counts[ids != 255]
            if number == 11 or (len(counts) > 1 and counts.max() / counts.sum() < 0.75):
                break
        torch.manual_seed(seed)
        assert crop.make_params([mask])["window"] == (top, left, height, width)
        tried.append(number)
    assert 1 in tried and 5 in tried


def test_an_image_of_one_class_is_cropped_all_the_same():
    mask = tv_tensors.Mask(torch.zeros(30, 30, dtype=torch.uint8))
    assert RandomCrop((10, 10), FILL, rotate=0, cat_max_ratio=0.75)(tv_tensors.Image(mask[None]), mask)[1].shape == (10, 10)


def distorted(color, **params):
    params = {**dict.fromkeys(("brightness", "contrast", "saturation", "hue")), "contrast_first": True, **params}
    image = tv_tensors.Image(torch.tensor(color, dtype=torch.uint8).view(3, 1, 1))
    return PhotometricDistortion().transform(image, params).flatten().tolist()


@pytest.mark.parametrize("color", [(200, 30, 40), (0, 0, 0), (255, 255, 255), (90, 90, 90), (10, 250, 130), (0, 0, 255)])
def test_saturation_and_hue_are_those_of_hsv(color):
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in color))
    for factor in (0.5, 1.3, 1.5):
        expected = [c * 255 for c in colorsys.hsv_to_rgb(h, min(s * factor, 1), v)]
        assert distorted(color, saturation=factor) == pytest.approx(expected, abs=0.51)
    for shift in (-0.1, 0.05, 0.1):
        expected = [c * 255 for c in colorsys.hsv_to_rgb((h + shift) % 1, s, v)]
        assert distorted(color, hue=shift) == pytest.approx(expected, abs=1)


def test_brightness_adds_and_contrast_multiplies():
    assert distorted((0, 100, 250), brightness=20) == [20, 120, 255]
    assert distorted((0, 100, 250), brightness=-20) == [0, 80, 230]
    assert distorted((0, 100, 250), contrast=1.5) == distorted((0, 100, 250), contrast=1.5, contrast_first=False) == [0, 150, 255]


def test_distortions_are_mmsegs_in_number_and_bound():
    drawn = [PhotometricDistortion().make_params([]) for _ in range(400)]
    bounds = {"brightness": (-32, 32), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-0.1, 0.1)}
    for name, (low, high) in bounds.items():
        values = [d[name] for d in drawn if d[name] is not None]
        margin = (high - low) / 20
        assert 150 < len(values) < 250 and low <= min(values) < low + margin and high - margin < max(values) <= high
    assert 150 < sum(d["contrast_first"] for d in drawn) < 250


def test_blur_is_opencvs_binomial_to_a_hundredth():
    image = torch.zeros(3, 9, 9, dtype=torch.uint8)
    image[:, 4] = 255
    transform = training_transform(crop=(9, 9), mean=MEAN, scale=(1, 1), blur=1, photometric=False)
    column = transform(tv_tensors.Image(image), tv_tensors.Mask(image[0]))[0][0, :, 4].float() / 255
    assert column[2:7].tolist() == pytest.approx([1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16], abs=0.011) and not column[:2].any()


def test_padding_puts_the_odd_pixel_after():
    image, mask = PadTo((45, 60), FILL)(*noise())
    assert (mask[:2] == 255).all() and (mask[42:] == 255).all() and not (mask[2:42] == 255).any()
    assert image[:, 0, 0].tolist() == FILL


def test_off_means_untouched():
    image, mask = noise()
    transform = training_transform(crop=(40, 60), mean=MEAN, scale=(1, 1), photometric=False)
    for _ in range(5):
        result, result_mask = transform(image, mask)
        flipped = not torch.equal(result, image)
        assert torch.equal(result.flip(-1) if flipped else result, image)
        assert torch.equal(result_mask.flip(-1) if flipped else result_mask, mask)


def test_bands_of_any_range_are_distorted_by_their_own_spread_and_not_rounded():
    mean, std = (300.0, 0.2, 9000.0), (10.0, 0.05, 800.0)
    pixels = torch.tensor(mean).view(3, 1, 1) + torch.tensor(std).view(3, 1, 1) * torch.randn(3, 64, 64)
    transform = training_transform(crop=(32, 48), mean=mean, std=std, rotate=10, blur=0.5, scale=(0.8, 1.2))
    seen = []
    for seed in range(40):
        torch.manual_seed(seed)
        image, mask = transform(tv_tensors.Image(pixels), tv_tensors.Mask(torch.zeros(64, 64, dtype=torch.uint8)))
        assert image.dtype == torch.float32 and image.shape == (3, 32, 48) and mask.shape == (32, 48)
        seen.append((image.mean((1, 2)) - torch.tensor(mean)) / torch.tensor(std))
    shifts = torch.stack(seen).abs()
    assert (shifts.amax(0) < 1).all() and (shifts.amax(0) > 0.2).all()  # every band, on its own scale
    assert (image != image.round()).any()


def test_shrinking_is_antialiased():
    """Four pixels of noise become one that averages them: bilinear samples of two would keep three times the deviation."""
    pixels = tv_tensors.Image(torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.zeros(128, 128, dtype=torch.uint8))
    image = training_transform(crop=(32, 32), mean=(0, 0, 0), scale=(0.25, 0.25), photometric=False)(pixels, mask)[0]
    assert image.float().std() < 0.3 * pixels.float().std()
