"""A run is alone in its folder, fits its network and data, and hears signals from its first line to its last."""

import json
import math
import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset
from torchvision import tv_tensors

from pspnet_zoo import PSPNet, WeightsError
from pspnet_zoo.data.labels import CAMVID, Labels
from pspnet_zoo.data.open import open_dataset
from pspnet_zoo.evaluation.evaluate import evaluate
from pspnet_zoo.evaluation.page import read_history
from pspnet_zoo.inference.protocols import PROTOCOLS
from pspnet_zoo.meta import Preprocess
from pspnet_zoo.storage.files import read_state, write_state
from pspnet_zoo.training.recipes import Recipe
from pspnet_zoo.training.train import CHECKPOINT, train
from pspnet_zoo.training.trainer import Stopped, Trainer

RECIPE = Recipe(iterations=2, batch_size=2, crop=(32, 48), lr=0.01, evaluate_every=0)


@pytest.fixture
def images(camvid):
    return open_dataset("camvid", camvid, "train")


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_preparation_at_once_and_is_noted_after_it(tmp_path, number):
    before = signal.getsignal(number)
    with pytest.raises(Stopped), Trainer(tmp_path / "run") as trainer:
        send(number)
    assert trainer.signal == number and not (tmp_path / "run").exists()
    with Trainer(tmp_path / "run") as trainer:
        trainer.begin()
        send(number)
        assert trainer.signal == number
    assert signal.getsignal(number) is before


def test_a_signal_whose_exception_was_lost_ends_the_preparation_all_the_same(tmp_path):
    with pytest.raises(Stopped), Trainer(tmp_path / "run") as trainer:
        trainer.signal = signal.SIGINT
        trainer.begin()


def test_a_handler_of_the_caller_is_called_too(tmp_path):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with Trainer(tmp_path / "run") as trainer:
            trainer.begin()
            send(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM] == [trainer.signal]


def test_an_ignored_signal_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Trainer(tmp_path / "run") as trainer:
            send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert trainer.signal is None


def test_outside_the_main_thread_a_run_goes_without_signals(net, images, tmp_path):
    steps = []
    thread = threading.Thread(target=lambda: steps.append(train(net, images, RECIPE, tmp_path / "run").steps))
    thread.start()
    thread.join()
    assert steps == [2]


def test_two_runs_in_one_folder_are_refused(net, images, tmp_path):
    with Trainer(tmp_path / "run"):
        with pytest.raises(ValueError, match="Another run is writing to '.*run'; wait for its end, or choose another folder"):
            train(net, images, RECIPE, tmp_path / "run")
        with Trainer(tmp_path / "other"), Trainer(tmp_path / "run", leads=False):
            pass
    assert train(net, images, RECIPE, tmp_path / "run").steps == 2
    assert not (tmp_path / "run" / ".lock").exists()


def network(stride=8, labels=CAMVID, **options):
    torch.manual_seed(0)
    net = PSPNet("test_efficientnet", None, classes=len(labels), psp_out_channels=16, encoder_output_stride=stride, **options)
    net.labels = labels
    return net


def test_a_run_is_resumed_only_as_the_run_that_it_was(camvid, images, tmp_path):
    train(network(), images, RECIPE, tmp_path)
    longer = replace(RECIPE, iterations=3)
    started = network()
    started.provenance = {"start": "pspnet_lite0.camvid"}
    brighter = network()
    brighter.preprocess = replace(brighter.preprocess, mean=(0.5, 0.5, 0.5))
    swapped = Labels((CAMVID.names[1], CAMVID.names[0], *CAMVID.names[2:]))
    others = [
        (network(16), images, "encoder_output_stride was 8 and is 16"),
        (network(psp_dropout=0.3), images, "psp_dropout was 0.1 and is 0.3"),
        (network(), Subset(images, range(4)), r"dataset was 5 images \(names [0-9a-f]{12}\) and is 4 images"),
        (network(), open_dataset("camvid", camvid, "val"), "dataset was 5 images"),
        (started, images, "start was None and is pspnet_lite0.camvid"),
        (brighter, images, r"mean was .0.485, 0.456, 0.406. and is .0.5, 0.5, 0.5."),
    ]
    for net, dataset, message in others:
        with pytest.raises(WeightsError, match=f"is of another run: {message}.*. Resume with the same settings"):
            train(net, dataset, longer, tmp_path, resume=True)
    images.labels = swapped
    with pytest.raises(WeightsError, match="classes was .'sky', 'building', .* and is .'building', 'sky'"):
        train(network(labels=swapped), images, longer, tmp_path, resume=True)
    images.labels = CAMVID
    assert train(network(), images, longer, tmp_path, resume=True).steps == 3


def test_a_checkpoint_of_an_earlier_version_is_resumed(images, tmp_path):
    train(network(), images, RECIPE, tmp_path)
    tensors, state = read_state(tmp_path / CHECKPOINT)
    kept = {"step", "best", "scaler", "recipe", "teacher"}
    write_state(tmp_path / CHECKPOINT, tensors, {key: state[key] for key in kept})
    assert train(network(), images, replace(RECIPE, iterations=3), tmp_path, resume=True).steps == 3


@pytest.mark.parametrize(
    ("before", "now", "fits"),
    [
        ("/home/me/runs/model", "model", True),
        ("runs/model/", "model", True),
        ("C:\\runs\\model", "model", True),
        ("encoder weights /home/me/a.safetensors", "encoder weights a.safetensors", True),
        ("/home/me/runs/model", "other", False),
        ("encoder weights imagenet", "imagenet", False),
        ("one/model", "two/model", False),
        (None, "model", False),
    ],
)
def test_a_checkpoint_that_states_the_whole_path_of_its_start_is_resumed(images, tmp_path, before, now, fits):
    net = network()
    net.provenance = {"start": before}
    train(net, images, replace(RECIPE, iterations=1), tmp_path)
    net.provenance = {"start": now}
    if fits:
        assert train(net, images, RECIPE, tmp_path, resume=True).steps == 2
    else:
        with pytest.raises(WeightsError, match=f"start was {before} and is {now}"):
            train(net, images, RECIPE, tmp_path, resume=True)


def test_a_run_is_not_resumed_with_another_start_of_the_same_name(images, tmp_path):
    net = network()
    net.provenance = {"start": "model", "start_sha256": "a" * 64}
    train(net, images, replace(RECIPE, iterations=1), tmp_path)
    net.provenance = {"start": "model", "start_sha256": "b" * 64}
    with pytest.raises(WeightsError, match="the weights that it started from were others"):
        train(net, images, RECIPE, tmp_path, resume=True)


def test_a_run_is_not_resumed_with_other_ids_in_masks_or_other_images_to_evaluate_on(camvid, images, tmp_path):
    validation = open_dataset("camvid", camvid, "val")
    recipe = replace(RECIPE, iterations=1, evaluate_every=1)
    train(network(), images, recipe, tmp_path, validation=validation)
    longer = replace(recipe, iterations=2)
    with pytest.raises(WeightsError, match=r"validation was 3 images \(names .*\) and is 2 images"):
        train(network(), images, longer, tmp_path, validation=Subset(validation, [0, 1]), resume=True)
    swapped = open_dataset("camvid", camvid, "train")
    swapped.ids = {**swapped.ids, 0: 1, 1: 0}
    with pytest.raises(WeightsError, match="the ids in masks meant other classes"):
        train(network(), swapped, longer, tmp_path, validation=validation, resume=True)
    assert train(network(), images, longer, tmp_path, validation=validation, resume=True).steps == 2
    assert train(network(), images, replace(recipe, iterations=3, evaluate_every=0), tmp_path, resume=True).steps == 3
    longest = replace(recipe, iterations=4)
    with pytest.raises(WeightsError, match=r"validation was 3 images \(names .*\) and is 1 images"):
        train(network(), images, longest, tmp_path, validation=Subset(validation, [0]), resume=True)


def test_images_of_full_size_are_evaluated_by_windows(images, tmp_path, monkeypatch):
    seen = []

    def noted(net, data, protocol, **options):
        seen.append(protocol)
        return evaluate(net, data, protocol, **options)

    monkeypatch.setattr("pspnet_zoo.training.train.evaluate", noted)
    for full_size in (False, True):
        recipe = replace(RECIPE, iterations=1, evaluate_every=1, full_size=full_size)
        train(network(), images, recipe, tmp_path / str(full_size), validation=images)
    assert seen == [PROTOCOLS["whole"], PROTOCOLS["tiles"]]
    larger = network()
    larger.preprocess = replace(larger.preprocess, input_scale=2.0)
    with pytest.raises(ValueError, match="full_size is on, and the network's input scale factor is 2, .*; set evaluate_every to 0"):
        train(larger, images, recipe, tmp_path / "larger", validation=images)
    assert train(larger, images, recipe, tmp_path / "larger").steps == 1


def test_evaluations_without_a_miou_keep_no_best_network_and_are_none_in_the_numbers(images, tmp_path, monkeypatch):
    monkeypatch.setattr("pspnet_zoo.training.train.evaluate", lambda *a, **o: replace(evaluate(*a, **o), miou=math.nan))
    recipe = replace(RECIPE, iterations=2, evaluate_every=1)
    result = train(network(), images, recipe, tmp_path, validation=images)
    assert (result.best, result.best_miou, result.last_miou) == (None, None, None) and not (tmp_path / "best").exists()
    numbers = json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)
    assert (numbers["steps"], numbers["best"], numbers["best_miou"], numbers["best_step"]) == (2, None, None, None)
    assert read_history(tmp_path / "best") == [] and len((tmp_path / "history.csv").read_text().splitlines()) == 3
    monkeypatch.undo()
    result = train(network(), images, replace(recipe, iterations=3), tmp_path, validation=images, resume=True)
    assert result.best == tmp_path / "best" and result.best_miou == result.last_miou


def test_what_does_not_fit_is_refused_before_the_first_step(camvid, images, tmp_path):
    few = PSPNet("test_efficientnet", None, classes=9, psp_out_channels=8)
    with pytest.raises(ValueError, match="The model has 9 classes and the dataset 11"):
        train(few, images, RECIPE, tmp_path / "run")
    images.labels = Labels(tuple(reversed(CAMVID.names)))
    with pytest.raises(ValueError, match="The model's classes are"):
        train(network(), images, RECIPE, tmp_path / "run")
    validation = open_dataset("camvid", camvid, "val")
    validation.labels = Labels(("a", "b"))
    images.labels = CAMVID
    with pytest.raises(ValueError, match="the dataset 2; they must be the same"):
        train(network(), images, RECIPE, tmp_path / "run", validation=validation)
    with pytest.raises(ValueError, match="precision is 'fp16', which needs a GPU; on a CPU it can be 'bf16' or 'no'"):
        train(network(), images, replace(RECIPE, precision="fp16"), tmp_path / "run", cpu=True)
    for path in images.masks:
        Image.fromarray(np.where(np.array(Image.open(path)) == 3, 0, 11).astype(np.uint8)).save(path)
    with pytest.raises(ValueError, match="The masks hold nothing but 0, which is 'sky', and 255"):
        train(network(), images, RECIPE, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Ends(TensorDataset):
    """A dataset whose items end like an iterator."""

    def __getitem__(self, index):
        raise StopIteration


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_plain_tensors_train_and_an_early_end_is_said(tmp_path):
    data = (torch.zeros(4, 3, 64, 64, dtype=torch.uint8), torch.arange(4 * 64 * 64).view(4, 64, 64) % 11)
    validation = TensorDataset(*(tensor[:2] for tensor in data))
    recipe = replace(RECIPE, evaluate_every=1)
    assert train(network(), TensorDataset(*data), recipe, tmp_path / "a", validation=validation, workers=1).steps == 2
    with pytest.raises(ValueError, match="'item 0': reading the item raised StopIteration"):
        train(network(), Ends(*data), RECIPE, tmp_path / "b")


def test_runs_of_several_precisions_follow_each_other_in_one_process(images, tmp_path):
    for name in ("no", "bf16", "no"):
        train(network(), images, replace(RECIPE, iterations=1, precision=name), tmp_path / name)
    assert json.loads((tmp_path / "bf16" / "recipe.json").read_text())["precision"] == "bf16"


class Bands:
    """Images of two bands of 16 bits, the second of which tells the classes."""

    labels = Labels(("low", "high"))
    preprocess = Preprocess((0.5, 0.5), (0.25, 0.25), white=65535.0)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        mask = torch.arange(40 * 40).view(40, 40) % 40 > 10 + 4 * index
        image = torch.stack([torch.full((40, 40), 30_000), 60_000 * mask])
        return tv_tensors.Image(image.to(torch.uint16)), tv_tensors.Mask(mask.to(torch.uint8))


def test_images_of_other_bands_train_by_the_preprocessing_that_the_dataset_states(tmp_path):
    net = PSPNet("test_efficientnet", None, classes=2, psp_out_channels=16, in_channels=2)
    recipe = replace(RECIPE, iterations=20, photometric=False, rotate=20, crop=(40, 40), evaluate_every=20)
    with pytest.raises(ValueError, match="set net.preprocess = dataset.preprocess, with as many in_channels"):
        train(net, Bands(), recipe, tmp_path / "run")
    net.preprocess = Bands.preprocess
    assert train(net, Bands(), recipe, tmp_path / "run", validation=Bands()).steps == 20
    assert evaluate(net, Bands()).pixel_accuracy > 0.65


def test_a_signal_ends_an_evaluation_which_the_resumed_run_makes_up_for(images, tmp_path):
    """Between the steps, and after the last one."""
    recipe = replace(RECIPE, iterations=4, evaluate_every=2, ema_decay=0.5)
    shown = []
    whole = train(network(), images, recipe, tmp_path / "whole", validation=images, evaluation_progress=lambda *n: shown.append(n))
    assert shown == [(done, 5) for done in range(1, 6)] * 2 and whole.is_complete
    images_done = []

    def interrupt(done, total):
        images_done.append(done)
        if done == 2:
            send(signal.SIGTERM)

    for resume, step in ((False, 2), (True, 4)):
        with Trainer(tmp_path / "run") as trainer:
            how = {"resume": resume, "evaluation_progress": None if resume else interrupt, "trainer": trainer}
            if resume:  # that of step 2 is made up for, that of step 4 ends
                how["progress"] = lambda step, *_: step == 4 and send(signal.SIGTERM)
            result = train(network(), images, recipe, tmp_path / "run", validation=images, **how)
        assert trainer.signal == signal.SIGTERM and (result.steps, result.is_complete) == (step, False)
        assert [entry["step"] for entry in result.history] == [2] * resume
        assert read_state(tmp_path / "run" / CHECKPOINT)[1]["step"] == step
    assert images_done == [1, 2]
    net = network()
    result = train(net, images, recipe, tmp_path / "run", validation=images, resume=True)
    assert result == replace(whole, best=tmp_path / "run" / "best")
    names = ("checkpoint.safetensors", "history.csv", "result.json", "best/model.safetensors")
    assert all((tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)


def test_the_last_steps_are_kept_before_their_evaluation(images, tmp_path):
    def cut(done, total):
        raise OSError("the power")

    with pytest.raises(OSError, match="the power"):
        train(network(), images, replace(RECIPE, evaluate_every=9), tmp_path, validation=images, evaluation_progress=cut)
    assert read_state(tmp_path / CHECKPOINT)[1]["step"] == 2
    result = train(network(), images, replace(RECIPE, evaluate_every=9), tmp_path, validation=images, resume=True)
    assert result.is_complete and [entry["step"] for entry in result.history] == [2]


def test_the_start_is_measured_and_is_no_result(images, tmp_path):
    net, plain = network(), network()
    start = evaluate(net, images).miou
    result = train(net, images, replace(RECIPE, evaluate_every=1), tmp_path / "a", validation=images, measure_start=True)
    train(plain, images, replace(RECIPE, evaluate_every=1), tmp_path / "b", validation=images)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), plain.state_dict().values(), strict=True))
    assert [entry["step"] for entry in result.history] == [0, 1, 2] and result.start_miou == pytest.approx(start)
    assert result.best_miou == max(entry["miou"] for entry in result.history[1:])
    rows = (tmp_path / "a" / "history.csv").read_text().splitlines()
    assert rows[1].startswith("0,,,") and rows[2:] == (tmp_path / "b" / "history.csv").read_text().splitlines()[1:]
    found = json.loads((tmp_path / "a" / "result.json").read_text())
    assert found["start_miou"] == result.start_miou and found["best_step"] > 0


def test_a_start_that_is_better_than_what_follows_is_no_checkpoint(images, tmp_path):
    recipe = replace(RECIPE, iterations=9, evaluate_every=1, lr=1e-12, patience=2)
    result = train(network(), images, recipe, tmp_path, validation=images, measure_start=True)
    assert result.best and result.best.is_dir() and result.steps == 3  # two after the first, not after the start
