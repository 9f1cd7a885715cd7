"""From a file to a network: formats, refusals, and the candidates where no entry is named."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pspnet_zoo
from pspnet_zoo import WeightsError, convert
from pspnet_zoo.upstream.convert import CONVERTERS, build_network
from pspnet_zoo.upstream.foreign import read_checkpoint
from pspnet_zoo.zoo import registry
from pspnet_zoo.zoo.registry import CHECKPOINTS, find_checkpoint
from tests.upstream.families.upstream_reference import random_weights, write_checkpoint

MMSEG = "pspnet_r18-d8_769x769_80k_cityscapes_20201225_021458-3deefc62"
PADDLE = "paddleseg_pspnet_resnet50_os8_cityscapes_1024x512_80k"


@pytest.fixture(scope="module")
def state():
    return random_weights(MMSEG).state


@pytest.fixture(scope="module")
def converted(state, tmp_path_factory):
    return convert(write_checkpoint(MMSEG, state, tmp_path_factory.mktemp("plain")), like=MMSEG).state_dict()


def saved(content, path, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("wrap", ["bare", "state_dict", "model", "module", "optimizer"])
def test_every_wrapping_gives_the_same_network(state, converted, tmp_path, wrap, zipped):
    content = {
        "bare": state,
        "state_dict": {"meta": {"config": ""}, "state_dict": state},
        "model": {"model": state, "epoch": 3},
        "module": {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        "optimizer": {"state_dict": state, "optimizer": {"state": {0: {"step": 1}}, "param_groups": [{"lr": 0.1, "params": [0]}]}},
    }[wrap]
    net = convert(saved(content, tmp_path / "x.pth", zipped), like="pspnet_r18c.mmseg_cityscapes")
    assert not net.training
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, converted[key], rtol=0, atol=0)


def test_half_precision_and_missing_counters_are_completed(state, converted, tmp_path):
    content = {k: v.half() if v.is_floating_point() else v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    net = convert(saved(content, tmp_path / "x.pth"), like=MMSEG)
    assert {v.dtype for v in net.state_dict().values()} == {torch.float32, torch.int64}
    torch.testing.assert_close(
        net.state_dict()["segmentation_head.0.bias"], converted["segmentation_head.0.bias"], rtol=1e-3, atol=1e-3
    )


def test_converted_network_is_saved_and_loaded_like_any_other(state, tmp_path):
    net = convert(write_checkpoint(MMSEG, state, tmp_path), like=MMSEG)
    again = pspnet_zoo.from_pretrained(pspnet_zoo.save_pretrained(net, tmp_path / "folder"))
    assert again.config == net.config and again.labels == net.labels
    assert again.preprocess == net.preprocess and again.provenance == net.provenance
    x = torch.randn(1, 3, 33, 47)
    torch.testing.assert_close(again(x), net(x))


def test_bgr_preprocessing_survives_saving(tmp_path):
    net = pspnet_zoo.PSPNet("resnet18", None).eval()
    net.preprocess = find_checkpoint("ptsemseg_pspnet_101_cityscapes").upstream.preprocess
    preprocess = pspnet_zoo.from_pretrained(pspnet_zoo.save_pretrained(net, tmp_path)).preprocess
    assert preprocess == net.preprocess
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1)
    torch.testing.assert_close(preprocess(red).flatten(), torch.tensor([-103.939, -116.779, 255 - 123.68]))


def test_contradicting_config_is_refused(state, tmp_path):
    path = write_checkpoint(MMSEG, state, tmp_path, config="model = dict(decode_head=dict(align_corners=False))")
    with pytest.raises(WeightsError, match="decode_head.align_corners is False in the file, True in the entry"):
        convert(path, like=MMSEG)


def test_a_file_under_a_published_name_is_compared_with_its_digest(state, tmp_path):
    path = write_checkpoint(MMSEG, state, tmp_path).rename(tmp_path / f"{MMSEG}.pth")
    for like in (MMSEG, None):
        with pytest.raises(WeightsError, match="is damaged: its sha256 does not start with 3deefc62"):
            convert(path, like=like)


def test_digits_in_another_name_are_a_digest_or_a_date_and_only_a_difference_is_said(state, tmp_path, caplog):
    path = write_checkpoint(MMSEG, state, tmp_path)
    path = path.rename(tmp_path / f"pspnet-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")
    convert(path, like=MMSEG)
    assert "does not have the digest" not in caplog.text
    convert(path.rename(tmp_path / "pspnet-20240131.pth"), like=MMSEG)
    assert "pspnet-20240131.pth' does not have the digest 20240131. If that is no date" in caplog.text


def test_another_file_than_the_published_one_is_converted_and_said_so(state, tmp_path, caplog):
    convert(write_checkpoint(MMSEG, state, tmp_path), like=MMSEG)
    assert "is not the file that was published as 'pspnet_r18c.mmseg_cityscapes'" in caplog.text


def with_meta(state, path, **meta):
    return saved({"meta": meta, "state_dict": state}, path)


def test_a_network_that_somebody_trained_gets_its_own_names_and_none_of_the_published_claims(state, tmp_path):
    mine = tuple(f"mine{i}" for i in range(19))
    for meta in ({"CLASSES": mine}, {"dataset_meta": {"classes": list(mine)}}):
        net = convert(with_meta(state, tmp_path / "latest.pth", **meta), like=MMSEG)
        digest = hashlib.sha256((tmp_path / "latest.pth").read_bytes()).hexdigest()
        assert net.labels.names == mine
        assert net.provenance == {"like": "pspnet_r18c.mmseg_cityscapes", "sha256": {"latest.pth": digest}}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (find_checkpoint(MMSEG).labels.names, "It gets no claims"),
        (("a",), "names 1 classes and has 19"),
        (("a",) * 19, "Several classes are named 'a'"),
        ((1,) * 19, "must be a list of texts"),
    ],
)
def test_names_that_are_known_or_are_no_labels_leave_those_of_the_entry(state, tmp_path, caplog, names, said):
    net = convert(with_meta(state, tmp_path / "latest.pth", CLASSES=names), like=MMSEG)
    assert net.labels is find_checkpoint(MMSEG).labels and said in caplog.text


def test_the_published_file_keeps_its_claims(state, tmp_path, monkeypatch):
    path = with_meta(state, tmp_path / "x.pth", CLASSES=tuple(f"theirs{i}" for i in range(19)))
    entry = find_checkpoint(MMSEG)
    published = replace(entry, upstream=replace(entry.upstream, hash=f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"))
    monkeypatch.setattr(registry, "CHECKPOINTS", (published,))
    net = convert(path, like=MMSEG)
    assert net.labels is entry.labels and net.provenance["license"] == "Apache-2.0"
    assert [metric["value"] for metric in net.provenance["metrics"]] == [metric.value for metric in entry.metrics]


def test_without_a_published_digest_the_name_decides_whose_claims_it_gets_and_that_is_said(tmp_path, caplog):
    path = write_checkpoint(PADDLE, random_weights(PADDLE).state, tmp_path)
    assert convert(path, like=PADDLE).provenance["name"] == "pspnet_r50d.paddleseg_cityscapes"
    assert "is taken for the published file of 'pspnet_r50d.paddleseg_cityscapes' by its name" in caplog.text
    net = convert(path.rename(tmp_path / "mine.pdparams"), like=PADDLE)
    assert net.provenance.keys() == {"like", "sha256"} and "whose name is 'model.pdparams'. It gets no claims" in caplog.text


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "backbone.layer1.0.conv1.weight"), "missing: encoder.model.layer1.0.conv1.weight"),
        (lambda s: {**s, "decode_head.conv_seg.bias": torch.zeros(21)}, "of another shape: segmentation_head.0.bias"),
        (lambda s: {**s, "decode_head.conv_extra.weight": torch.zeros(1)}, "'decode_head.conv_extra.weight' is no key"),
        (
            lambda s: {**s, "decode_head.conv_seg.bias": torch.full((19,), torch.inf)},
            "'segmentation_head.0.bias' has NaN or Inf",
        ),
        (lambda s: {**s, "decode_head.conv_seg.bias": "text"}, "'decode_head.conv_seg.bias' is a str, not a tensor"),
        (lambda s: {"decode_head.conv_seg.bias": torch.zeros(19)}, "is no PSPNet of a known project"),
        (lambda s: {"state_dict": {}}, "holds no state dict"),
        (lambda s: [1, 2], "holds no state dict, but a list"),
    ],
)
def test_state_that_does_not_fit_is_refused(state, tmp_path, change, message):
    with pytest.raises(WeightsError, match=message):
        convert(saved(change(dict(state)), tmp_path / "x.pth"), like=MMSEG)


def test_file_of_another_family_is_refused(state, tmp_path):
    with pytest.raises(WeightsError, match="is a checkpoint of mmseg, but 'pspnet_r50s.semseg_cityscapes' is one of semseg"):
        convert(write_checkpoint(MMSEG, state, tmp_path), like="semseg_pspnet50_cityscapes")


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("suffix", [".pth", ".pdparams"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path, suffix, legacy):
    path, victim = tmp_path / f"x{suffix}", tmp_path / "ran"
    if suffix == ".pth":
        saved({"state_dict": {"a": RunsCode(str(victim))}}, path, not legacy)
    else:
        path.write_bytes(pickle.dumps({"a": RunsCode(str(victim))}, protocol=2 if legacy else 4))
    with pytest.raises(WeightsError):
        convert(path, like=PADDLE if suffix == ".pdparams" else MMSEG)
    assert not victim.exists()


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pdparams_of_any_protocol_are_read(tmp_path, protocol):
    path = tmp_path / "model.pdparams"
    arrays = {
        "c": np.arange(6, dtype="f4").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype="f8").reshape(2, 3)),
        "big": np.arange(6, dtype=">i4").reshape(2, 3),
        "half": np.arange(6, dtype="f2").reshape(2, 3),
    }
    path.write_bytes(pickle.dumps({**arrays, "StructuredToParameterName@@": {"c": "name"}}, protocol))
    state, _ = read_checkpoint(path)
    assert list(state) == list(arrays)
    for key, array in arrays.items():
        assert np.array_equal(state[key].numpy(), array) and state[key].is_contiguous(), key


class PretendsToBeAnArray:
    """A pickle of an array whose type, shape or bytes are not what arrays of numbers have."""

    def __init__(self, code="f4", shape=(2,), data=b"12345678", order="<"):
        self.code, self.shape, self.data, self.order = code, shape, data, order

    def __reduce__(self):
        make, arguments, state = np.zeros(2, "f4").__reduce__()
        dtype = HasState(np.dtype, (self.code, False, True), (3, self.order, None, None, None, -1, -1, 0))
        return make, arguments, (state[0], self.shape, dtype, False, self.data)


class HasState:
    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "array",
    [
        PretendsToBeAnArray(code="O8"),
        PretendsToBeAnArray(code="V8"),
        PretendsToBeAnArray(order="?"),
        PretendsToBeAnArray(shape=(3,)),
        PretendsToBeAnArray(shape=(-1, -1)),
        PretendsToBeAnArray(shape="ab"),
        PretendsToBeAnArray(data=None),
        PretendsToBeAnArray(data=b"1"),
    ],
)
def test_pdparams_with_a_strange_array_are_refused(tmp_path, array):
    path = tmp_path / "model.pdparams"
    path.write_bytes(pickle.dumps({"a.weight": array}, protocol=3))
    with pytest.raises(WeightsError, match="'a.weight' is no array of numbers"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>Not found</html>", "is a web page"),
        (b"\n  <html></html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"", "cannot be read"),
        (b"\x80\x02}q\x00.", "holds no state dict"),
        (b"\x80\x02garbage", "cannot be read"),
        (bytes(range(256)) * 40, "cannot be read"),
        (b"a text", "cannot be read"),
    ],
)
@pytest.mark.parametrize("name", ["x.pth", "model.pdparams"])
def test_files_of_other_kinds_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        convert(tmp_path / name, like=PADDLE if name == "model.pdparams" else MMSEG)
    assert "weights_only" not in str(caught.value), "torch's advice is to run the file"


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("part", [0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(state, tmp_path, zipped, part):
    path = write_checkpoint(MMSEG, state, tmp_path, zipped=zipped)
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * part))
    with pytest.raises(WeightsError, match="cannot be read"):
        convert(path, like=MMSEG)


def test_a_flipped_byte_inside_a_zip_is_refused(state, tmp_path):
    path = write_checkpoint(MMSEG, state, tmp_path, zipped=True)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(WeightsError, match="in it is damaged"):
        convert(path, like=MMSEG)


def test_an_archive_is_refused_with_what_to_do(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.pth.zip", "w") as archive:
        archive.writestr("x.pth", b"whatever")
    with pytest.raises(WeightsError, match="is an archive. Unpack it"):
        convert(tmp_path / "x.pth.zip", like=MMSEG)


def test_without_like_the_candidates_are_listed(state, tmp_path):
    with pytest.raises(WeightsError, match="checkpoint of mmseg") as error:
        convert(write_checkpoint(MMSEG, state, tmp_path))
    listed = [line.split()[0] for line in str(error.value).splitlines()[1:]]
    assert listed == ["pspnet_r18c.mmseg_cityscapes_512x1024", "pspnet_r18c.mmseg_cityscapes"]


def test_without_like_a_network_of_no_published_shape_is_named(state, tmp_path):
    odd = {**state, "decode_head.conv_seg.bias": torch.zeros(3)}
    with pytest.raises(WeightsError, match="checkpoint of mmseg, but its tensors fit no published one"):
        convert(saved(odd, tmp_path / "x.pth"))


@pytest.mark.parametrize("id", ["caffe_pspnet101_cityscapes", "gluoncv_psp_resnet101_citys"])
def test_files_that_are_not_supported_name_a_checkpoint_with_the_same_weights(tmp_path, id):
    (tmp_path / "weights").write_bytes(b"anything")
    with pytest.raises(WeightsError, match="is the same in PyTorch") as error:
        convert(tmp_path / "weights", like=id)
    other = find_checkpoint(find_checkpoint(id).upstream.same_weights_as)
    assert other.name in str(error.value) and other.upstream.family in CONVERTERS


def test_the_other_half_of_a_csail_checkpoint_is_asked_for(tmp_path):
    (tmp_path / "encoder_epoch_20.pth").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="decoder_epoch_20.pth"):
        convert(tmp_path / "encoder_epoch_20.pth", like="csail_ade20k-resnet18dilated-ppm_deepsup")
    with pytest.raises(WeightsError, match="without exactly one encoder"):
        convert(tmp_path, like="csail_ade20k-resnet18dilated-ppm_deepsup")


def test_csail_files_are_found_from_their_folder_and_from_either_one(tmp_path):
    id = "csail_ade20k-mobilenetv2dilated-ppm_deepsup"
    write_checkpoint(id, random_weights(id).state, tmp_path)
    nets = [convert(path, like=id) for path in (tmp_path, tmp_path / "decoder_epoch_20.pth")]
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_a_missing_file_and_an_unknown_name_are_told_apart(state, tmp_path):
    with pytest.raises(FileNotFoundError, match="No file at"):
        convert(tmp_path / "nothing.pth", like=MMSEG)
    with pytest.raises(ValueError, match="Unknown model 'pspnet_r18q'"):
        convert(write_checkpoint(MMSEG, state, tmp_path), like="pspnet_r18q.mmseg_cityscapes")


def recorded_cases():
    folder = os.environ.get("PSPNET_ZOO_PARITY")
    return sorted(Path(folder, "cases").iterdir()) if folder else []


@pytest.mark.slow
@pytest.mark.skipif(not recorded_cases(), reason="PSPNET_ZOO_PARITY is not set to a folder of recorded outputs")
@pytest.mark.parametrize("options", [[], ["--zip", "--optimizer"]], ids=["legacy", "zip"])
@pytest.mark.parametrize("case", recorded_cases(), ids=lambda case: case.name)
def test_recorded_outputs_of_the_upstreams_code_are_reproduced(case, options, tmp_path):
    spec = json.loads((case / "spec.json").read_text())
    writer = case.parent.parent / "synth.py"
    written = subprocess.run(
        [sys.executable, writer, case, tmp_path, *options],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    words = spec["variant"].replace("-rsb", "_rsb-pretrain").split("_")
    like = next(
        entry for entry in CHECKPOINTS if entry.upstream and entry.upstream.family == spec["family"] and is_variant(entry, words)
    )
    net = convert(written.stdout.split()[0], like=like.upstream.id)
    outputs = np.load(case / "outputs.npz")
    for i in range(len(spec["inputs"])):
        x = torch.from_numpy(outputs[f"input_{i}"])
        with torch.no_grad():
            logits, aux = net(x, return_aux=True)
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(outputs[f"aux_{i}"]), x.shape[-2:], mode="bilinear", align_corners=spec["align_corners"]
        )
        assert float((logits - torch.from_numpy(outputs[f"logits_{i}"])).abs().max()) < 1e-3
        assert float((aux - expected).abs().max()) < 1e-3


def is_variant(entry, words):
    id = entry.upstream.id.replace("voc2012", "pascalvoc") if entry.upstream.family == "ptsemseg" else entry.upstream.id
    if entry.upstream.family == "mmseg":
        return id.startswith(f"pspnet_{words[0]}_") and all(word in id for word in words) and "cityscapes" in id
    return id.removeprefix(f"{entry.upstream.family}_") == "_".join(words)


def test_rows_build_what_their_converters_are_for():
    assert {entry.upstream.family for entry in CHECKPOINTS if entry.upstream and not entry.upstream.same_weights_as} == set(
        CONVERTERS
    )
    assert build_network(find_checkpoint("pspnet_r18c")).config["encoder_stem_width"] == 32
