"""Cityscapes' two numberings of its classes, and its categories.

Source: cityscapesScripts, cityscapesscripts/helpers/labels.py. A trainId is a position in `labels.CITYSCAPES`; a labelId is what
the ground truth's `*_labelIds.png` and the evaluation server use.
"""

LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The labelId of each trainId. The other labelIds, 0 to 33, are ignored, and so is -1, the license plate."""

CATEGORIES = {
    "flat": (0, 1),
    "construction": (2, 3, 4),
    "object": (5, 6, 7),
    "nature": (8, 9),
    "sky": (10,),
    "human": (11, 12),
    "vehicle": (13, 14, 15, 16, 17, 18),
}
"""The trainIds of each category that counts; "void" does not."""
