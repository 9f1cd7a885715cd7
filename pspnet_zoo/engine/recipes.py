"""How a network is trained, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Every number of a training run; it is saved with the run's checkpoints."""

    iterations: int
    """Steps of the optimizer."""
    batch_size: int
    """Pictures a step."""
    crop: tuple[int, int]
    """Height and width of a training crop, in pixels."""
    lr: float
    """Of the encoder at the first step; it falls to 0 as (1 - step / iterations) ** power."""
    head_factor: float = 10.0
    """Learning rate of what follows the encoder, as a multiple of `lr`."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    power: float = 0.9
    scale: tuple[float, float] = (0.5, 2.0)
    """Bounds of the random resizing factor."""
    aux_weight: float = 0.4
    """Of the auxiliary head's loss, where the network has one."""
    class_weight_power: float = 0.0
    """A class counts as its share of the training pixels to the power of minus this: 0 for all alike, 1 for equal sums."""
    seed: int = 0
    checkpoint_every: int = 100
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "lr", "checkpoint_every", *(["crop"] if min(self.crop) < 1 else [])):
            value = getattr(self, name)
            if name == "crop" or value <= 0:
                raise ValueError(f"{name} is {value}; it must be positive")


CAMVID = Recipe(iterations=1400, batch_size=8, crop=(240, 320), lr=0.01)
"""About 30 epochs of CamVid's 367 training frames."""
