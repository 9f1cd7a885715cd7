"""Runtimes of networks: PyTorch, ONNX Runtime and OpenVINO, with the same options."""
