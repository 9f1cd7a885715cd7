"""The page of all recipes, made from them.

python -m tools.recipes_page > docs/reference/recipes.md
"""

import sys
from typing import get_args, get_type_hints

from pspnet_zoo.training.recipes import RECIPES, NamedRecipe, Recipe
from pspnet_zoo.zoo.registry import find_checkpoint

_HEAD = """# Recipes

What `pspnet-zoo train --recipe NAME` starts from; each number is also an option, and the run's folder keeps them in `recipe.json`.
`imagenet` stands for timm's weights of the encoder; each source began with its own.
This page is made from the recipes by `python -m tools.recipes_page`.

"""


def markdown_page() -> str:
    """The page of the documents: each recipe with its source, command and result, then all their numbers."""
    return _HEAD + "".join(_section(name, named) for name, named in RECIPES.items()) + _numbers()


def command(name: str) -> str:
    """The command that trains by a recipe as its source did."""
    named = RECIPES[name]
    program = f"torchrun --nproc-per-node {named.processes} -m pspnet_zoo.cli" if named.processes > 1 else "pspnet-zoo"
    start = f"--init {named.model}" if name == "finetune" else "" if name.startswith("scratch") else "--encoder-weights imagenet"
    return f"{program} train --recipe {name} --data {named.dataset.upper()} -o runs/{name} {start}".rstrip()


def _section(name: str, named: NamedRecipe) -> str:
    options = ", ".join(f"`{key}={value!r}`" for key, value in named.network.items())
    lines = [f"Source: {named.source}.", f"Network: `{named.model}`{' with ' + options if options else ''}.", ""]
    for checkpoint in named.checkpoints:
        for metric in find_checkpoint(checkpoint).metrics:
            if metric.name == "miou" and not metric.multi_scale and metric.dataset.lower() == named.dataset:
                lines.append(f"- To expect: `{checkpoint}`, {metric}")
    return f"## {name}\n\n```sh\n{command(name)}\n```\n\n" + "\n".join(lines).rstrip() + "\n\n"


def _numbers() -> str:
    lines = [f"| | {' | '.join(RECIPES)} | |", "|---|" + "---|" * len(RECIPES) + "---|"]
    for field, hint in get_type_hints(Recipe, include_extras=True).items():
        values = (getattr(named.recipe, field) for named in RECIPES.values())
        shown = (
            "x".join(map(str, v)) if field == "crop" else " to ".join(map(str, v)) if field == "scale" else str(v) for v in values
        )
        lines.append(f"| `{field}` | {' | '.join(shown)} | {get_args(hint)[1]} |")
    return "## Numbers\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown_page())
