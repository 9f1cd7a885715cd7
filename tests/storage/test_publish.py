"""Publishing with the real client: round trip, rights, races, failures, and what the registry's row says."""

import json
import logging
import re
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
import typer
from huggingface_hub import HfApi, ModelCard, ModelCardData
from PIL import Image

from pspnet_zoo import PSPNet, WeightsError, create, factory, from_pretrained
from pspnet_zoo.cli import publish as cli_publish
from pspnet_zoo.data.labels import CAMVID
from pspnet_zoo.meta import Preprocess
from pspnet_zoo.storage import publish as publisher
from pspnet_zoo.storage.card import check_card, model_card
from pspnet_zoo.storage.files import CONFIG_FILE, WEIGHTS_FILE, file_digest, weights_digest
from pspnet_zoo.storage.publish import CARD_FILE, push, stage
from pspnet_zoo.zoo import registry
from pspnet_zoo.zoo.entries import HubCopy, Metric
from pspnet_zoo.zoo.registry import find_checkpoint
from tests.storage.conftest import assert_equal
from tests.storage.server import ORG, READ, STRANGER, WRITE, Fault, File

# the client's own, of its upload by LFS
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")

NAME = f"{ORG}/tiny"
CLAIMED = Metric("miou", 0.7785, "Cityscapes", "val", "whole image, 2048x1024; no flip", "claimed")
REPORT = {
    "dataset": "camvid",
    "split": "test",
    "protocol": "whole image",
    "protocol_settings": {"scales": [1.0]},
    "miou": 0.61,
    "pixel_accuracy": 0.9,
}


@pytest.fixture
def staged(folder, tmp_path):
    (folder / "report.json").write_text(json.dumps({**REPORT, "weights_sha256": file_digest(folder / WEIGHTS_FILE, "sha256")}))
    stage(folder, tmp_path / "staged", NAME, load=from_pretrained, metrics=[CLAIMED])
    return tmp_path / "staged"


def commits(hub):
    return len(hub.repos[NAME].commits)


def test_what_is_published_loads_elsewhere_by_name_commit_and_tag(hub, tiny, staged):
    done = push(staged, NAME, token=WRITE)
    HfApi(endpoint=hub.endpoint, token=WRITE).create_tag(NAME, tag="v1")
    for source in (NAME, f"{NAME}@{done.commit}", f"{NAME}@v1"):
        assert_equal(from_pretrained(source), tiny)
    assert done.is_new and commits(hub) == 2  # the first is the Hub's own
    assert set(hub.repos[NAME].at("main")[1]) == {".gitattributes", "README.md", CONFIG_FILE, WEIGHTS_FILE, "report.json"}


def test_the_printed_row_makes_create_take_the_copy(hub, tiny, staged, monkeypatch):
    done = push(staged, NAME, token=WRITE)
    monkeypatch.setenv("PSPNET_ZOO_NAMESPACE", ORG)
    row = replace(find_checkpoint("pspnet_r50c.mmseg_cityscapes"), hub=eval(f"{{{done.row}}}", {"HubCopy": HubCopy})["tiny"])
    monkeypatch.setattr(registry, "CHECKPOINTS", (row,))
    assert_equal(create(row.name), tiny)


def test_publishing_twice_makes_no_new_commit(hub, staged):
    first = push(staged, NAME, token=WRITE)
    second = push(staged, NAME, token=WRITE)
    assert not second.is_new and second.commit == first.commit and commits(hub) == 2
    assert len(hub.asked("PUT")) == 1


@pytest.mark.parametrize("fault", [None, Fault("POST", "/commit/", times=1, status=503, after=True)], ids=["quiet", "answer lost"])
def test_publishing_again_deletes_what_no_longer_belongs_to_the_weights(hub, staged, fault):
    for name in ("LICENSE.md", "example.jpg", "notes.txt"):
        (staged / name).write_bytes(b"of the first weights")
    push(staged, NAME, token=WRITE)
    for name in ("LICENSE.md", "example.jpg", "report.json", "notes.txt"):
        (staged / name).unlink()
    hub.faults += [fault] if fault else []
    assert push(staged, NAME, token=WRITE).is_new and commits(hub) == 3
    assert set(hub.repos[NAME].at("main")[1]) == {".gitattributes", "README.md", CONFIG_FILE, WEIGHTS_FILE, "notes.txt"}
    assert not push(staged, NAME, token=WRITE).is_new


def test_a_private_repository_is_read_back_with_the_token(hub, tiny, staged):
    push(staged, NAME, private=True, token=WRITE)
    assert hub.repos[NAME].private
    assert_equal(from_pretrained(NAME, token=READ), tiny)
    with pytest.raises(WeightsError, match="if it is private"):
        from_pretrained(NAME, token=STRANGER, cache_dir="/nowhere")


def test_a_public_repository_is_read_back_without_a_token(hub, staged):
    push(staged, NAME, token=WRITE)
    reads = hub.asked("GET", "/resolve/") + hub.asked("HEAD", "/resolve/")
    assert reads and not any("authorization" in r.headers for r in reads)


@pytest.mark.parametrize("token", [READ, STRANGER])
def test_a_token_that_may_not_write_is_refused(hub, staged, token):
    with pytest.raises(WeightsError, match="answered 403 .*with a token that may do this"):
        push(staged, NAME, token=token)
    assert NAME not in hub.repos
    push(staged, NAME, token=WRITE)
    before = commits(hub)
    (staged / "report.json").write_text("{}")
    with pytest.raises(WeightsError, match="answered 403"):
        push(staged, NAME, token=token)
    assert commits(hub) == before


def test_a_commit_of_someone_else_meanwhile_is_refused_and_nothing_is_published(hub, staged, monkeypatch):
    push(staged, NAME, token=WRITE)
    (staged / "report.json").write_text("{}")
    preupload = HfApi.preupload_lfs_files

    def slow(self, *arguments, **options):
        hub.repos[NAME].commit({"notes.txt": File(b"by someone else", False)})
        return preupload(self, *arguments, **options)

    monkeypatch.setattr(HfApi, "preupload_lfs_files", slow)
    with pytest.raises(WeightsError, match=r"Someone else committed.*nothing was published"):
        push(staged, NAME, token=WRITE)
    _, files = hub.repos[NAME].commits[-1]
    assert commits(hub) == 3 and files["notes.txt"].data == b"by someone else" and files["report.json"].data != b"{}"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "/commit/", times=1, status=503),
        Fault("POST", "/commit/", times=2, status=500),
        Fault("POST", "/commit/", times=1, status=503, after=True),
        Fault("POST", "/api/repos/create", times=1, status=502),
        Fault("PUT", "/upload/", times=1, status=500),
    ],
    ids=["503", "500 twice", "answer lost", "create", "upload"],
)
def test_a_failure_that_passes_makes_one_commit(hub, tiny, staged, fault):
    hub.faults.append(replace(fault))
    assert push(staged, NAME, token=WRITE).is_new and commits(hub) == 2
    assert_equal(from_pretrained(NAME), tiny)


def test_a_failure_that_stays_is_said_and_nothing_is_published(hub, staged):
    hub.faults.append(Fault("POST", "/commit/", status=503))
    with pytest.raises(WeightsError, match=f"The commit to '{NAME}'.*answered 503"):
        push(staged, NAME, token=WRITE)
    assert commits(hub) == 1 and len(hub.asked("POST", "/commit/")) == len(publisher._PAUSES) + 1


def test_other_bytes_on_the_hub_than_were_sent_are_noticed(hub, staged):
    hub.faults.append(Fault("GET", WEIGHTS_FILE, change=lambda b: b[:-1] + bytes([b[-1] ^ 1])))
    with pytest.raises(WeightsError, match="gives other bytes"):
        push(staged, NAME, token=WRITE)


def test_the_token_of_a_publisher_goes_to_the_hub_only_and_is_in_no_log(hub, staged, caplog):
    caplog.set_level(logging.DEBUG)
    push(staged, NAME, token=WRITE)
    elsewhere = [r for r in hub.requests if r.host != "127.0.0.1"]
    assert hub.asked("PUT") and not any(WRITE in value for r in elsewhere for value in r.headers.values())
    assert caplog.text and WRITE not in caplog.text


def test_a_network_is_pushed_by_its_method(hub, tiny):
    url = tiny.push_to_hub(NAME, token=WRITE, commit_message="My street network")
    assert url == f"{hub.endpoint}/{NAME}/commit/{hub.repos[NAME].head}"
    assert_equal(from_pretrained(NAME), tiny)
    with pytest.raises(ValueError, match="organisation/name"):
        tiny.push_to_hub("tiny", token=WRITE)


def test_staged_files_are_the_same_bytes_in_every_process(folder, staged, tmp_path):
    again = tmp_path / "again"
    script = (
        "from pathlib import Path; from pspnet_zoo import from_pretrained as load\n"
        "from pspnet_zoo.storage.publish import stage; from pspnet_zoo.meta import Metric\n"
        f"stage(Path({str(folder)!r}), Path({str(again)!r}), {NAME!r}, load=load, metrics=[Metric(**{asdict(CLAIMED)!r})])"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in staged.iterdir()}


# what is not published


def test_a_network_that_gives_nan_is_not_published(tiny, tmp_path):
    torch.nn.init.constant_(tiny.segmentation_head[0].bias, float("nan"))
    with pytest.raises(WeightsError, match="gives NaN or Inf"):
        stage(tiny.save_pretrained(tmp_path / "source"), tmp_path / "staged", NAME, load=from_pretrained)


def test_a_damaged_checkpoint_is_not_published(folder, tmp_path):
    (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:-9])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        stage(folder, tmp_path / "staged", NAME, load=from_pretrained)


def test_numbers_of_other_weights_are_not_published(folder, tmp_path):
    (folder / "report.json").write_text(json.dumps({**REPORT, "weights_sha256": "0" * 64}))
    with pytest.raises(WeightsError, match="was measured with other weights than those beside it"):
        stage(folder, tmp_path / "staged", NAME, load=from_pretrained)


def test_numbers_of_the_network_are_published_beside_its_weights_in_half_precision(tiny, tmp_path):
    digest = weights_digest({k: v.half().float() if v.is_floating_point() else v for k, v in tiny.state_dict().items()})
    tiny.save_pretrained(tmp_path / "half", dtype=torch.float16)
    (tmp_path / "half/report.json").write_text(json.dumps({**REPORT, "weights_sha256": digest}))
    stage(tmp_path / "half", tmp_path / "staged", NAME, load=from_pretrained)
    assert "0.6100" in (tmp_path / "staged" / CARD_FILE).read_text()


@pytest.mark.parametrize(
    "text",
    ['{"accuracy": 1}', "[]", "1", "null", "[" * 100_000, json.dumps({**REPORT, "weights_sha256": None})]
    + [json.dumps({**REPORT, "weights_sha256": "", key: value}) for key in REPORT for value in ([], {"a": 1})]
    + [json.dumps({**REPORT, "weights_sha256": "", key: None}) for key in REPORT if key != "miou"],
)
def test_a_foreign_report_is_refused(folder, tmp_path, text):
    (folder / "report.json").write_text(text)
    with pytest.raises(WeightsError, match=r"report\.json' is not of pspnet-zoo evaluate"):
        stage(folder, tmp_path / "staged", NAME, load=from_pretrained)


def test_a_report_of_a_split_without_classes_is_refused(folder, tmp_path):
    (folder / "report.json").write_text(json.dumps({**REPORT, "weights_sha256": "", "miou": None}))
    with pytest.raises(WeightsError, match=r"report\.json' has no mIoU, since its split has no pixel of any class"):
        stage(folder, tmp_path / "staged", NAME, load=from_pretrained)


def test_numbers_of_another_kind_in_the_provenance_are_refused(tiny, tmp_path):
    tiny.provenance = {"metrics": [{"top1": 0.7}]}
    with pytest.raises(WeightsError, match="'metrics' of another kind"):
        stage(tiny.save_pretrained(tmp_path / "source"), tmp_path / "staged", NAME, load=from_pretrained)


# the card


def test_the_card_keeps_claimed_and_measured_numbers_apart(staged):
    text = (staged / "README.md").read_text()
    measured, claimed = text.index("### Measured"), text.index("### Claimed")
    assert measured < text.index("| 0.6100") < claimed < text.index("| 0.7785")
    results = {r.metric_name: r for r in ModelCard(text).data.eval_results}
    assert results["miou (claimed)"].metric_value == 0.7785 and results["miou (measured)"].metric_value == 0.61
    assert results["miou (claimed)"].dataset_config.startswith("claimed: ") and results["miou (claimed)"].dataset_split == "val"
    assert len(results) == 3


def test_the_card_says_what_is_needed_to_use_the_network(staged):
    text = (staged / "README.md").read_text()
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("pspnet_zoo", "image-segmentation", "apache-2.0")
    assert data.datasets == ["camvid", "cityscapes"] and data.base_model is None
    for words in ("bicyclist", "| dilation | atrous |", "net.preprocess", "made up", "zhao2017pyramid", "sha256", "## Limits"):
        assert words in text


@pytest.mark.parametrize(
    ("preprocess", "pixels", "scaled"),
    [
        (
            Preprocess((0.1, 0.2), (1.0, 1.0), white=65535.0, bands=("red", "nir")),
            "values of the bands red, nir, in which white is 65535",
            "the bands red, nir, 65535 scaled to 1, minus [0.1, 0.2]",
        ),
        (
            Preprocess((40.0, 9.0), (1.0, 1.0), white=1.0),
            "values of 2 channels in the order of the file, in their own unit",
            "2 channels in the order of the file, minus [40.0, 9.0]",
        ),
        (
            Preprocess((0.5, 0.5), (1.0, 1.0), bands=("red", "nir")),
            "uint8 values of the bands red, nir",
            "the bands red, nir, 255 scaled to 1, minus [0.5, 0.5]",
        ),
    ],
)
def test_the_card_of_a_network_of_bands_says_which_values_it_reads(preprocess, pixels, scaled):
    network = PSPNet("test_efficientnet", None, classes=len(CAMVID), psp_out_channels=8, in_channels=2).eval()
    network.preprocess = preprocess
    texts = [model_card(network, NAME, sha256="0" * 64, license=None)]
    network.labels = CAMVID
    texts.append(model_card(network, NAME, sha256="0" * 64, license=None))
    assert f"# image: (2, H, W) {pixels}\n" in texts[0] and 'Predictor(net)("image.tif")' in texts[1]
    for text in texts:
        assert f"normalises an image of {pixels}.\n" in text and f"| input | {scaled}," in text and "RGB" not in text


def test_the_use_in_the_card_works(hub, staged, tmp_path, monkeypatch):
    push(staged, NAME, token=WRITE)
    code = re.search(r"```python\n(.*?)```", (staged / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((56, 40), 60).convert("RGB").save("photo.jpg")
    exec(code[1], {})
    assert (tmp_path / "overlay.png").exists()


def test_a_card_invents_nothing(tiny, tmp_path):
    tiny.provenance = tiny.labels = None
    stage(tiny.save_pretrained(tmp_path / "source"), tmp_path / "staged", NAME, load=from_pretrained)
    text = (tmp_path / "staged" / "README.md").read_text()
    data = ModelCard(text).data
    assert data.license is None and data.eval_results is None and data.datasets is None
    for words in ("states no licence", "None is published", "are not known", "is not recorded", "net.predict("):
        assert words in text


@pytest.mark.parametrize(("base", "found"), [("timm/resnet50.a1_in1k", "timm/resnet50.a1_in1k"), ("ImageNet, by torch", None)])
def test_the_base_model_is_named_only_by_its_id_on_the_hub(tiny, tmp_path, base, found):
    tiny.provenance = {"base_model": base, "license": "Research only"}
    stage(tiny.save_pretrained(tmp_path / "source"), tmp_path / "staged", NAME, load=from_pretrained)
    data = ModelCard((tmp_path / "staged" / "README.md").read_text()).data
    assert data.base_model == found and (data.license, data.license_name) == ("other", "research-only")


@pytest.mark.parametrize("license", ["Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "Research only, see the page", None])
def test_the_metadata_are_complete_and_the_hubs_own_classes_read_them(tiny, tmp_path, license):
    tiny.provenance = {"license": license, "page": "https://example.org/weights", "citation": "Doe 2020"}
    staged = tmp_path / "staged"
    stage(tiny.save_pretrained(tmp_path / "source"), staged, NAME, load=from_pretrained, metrics=[CLAIMED])
    metadata = ModelCard.load(staged / "README.md").data.to_dict()
    data = ModelCardData(**metadata, ignore_metadata_errors=False)
    assert data.to_dict() == metadata and (data.library_name, data.pipeline_tag) == ("pspnet_zoo", "image-segmentation")
    assert {"semantic-segmentation", "pspnet"} <= set(data.tags) and data.metrics == ["mean_iou"] and data.model_name == "tiny"
    (result,) = data.eval_results
    assert (result.task_type, result.dataset_type, result.metric_type) == ("image-segmentation", "cityscapes", "mean_iou")
    assert result.metric_value == CLAIMED.value and result.source_url == "https://example.org/weights"
    if data.license == "other":
        assert re.fullmatch(r"[a-z0-9.-]+", data["license_name"]) and data["license_link"] == "LICENSE.md"
        text = (staged / "LICENSE.md").read_text()
        assert all(words in text for words in ("Research only, see the page", "https://example.org/weights", "Doe 2020"))
    else:
        assert data.license == (license and license.lower()) and not (staged / "LICENSE.md").exists()
        assert "license_name" not in metadata and "license_link" not in metadata


def test_a_card_that_the_hub_cannot_read_is_refused():
    with pytest.raises(WeightsError, match="cannot read"):
        check_card("---\nmodel-index:\n- wrong: 1\n---\n")
    with pytest.raises(WeightsError, match="lacks library_name"):
        check_card("---\nlicense: mit\n---\n")


# the command


@pytest.fixture
def run(monkeypatch, capsys):
    """Type `pspnet-zoo publish ...`; gives (exit code, stdout, stderr)."""
    monkeypatch.setenv("HF_TOKEN", WRITE)
    app = typer.Typer()
    app.command()(cli_publish.publish)
    command = typer.main.get_command(app)

    def run(*arguments):
        with pytest.raises(SystemExit) as exit:
            command([str(a) for a in arguments])
        return (exit.value.code or 0, *capsys.readouterr())

    return run


def test_publish_a_folder_and_print_its_row(hub, tiny, folder, run, tmp_path):
    Image.effect_noise((56, 40), 60).convert("RGB").save(tmp_path / "photo.jpg")
    code, out, _ = run(folder, "--to", NAME, "--example", tmp_path / "photo.jpg")
    head = hub.repos[NAME].head
    assert code == 0 and f"Published: {hub.endpoint}/{NAME}/commit/{head}" in out and f'revision="{head}"' in out
    assert "example.jpg" in hub.repos[NAME].at("main")[1]
    assert_equal(from_pretrained(NAME), tiny)
    code, out, _ = run(folder, "--to", NAME, "--example", tmp_path / "photo.jpg")
    assert code == 0 and "Unchanged" in out and WRITE not in out


def test_a_dry_run_shows_the_card_and_sends_nothing(hub, folder, run):
    code, out, _ = run(folder, "--to", ORG, "--dry-run")
    assert code == 0 and "pipeline_tag: image-segmentation" in out and f"Would be published as {ORG}/checkpoint" in out
    assert not hub.requests


def test_all_publishes_what_is_at_hand_and_goes_on_after_a_failure(hub, tiny, run, tmp_path, monkeypatch):
    from pspnet_zoo.upstream import cache

    monkeypatch.setattr(registry, "CHECKPOINTS", rows := registry.CHECKPOINTS[:3])
    monkeypatch.setattr(cli_publish, "CHECKPOINTS", rows)
    at_hand = {row.name: tiny.save_pretrained(tmp_path / row.name) for row in rows[:2]}
    monkeypatch.setattr(cache, "is_cached", lambda row: row.name in at_hand)
    monkeypatch.setattr(factory, "cached", lambda row, **_: at_hand[row.name])
    hub.faults.append(Fault("POST", f"{rows[0].name}/commit/", status=400))
    code, out, err = run("--all", "--to", ORG)
    assert code == 2 and "1 of 2 were not published" in err and "answered 400" in err and f"{ORG}/{rows[1].name}/commit/" in out
    hub.faults.clear()
    code, out, _ = run("--all", "--to", ORG)
    assert code == 0 and out.count("Published") == 1 and out.count("Unchanged") == 1
    assert set(hub.repos) == {f"{ORG}/{row.name}" for row in rows[:2]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "or --all"),
        (["x", "--all"], "or --all"),
        (["--all", "--to", "a/b"], "it is an organisation"),
        (["nonesuch"], "Unknown model"),
    ],
)
def test_contradictions_are_refused(hub, monkeypatch, arguments, message):
    app = typer.Typer()
    app.command()(cli_publish.publish)
    with pytest.raises(ValueError, match=message):
        typer.main.get_command(app)(arguments, standalone_mode=False)
    assert not hub.requests


def test_a_pushed_model_is_staged_like_a_folder(hub, tiny):
    url = tiny.push_to_hub(NAME, token=WRITE)
    files = hub.repos[NAME].at(url.rpartition("/")[2])[1]
    assert files[WEIGHTS_FILE].data and CARD_FILE in files
