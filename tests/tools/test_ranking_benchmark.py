"""The comparison of ranked with random images, on made-up data."""

import importlib.util
from dataclasses import replace
from pathlib import Path

from pspnet_zoo.training.recipes import RECIPES

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ranking.py"


def test_both_contenders_train_on_as_many_images(camvid, monkeypatch):
    spec = importlib.util.spec_from_file_location("ranking_benchmark", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    counts, train = [], module.trained
    monkeypatch.setattr(
        module, "trained", lambda data, chosen, *rest: counts.append(len(set(chosen))) or train(data, chosen, *rest)
    )
    recipe = replace(RECIPES["camvid"].recipe, iterations=1, batch_size=2, crop=(32, 32), evaluate_every=0)
    found = module.compare(camvid, 3, range(1), recipe, "pspnet_test_efficientnet", None)
    assert counts == [1, 3, 3] and [len(values) for values in found.values()] == [1, 1]
