"""Picture and mask stay together under augmentation."""

import torch
from torchvision import tv_tensors

from pspnet_zoo.data.transforms import RandomScale, training_transform


def pair(height=40, width=60):
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[:, width // 2 :] = 3
    image = mask[None].expand(3, -1, -1).contiguous() * 50
    return tv_tensors.Image(image), tv_tensors.Mask(mask)


def test_crops_have_their_size_and_fill_is_ignored():
    for seed in range(20):
        torch.manual_seed(seed)
        image, mask = training_transform(crop=(64, 96), scale=(0.5, 2.0), mean=(123.7, 116.3, 103.5))(*pair())
        assert image.shape == (3, 64, 96) and mask.shape == (64, 96) and image.dtype == mask.dtype == torch.uint8
        assert set(mask.unique().tolist()) <= {0, 3, 255}
        filled = image[:, mask == 255]
        assert filled.numel() == 0 or filled.unique(dim=1).flatten().tolist() == [124, 116, 104]


def test_mask_and_picture_take_the_same_scale_crop_and_flip():
    transform = training_transform(crop=(32, 32), scale=(0.5, 2.0), mean=(0, 0, 0))
    transform.transforms = transform.transforms[1:]  # without photometric distortion the picture is the mask times 50
    for seed in range(20):
        torch.manual_seed(seed)
        image, mask = transform(*pair())
        inside = mask != 255
        agree = (image[0] - mask * 50).abs()[inside] <= 30
        assert agree.float().mean() > 0.9


def test_scales_cover_the_range_and_keep_the_aspect():
    scale = RandomScale((0.5, 2.0))
    sizes = [scale(*pair())[1].shape for _ in range(50)]
    assert min(s[0] for s in sizes) < 25 and max(s[0] for s in sizes) > 70
    assert all(abs(width / height - 1.5) < 0.05 for height, width in sizes)


def test_the_same_seed_gives_the_same_picture():
    transform = training_transform(crop=(32, 32), scale=(0.5, 2.0), mean=(0, 0, 0))
    torch.manual_seed(5)
    first = transform(*pair())
    torch.manual_seed(5)
    again = transform(*pair())
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
