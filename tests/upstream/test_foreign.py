"""Files of other projects are read as data: the same tensors as torch reads, and nothing else happens."""

import io
import os
import pickle
import random
import resource
import time
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from pspnet_zoo import WeightsError
from pspnet_zoo.upstream import foreign, pickles
from pspnet_zoo.upstream.foreign import read_checkpoint
from pspnet_zoo.upstream.pickles import PickleError, Stand, read_pickle


def saved(content, path, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [False, True])
def test_tensors_of_every_kind_are_those_that_torch_reads(tmp_path, zipped):
    whole = torch.randn(6, 8)
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8)
    state = OrderedDict((str(kind), (torch.randn(2, 3) * 9).to(kind)) for kind in (*kinds, torch.uint8, torch.bool))
    state |= {"view": whole[1:4, 2:], "turned": whole.T, "shared": whole, "empty": torch.empty(0, 3), "scalar": torch.tensor(3.5)}
    state |= {
        "parameter": torch.nn.Parameter(whole),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    path = saved({"state_dict": state, "epoch": 3}, tmp_path / "x.pth", zipped)
    found, expected = read_checkpoint(path)[0], torch.load(path, weights_only=True)["state_dict"]
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype and torch.equal(found[key], tensor), key


@pytest.mark.parametrize("zipped", [False, True])
def test_what_a_training_loop_keeps_beside_the_weights_is_no_obstacle(tmp_path, monkeypatch, zipped):
    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = type("HistoryBuffer", (), {"__module__": module.__name__})
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(__import__("sys").modules, name, module)
    history = module.HistoryBuffer()
    history.values = np.arange(3)
    beside = {"log": {"loss": history}, "best": np.float64(0.5), "args": types.SimpleNamespace(lr=0.1), "seen": {1, 2}}
    beside |= {"optimizer": {"state": {0: {"step": torch.tensor(1)}}}, "when": np.datetime64("2020-01-01")}
    path = saved({"meta": {"config": "a = 1"}, "state_dict": {"w": torch.ones(2)}, **beside}, tmp_path / "x.pth", zipped)
    state, meta = read_checkpoint(path)
    assert list(state) == ["w"] and torch.equal(state["w"], torch.ones(2)) and meta == {"config": "a = 1"}


class Runs:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [False, True])
def test_what_would_run_beside_the_weights_does_not(tmp_path, zipped):
    victim = tmp_path / "ran"
    path = saved({"state_dict": {"w": torch.ones(2)}, "log": Runs(os.mkdir, (str(victim),))}, tmp_path / "x.pth", zipped)
    assert torch.equal(read_checkpoint(path)[0]["w"], torch.ones(2)) and not victim.exists()


def test_an_expanded_tensor_is_refused_before_it_takes_memory(tmp_path):
    for name, tensor in (("a", torch.zeros(1).expand(1 << 34)), ("b", torch.zeros(1, dtype=torch.float16).expand(1 << 34))):
        path = saved({"w": torch.zeros(1), name: tensor}, tmp_path / "x.pth")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(WeightsError, match=f"'{name}' is no array of numbers .*more than the file could hold"):
            read_checkpoint(path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_one_storage_under_many_names_counts_each_time(tmp_path):
    shared = torch.zeros(100_000)
    path = saved({str(i): shared for i in range(100)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="more than the file could hold"):
        read_checkpoint(path)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_storage_is_read_once_for_all_its_views(tmp_path, monkeypatch, zipped):
    storage, copies = torch.arange(1000.0), []
    monkeypatch.setattr(foreign, "bytearray", lambda data: copies.append(len(data)) or bytearray(data), raising=False)
    views = {f"view{i}": storage[i : i + 1] for i in range(40)}
    state, _ = read_checkpoint(
        saved({**views, "whole": storage, "again": storage, "other": torch.ones(3)}, tmp_path / "x.pth", zipped)
    )
    assert copies == [4000, 12]
    assert all(torch.equal(state[key], view) for key, view in views.items())
    state["whole"].zero_()
    assert torch.equal(state["again"], storage), "tensors of one storage change together"


@pytest.mark.parametrize("zipped", [False, True])
def test_small_views_of_a_large_storage_take_the_memory_of_the_views(tmp_path, zipped):
    shared = torch.arange(500_000.0)
    path = saved({str(i): shared[i : i + 1] for i in range(50)}, tmp_path / "x.pth", zipped)
    found = read_checkpoint(path)[0]
    assert [tensor.item() for tensor in found.values()] == list(range(50))
    assert sum(tensor.untyped_storage().nbytes() for tensor in found.values()) == 50 * 4


NESTED = b"K\x01K\x01\x86q\x02" + b"0h\x02h\x02\x86q\x02" * 60  # its hash, text and comparison take 2 to the 60 steps


@pytest.mark.parametrize("suffix", [".pdparams", ".pth"])
@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}q\x01" + NESTED + b"K\x01s.",  # a key
        b"\x80\x02}q\x01X\x01\x00\x00\x00a" + NESTED + b"s.",  # a value
        b"\x80\x02" + NESTED + b".",
        b"\x80\x02" + NESTED + b"Q.",  # a persistent id
        b"\x80\x04\x8f(" + NESTED + b"\x90.",  # of a set
        b"\x80\x02}X\x01\x00\x00\x00acposix\nsystem\n" + NESTED + b"\x85Rs.",
        b"\x80\x02}X\x01\x00\x00\x00acnumpy.core.multiarray\n_reconstruct\n)R" + NESTED + b"bs.",
        b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n(" + NESTED + b"h\x02h\x02h\x02tRs.",
        b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        + NESTED
        + b"h\x02h\x02h\x02tQh\x02h\x02h\x02tRs.",
    ],
)
def test_tuples_within_tuples_are_answered_at_once(tmp_path, suffix, content):
    start = time.process_time()
    (tmp_path / f"x{suffix}").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "zipped.pth", "w") as archive:
        archive.writestr("x/data.pkl", content)
    for path in (tmp_path / f"x{suffix}", tmp_path / "zipped.pth"):
        with pytest.raises(WeightsError):
            read_checkpoint(path)
    assert time.process_time() - start < 2


PARAMETER = b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_parameter\n"


@pytest.mark.parametrize("arguments", [b"]q\x00Rq\x01h\x00h\x01a0s.", b"]Rs.", b")Rs.", b"K\x01\x85Rs."])
def test_a_parameter_of_itself_or_of_nothing_is_refused_by_name(tmp_path, arguments):
    (tmp_path / "x.pth").write_bytes(PARAMETER + arguments)
    with pytest.raises(WeightsError, match=r"x\.pth'.*'a'"):
        read_checkpoint(tmp_path / "x.pth")


def test_an_array_whose_type_is_a_text_is_refused_by_name(tmp_path):
    state = pickle.dumps((1, (1,), "f4", False, bytes(4)), 3)[2:-1]
    array = b"\x80\x03}X\x01\x00\x00\x00acnumpy.core.multiarray\n_reconstruct\n)R" + state + b"bs."
    (tmp_path / "x.pdparams").write_bytes(array)
    with pytest.raises(WeightsError, match="'a' is no array of numbers"):
        read_checkpoint(tmp_path / "x.pdparams")


def test_a_pickle_of_endless_small_operations_is_refused(monkeypatch):
    monkeypatch.setattr(pickles, "MOST_OPERATIONS", 1000)
    with pytest.raises(PickleError, match="more than 1,000 operations"):
        read_pickle(io.BytesIO(b"\x80\x02" + b"]0" * 1000 + b"."))


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_of_every_protocol_comes_back(protocol):
    data = {"a": [1, -(1 << 70), 2.5, None, True], "b": ("text", "\u00e9", ()), 3: {"nested": [[], {}]}, "long": list(range(2000))}
    data["again"] = data["a"]
    assert read_pickle(io.BytesIO(pickle.dumps(data, protocol))) == data


def test_objects_are_notes_of_what_they_would_be():
    found = read_pickle(io.BytesIO(pickle.dumps({"call": Runs(os.system, ("true",)), "dict": OrderedDict(a=1)})))
    assert isinstance(found["call"], Stand) and found["call"].kind.endswith(".system") and found["call"].args == ("true",)
    assert found["dict"].kind == "collections.OrderedDict" and found["dict"].entries == {"a": 1}


def damaged(good: bytes, seed: int) -> bytes:
    """A file with a few bytes changed, cut, doubled or moved."""
    chance = random.Random(seed)
    content = bytearray(good)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(content))
        match chance.randrange(5):
            case 0:
                content[at] ^= 1 << chance.randrange(8)
            case 1:
                content[at] = chance.choice(b"\x00\xff\x80(}]R.b0QcsuteXK")
            case 2:
                del content[at : at + chance.randrange(1, 40)]
            case 3:
                content[at:at] = content[at : at + chance.randrange(1, 40)]
            case 4:
                content[at : at + 4] = chance.randbytes(4)
        content = content or bytearray(b".")
    return bytes(content)


def fuzz(tmp_path, seeds):
    state = {"state_dict": OrderedDict(w=torch.arange(6.0).view(2, 3), b=torch.zeros(2)), "epoch": 3, "log": np.float64(1)}
    arrays = {"w": np.arange(6, dtype="f4").reshape(2, 3), "b": np.zeros(2)}
    originals = []
    for name, zipped in (("zip.pth", True), ("old.pth", False)):
        originals.append(saved(state, tmp_path / name, zipped).read_bytes())
    originals += [pickle.dumps(arrays, protocol) for protocol in (2, 4)]
    with zipfile.ZipFile(io.BytesIO(originals[0])) as archive:  # past the checksums
        inside = {name: archive.read(name) for name in archive.namelist()}
    before, start, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time(), 0
    for seed in seeds:
        path = tmp_path / "x.pth"
        if seed % 5 == 4:
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in inside.items():
                    archive.writestr(name, damaged(content, seed) if name.endswith("data.pkl") else content)
        else:
            path.write_bytes(damaged(originals[seed % 5], seed))
        try:
            tensors, _ = read_checkpoint(path)
        except WeightsError as error:
            assert str(path) in str(error) and "\n" not in str(error), seed
            refused += 1
        else:
            assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    assert refused > len(seeds) / 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    assert time.process_time() - start < 0.1 * len(seeds)
    assert {p.name for p in tmp_path.iterdir()} == {"zip.pth", "old.pth", "x.pth"}


def test_a_hundred_damaged_checkpoints_are_read_or_refused_by_name(tmp_path):
    fuzz(tmp_path, range(100))


@pytest.mark.slow
def test_thousands_of_damaged_checkpoints_are_read_or_refused_by_name(tmp_path):
    fuzz(tmp_path, range(100, 5000))
