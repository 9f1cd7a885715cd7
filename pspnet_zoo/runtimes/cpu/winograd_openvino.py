"""Winograd's algorithm for wide 3x3 convolutions of an OpenVINO network, see `winograd.py`, in OpenVINO's own operations.

OpenVINO computes float32 convolutions directly. The network is changed when it is loaded for the CPU. The file keeps its
convolutions, for which other devices have their own algorithms.
"""

from typing import Any

import numpy as np

from .winograd import transforms

WIDE = 256
"""Smallest number of input and output channels at which it pays, from built-in operations."""


def use_winograd(model: Any) -> int:
    """Replace the wide 3x3 convolutions of stride 1 and equal padding in an `openvino.Model`, and return their number.

    Only convolutions with constant weights are replaced; all are constant in the files that `export` writes.
    """
    from openvino.utils import replace_node

    found = 0
    for node in model.get_ordered_ops():
        weight = node.input_value(1).get_node() if node.get_type_name() == "Convolution" else None
        if weight is None or weight.get_type_name() != "Constant":
            continue
        outputs, channels, *size = weight.data.shape
        settings = node.get_attributes()
        dilation = settings["dilations"][0]
        same = all(list(settings[name]) == [dilation] * 2 for name in ("dilations", "pads_begin", "pads_end"))
        if size == [3, 3] and min(outputs, channels) >= WIDE and list(settings["strides"]) == [1, 1] and same:
            replace_node(node, convolution(node.input_value(0), weight.data, dilation))
            found += 1
    model.validate_nodes_and_infer_types()
    return found


def convolution(x: Any, weight: np.ndarray, dilation: int) -> Any:
    """Build the nodes of a convolution whose padding is its dilation.

    Args:
        x: Output of a node, (N, C, H, W) float32, any N, H and W.
        weight: (O, C, 3, 3) float32.
        dilation: Distance of the taps, in pixels.

    Returns:
        A node whose output is (N, O, H, W).
    """
    from openvino import opset13 as op

    def whole(*values: int) -> Any:
        return op.constant(np.array(values, np.int64))

    def shaped(node: Any, *sides: Any) -> Any:
        return op.reshape(node, op.concat([whole(s) if isinstance(s, int) else s for s in sides], 0), False)

    for_taps, for_inputs, for_outputs = (matrix.numpy() for matrix in transforms())
    outputs, channels = weight.shape[:2]
    d, shape = dilation, op.shape_of(x, output_type="i64")
    count, height, width = (op.gather(shape, whole(axis), whole(0)) for axis in (0, 2, 3))
    sides = op.concat([height, width], 0)
    tiles = op.divide(op.add(sides, whole(4 * d - 1)), whole(4 * d))  # of one of d x d grids, down and across
    down, across = (op.gather(tiles, whole(axis), whole(0)) for axis in (0, 1))
    rest = op.add(op.subtract(op.multiply(tiles, whole(4 * d)), sides), whole(d))
    before, after = whole(0, 0, d, d), op.concat([whole(0, 0), rest], 0)
    if d == 1:
        x = op.extract_image_patches(
            op.pad(x, before, after, "constant", op.constant(np.float32(0))), [6, 6], [4, 4], [1, 1], "valid"
        )
    else:  # each grid as an image of its own: (d * d * N, C, ...)
        x = op.extract_image_patches(op.space_to_batch(x, whole(1, 1, d, d), before, after), [6, 6], [4, 4], [1, 1], "valid")
        x = op.transpose(shaped(x, d * d, count, 36, channels, -1), whole(1, 2, 3, 0, 4))
    x = op.matmul(op.constant(for_inputs), shaped(x, count, 36, -1), False, False)
    taps = (for_taps @ weight.reshape(outputs * channels, 9).T).reshape(36, outputs, channels)
    x = op.matmul(op.constant(taps), shaped(x, count, 36, channels, -1), False, False)
    x = op.matmul(op.constant(for_outputs), shaped(x, count, 36, -1), False, False)
    x = op.transpose(shaped(x, count, 4, 4, outputs, d, d, down, across), whole(0, 3, 6, 1, 4, 7, 2, 5))
    x = shaped(x, count, outputs, op.multiply(down, whole(4 * d)), op.multiply(across, whole(4 * d)))
    return op.slice(x, whole(0, 0), sides, whole(1, 1), whole(2, 3))
