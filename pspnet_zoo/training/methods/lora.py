"""LoRA on the attention of an encoder, by peft, while a network is trained.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685).
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ...extras import missing_extra
from ...models.pspnet import PSPNet


@contextmanager
def lora_added(model: PSPNet, rank: int, alpha: float, seed: int) -> Iterator[None]:
    """In the block, the encoder learns by LoRA alone; at its end LoRA is merged into the weights, and all can learn again.

    Args:
        model: Changed in place.
        rank: Rank of the added matrices; 0 changes nothing.
        alpha: The added product counts alpha / rank times.
        seed: Of the first values of the added matrices.

    Raises:
        ValueError: If the encoder has no linear layers of attention.
        MissingExtraError: If peft is not installed.
    """
    if not rank:
        yield
        return
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise missing_extra("LoRA", "peft", error) from None
    layers = attention_layers(model)
    if not layers:
        raise ValueError(
            f"lora_rank is {rank}, but {model.config['encoder_name']} has no linear layers of attention that LoRA could adapt; "
            "leave it out, or choose a vision transformer"
        )
    learning = {name: parameter.requires_grad for name, parameter in model.encoder.named_parameters()}
    model.encoder.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers)  # type: ignore[reportArgumentType]
        inject_adapter_in_model(config, model.encoder.model)
    try:
        yield
    finally:
        _merge(model)
        for name, parameter in model.encoder.named_parameters():
            parameter.requires_grad_(learning[name])


def attention_layers(model: PSPNet) -> list[str]:
    """Names in `encoder.model` of the linear layers of attention that a forward calls; in some, timm uses the weights alone."""
    modules = dict(model.encoder.model.named_modules())

    def is_in_attention(name: str) -> bool:
        owners = [modules[name.rsplit(".", n)[0]] for n in range(1, name.count(".") + 1)]
        return any("attention" in kind or "attn" in kind for kind in (type(owner).__name__.lower() for owner in owners))

    candidates = {name: m for name, m in modules.items() if isinstance(m, nn.Linear) and is_in_attention(name)}
    called: set[str] = set()
    handles = [m.register_forward_hook(lambda *_, name=name: called.add(name)) for name, m in candidates.items()]
    size = model.image_size or (4 * model.encoder.padding.minimum,) * 2
    mode = model.training
    try:
        with torch.no_grad():
            model.eval().encoder(torch.zeros(1, model.config["in_channels"], *size, device=model.device, dtype=model.dtype))
    finally:
        model.train(mode)
        for handle in handles:
            handle.remove()
    return [name for name in candidates if name in called]


def merged(model: PSPNet) -> PSPNet:
    """The network without LoRA, whose product is added to the weights: a copy, or the network itself if it has none."""
    if not any(hasattr(module, "lora_A") for module in model.encoder.modules()):
        return model
    plain = copy.deepcopy(model)
    _merge(plain)
    return plain


def _merge(model: PSPNet) -> None:
    from peft.tuners.lora import LoraLayer

    encoder = model.encoder.model
    for name, module in list(encoder.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            encoder.set_submodule(name, module.get_base_layer())
    if hasattr(encoder, "peft_config"):
        del encoder.peft_config
