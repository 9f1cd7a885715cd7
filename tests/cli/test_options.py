"""Every option of every command changes the result, changes only how it is computed, or is refused by name."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.main import get_command

from pspnet_zoo import PSPNet
from pspnet_zoo.cli.app import app
from pspnet_zoo.data.labels import CAMVID

TESTS = Path(__file__).parent.parent

EFFECTS = {
    "predict": {
        "--alpha 0.2": "changes",
        "--masks-only": "changes",
        "--confidence": "changes",
        "--recursive": "changes",
        "--kind image": "same",  # a file of another ending: test_predict_many
        "--format coco": "changes",
        "--format coco --simplify 3": "changes",
        "--format coco --min-area 40": "changes",
        "--report {out}/report.csv": "changes",
        "--batch-size 2": "same",  # speed on a GPU
        "--workers 2": "same",  # speed
        "--skip-existing": "same",  # nothing is there yet: test_predict_many
        "--tile 32": "changes",
        "--tile 32 --overlap 4": "changes",
        "--tile 32 --no-blend": "changes",
        "--tile 32 --cog": "changes",
    },
    "evaluate": {
        "--split train": "changes",
        "--dataset camvid": "same",  # what the folders tell
        "--protocol whole_ms": "changes",
        "--mapping {mapping}": "changes",
        "--precision bfloat16": "changes",
        "--json {out}/report.json": "changes",
        "--html {out}/report.html": "changes",
        "--save-predictions {out}/ids": "changes",
    },
    "train": {
        "--recipe camvid": "changes",
        "--dataset camvid": "same",
        "--model pspnet_test_byobnet": "changes",
        "--output-stride 16": "changes",
        "--workers 2": "same",
        "--cpu": "same",
        "--iterations 3": "changes",
        "--batch-size 3": "changes",
        "--crop 32 40": "changes",
        "--lr 0.01": "changes",
        "--head-factor 2": "changes",
        "--optimizer adamw": "changes",
        "--momentum 0.5": "changes",
        "--weight-decay 0.1": "changes",
        "--no-decay-norms": "changes",
        "--layer-decay 0.5": "changes",
        "--schedule cosine": "changes",
        "--power 2": "changes",
        "--warmup 2": "changes",
        "--clip-grad 0.001": "changes",
        "--min-lr 0.005": "changes",
        "--scale 0.6 0.7": "changes",
        "--rotate 90": "changes",
        "--blur 1": "changes",
        "--cat-max-ratio 0.01": "changes",
        "--no-photometric": "changes",
        "--aux-weight 3": "changes",
        "--class-weight-power 1": "changes",
        "--ohem-threshold 0.5 --ohem-min-kept 10": "changes",
        "--ohem-threshold 0.05 --ohem-min-kept 500": "changes",
        "--dice-weight 1": "changes",
        "--ce-weight 2": "changes",
        "--label-smoothing 0.3": "changes",
        "--focal-weight 9": "changes",
        "--focal-weight 9 --focal-gamma 5": "changes",
        "--lovasz-weight 1": "changes",
        "--tversky-weight 1": "changes",
        "--tversky-weight 1 --tversky-alpha 0.9": "changes",
        "--tversky-weight 1 --tversky-beta 0.9": "changes",
        "--rare-crops 1": "changes",
        "--views 1": "changes",
        "--model pspnet_test_vit --fuse-blocks 2": "changes",
        "--model pspnet_test_vit --lora-rank 4": "changes",
        "--model pspnet_test_vit --lora-rank 4 --lora-alpha 64": "changes",
        "--model pspnet_test_convnext --drop-path-rate 0.7": "changes",
        "--log none": "same",
        "--ema-decay 0.5": "changes",
        "--freeze encoder": "changes",
        "--freeze norms": "changes",
        "--precision bf16": "changes",
        "--batch-size 4 --accumulation 2": "changes",  # norms take the statistics of micro-batches
        "--seed 1": "changes",
        "--checkpoint-every 1": "same",  # where a run may resume
        "--evaluate-every 1": "changes",
        "--evaluate-every 1 --patience 1 --lr 0.0000001": "changes",
        "--encoder-weights {encoder}": "changes",
        "--init {init}": "changes",
        "--teacher {model}": "changes",
        "--teacher {model} --teacher-weight 5": "changes",
        "--teacher {model} --teacher-temperature 3": "changes",
        "--teacher {model} --teacher-confidence 1": "changes",
        "--teacher {model} --teacher-stride 4": "changes",
        "--teacher {model} --teacher-protocol whole_ms": "changes",
        "--teacher {model} --teacher-mapping {teacher_mapping}": "changes",
        "--teacher {model} --teacher-cache {out}/kept": "changes",
        "--teacher {model} --unlabelled {photos}": "changes",
    },
    "list": {"--dataset ade20k": "changes", "--license apache": "changes", "--sort miou": "changes", "--architectures": "changes"},
    "data check": {"--dataset camvid": "same", "--split val": "changes"},
    "data stats": {"--dataset folder": "same", "--split val": "changes", "--bands 3,1": "changes", "--write": "changes"},
}
"""The effect of the last option on the results: "changes", or "same" where it changes speed or names what is found anyway."""

REFUSED = {
    "predict": {
        "--tile 64 --confidence": "--confidence is of whole images",
        "--alpha 0.2 --masks-only": "--alpha is the opacity of overlays",
        "--simplify 1": "--simplify is for polygons",
        "--overlap 4": "overlap is 4 and no tile is given",
        "--no-blend": "blend is False and no tile is given",
        "--cog": "--cog is for masks of GeoTIFF",
        "--tile 32 --batch-size 2": "--batch-size is for whole images",
        "--overlay-bands 1": "this network reads 8-bit RGB",
        "--stretch 1 99": "this network reads 8-bit RGB",
        "--stretch 1 99 --masks-only": "--stretch is about overlays",
        "--min-area 3": "--min-area is for polygons",
        "--every 2": "--every is for videos",
        "--smooth 0.5": "--smooth is for videos",
        "--masks {out}/m": "--masks is for videos",
    },
    "evaluate": {"--protocol whol": "protocol is 'whol'", "--split vall": "vall"},
    "train": {
        "--teacher-stride 4": "--teacher-stride is for distillation",
        "--teacher-protocol whole_ms": "--teacher-protocol is for distillation",
        "--teacher-cache {out}/c": "--teacher-cache is for distillation",
        "--teacher-mapping {mapping}": "--teacher-mapping is for distillation",
        "--teacher-weight 2": "teacher_weight is 2.0, which needs a teacher",
        "--teacher-temperature 2": "teacher_temperature is 2.0, which needs a teacher",
        "--teacher-confidence 0.5": "teacher_confidence is 0.5, which needs a teacher",
        "--momentum 0.5 --optimizer adamw": "momentum is 0.5, which needs an optimizer with it",
        "--no-decay-norms --weight-decay 0": "decay_norms is False, which needs weight_decay above 0",
        "--layer-decay 0.5 --freeze encoder": "layer_decay is 0.5, which needs an encoder that is trained",
        "--power 2 --schedule cosine": "power is 2.0, which needs the schedule poly",
        "--min-lr 0.001 --schedule constant": "min_lr is 0.001, which needs a schedule that falls",
        "--ohem-min-kept 5": "ohem_min_kept is 5, which needs ohem_threshold above 0",
        "--focal-gamma 3": "focal_gamma is 3.0, but focal_weight is 0",
        "--tversky-alpha 0.3": "tversky_alpha is 0.3, but tversky_weight is 0",
        "--tversky-beta 0.3": "tversky_beta is 0.3, but tversky_weight is 0",
        "--lora-alpha 3": "lora_alpha is 3.0, but lora_rank is 0",
        "--label-smoothing 0.1 --ce-weight 0 --dice-weight 1": "label_smoothing is 0.1, but ce_weight is 0",
        "--find-lr --workers 2": "--workers does nothing for --find-lr",
        "--patience 2": "patience is 2, which needs evaluate_every above 0",
        "--aux-weight 1 --init {init}": "aux_weight is 1.0, which needs a network with an auxiliary head",
        "--model pspnet_resnet10t --init {init}": "leave out --model",
        "--encoder-weights imagenet --init {init}": "leave out --encoder-weights",
        "--unlabelled {photos}": "give --data, or --teacher and --unlabelled",
        "--precision fp16": "fp16",
        "--resume": "holds no run to continue; leave out --resume",
    },
    "export": {
        "--calibration {photos}": "no other precision takes them",
        "--precision int8": "precision 'int8' is not for onnx",
        "--dataset camvid": "give both, or neither",
        "--size 33 65": "no other format takes it",
        "--triton {out}/models": "-o PATH, or --triton DIR",
    },
    "list": {
        "--architectures --sort miou": "--sort is of checkpoints",
        "--architectures --dataset x": "--dataset is of checkpoints",
        "--markdown --license x": "--license does not change the page",
    },
    "benchmark": {
        "--split test": "--split is the part of a dataset",
        "--dataset camvid": "go together",
        "--runtimes torch --calibration {photos}": "--calibration is for int8",
        "--dataset camvid --data {data} --calibration {photos}": "--calibration is for runs without a dataset",
    },
    "demo": {
        f"--space {{out}}/space {option}": f"{option.split()[0].replace('--no-', '--')} is for the page"
        for option in ("--host 0.0.0.0", "--port 7999", "--share", "--auth a:b", "--no-browser", "--no-zoo")
    },
    "publish": {"--all": "Give one checkpoint to publish, or --all"},
    "bulk": {"--column image": "column is 'image', which is of Parquet"},
}
"""Options that would have no effect, or stand against each other, and what their refusal says."""

ELSEWHERE = {
    "predict": {
        **{"--output": "cli/test_commands.py", "--model": "cli/test_commands.py", "--precision": "results/test_sink.py"},
        **{"--every": "cli/test_predict_many.py", "--masks": "cli/test_predict_many.py", "--smooth": "results/test_sink.py"},
    },
    "bulk": {
        **{option: "cli/test_signals.py" for option in ("--model", "--workers", "--rows-per-shard")},
        **{"--kind": "bulk/test_sources.py", "--as-files": "bulk/test_driver.py", "--column": "bulk/test_sources.py"},
        **{option: "cli/test_other_bands.py" for option in ("--tile", "--overlap", "--blend")},
        **{"--gpus-per-worker": "bulk/test_driver.py", "--address": "bulk/test_driver.py"},
    },
    "train": {
        **{option: "cli/test_commands.py" for option in ("--output", "--data", "--resume")},
        "--compile": "training/test_train.py",
        "--full-size": "training/test_stream.py",
        **{option: "cli/test_train_options.py" for option in ("--seeds", "--find-lr", "--feature-cache")},
    },
    "evaluate": {"--data": "cli/test_commands.py", "--tune-threshold": "cli/test_tune_threshold.py"},
    "rank": {option: "cli/test_rank.py" for option in ("--output", "--model", "--labelled", "--by", "--recursive")},
    "export": {
        **{
            option: "deployment/test_export.py"
            for option in ("--format", "-o", "--calibration", "--precision", "--input", "--output")
        },
        "--dataset": "test_bands_by_commands.py",
    },
    "benchmark": {
        **{option: "deployment/test_benchmark.py" for option in ("--rounds", "--threads")},
        **{option: "cli/test_options.py" for option in ("--size", "--runtimes", "--dataset", "--data", "--split", "--json")},
    },
    "publish": {option: "storage/test_publish.py" for option in ("--to", "--private", "--dry-run", "--example", "--all")},
    "demo": {
        **{option: "cli/test_demo.py" for option in ("--model", "--auth", "--host", "--port", "--share")},
        "--space": "demo/test_space.py",
        **{option: "demo/test_visitors.py" for option in ("--zoo", "--browser")},
    },
    "serve": {
        **{
            option: "serve/test_access.py"
            for option in ("--host", "--port", "--token-file", "--no-token", "--device", "--precision")
        },
        **{
            option: "serve/test_access.py"
            for option in ("--max-megabytes", "--max-megapixels", "--timeout", "--queue", "--workers")
        },
        "--threads": "serve/test_limits.py",
    },
    "convert": {"--output": "cli/test_commands.py", "--like": "upstream/test_cache.py"},
    "list": {"--markdown": "cli/test_guards.py"},
    "data import": {
        **{option: "cli/test_import.py" for option in ("--output", "--format", "--images", "--masks", "--link", "--classes")},
        **{option: "cli/test_import.py" for option in ("--colors", "--names", "--split", "--group-by", "--lists", "--folds")},
        "--class-field": "data/importers/test_vectors.py",
        **{option: "data/importers/test_write.py" for option in ("--background", "--ignore-undrawn", "--priority")},
        "--multilabel": "cli/test_multilabel.py",
    },
}
"""Options whose effect needs a test of its own, and the file that has it."""


def commands(command=None, path=()):
    """Each command's name, and its options."""
    command = command or get_command(app)
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, (*path, name))
    if not hasattr(command, "commands"):
        yield " ".join(path), [p.opts[0] for p in command.params if p.param_type_name == "option" and p.name != "help"]


@pytest.mark.parametrize(("command", "options"), [*commands()], ids=str)
def test_each_option_has_its_line(command, options):
    typed = [text for table in (EFFECTS, REFUSED) for text in table.get(command, ())]
    here = {word.replace("--no-", "--") for text in typed for word in text.split() if word.startswith("-")}
    elsewhere = ELSEWHERE.get(command, {})
    assert [o for o in options if o not in here | elsewhere.keys()] == []
    assert [o for o in {*here, *elsewhere} if o not in options] == []


@pytest.mark.parametrize("file", sorted({f for files in ELSEWHERE.values() for f in files.values()}))
def test_options_with_tests_of_their_own_are_named_there(file):
    text = (TESTS / file).read_text()
    for command, options in ELSEWHERE.items():
        for option, where in options.items():
            words = (option, option.lstrip("-").replace("-", "_"), *(["-o"] if option == "--output" else []))
            assert where != file or any(word in text for word in words), (command, option)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A dataset, photos, networks and mappings; what a test writes goes elsewhere."""
    folder = tmp_path_factory.mktemp("material")
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (folder / "folder" / split / kind).mkdir(parents=True)
        for kind in (split, f"{split}annot"):
            (folder / "camvid" / kind).mkdir(parents=True)
        for i in range(count):
            mask = np.repeat(random.integers(0, 12, (6, 8)), 8, axis=0).repeat(8, axis=1).astype(np.uint8)
            frame = np.array([*CAMVID.colors, (0, 0, 0)], np.uint8)[mask] // 2 + random.integers(0, 99, (48, 64, 3), np.uint8)
            Image.fromarray(frame).save(folder / "camvid" / split / f"{i}.png")
            Image.fromarray(mask).save(folder / "camvid" / f"{split}annot" / f"{i}.png")
            Image.fromarray(frame).save(folder / "folder" / split / "images" / f"{i}.png")
            Image.fromarray(mask % 3).save(folder / "folder" / split / "masks" / f"{i}.png")
    (folder / "folder" / "classes.txt").write_text("sky\nbuilding\npole\n")
    (folder / "photos" / "below").mkdir(parents=True)
    for path in ("a.png", "below/b.png"):
        Image.fromarray(random.integers(0, 255, (40, 56, 3), np.uint8)).save(folder / "photos" / path)
    torch.manual_seed(3)
    network = PSPNet("test_efficientnet", None, classes=len(CAMVID), psp_out_channels=16)
    network.labels = CAMVID
    with torch.no_grad():
        for parameter in network.parameters():  # so that the classes differ from place to place
            parameter.add_(torch.randn_like(parameter) * 0.05)
    network.save_pretrained(folder / "model")
    network.save_pretrained(folder / "init")
    from safetensors.torch import save_file

    save_file({n: t * 1.5 for n, t in network.encoder.model.state_dict().items()}, folder / "encoder.safetensors")
    names = ", ".join(f'"{name}"' for name in CAMVID.names[1:])
    (folder / "mapping.json").write_text(f'{{"names": ["sky", "rest"], "mapping": {{"sky": ["sky"], "rest": [{names}]}}}}')
    pairs = ", ".join(f'"{a}": ["{b}"]' for a, b in zip(CAMVID.names, CAMVID.names[::-1], strict=True))
    (folder / "teacher.json").write_text(f"{{{pairs}}}")
    return folder


def arguments(command, text, material, out):
    """What is typed: the command with what it cannot do without, and the options."""
    places = {"out": out, "photos": material / "photos", "model": material / "model", "init": material / "init"}
    places |= {"mapping": material / "mapping.json", "teacher_mapping": material / "teacher.json", "data": material / "camvid"}
    places |= {"encoder": material / "encoder.safetensors"}
    options = text.format(**places).split()
    model, data = material / "model", material / "camvid"
    recipe = ["--iterations", 2, "--batch-size", 2, "--crop", 32, 48, "--evaluate-every", 0, "--lr", 0.05, "--scale", 0.8, 1.2]
    without = [] if "--data" in options else ["--data", data]
    needed = {
        "predict": [material / "photos", "-o", out / "results", "--model", model],
        "evaluate": [model, "--data", data],
        "train": ["-o", out / "run", *recipe, *([] if "--teacher {photos}" in text else without)],
        "export": [model, "-o", out / "network.onnx"],
        "list": [],
        "data check": [data],
        "data stats": [out / "folder"],
        "benchmark": [model],
        "demo": ["--model", model],
        "publish": [model],
        "bulk": [material / "photos", out / "shards", "--model", model],
    }[command]
    if command == "train" and not {"--model", "--init"} & set(options):
        needed += ["--model", "pspnet_test_efficientnet"]
    if command == "train" and text == "--unlabelled {photos}":
        needed = ["-o", out / "run"]
    return [*command.split(), *needed, *options]


def results(out, printed):
    """Digests of what a command wrote and printed, without times and places."""
    found = {"printed": re.sub(r"\d+\.\d+ s|\d+ s |/\S+", "", printed)}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = path.relative_to(out).as_posix()
        if (
            "tfevents" in name
            or path.name in ("history.csv", "result.json", "recipe.json", "provenance.json")
            or "checkpoint" in name
        ):
            continue
        content = np.asarray(Image.open(path)).tobytes() if path.suffix == ".png" else path.read_bytes()
        found[name] = hashlib.sha256(content).hexdigest()
        if path.name == "config.json":
            found[name] = ""  # its provenance holds the recipe
    return found


def result(run, command, text, material, out):
    out.mkdir(parents=True)
    if command == "data stats":
        shutil.copytree(material / "folder", out / "folder")
    torch.manual_seed(0)
    code, printed, complaints = run(*arguments(command, text, material, out))
    assert code == 0, (text, complaints)
    return results(out, printed if command != "train" else "")


@pytest.fixture(scope="module")
def plain():
    """Results without options, made once for each command."""
    return {}


CASES = [(c, text, effect) for c, table in EFFECTS.items() for text, effect in table.items()]


@pytest.mark.parametrize(("command", "text", "effect"), CASES, ids=str)
def test_an_option_has_its_effect(command, text, effect, run, material, plain, tmp_path):
    last = text.rsplit(" --", 1)
    base = f"{last[0]}" if len(last) == 2 and command in ("predict", "train") else ""
    if base.startswith(("--ohem", "--evaluate-every 1 --patience")):  # what comes last has no effect without the others
        base = ""
    if (command, base) not in plain:
        plain[command, base] = result(run, command, base, material, tmp_path / "base")
    found = result(run, command, text, material, tmp_path / "with")
    same = found == plain[command, base]
    assert same == (effect == "same"), (effect, {k for k in found if found[k] != plain[command, base].get(k)})


@pytest.mark.parametrize(("command", "text", "message"), [(c, *each) for c, t in REFUSED.items() for each in t.items()], ids=str)
def test_an_option_without_an_effect_is_refused(command, text, message, run, material, tmp_path):
    code, _, complaints = run(*arguments(command, text, material, tmp_path))
    assert code == 2 and re.search(message, complaints), (code, complaints)


def test_benchmark_measures_what_was_typed(run, material, tmp_path):
    options = ["--runtimes", "torch", "--size", "33x65", "--rounds", 1]
    data = ["--dataset", "camvid", "--data", material / "camvid", "--json", tmp_path / "b.json"]
    code, out, _ = run("benchmark", material / "model", *options, *data)
    val = json.loads((tmp_path / "b.json").read_text())
    assert code == 0 and "33x65" in out and val["rounds"] == 1 and [row["runtime"] for row in val["rows"]] == ["torch"]
    run("benchmark", material / "model", *options, *data, "--split", "train")
    assert json.loads((tmp_path / "b.json").read_text())["rows"][0]["miou"] != val["rows"][0]["miou"]
