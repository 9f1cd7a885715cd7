"""The commands `pspnet-zoo data ...`."""

from pathlib import Path
from typing import Annotated

import typer

from .contents import show_contents
from .data_stats import stats
from .import_data import import_data
from .terminal import LayoutOption, SectionedCommand, progress_bar

app = typer.Typer(help="Import a dataset, and look at it.", no_args_is_help=True, add_completion=False, rich_markup_mode=None)
app.command("import", cls=SectionedCommand)(import_data)
app.command()(stats)


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the dataset.")],
    dataset: LayoutOption = None,
    split: Annotated[str | None, typer.Option(help="Only this one, instead of every split that is there.")] = None,
) -> None:
    """Read a whole dataset, and name every file that is wrong.

    It shows the number and sizes of the images and the class fractions. Each error has a line, and the exit code is then 2; what
    is only doubtful is a warning.
    """
    from ..data.check import check_dataset
    from ..data.open import guess_layout

    with progress_bar() as bar:
        task = bar.add_task("reading", total=None)
        contents, problems = check_dataset(
            dataset or guess_layout(folder), folder, split, lambda done, total: bar.update(task, completed=done, total=total)
        )
    show_contents(contents, problems, split)
