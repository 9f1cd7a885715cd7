"""A command whose extra is missing says, in one line, what to install."""

import sys

import pytest

from pspnet_zoo.runtimes import openvino as runtime

MODULES_THAT_IMPORT_IT = (
    "pspnet_zoo.training.train",
    "pspnet_zoo.bulk.driver",
    "pspnet_zoo.demo.app",
    "pspnet_zoo.serve.server",
    "pspnet_zoo.serve.app",
)


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("accelerate", "train", ["train", "--data", "{camvid}", "-o", "run"]),
        ("ray", "bulk", ["bulk", "{camvid}/val", "out"]),
        ("gradio", "demo", ["demo"]),
        ("uvicorn", "serve", ["serve", "{model}"]),
        ("av", "video", ["predict", "clip.mp4"]),
        ("pyarrow", "bulk", ["predict", "{camvid}/val", "--report", "shares.parquet"]),
        ("onnxscript", "export", ["export", "{model}", "-o", "street.onnx"]),
        ("onnxruntime", "export", ["info", "street.onnx"]),
        ("openvino", "openvino", ["evaluate", "street.xml", "--data", "{camvid}"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_says_what_to_install(run, camvid, model, tmp_path, monkeypatch, module, extra, arguments):
    monkeypatch.chdir(tmp_path)
    for name in ("clip.mp4", "street.onnx", "street.xml", "street.bin"):
        (tmp_path / name).touch()
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    for name in MODULES_THAT_IMPORT_IT:
        monkeypatch.delitem(sys.modules, name, raising=False)
        room, _, file = name.rpartition(".")
        if room in sys.modules:  # it holds what was imported from it
            monkeypatch.delattr(sys.modules[room], file, raising=False)
    monkeypatch.setattr(runtime, "openvino_core", runtime.openvino_core.__wrapped__)  # as if none were made yet
    code, out, err = run(*[argument.format(camvid=camvid, model=model) for argument in arguments])
    line = err.splitlines()[-1]
    assert code == 2 and not out and "Traceback" not in err
    assert f" needs {module}" in line and line.endswith(f"pip install -e '.[{extra}]'")
