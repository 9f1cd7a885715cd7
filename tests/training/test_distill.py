"""What a teacher says arrives where it belongs: through the cache, the augmentation and the loss."""

import copy
import errno
import json
import os
import pickle
from collections import namedtuple
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision import tv_tensors

from pspnet_zoo import PSPNet, WeightsError
from pspnet_zoo.data.images import ImageError
from pspnet_zoo.data.labels import CAMVID, IGNORE, Labels
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.data.unlabelled import Joined, Unlabelled
from pspnet_zoo.deployment.export import export
from pspnet_zoo.inference.protocols import PROTOCOLS, InferenceProtocol
from pspnet_zoo.inference.scores import class_ids, class_probabilities, to_luma
from pspnet_zoo.meta import Preprocess
from pspnet_zoo.runtimes.open import open_runtime
from pspnet_zoo.runtimes.torch import TorchRuntime
from pspnet_zoo.training import distill
from pspnet_zoo.training.distill import (
    Teacher,
    TeacherScores,
    coordinates,
    counted_pixels,
    distillation_loss,
    network_teacher,
    read_mapping,
    sample,
)
from pspnet_zoo.training.recipes import Recipe
from pspnet_zoo.training.train import CHECKPOINT, train
from pspnet_zoo.training.transforms import training_transform

RECIPE = Recipe(iterations=4, batch_size=2, crop=(32, 48), lr=0.01, checkpoint_every=2, scale=(0.8, 1.5))
WHOLE = PROTOCOLS["whole"]
CAR = CAMVID.names.index("car")


@pytest.fixture
def teacher(net) -> Teacher:
    """Another network, sure of what it says."""
    network = PSPNet("test_efficientnet", None, classes=len(CAMVID), psp_out_channels=8).eval()
    torch.nn.init.normal_(network.segmentation_head[0].weight)
    network.labels = CAMVID
    return network_teacher(TorchRuntime(network, fast=False), WHOLE, CAMVID)


@pytest.fixture
def scores(teacher, camvid, tmp_path) -> TeacherScores:
    prepared = TeacherScores(tmp_path / "teacher", [teacher], open_dataset("camvid", camvid, "train"))
    prepared.prepare()
    return prepared


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("seed", range(8))
def test_cached_scores_give_the_loss_of_scores_on_the_fly_through_scale_crop_and_flip(scores, seed):
    """The reference enlarges, cuts and mirrors the teacher's float32 scores themselves."""
    image, mask = scores.dataset[0]
    crop, scale = (40, 56), 1.0 + seed / 5
    transform = training_transform(crop=crop, mean=(0, 0, 0), scale=(scale, scale), photometric=False)
    torch.manual_seed(seed)
    where = transform(image, mask, coordinates(*image.shape[-2:]))[2]
    target = sample(scores[0], where)

    size = [round(side * scale) for side in image.shape[-2:]]
    fly = F.interpolate(scores.teachers[0].probabilities(image)[None], size=size, mode="bilinear")[0]
    # the crop and the flip are read from an x and y that only they have touched
    x, y = torch.arange(size[1]).expand(size), torch.arange(size[0])[:, None].expand(size)
    window = transform.transforms[1]
    torch.manual_seed(seed)
    scaled = transform.transforms[0](image, mask)
    index = tv_tensors.Mask(torch.stack([x, y]).to(torch.uint8))
    _, _, cut = transform.transforms[2](*window(*scaled, index))
    fly = fly[:, cut[1].long(), cut[0].long()]

    assert target.shape == fly.shape
    logits = torch.randn(1, len(CAMVID), *target.shape[-2:])
    cached, direct = (distillation_loss(logits, t[None], known=scores.known) for t in (target, fly))
    assert cached.item() == pytest.approx(direct.item(), abs=1e-3)
    torch.testing.assert_close(target, fly, atol=1e-3, rtol=0)


@pytest.mark.parametrize("options", [{"scale": (0.3, 0.6)}, {"scale": (1.0, 1.0), "rotate": 30.0, "blur": 1.0}])
def test_what_lies_outside_the_image_is_not_counted_pixels(options):
    image = tv_tensors.Image(torch.full((3, 45, 67), 200, dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.zeros(45, 67, dtype=torch.uint8))
    transform = training_transform(crop=(60, 80), mean=(0, 0, 0), photometric=False, **options)
    for seed in range(5):
        torch.manual_seed(seed)
        _, mask_out, where = transform(image, mask, coordinates(45, 67))
        target = sample(torch.ones(1, 45, 67), where)
        inside = counted_pixels(target[None], 0.0)[0]
        assert 0.01 < inside.float().mean() < 1 and not (inside & (mask_out == IGNORE)).any()
        edge = F.max_pool2d((mask_out == IGNORE).float()[None], 5, 1, 2)[0] > 0
        assert (inside | edge).all()


def test_an_image_that_cannot_be_opened_is_named_before_the_teacher_starts(teacher, tmp_path, monkeypatch):
    Image.new("RGB", (20, 10)).save(tmp_path / "large.png")
    scores = TeacherScores(tmp_path / "teacher", [teacher], Unlabelled(tmp_path, CAMVID))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(ImageError, match=r"large.png' has more than 100 pixels"):
        scores.size(0)
    (tmp_path / "large.png").unlink()
    os.mkfifo(tmp_path / "large.png")
    with pytest.raises(ImageError, match=r"large.png' cannot be read: it is a folder, a pipe"):
        scores.size(0)


def test_a_multilabel_teacher_and_one_of_bands_are_refused(net):
    several = PSPNet("test_efficientnet", None, classes=3, psp_out_channels=8, multilabel=True)
    with pytest.raises(ValueError, match="The teacher is multi-label, and soft labels are of one class a pixel"):
        network_teacher(TorchRuntime(several), WHOLE, CAMVID)
    net.preprocess = replace(net.preprocess, mean=(0.5,) * 4, std=(0.2,) * 4)
    with pytest.raises(ValueError, match="The teacher reads 4 bands, and soft labels are made of photos"):
        network_teacher(TorchRuntime(net), WHOLE, CAMVID)


def test_a_teacher_of_one_channel_is_given_the_luma(camvid, tmp_path):
    gray = PSPNet("test_efficientnet", None, classes=len(CAMVID), psp_out_channels=8, in_channels=1)
    gray.labels = CAMVID
    image = torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8)
    expected = class_probabilities(gray, to_luma(image)[None], WHOLE)[0]
    torch.testing.assert_close(network_teacher(TorchRuntime(gray), WHOLE, CAMVID).probabilities(image), expected)


def test_images_that_are_no_photos_have_no_teacher(teacher, camvid, tmp_path):
    dataset = open_dataset("camvid", camvid, "train")
    dataset.preprocess = Preprocess((0.5,) * 3, (0.2,) * 3, bands=("red", "green", "blue"))
    with pytest.raises(ValueError, match="A teacher is given photos, 8-bit RGB, and the dataset states other images"):
        TeacherScores(tmp_path / "cache", [teacher], dataset)


def test_an_image_whose_values_a_teacher_cannot_take_is_named(teacher, camvid, tmp_path):
    def probabilities(image):
        raise FloatingPointError("This image has values from 0 to 1e+20 after normalisation")

    dataset = open_dataset("camvid", camvid, "train")
    failing = TeacherScores(tmp_path / "cache", [replace(teacher, probabilities=probabilities)], dataset)
    with pytest.raises(FloatingPointError, match="camvid/train/000.png': This image has values from 0 to 1e"):
        failing.prepare()


@pytest.mark.parametrize("stride", [2, 5])
def test_smaller_scores_stay_aligned(teacher, camvid, tmp_path, stride):
    def x_of(image):
        return coordinates(*image.shape[-2:])[:1].as_subclass(torch.Tensor).expand(11, -1, -1) + 1

    ramp = Teacher("ramp", x_of, frozenset(range(11)))
    scores = TeacherScores(tmp_path, [ramp], open_dataset("camvid", camvid, "train"), stride=stride)
    height, width = scores.dataset[0][0].shape[-2:]
    assert scores.compute(0).shape == (11, -(-height // stride), -(-width // stride))
    assert scores.size(0) == scores.compute(0).numel() * 2
    where = coordinates(height, width)
    found = sample(scores.compute(0), where)[0] - 1
    inner = where[0].abs() < 1 - 3 * stride / width
    torch.testing.assert_close(found[inner], where[0][inner].as_subclass(torch.Tensor), atol=2e-3, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_hintons(temperature):
    ours, theirs = torch.randn(2, 2, 5, 4, 6)
    expected = 0.0
    for p, q in zip((theirs / temperature).softmax(1).unbind(), (ours / temperature).softmax(1).unbind(), strict=True):
        expected += (p * (p / q).log()).sum().item() * temperature**2
    loss = distillation_loss(ours, theirs.softmax(1), known=range(5), temperature=temperature)
    assert loss.item() == pytest.approx(expected / (2 * 4 * 6), rel=1e-4)
    same = distillation_loss(theirs, theirs.softmax(1), known=range(5), temperature=temperature)
    assert same.item() == pytest.approx(0, abs=1e-6)
    both = distillation_loss((ours, theirs), theirs.softmax(1), known=range(5), temperature=temperature, aux_weight=0.3)
    assert both.item() == pytest.approx(loss.item(), rel=1e-4)


def test_only_confident_pixels_teach():
    target = torch.tensor([[0.9, 0.6, 0.3], [0.1, 0.4, 0.1]])[None, :, None]  # (1, 2, 1, 3); the last knows neither
    logits = torch.randn(1, 2, 1, 3, requires_grad=True)
    assert counted_pixels(target, 0.0).tolist() == [[[True, True, False]]] and counted_pixels(target, 0.7).tolist() == [
        [[True, False, False]]
    ]
    distillation_loss(logits, target, known=[0, 1], confidence=0.7).backward()
    assert logits.grad is not None and logits.grad.abs().sum(dim=1)[0, 0].gt(0).tolist() == [True, False, False]
    assert distillation_loss(logits, target, known=[0, 1], confidence=1.0).item() == 0


def test_a_class_that_the_teacher_does_not_know_is_not_counted_pixels():
    target = torch.tensor([0.5, 0.25, 0.0]).view(1, 3, 1, 1)
    logits = torch.tensor([0.0, 1.0, 5.0]).view(1, 3, 1, 1).requires_grad_()
    loss = distillation_loss(logits, target, known=[0, 1])
    loss.backward()
    q = torch.tensor([0.0, 1.0]).softmax(0)
    p = torch.tensor([2 / 3, 1 / 3])
    assert loss.item() == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-4)
    assert logits.grad is not None and logits.grad[0, 2].item() == 0


def test_classes_of_the_teacher_are_summed_as_the_mapping_says(net, camvid, tmp_path):
    image, _ = open_dataset("camvid", camvid, "train")[0]
    student = Labels(("thing", "ground", "unicorn"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)))
    path = tmp_path / "mapping.json"
    path.write_text(json.dumps({"thing": ["car", "pedestrian"], "ground": ["road"], "unicorn": []}))
    mapped = network_teacher(TorchRuntime(net.eval(), fast=False), WHOLE, student, read_mapping(path))
    found, all_scores = mapped.probabilities(image), class_probabilities(net, image[None], WHOLE)[0]
    expected = [all_scores[CAR] + all_scores[9], all_scores[3], torch.zeros_like(all_scores[0])]
    torch.testing.assert_close(found, torch.stack(expected))
    assert mapped.known == {0, 1}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (None, "Give a mapping that says which of the teacher's classes form each"),
        ({"a": ["sky"]}, "look at b. An empty list says"),
        ({"a": ["sky"], "b": [], "c": []}, "look at c"),
        ({"a": ["sky"], "b": ["heaven"]}, "names heaven; the teacher's classes are sky, building"),
        ({"a": ["sky"], "b": ["sky"]}, "has sky more than once"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(net, mapping, message):
    with pytest.raises(ValueError, match=message):
        network_teacher(TorchRuntime(net.eval(), fast=False), WHOLE, Labels(("a", "b"), ((0, 0, 0), (1, 1, 1))), mapping)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not JSON"), ("[]", "must be an object"), ('{"a": "sky"}', "must be an object")]
)
def test_a_mapping_file_that_says_something_else_is_refused(tmp_path, text, message):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_mapping(tmp_path / "m.json")
    with pytest.raises(FileNotFoundError):
        read_mapping(tmp_path / "none.json")


def test_several_teachers_are_averaged(net, teacher, camvid, tmp_path):
    other = network_teacher(TorchRuntime(net.eval(), fast=False), replace(WHOLE, flip=True), CAMVID)
    scores = TeacherScores(tmp_path, [teacher, other], open_dataset("camvid", camvid, "train"))
    image, _ = scores.dataset[1]
    mean = (teacher.probabilities(image) + other.probabilities(image)) / 2
    torch.testing.assert_close(scores.compute(1).float(), mean, atol=1e-3, rtol=0)
    assert TeacherScores(tmp_path, [other, teacher], scores.dataset).folder == scores.folder


def test_scores_are_computed_once_and_gone_on_with(teacher, camvid, tmp_path):
    asked = []

    def probabilities(image):
        asked.append(image)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return teacher.probabilities(image)

    scores = TeacherScores(tmp_path, [Teacher("counts", probabilities, teacher.known)], open_dataset("camvid", camvid, "train"))
    with pytest.raises(KeyboardInterrupt):
        scores.prepare()
    steps = []
    scores.progress = lambda done, total: steps.append((done, total))
    assert scores.prepare() == 3
    assert steps == [(1, 3), (2, 3), (3, 3)] and len(asked) == 6
    assert scores.prepare() == 0 and len(asked) == 6
    torch.testing.assert_close(scores[4].float(), teacher.probabilities(scores.dataset[4][0]), atol=1e-3, rtol=0)


def test_processes_share_the_images(teacher, camvid, tmp_path):
    scores = TeacherScores(tmp_path, [teacher], open_dataset("camvid", camvid, "train"))
    assert [scores.prepare(process=rank, processes=2) for rank in (0, 1)] == [3, 2]
    assert scores.prepare() == 0


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "not a number", "gone"])
def test_damaged_scores_are_found_and_computed_again(scores, damage):
    before, path = scores[2].clone(), scores.path(2)
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    changed = {"cut": bytes(data[:-7]), "flipped bit": bytes(data), "not a number": b"<html>"}
    path.write_bytes(changed[damage]) if damage in changed else path.unlink()
    with pytest.raises(WeightsError, match="was damaged while training; continue with --resume"):
        scores[2]
    assert scores.prepare() == 1
    assert torch.equal(scores[2], before)


def test_another_teacher_protocol_image_or_stride_has_scores_of_its_own(net, teacher, camvid, tmp_path):
    dataset = open_dataset("camvid", camvid, "train")
    others = [network_teacher(TorchRuntime(net.eval(), fast=False), p, CAMVID) for p in (WHOLE, replace(WHOLE, scales=(1.0, 1.5)))]
    shrunk = copy.deepcopy(net)
    shrunk.preprocess = replace(net.preprocess, range=255.0)
    others.append(network_teacher(TorchRuntime(shrunk.eval(), fast=False), WHOLE, CAMVID))
    made = [TeacherScores(tmp_path, [t], dataset) for t in (teacher, *others)]
    made.append(TeacherScores(tmp_path, [teacher], dataset, stride=2))
    assert len({scores.path(0) for scores in made}) == len(made)
    before = made[0].path(0)
    Image.new("RGB", (64, 48)).save(dataset.images[0])
    assert TeacherScores(tmp_path, [teacher], dataset).path(0) != before


def test_a_full_disk_is_one_clear_line(teacher, camvid, tmp_path, monkeypatch):
    scores = TeacherScores(tmp_path, [teacher], open_dataset("camvid", camvid, "train"))
    usage = namedtuple("usage", "free")
    with monkeypatch.context() as patch:
        patch.setattr(distill.shutil, "disk_usage", lambda path: usage(1000))
        with pytest.raises(
            OSError, match="No space for the soft labels of the teacher in .*: 5 images need 0.0 GB, and 0.0 GB are free"
        ):
            scores.prepare()
    write, written = distill.write_state, []

    def fills_up(path, *rest):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        write(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(distill, "write_state", fills_up)
        with pytest.raises(OSError, match=r"2 of 5 images are done, 0.0 GB are left\. Free some, .*; what was computed is kept"):
            scores.prepare()
    assert scores.prepare() == 3


@pytest.mark.parametrize(("teachers", "stride"), [(0, 1), (1, 0)])
def test_no_teacher_or_stride_is_refused(teacher, camvid, tmp_path, teachers, stride):
    with pytest.raises(ValueError):
        TeacherScores(tmp_path, [teacher] * teachers, open_dataset("camvid", camvid, "train"), stride=stride)


def test_workers_take_the_files_and_not_the_teachers(scores):
    there = pickle.loads(pickle.dumps(scores))
    assert there.teachers == () and there.known == list(range(11)) and torch.equal(there[3], scores[3])


def colour_teacher() -> Teacher:
    """Knows the made-up streets by their colours."""
    colors = torch.tensor(CAMVID.colors).float()

    def probabilities(image):
        distance = (image.float()[None] - colors[:, :, None, None]).square().sum(dim=1)
        return (-distance / 500).softmax(dim=0)

    return Teacher("colours", probabilities, frozenset(range(len(CAMVID))))


def test_a_student_learns_from_its_teacher_alone(net, camvid, tmp_path):
    images = Unlabelled(camvid / "train", CAMVID)
    scores = TeacherScores(tmp_path / "teacher", [colour_teacher()], images)
    recipe = replace(RECIPE, iterations=60, batch_size=4, lr=0.02, checkpoint_every=100)
    losses = []
    train(net, images, recipe, tmp_path / "run", teacher=scores, progress=lambda step, loss, lr: losses.append(loss))
    assert losses[-1] < losses[0] / 3
    image, truth = open_dataset("camvid", camvid, "val")[0]
    found = class_ids(net, image[None], WHOLE)[0]
    assert (found == truth)[truth != IGNORE].float().mean() > 0.8


def first_loss(net, dataset, teacher, recipe, folder) -> float:
    losses = []
    recipe = replace(recipe, iterations=1)
    train(net, dataset, recipe, folder / "run", teacher=teacher, progress=lambda step, loss, lr: losses.append(loss))
    return losses[0]


@pytest.mark.parametrize(
    "changes",
    [{"teacher_weight": 0.5}, {"teacher_temperature": 3.0}, {"teacher_confidence": 0.9}, {"aux_weight": 0.1}],
    ids=lambda c: next(iter(c)),
)
def test_each_number_of_the_teacher_reaches_the_loss(net, scores, tmp_path, changes):
    images = Unlabelled(scores.dataset.images[0].parent, CAMVID)
    losses = [first_loss(copy.deepcopy(net), images, scores, recipe, tmp_path) for recipe in (RECIPE, replace(RECIPE, **changes))]
    assert abs(losses[0] - losses[1]) > 1e-3
    if "teacher_weight" in changes:
        assert losses[1] == pytest.approx(losses[0] / 2, rel=1e-4)


def test_masks_and_teacher_add_up(net, scores, tmp_path):
    images = Unlabelled(scores.dataset.images[0].parent, CAMVID)
    both = first_loss(copy.deepcopy(net), scores.dataset, scores, RECIPE, tmp_path)
    masks = first_loss(copy.deepcopy(net), scores.dataset, None, RECIPE, tmp_path)
    taught_alone = first_loss(net, images, scores, RECIPE, tmp_path)
    assert both == pytest.approx(masks + taught_alone, rel=1e-4)


def test_every_taught_pixel_counts_alike_whatever_part_it_is_in(net, camvid, tmp_path):
    for module in net.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
    images = Unlabelled(camvid / "train", CAMVID)
    scores = TeacherScores(tmp_path / "teacher", [colour_teacher()], images)
    recipe = replace(RECIPE, batch_size=4, freeze="norms", teacher_confidence=0.9)
    whole = first_loss(copy.deepcopy(net), images, scores, recipe, tmp_path)
    parts = first_loss(net, images, scores, replace(recipe, accumulation=4), tmp_path)
    assert whole == pytest.approx(parts, rel=1e-4) and whole > 0.1


@pytest.mark.parametrize("changes", [{}, {"batch_size": 4, "accumulation": 2, "ema_decay": 0.6}])
def test_a_taught_run_resumes_to_the_very_same_weights(net, scores, tmp_path, changes):
    twin, recipe = copy.deepcopy(net), replace(RECIPE, **changes)
    train(net, scores.dataset, recipe, tmp_path / "whole", teacher=scores)

    class Interrupted(Exception):
        pass

    def stop(step, loss, lr):
        if step == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(twin, scores.dataset, recipe, tmp_path / "broken", teacher=scores, progress=stop)
    assert train(twin, scores.dataset, recipe, tmp_path / "broken", teacher=scores, resume=True).steps == 4
    assert same(net, twin)
    with pytest.raises(WeightsError, match="the teachers, their protocol or mapping were others"):
        train(twin, scores.dataset, recipe, tmp_path / "broken", resume=True)
    assert (tmp_path / "whole" / CHECKPOINT).read_bytes() == (tmp_path / "broken" / CHECKPOINT).read_bytes()


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_the_result_does_not_depend_on_the_workers(net, scores, tmp_path):
    twin = copy.deepcopy(net)
    train(net, scores.dataset, replace(RECIPE, iterations=2), tmp_path / "0", teacher=scores)
    train(twin, scores.dataset, replace(RECIPE, iterations=2), tmp_path / "1", teacher=scores, workers=1)
    assert same(net, twin)


def test_images_with_and_without_masks_are_one_dataset(camvid):
    labelled, plain = open_dataset("camvid", camvid, "train"), Unlabelled(camvid / "val", CAMVID)
    joined = Joined([labelled, plain])
    assert len(joined) == 8 and joined.images == [*labelled.images, *plain.images]
    assert torch.equal(joined[4][1], labelled[4][1]) and torch.equal(joined[5][0], open_dataset("camvid", camvid, "val")[0][0])
    assert (joined[7][1] == IGNORE).all() and joined[7][1].shape == joined[7][0].shape[-2:]
    with pytest.raises(IndexError):
        joined[8]
    with pytest.raises(ValueError, match="with the same classes"):
        Joined([labelled, Unlabelled(camvid / "val", Labels(("a",), ((0, 0, 0),)))])


def test_a_network_of_another_size_or_protocol_can_teach(net, camvid):
    image, _ = open_dataset("camvid", camvid, "train")[0]
    protocol = InferenceProtocol(source="a test", scales=(0.5, 1.5), flip=True)
    found = network_teacher(TorchRuntime(net.eval(), fast=False), protocol, CAMVID).probabilities(image)
    torch.testing.assert_close(found, class_probabilities(net, image[None], protocol)[0])


@pytest.mark.slow
def test_an_exported_network_teaches_what_the_network_itself_does(net, camvid, tmp_path):
    image, _ = open_dataset("camvid", camvid, "train")[0]
    exported = network_teacher(open_runtime(export(net, tmp_path / "net.onnx")), WHOLE, CAMVID)
    itself = network_teacher(TorchRuntime(net.eval(), fast=False), WHOLE, CAMVID)
    torch.testing.assert_close(exported.probabilities(image), itself.probabilities(image), atol=1e-4, rtol=0)
    assert exported.name != itself.name and exported.known == itself.known
