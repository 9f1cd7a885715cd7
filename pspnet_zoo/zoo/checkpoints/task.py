"""Facts that entries of several upstreams share: evaluation protocols and usual preprocessing."""

from dataclasses import dataclass

from ...meta import Labels, Metric, Preprocess

IMAGENET = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
IMAGENET_255 = Preprocess((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 255.0)


@dataclass(frozen=True)
class Task:
    """A dataset, and how an upstream evaluates on it."""

    dataset: str
    split: str
    labels: Labels
    single: str
    """The protocol of the single-scale numbers."""
    multi: str
    """The protocol of the multi-scale numbers."""
    align_corners: bool

    def metric(self, value: float, *, name: str = "miou", multi_scale: bool = False, protocol: str = "") -> Metric:
        """A claimed number, from percent."""
        protocol = protocol or (self.multi if multi_scale else self.single)
        return Metric(name, round(value / 100, 6), self.dataset, self.split, protocol, "claimed", multi_scale)
