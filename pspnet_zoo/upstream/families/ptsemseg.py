"""The Caffe weights of hszhao/PSPNet as meetps/pytorch-semseg converted them: ResNet with a deep stem of 64 channels.

Names: ptsemseg/models/pspnet.py. The pyramid is stored, and concatenated, as bins 6, 3, 2, 1.
"""

from .renaming import AUXILIARY, BRANCHES, CLASSIFIER, ENCODER, FUSE, Converter, Rules, reverse_bins

_STEM = {"1": ("conv1.0", "conv1.1"), "2": ("conv1.3", "conv1.4"), "3": ("conv1.6", "bn1")}
_LAYERS = {
    "cbr1.cbr_unit": ("conv1", "bn1"),
    "cbr2.cbr_unit": ("conv2", "bn2"),
    "cb3.cb_unit": ("conv3", "bn3"),
    "cb4.cb_unit": ("downsample.0", "downsample.1"),
}

_RULES: Rules = (
    (r"convbnrelu1_([123])\.cbr_unit\.([01])", lambda m: f"{ENCODER}.{_STEM[m[1]][int(m[2])]}"),
    (
        r"res_block([2-5])\.layers\.(\d+)\.(cb(?:r1|r2|3|4)\.cbr?_unit)\.([01])",
        lambda m: f"{ENCODER}.layer{int(m[1]) - 1}.{m[2]}.{_LAYERS.get(m[3], (m[3], m[3]))[int(m[4])]}",
    ),
    (r"pyramid_pooling\.path_module_list\.([0-3])\.cbr_unit\.([01])", lambda m: f"{BRANCHES}.{3 - int(m[1])}.{m[2]}"),
    (r"cbr_final\.cbr_unit\.([01])", rf"{FUSE}.\1"),
    (r"classification", CLASSIFIER),
    (r"convbnrelu4_aux\.cbr_unit\.([01])", rf"{AUXILIARY}.\1"),
    (r"aux_cls", f"{AUXILIARY}.4"),
)


PTSEMSEG = Converter(
    signature_key="pyramid_pooling.path_module_list.0.cbr_unit.0.weight",
    rules=_RULES,
    after=(reverse_bins,),
)
