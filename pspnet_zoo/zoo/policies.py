"""The rules by which published networks bound their strides. A state dict does not tell them apart, so they are named."""

from typing import Literal

Dilation = Literal["atrous", "uniform", "first_convolutions", "first_blocks", "strided"]
"""The rule for convolutions whose input has the stride r >= s, where s is the output stride:

- "atrous": stride 1 and dilation r / s, so that the original features are among the new ones. On a ResNet also what mmseg,
  gluon-cv, CSAIL and SegmenTron do.
- "uniform": a strided convolution also gets the dilation of the layers after it (hszhao/semseg, its Caffe original, PaddleSeg).
- "first_convolutions": atrous, but in a ResNet's basic block only the first of the two (mmseg's BasicBlock).
- "first_blocks": uniform, but only the first block of each stage of a MobileNetV2 (mmseg's MobileNetV2).
- "strided": the dilations of "atrous" at the output stride 8, and every stride stays (mmseg's "d32" configs).

Sources: mmseg/models/backbones/{resnet,mobilenet_v2}.py, semseg model/pspnet.py, PaddleSeg paddleseg/models/backbones/resnet_vd.py.
"""

ShortcutPool = Literal["dilated", "identity"]
"""The rule for average pools whose input has the stride r >= s: "dilated" gives them stride 1 and dilation r / s; "identity" leaves
them out (PaddleSeg, mmseg's ResNeSt)."""
