"""PSPNet on a timm encoder, with the constructor of segmentation_models_pytorch.

Source: Zhao et al. 2017, "Pyramid Scene Parsing Network" (arXiv 1612.01105): stride 8, bins 1-2-3-6 with batch norm, 3x3 fusion,
dropout 0.1, auxiliary head. smp's own PSPNet stops at the third stage and fuses by 1x1; names and behaviour of its users' code
hold here, its arithmetic does not.
"""

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from ..meta import Preprocess
from ..zoo.policies import Dilation, ShortcutPool
from .encoder import Weights, build_encoder
from .heads import Activation, AuxiliaryHead, ClassificationHead, SegmentationHead, check_counts, initialize
from .pretrained import Pretrained
from .pyramid import BatchNorm2d, PyramidPooling

_EMBEDDING = re.compile(r"(pos_embed|relative_position_bias_table|rel_pos_\w+|cls_token|reg_token)$")  # timm's names
_BLOCK = re.compile(r"(\w+\.(?:\w+\.)*?\w*\d(?:\.\d+)*)\.")  # "layer1.0", "blocks.2.1", "stages_0.blocks.1"
_STAGE = re.compile(r"((?:model\.)?(?:blocks|layers|stages)\.\d+|\w+)\.")


class PSPNet(Pretrained):
    """Pyramid Scene Parsing Network.

    Args:
        encoder_name: A timm model, see `build_encoder`.
        encoder_weights: None, False, True, "imagenet", a timm tag or a .safetensors file, see `build_encoder`.
        encoder_depth: Stages of the encoder to use, 3 to 5. The paper uses all five.
        psp_out_channels: Channels after the fusing convolution.
        decoder_use_norm: True or "batchnorm", False or "identity", "layernorm", or {"type": one of these, ...its options}.
        psp_dropout: Probability that the dropout before the classifier drops a channel, 0 to 1.
        in_channels: Channels of the input.
        classes: Channels of the output.
        activation: None for logits, one of smp's names, or a callable that makes a layer.
        upsampling: None resizes the output to the size of the input. 1 stops at the encoder's stride, n at n times that size.
        aux_params: Arguments of `ClassificationHead`; the output is then (masks, labels).
        aux_head: Add the paper's auxiliary head on the stage before the last; see `forward`.
        aux_channels: Channels inside the auxiliary head; None for a quarter of what it reads.
        aux_from: The module of `encoder.model` that the auxiliary head reads, such as "blocks.5.0"; None for the stage before
            the last. One published network was trained with such a head, which further training of it needs.
        psp_bin_channels: Channels of each bin of the pyramid; None for a quarter of the encoder's last feature.
        encoder_output_stride: 8, 16 or 32 pixels.
        encoder_stem_width: Gives a ResNet a deep stem, see `build_encoder`.
        encoder_image_size: Of the largest image, for encoders that are built for one size, see `build_encoder`.
        encoder_fuse: Blocks of a plain vision transformer whose outputs are read together, see `build_encoder`.
        dilation: "atrous" or the rule of a published checkpoint, see `pspnet_zoo.zoo.policies.Dilation`.
        shortcut_pool: "dilated" or "identity", see `pspnet_zoo.zoo.policies.ShortcutPool`.
        drop_path_rate: Rate of the encoder's stochastic depth in training, 0 to 1, for models that have it.
        align_corners: Of every resize in the network. True, as in the paper's code, fits sizes 8k + 1 best; any size works. None
            resizes logits by the true centres of the encoder's positions, at any size (and the pyramid as with False).
        multilabel: Whether a pixel may be of several classes or none, each by its sigmoid, see `pspnet_zoo.meta.Decision`.

    Attributes:
        encoder, decoder, segmentation_head, classification_head, auxiliary_head: The parts; the last two may be None.
        config: The arguments that rebuild this network; weights are not among them.
        preprocess: What the encoder expects of an image.
        threshold: Probability above which a pixel has id 1 of two, or one a class if `multilabel`; None for 0.5. Stored.
        labels, provenance: What the classes are and where the weights come from; None until weights are loaded.

    Raises:
        ValueError: If an argument is outside its range.
    """

    # what smp's users ask of a network: any size of image is taken; export and compilation go, TorchScript does not
    requires_divisible_input_shape = False
    _is_torch_scriptable = False
    _is_torch_exportable = True
    _is_torch_compilable = True

    def __init__(
        self,
        encoder_name: str = "resnet34",
        encoder_weights: Weights = "imagenet",
        encoder_depth: int = 5,
        psp_out_channels: int = 512,
        decoder_use_norm: bool | str | dict[str, Any] = "batchnorm",
        psp_dropout: float = 0.1,
        in_channels: int = 3,
        classes: int = 1,
        activation: Activation = None,
        upsampling: int | None = None,
        aux_params: dict[str, Any] | None = None,
        *,
        aux_head: bool = False,
        aux_channels: int | None = None,
        aux_from: str | None = None,
        psp_bin_channels: int | None = None,
        encoder_output_stride: int = 8,
        encoder_stem_width: int | None = None,
        encoder_image_size: int | tuple[int, int] | None = None,
        encoder_fuse: int | Sequence[int] | None = None,
        dilation: Dilation = "atrous",
        shortcut_pool: ShortcutPool = "dilated",
        drop_path_rate: float = 0.0,
        align_corners: bool | None = True,
        multilabel: bool = False,
    ) -> None:
        super().__init__()
        # the arguments as they came; weights are loaded, not rebuilt
        self.config = {name: value for name, value in locals().items() if name not in ("self", "encoder_weights", "__class__")}
        check_counts(self.config)
        self.name = f"psp-{encoder_name}"
        norm = _norm(decoder_use_norm)
        self.encoder = build_encoder(
            encoder_name,
            encoder_weights,
            in_channels=in_channels,
            depth=encoder_depth,
            output_stride=encoder_output_stride,
            drop_path_rate=drop_path_rate,
            dilation=dilation,
            shortcut_pool=shortcut_pool,
            stem_width=encoder_stem_width,
            image_size=encoder_image_size,
            read=2 if aux_head else 1,
            fuse=encoder_fuse,
        )
        *_, aux_in_channels, last_channels = self.encoder.out_channels
        self.decoder = PyramidDecoder(
            last_channels,
            psp_out_channels,
            bin_channels=psp_bin_channels,
            norm=norm,
            dropout=psp_dropout,
            align_corners=bool(align_corners),
        )
        self.segmentation_head = SegmentationHead(
            psp_out_channels,
            classes,
            activation=activation,
            scale=upsampling or self.encoder.output_stride,
            align_corners=align_corners,
        )
        self.auxiliary_head = None
        if aux_head:
            self.auxiliary_head = AuxiliaryHead(
                self.encoder.channels_of(aux_from) if aux_from else aux_in_channels,
                classes,
                width=aux_channels,
                norm=norm,
                dropout=psp_dropout,
                scale=self.encoder.strides[-2],
                align_corners=align_corners,
            )
        self.classification_head = ClassificationHead(last_channels, **aux_params) if aux_params else None
        for part in filter(None, (self.decoder, self.segmentation_head, self.auxiliary_head, self.classification_head)):
            initialize(part)
        self.preprocess = Preprocess(self.encoder.mean, self.encoder.std)
        self.labels = self.provenance = None
        self._aux_from, self._is_upsampled = aux_from, upsampling is not None
        self.encoder_is_frozen = self.norms_are_frozen = False
        self._built_shapes = {key: tuple(tensor.shape) for key, tensor in self.state_dict().items()}

    def forward(self, x: Tensor, return_aux: bool = False) -> Tensor | tuple[Tensor, ...]:
        """Logits (after `activation`, where there is one) of every pixel.

        Args:
            x: (N, in_channels, H, W), float, normalised. Any H and W.
            return_aux: Also return the auxiliary head's logits, (N, classes, H, W) like the first.

        Returns:
            (N, classes, H, W); or a tuple of it, the auxiliary logits if asked for, and the image labels (N, classes of
            `aux_params`) if there is a classification head.

        Raises:
            ValueError: If `return_aux` is asked of a network without an auxiliary head.
        """
        if return_aux and self.auxiliary_head is None:
            raise ValueError("This network has no auxiliary head to return; build it with aux_head=True")
        if return_aux and self._aux_from:
            features, aux_feature = self.encoder.forward_with(x, self._aux_from)
        else:
            features = self.encoder(x)
            aux_feature = features[-2]
        size = x.shape[-2], x.shape[-1]
        placed = () if self._is_upsampled else (size, self.encoder.offset(-1, size))
        outputs = [self.segmentation_head(self.decoder(features), *placed)]
        if return_aux and self.auxiliary_head is not None:
            outputs.append(self.auxiliary_head(aux_feature, size, self.encoder.offset(-2, size)))
        if self.classification_head is not None:
            outputs.append(self.classification_head(features[-1]))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    @property
    def classes(self) -> int:
        """Channels of the output."""
        return self.config["classes"]

    @property
    def activation(self) -> Activation:
        """The activation that the output goes through; None for logits."""
        return self.config["activation"]

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the largest image, in pixels; None for any."""
        return self.encoder.image_size

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.parameters()).dtype

    @torch.inference_mode()
    def predict(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """`forward` in evaluation mode, in which the network stays, without gradients."""
        return self.eval()(x)

    def reset_classifier(self, classes: int) -> list[str]:
        """Give the network fresh classifiers for another number of classes; labels, threshold and metrics no longer hold.

        Returns:
            The state-dict keys of the tensors that were made anew.

        Raises:
            ValueError: If `classes` is no whole number of 1 or more.
        """
        check_counts({"classes": classes})
        heads = ["segmentation_head.0", *(["auxiliary_head.0.4"] if self.auxiliary_head else [])]
        for name in heads:
            old: Any = self.get_submodule(name)
            new = nn.Conv2d(old.in_channels, classes, kernel_size=1, device=old.weight.device, dtype=old.weight.dtype)
            initialize(new)
            self.set_submodule(name, new)
        self.config["classes"] = classes
        self.labels = self.threshold = None
        if self.provenance and self.provenance.keys() != {"start_provenance"}:
            self.provenance = {"start_provenance": self.provenance}  # its metrics are of another network, its licence holds
        remade = [f"{name}.{tensor}" for name in heads for tensor in ("weight", "bias")]
        self._built_shapes |= {key: tuple(tensor.shape) for key, tensor in self.state_dict().items() if key in remade}
        return remade

    def param_groups(self, lr: float, head_factor: float = 10.0, *, decay_norms: bool = True) -> list[dict[str, Any]]:
        """Parameters for an optimizer: the encoder at `lr`, everything after it, which starts untrained, at `lr * head_factor`.

        With `decay_norms=False`, biases, norms and position embeddings are in groups of their own, without weight decay.

        Source: hszhao/semseg tool/train.py (factor 10).
        """
        encoder = list(self.encoder.parameters())
        heads = [p for name, p in self.named_parameters() if not name.startswith("encoder.")]
        groups: list[dict[str, Any]] = [{"params": encoder, "lr": lr}, {"params": heads, "lr": lr * head_factor}]
        if decay_norms:
            return groups
        exempt = self.no_weight_decay()
        free = {id(p) for name, p in self.named_parameters() if p.ndim <= 1 or name in exempt}
        decayed = [{**group, "params": [p for p in group["params"] if id(p) not in free]} for group in groups]
        others = [{**group, "params": [p for p in group["params"] if id(p) in free], "weight_decay": 0.0} for group in groups]
        return decayed + others

    def no_weight_decay(self) -> set[str]:
        """Names of position embeddings, class tokens and the like, which timm's optimizers do not decay either."""
        own = {
            f"{path}.{name}" if path else name
            for path, module in self.named_modules()
            if module is not self and hasattr(module, "no_weight_decay")
            for name in module.no_weight_decay()
        }
        return {name for name, _ in self.named_parameters() if name in own or _EMBEDDING.search(name)}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], float]:
        """Depth of a parameter by its name, as timm's optimizers ask for it to let learning rates fall with depth.

        Blocks of the encoder count from 1; what is before the first is 0, what begins a later stage counts with its first block,
        and the heads are infinite.

        Args:
            coarse: Count stages (the parts of `encoder.model`) instead of blocks.
        """
        depths, seen, waiting, depth = {}, set(), {}, 0
        for name, _ in self.encoder.model.named_parameters():
            stage, match = _STAGE.match(name), (_STAGE if coarse else _BLOCK).match(name)
            is_block = match and next(self.encoder.model.get_submodule(match[1]).children(), None) is not None
            if match and is_block and match[1] not in seen:
                seen.add(match[1])
                depth += 1
                depths |= dict.fromkeys(waiting.pop(stage and stage[1], ()), float(depth))
            depths[f"encoder.model.{name}"] = float(depth)
            if not is_block and stage:
                waiting.setdefault(stage[1], []).append(f"encoder.model.{name}")
        return lambda name: depths.get(name, math.inf)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the encoder's features again in the backward pass instead of keeping them: less memory, more time.

        Raises:
            ValueError: If timm cannot do it for this encoder.
        """
        self.encoder.set_grad_checkpointing(enable)

    def __prepare_scriptable__(self) -> "PSPNet":
        """Answer torch.jit.script, which would fail somewhere inside, by a RuntimeError with the way out."""
        raise RuntimeError(
            "TorchScript does not compile this network. Use pspnet_zoo.export for ONNX, OpenVINO or torch.export, torch.compile "
            "for speed in Python, or torch.jit.trace for one size of image"
        )

    def freeze_encoder(self) -> None:
        """Stop training the encoder; its norms keep their statistics, whatever `train()` is told later."""
        self._set_encoder_frozen(True)

    def unfreeze_encoder(self) -> None:
        """Undo `freeze_encoder`: the encoder learns, and its norms gather statistics again, until `eval()` says otherwise."""
        self._set_encoder_frozen(False)

    def freeze_norms(self) -> None:
        """Keep the statistics of every batch norm, whatever `train()` is told later; weights and biases still learn.

        For batches too small to tell a mean from, and for fine-tuning on few images.
        """
        self.norms_are_frozen = True
        self.train(self.training)

    def unfreeze_norms(self) -> None:
        """Undo `freeze_norms`."""
        self.norms_are_frozen = False
        self.train(self.training)

    def _set_encoder_frozen(self, frozen: bool) -> None:
        self.encoder_is_frozen = frozen
        self.encoder.requires_grad_(not frozen)
        self.train(self.training)
        if not (frozen or self.norms_are_frozen):  # as in smp, in evaluation mode too
            for module in self.encoder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.train()

    def train(self, mode: bool = True) -> "PSPNet":
        """Switch the mode as in any Module, but a frozen encoder and frozen norms stay in evaluation mode."""
        super().train(mode)
        if self.encoder_is_frozen:
            self.encoder.eval()
        if self.norms_are_frozen:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """Load as in any Module; with strict=False, tensors of another shape are left out too, with a warning that lists them."""
        if not strict:
            own = self.state_dict()
            other = {k: v for k, v in state_dict.items() if k in own and own[k].shape != v.shape}
            if other:
                lines = "\n".join(f"  {k}: {tuple(v.shape)} in the file, {tuple(own[k].shape)} here" for k, v in other.items())
                warnings.warn(f"Not loaded, because the shapes differ; train these before use:\n{lines}", stacklevel=2)
                state_dict = {k: v for k, v in state_dict.items() if k not in other}
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


class PyramidDecoder(nn.Module):
    """From the list of features to the feature map that the classifier reads."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bin_channels: int | None,
        norm: Callable[[int], nn.Module] | None,
        dropout: float,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.pyramid = PyramidPooling(in_channels, out_channels, bin_channels=bin_channels, norm=norm, align_corners=align_corners)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: list[Tensor]) -> Tensor:
        """The last of `features`, (N, C, h, w), to (N, out_channels, h, w)."""
        return self.dropout(self.pyramid(features[-1]))


_NORMS: dict[str, Callable[..., nn.Module] | None] = {"batchnorm": BatchNorm2d, "layernorm": LayerNorm2d, "identity": None}


def _norm(use_norm: bool | str | dict[str, Any]) -> Callable[[int], nn.Module] | None:
    """smp's `decoder_use_norm` as a function from channels to a layer, None for no norm."""
    options = dict(use_norm) if isinstance(use_norm, dict) else {"type": use_norm}
    kind = options.pop("type", None)
    kind = ("batchnorm" if kind else "identity") if isinstance(kind, bool) else kind
    if kind not in _NORMS:
        raise ValueError(
            f"decoder_use_norm is {use_norm!r}; it can be True, False, {', '.join(_NORMS)}, or a dict with one of them as 'type'. "
            "An instance norm is not among them: it has nothing to normalise in the 1x1 bin"
        )
    return partial(make, **options) if (make := _NORMS[kind]) else None
