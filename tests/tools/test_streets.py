import json

import numpy as np
import pytest
import torch

from tools.facade_data import SPLIT, class_ids, place_of, split
from tools.train_streets import PRIOR, UNKNOWN, allowed


def test_soft_labels_keep_what_a_mask_does_not_know():
    scores = torch.full((11, 1, 3), 0.0)
    scores[3, 0], scores[2, 0] = 0.4, 0.6  # road and pole
    soft = allowed(scores, torch.tensor([[4, 2, 255]]))  # pavement, pole (a mask of CamVid), nothing
    assert soft[:, 0, 0].sum() == pytest.approx(1) and soft[3, 0, 0] == 0
    assert soft[4, 0, 0] == pytest.approx(PRIOR / (PRIOR + 0.6)) and soft[2, 0, 0] == pytest.approx(0.6 / (PRIOR + 0.6))
    assert torch.equal(soft[:, 0, 2], scores[:, 0, 2])


def test_colours_become_camvids_classes():
    mask = np.array([[(128, 0, 0), (128, 128, 0), (0, 0, 128), (128, 64, 0), (0, 0, 0)]], np.uint8)
    assert class_ids(mask).tolist() == [[1, 1, 1, 3, 255]]
    assert not set(np.unique(class_ids(mask))) & set(UNKNOWN)
    with pytest.raises(ValueError, match="not of LabelMeFacade"):
        class_ids(np.full((1, 1, 3), 7, np.uint8))


def test_places_stay_together():
    parts = json.loads(SPLIT.read_text())
    places = {part: {place_of(stem.split("__")[0]) for stem in stems} for part, stems in parts.items()}
    assert not places["train"] & places["heldout"]
    assert split([stem for stems in parts.values() for stem in stems]) == parts
