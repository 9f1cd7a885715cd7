"""Recipes are complete, possible, and documented as they are."""

from dataclasses import replace
from pathlib import Path

import pytest

from pspnet_zoo import create
from pspnet_zoo.data.layouts import LAYOUTS
from pspnet_zoo.training.recipes import RECIPES, Recipe
from pspnet_zoo.zoo.registry import find
from tools.recipes_page import markdown_page

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "recipes.md"
RECIPE = Recipe(iterations=6, batch_size=2, crop=(32, 48), lr=0.01)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_followed(name):
    named = RECIPES[name]
    assert named.dataset in LAYOUTS and named.recipe.batch_size % named.processes == 0
    assert create(named.model, aux_head=True, **named.network).auxiliary_head is not None
    for checkpoint in named.checkpoints:
        assert find(checkpoint).metrics


def test_the_page_in_the_docs_is_up_to_date():
    assert PAGE.read_text() == markdown_page(), "run: python -m tools.recipes_page > docs/reference/recipes.md"


@pytest.mark.parametrize("field", ["iterations", "batch_size", "lr", "checkpoint_every", "accumulation", "crop", "scale"])
def test_a_recipe_refuses_what_is_not_positive(field):
    with pytest.raises(ValueError, match=f"{field} is"):
        replace(RECIPE, **{field: (0, 32) if field in ("crop", "scale") else 0})


@pytest.mark.parametrize("field", ["ema_decay", "ohem_threshold", "blur"])
def test_a_recipe_refuses_what_is_no_fraction(field):
    with pytest.raises(ValueError, match=f"{field} is 1.5; it must be between 0 and 1"):
        replace(RECIPE, **{field: 1.5})
