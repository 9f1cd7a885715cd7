"""Recipes are complete, possible, and documented as they are."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pspnet_zoo import create
from pspnet_zoo.data.layouts.names import LAYOUTS
from pspnet_zoo.training.recipes import RECIPES, Recipe, check_effects
from pspnet_zoo.zoo.registry import find_checkpoint
from tools.recipes_page import markdown_page

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "recipes.md"
RECIPE = Recipe(iterations=6, batch_size=2, crop=(32, 48), lr=0.01)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_followed(name):
    named = RECIPES[name]
    assert named.dataset in LAYOUTS and named.recipe.batch_size % named.processes == 0
    assert create(named.model, aux_head=True, **named.network).auxiliary_head is not None
    for checkpoint in named.checkpoints:
        assert find_checkpoint(checkpoint).metrics


def test_the_page_in_the_docs_is_up_to_date():
    assert PAGE.read_text() == markdown_page(), "run: python -m tools.recipes_page > docs/reference/recipes.md"


def test_what_a_recipe_does_not_say_is_as_in_the_paper_or_off():
    said = {"iterations": 6, "batch_size": 2, "crop": (32, 48), "lr": 0.01}
    paper = {
        "head_factor": 10.0,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "power": 0.9,
        "layer_decay": 1.0,
        "scale": (0.5, 2.0),
        "aux_weight": 0.4,
    }
    on = {"decay_norms": True, "photometric": True, "teacher_weight": 1.0, "teacher_temperature": 1.0, "cat_max_ratio": 1.0}
    on |= {"ce_weight": 1.0, "focal_gamma": 2.0, "tversky_alpha": 0.5, "tversky_beta": 0.5, "lora_alpha": 16.0}
    other = {"ohem_min_kept": 100_000, "checkpoint_every": 100, "evaluate_every": 500, "accumulation": 1}
    words = {"full_size": False, "freeze": "nothing", "precision": "no", "optimizer": "momentum", "schedule": "poly"}
    fields = asdict(RECIPE)
    off = {name for name, value in fields.items() if value == 0 and not isinstance(value, bool)}
    assert fields == {**said, **paper, **on, **other, **words, **dict.fromkeys(off, 0)}
    assert off == {
        *("min_lr", "rotate", "blur", "class_weight_power", "ohem_threshold", "dice_weight"),
        *("teacher_confidence", "ema_decay", "seed", "warmup", "clip_grad", "patience"),
        *("label_smoothing", "focal_weight", "lovasz_weight", "tversky_weight", "rare_crops", "lora_rank", "views"),
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("momentum", 0),
        ("blur", 1),
        ("scale", (1, 1)),
        ("weight_decay", 0),
        ("rotate", 0.5),
        ("precision", "fp16"),
        ("freeze", "norms"),
    ],
)
def test_the_ends_of_a_range_are_in_it(field, value):
    assert getattr(replace(RECIPE, **{field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("weight_decay", -0.1, "must be 0 or more"),
        ("weight_decay", math.inf, "must be 0 or more"),
        ("lr", math.inf, "must be positive"),
        ("momentum", -0.1, "must be between 0 and 1"),
        ("crop", (32, -1), "must be positive"),
        ("scale", (2, 1), "the smaller factor comes first"),
        ("precision", "bf17", "it can be 'no', 'fp16', 'bf16'"),
    ],
)
def test_what_is_beyond_a_range_is_refused(field, value, message):
    with pytest.raises(ValueError, match=f"{field} is .*{message}"):
        replace(RECIPE, **{field: value})


@pytest.mark.parametrize("field", ["iterations", "batch_size", "lr", "checkpoint_every", "accumulation", "crop", "scale"])
def test_a_recipe_refuses_what_is_not_positive(field):
    with pytest.raises(ValueError, match=f"{field} is"):
        replace(RECIPE, **{field: (0, 32) if field in ("crop", "scale") else 0})


@pytest.mark.parametrize("field", ["ema_decay", "ohem_threshold", "blur"])
def test_a_recipe_refuses_what_is_no_fraction(field):
    with pytest.raises(ValueError, match=f"{field} is 1.5; it must be between 0 and 1"):
        replace(RECIPE, **{field: 1.5})


@pytest.mark.parametrize("changes", [{"evaluate_every": 200}, {"patience": 5}])
def test_what_watches_an_evaluation_is_refused_where_there_are_no_masks(changes):
    recipe, given = replace(RECIPE, **{"evaluate_every": 100, **changes}), list(changes)
    check_effects(recipe, given, masks=True, teacher=True, aux_head=True)
    with pytest.raises(ValueError, match="which needs masks to evaluate on"):
        check_effects(recipe, given, masks=False, teacher=True, aux_head=True)
    check_effects(replace(recipe, evaluate_every=0), ["evaluate_every"], masks=False, teacher=True, aux_head=True)
