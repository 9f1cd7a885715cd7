"""Training recipes as data: published ones and ours."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Recipe:
    """All settings of a training run; it is saved with the run, and each field is an option of `pspnet-zoo train`.

    Raises:
        ValueError: If a number is out of its range.
    """

    iterations: Annotated[int, "Optimizer steps."]
    batch_size: Annotated[int, "Images a step, over all processes and micro-batches."]
    crop: Annotated[tuple[int, int], "Height and width of a training crop, in pixels."]
    lr: Annotated[float, "Peak learning rate of the encoder."]
    head_factor: Annotated[float, "Learning rate of the decoder and heads, in multiples of lr."] = 10.0
    optimizer: Annotated[str, "timm's name of the optimizer: momentum (SGD), sgd (with Nesterov's momentum), adamw, ..."] = (
        "momentum"
    )
    momentum: Annotated[float, "Momentum of SGD, 0 to 1."] = 0.9
    weight_decay: Annotated[float, "Weight decay."] = 1e-4
    decay_norms: Annotated[bool, "Whether norms, biases and position embeddings decay too."] = True
    layer_decay: Annotated[
        float, "Learning rate of a layer of the encoder, as a fraction of that of the layer after it, 0 to 1; 1 for equal rates."
    ] = 1.0
    schedule: Annotated[Literal["poly", "cosine", "constant"], "Schedule of the learning rate."] = "poly"
    power: Annotated[float, "Exponent of the polynomial schedule, (1 - step / iterations) ** power."] = 0.9
    warmup: Annotated[int, "Steps in which the learning rate rises from 0 to that of the schedule."] = 0
    clip_grad: Annotated[float, "Largest norm of the gradient; larger ones are scaled down to it. 0 for no limit."] = 0.0
    min_lr: Annotated[float, "Learning rate at the end of the schedule."] = 0.0
    scale: Annotated[
        tuple[float, float], "Bounds of the random resizing factor, relative to the input size of the network at prediction."
    ] = (0.5, 2.0)
    full_size: Annotated[
        bool,
        "Whether images of more than max_pixels keep their size, as tiles do (`predict --tile`), and are evaluated by the protocol "
        "tiles; otherwise they are resized as prediction resizes whole images.",
    ] = False
    rotate: Annotated[float, "Largest random rotation, in degrees; half of the images are rotated."] = 0.0
    blur: Annotated[float, "Probability of a 5x5 Gaussian blur."] = 0.0
    cat_max_ratio: Annotated[float, "A crop is drawn again, up to ten times, while one class fills more of it than this."] = 1.0
    rare_crops: Annotated[
        float,
        "Fraction of the crops that are centred on a pixel of a class that is drawn the likelier the rarer it is in the image.",
    ] = 0.0
    photometric: Annotated[bool, "Whether brightness, contrast, saturation and hue vary."] = True
    aux_weight: Annotated[float, "Weight of the auxiliary head's loss, where the network has one."] = 0.4
    class_weight_power: Annotated[
        float, "The weight of a class is its fraction of the training pixels ** -this; 0 weights all classes alike."
    ] = 0.0
    ohem_threshold: Annotated[
        float, "Online hard example mining: only pixels with a lower probability of their class than this count; 0 counts all."
    ] = 0.0
    ohem_min_kept: Annotated[int, "With online hard example mining, the least number of pixels of an image that count."] = 100_000
    ce_weight: Annotated[float, "Weight of the cross entropy; 0 leaves it out."] = 1.0
    label_smoothing: Annotated[float, "Part of the target that the cross entropy spreads over all classes, 0 to 1."] = 0.0
    dice_weight: Annotated[float, "Weight of the soft Dice loss, averaged over the classes that occur."] = 0.0
    focal_weight: Annotated[float, "Weight of the focal loss, which counts each class against all others."] = 0.0
    focal_gamma: Annotated[float, "Exponent of the focal loss: the larger, the less easy pixels count."] = 2.0
    lovasz_weight: Annotated[float, "Weight of the Lovasz loss, which approximates the IoU."] = 0.0
    tversky_weight: Annotated[float, "Weight of the Tversky loss, a Dice loss that weights both kinds of errors."] = 0.0
    tversky_alpha: Annotated[float, "Weight of false positives in the Tversky loss; 0.5 for both is the Dice loss."] = 0.5
    tversky_beta: Annotated[float, "Weight of false negatives in the Tversky loss: larger finds more of small objects."] = 0.5
    teacher_weight: Annotated[float, "Weight of the distillation loss, where there is a teacher."] = 1.0
    teacher_temperature: Annotated[
        float, "Temperature that divides both networks' logits; above 1, the less likely classes count more."
    ] = 1.0
    teacher_confidence: Annotated[
        float, "Least probability of the teacher's most likely class for a pixel to count in the distillation loss."
    ] = 0.0
    ema_decay: Annotated[float, "Decay of the running average of the weights, which is the result; 0 for none."] = 0.0
    freeze: Annotated[
        Literal["nothing", "norms", "encoder"],
        "What stays as it is: the statistics of batch norms, or the whole encoder.",
    ] = "nothing"
    lora_rank: Annotated[
        int, "Rank of LoRA on the attention of the encoder, whose own weights then stay; merged into them at the end. 0 for none."
    ] = 0
    lora_alpha: Annotated[float, "Factor of LoRA's part, in multiples of 1 / rank."] = 16.0
    views: Annotated[int, "Augmented crops of an image, which later epochs repeat; 0 for new ones in each epoch."] = 0
    precision: Annotated[
        Literal["no", "fp16", "bf16"], "Mixed precision; 'no' computes in float32 throughout, 'fp16' needs a GPU."
    ] = "no"
    accumulation: Annotated[int, "Micro-batches in which each process computes its part of a step (gradient accumulation)."] = 1
    seed: Annotated[int, "Seed of everything random."] = 0
    checkpoint_every: Annotated[int, "Steps between checkpoints."] = 100
    evaluate_every: Annotated[int, "Steps between evaluations on the val split; 0 for none."] = 500
    patience: Annotated[int, "Early stopping: evaluations without a better mIoU after which the run ends; 0 for never."] = 0

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(Recipe).items():
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            if hint is str:
                continue
            if get_origin(hint) is Literal:
                if value not in get_args(hint):
                    raise ValueError(f"{name} is {value!r}; it can be {', '.join(map(repr, get_args(hint)))}")
            elif name in _FRACTIONS:
                if not all(0 <= number <= 1 for number in numbers):
                    raise ValueError(f"{name} is {value}; it must be between 0 and 1")
            elif name in _POSITIVE:
                if not all(0 < number < math.inf for number in numbers):
                    raise ValueError(f"{name} is {value}; it must be positive")
            elif not all(0 <= number < math.inf for number in numbers):
                raise ValueError(f"{name} is {value}; it must be 0 or more")
        for name, most in _MOST.items():
            value = getattr(self, name)
            if max(value if isinstance(value, tuple) else (value,)) > most:
                raise ValueError(f"{name} is {value}; it can be at most {most:,}")
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale is {self.scale}; the smaller factor comes first")
        for name, needed in _NEEDS.items():
            if getattr(self, name) != _default(name) and not getattr(self, needed):
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but {needed} is 0, without which it does nothing; set {needed} too"
                )
        if self.lora_rank and self.freeze == "encoder":
            raise ValueError(f"lora_rank is {self.lora_rank}, which keeps the encoder's own weights; leave out freeze='encoder'")
        if not any(getattr(self, name) for name in _LOSSES):
            raise ValueError(f"Every loss has the weight 0; give one of {', '.join(_LOSSES)} a positive weight")


def _default(name: str) -> Any:
    return next(field.default for field in fields(Recipe) if field.name == name)


_POSITIVE = ("iterations", "batch_size", "crop", "lr", "scale", "teacher_temperature", "accumulation", "checkpoint_every")
_MOST = {"iterations": 10**9, "batch_size": 65_536, "crop": 65_536, "accumulation": 65_536, "views": 10**6, "lora_rank": 65_536}
_FRACTIONS = (
    *("momentum", "blur", "layer_decay", "ohem_threshold", "teacher_confidence", "ema_decay"),
    *("label_smoothing", "rare_crops"),
)
_LOSSES = ("ce_weight", "dice_weight", "focal_weight", "lovasz_weight", "tversky_weight")
_NEEDS = {
    **dict.fromkeys(("label_smoothing", "class_weight_power", "ohem_threshold"), "ce_weight"),
    "focal_gamma": "focal_weight",
    "lora_alpha": "lora_rank",
    **dict.fromkeys(("tversky_alpha", "tversky_beta"), "tversky_weight"),
}
"""Settings that do nothing without another one."""


def check_effects(recipe: Recipe, given: Collection[str], *, masks: bool, teacher: bool, aux_head: bool) -> None:
    """Complain about a setting that was given and has no effect on this run.

    Args:
        recipe: All settings of the run.
        given: The names of those that were given.
        masks: Whether there are masks to train on.
        teacher: Whether there are soft labels.
        aux_head: Whether the network has an auxiliary head.

    Raises:
        ValueError: With the name of the setting, and what it needs.
    """
    from timm.optim import get_optimizer_info, list_optimizers

    known = recipe.optimizer in list_optimizers()
    has_momentum = not known or get_optimizer_info(recipe.optimizer).has_momentum
    needs = (
        ("momentum", has_momentum, f"an optimizer with it, and {recipe.optimizer} has none"),
        ("decay_norms", recipe.weight_decay > 0, "weight_decay above 0"),
        ("layer_decay", recipe.layer_decay == 1 or recipe.freeze != "encoder", "an encoder that is trained, and freeze is encoder"),
        ("power", recipe.schedule == "poly", "the schedule poly"),
        ("min_lr", recipe.schedule != "constant", "a schedule that falls, poly or cosine"),
        ("ohem_min_kept", recipe.ohem_threshold > 0, "ohem_threshold above 0"),
        ("patience", not recipe.patience or recipe.evaluate_every > 0, "evaluate_every above 0"),
        ("patience", masks or not recipe.patience, "masks to evaluate on, and there are none"),
        ("evaluate_every", masks or not recipe.evaluate_every, "masks to evaluate on, and there are none"),
        ("aux_weight", not recipe.aux_weight or aux_head, "a network with an auxiliary head, and this one has none"),
        *((name, masks, "masks, and there are only soft labels") for name in _OF_MASKS),
        *((name, teacher, "a teacher") for name in ("teacher_weight", "teacher_temperature", "teacher_confidence")),
    )
    for name, has_effect, what in needs:
        if name in given and not has_effect:
            raise ValueError(f"{name} is {getattr(recipe, name)}, which needs {what}; leave it out")


_OF_MASKS = (
    *("class_weight_power", "ohem_threshold", "dice_weight", "cat_max_ratio", "rare_crops"),
    *("ce_weight", "label_smoothing", "focal_weight", "lovasz_weight", "tversky_weight"),
)


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe, and what its source trained with it."""

    recipe: Recipe
    source: str
    dataset: str
    model: str
    processes: int = 1
    """GPUs of the source, among which it divided the batch."""
    network: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `create`."""
    checkpoints: tuple[str, ...] = ()
    """Checkpoints of the zoo that were trained with it; their claimed mIoU is what to expect."""


_MMSEG = Recipe(
    iterations=40_000,
    batch_size=8,
    crop=(512, 1024),
    lr=0.01,
    head_factor=1,
    weight_decay=5e-4,
    min_lr=1e-4,
    cat_max_ratio=0.75,
    checkpoint_every=4000,
    evaluate_every=4000,
)

_FINETUNE = Recipe(iterations=2000, batch_size=8, crop=(512, 512), lr=0.002, evaluate_every=200)
_ADAMW: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 0.05, "decay_norms": False, "power": 1.0, "warmup": 100}

RECIPES = {
    "paper": NamedRecipe(
        Recipe(
            iterations=90_000, batch_size=16, crop=(713, 713), lr=0.01, photometric=False, checkpoint_every=1000, evaluate_every=0
        ),
        source="Zhao et al. 2017 (arXiv 1612.01105) section 4.1; the heads' factor is that of the authors' github hszhao/semseg",
        dataset="cityscapes",
        model="pspnet_r101s",
        processes=8,
        network={"align_corners": True, "dilation": "uniform"},
        checkpoints=("pspnet_r101s.caffe_cityscapes",),
    ),
    "semseg": NamedRecipe(
        # 200 epochs of 2975 images, each without its last, incomplete batch
        Recipe(
            iterations=37_000,
            batch_size=16,
            crop=(713, 713),
            lr=0.01,
            rotate=10,
            blur=0.5,
            photometric=False,
            checkpoint_every=1000,
            evaluate_every=0,
        ),
        source="github hszhao/semseg config/cityscapes/cityscapes_pspnet50.yaml, tool/train.py",
        dataset="cityscapes",
        model="pspnet_r50s",
        processes=8,
        network={"align_corners": True, "dilation": "uniform"},
        checkpoints=("pspnet_r50s.semseg_cityscapes", "pspnet_r101s.semseg_cityscapes"),
    ),
    "mmseg_40k": NamedRecipe(
        _MMSEG,
        source="mmseg 1.2.2 configs/pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
        dataset="cityscapes",
        model="pspnet_r50c",
        processes=4,
        network={"align_corners": False},
        checkpoints=("pspnet_r50c.mmseg_cityscapes_512x1024_40k", "pspnet_r101c.mmseg_cityscapes_512x1024_40k"),
    ),
    "mmseg_80k": NamedRecipe(
        replace(_MMSEG, iterations=80_000, checkpoint_every=8000, evaluate_every=8000),
        source="mmseg 1.2.2 configs/pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py",
        dataset="cityscapes",
        model="pspnet_r50c",
        processes=4,
        network={"align_corners": False},
        checkpoints=("pspnet_r50c.mmseg_cityscapes_512x1024_80k", "pspnet_r101c.mmseg_cityscapes_512x1024_80k"),
    ),
    "camvid": NamedRecipe(
        Recipe(iterations=2000, batch_size=8, crop=(240, 320), lr=0.03, head_factor=3, class_weight_power=0.3),
        source="ours: the first part of docs/how-to/reproduce-the-bundled-weights.md; all parts together give what to expect",
        dataset="camvid",
        model="pspnet_lite0",
        checkpoints=("pspnet_lite0.camvid",),
    ),
    "finetune": NamedRecipe(
        _FINETUNE,
        source="ours: a start for data of your own; what to expect depends on them",
        dataset="folder",
        model="pspnet_lite0",
    ),
    "finetune_convnext": NamedRecipe(
        replace(_FINETUNE, **_ADAMW, lr=1e-4, layer_decay=0.9),
        source="optimizer, decays and warm-up of github facebookresearch/ConvNeXt semantic_segmentation/configs/convnext/"
        "upernet_convnext_tiny_512_160k_ade20k_ms.py; steps, crop and the heads' factor as in finetune",
        dataset="folder",
        model="pspnet_convnext_tiny",
    ),
    "finetune_vit": NamedRecipe(
        replace(_FINETUNE, **_ADAMW, lr=6e-5, layer_decay=0.9, clip_grad=1.0),
        source="AdamW, layer decay and warm-up as in github microsoft/unilm beit/semantic_segmentation; rate, steps, crop, "
        "clipping and the heads' factor are ours",
        dataset="folder",
        model="pspnet_vit_small_patch16_224",
    ),
    "frozen": NamedRecipe(
        replace(_FINETUNE, **{**_ADAMW, "weight_decay": 1e-4}, lr=1e-3, head_factor=1, freeze="encoder"),
        source="ours, after the linear evaluation of DINOv2 (arXiv 2304.07193, section 7.4): only decoder and heads learn",
        dataset="folder",
        model="pspnet_vit_small_patch16_224",
    ),
    "scratch_adamw": NamedRecipe(
        replace(_FINETUNE, **_ADAMW, lr=1e-3, head_factor=1, clip_grad=1.0),
        source="ours: convolutional and vision transformers whose weights are not pretrained",
        dataset="folder",
        model="pspnet_convnext_atto",
    ),
}

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
"""Names of experiment trackers that a run can log to."""

AUTO = "auto"
"""The name that chooses a recipe by the backbone, see `choose_recipe`."""

_MODERN_CONVOLUTIONS = ("convnext", "inception_next", "mambaout")


def choose_recipe(encoder: str, *, convolutional: bool, pretrained: bool) -> tuple[str, str]:
    """The name of the recipe for fine-tuning a backbone, and the reason.

    Args:
        encoder: timm's name of the backbone.
        convolutional: Whether it is one of convolutions only, which is dilated rather than resized.
        pretrained: Whether it starts from weights.
    """
    name = encoder.removeprefix("tu-")
    is_modern = name.startswith(_MODERN_CONVOLUTIONS)
    if convolutional and not is_modern:
        return "finetune", f"{name} is a convolutional network of the kind that SGD trains well"
    kind = f"{name} is {'a network in the manner of ConvNeXt' if is_modern else 'not purely convolutional'}"
    if not pretrained:
        return "scratch_adamw", f"{kind} without pretrained weights, which AdamW trains with a warm-up"
    recipe = "finetune_convnext" if is_modern else "finetune_vit"
    return recipe, f"{kind} with pretrained weights, which AdamW fine-tunes with rates that fall towards the input"
