"""The command `pspnet-zoo publish`."""

import io
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ..model_source import Folder, parse_weights
from ..storage.errors import WeightsError
from ..zoo.registry import BUNDLED, CHECKPOINTS, Checkpoint
from .terminal import complain, err, say


def publish(
    model: Annotated[str | None, typer.Argument(metavar="NAME_OR_PATH", help="Checkpoint of the zoo, or its folder.")] = None,
    to: Annotated[
        str | None,
        typer.Option(show_default="the zoo's own organisation", help="ORG or ORG/REPO on the Hub."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show what would be published; send nothing.")] = False,
    example: Annotated[Path | None, typer.Option(help="Photo whose prediction goes into the model card.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Publish every checkpoint of the zoo that is on this machine.")] = False,
) -> None:
    """Publish a checkpoint on the Hugging Face Hub.

    Weights, config and model card go into one commit, which is read back afterwards.

    It takes the token of 'hf auth login', or HF_TOKEN. An unchanged repository is left alone.
    """
    from ..storage.hub import namespace

    if all_ == (model is not None):
        raise ValueError("Give one checkpoint to publish, or --all")
    to = to or namespace()
    if all_ and "/" in to:
        raise ValueError(f"--to is '{to}'; with --all it is an organisation, without a repository")
    entries = [entry for entry in CHECKPOINTS if _is_local(entry)] if all_ else [None]
    failures = 0
    for entry in entries:
        try:
            _publish_one(entry.name if entry else str(model), to, private, dry_run, example)
        except (WeightsError, OSError) as error:
            if not all_:
                raise
            complain(error)
            failures += 1
    if not entries:
        raise ValueError("No weights of the zoo are on this machine; load some by pspnet_zoo.create(NAME) first")
    if failures:
        say(f"{failures} of {len(entries)} were not published; run the same command again for them", err)
        raise typer.Exit(2)


def _is_local(entry: Checkpoint) -> bool:
    from ..upstream.cache import is_cached

    return (BUNDLED / entry.folder).is_dir() if entry.folder else entry.upstream is not None and is_cached(entry)


def _publish_one(model: str, to: str, private: bool, dry_run: bool, photo: Path | None) -> None:
    from ..factory import fetch
    from ..models.pspnet import PSPNet
    from ..storage.publish import CARD_FILE, check_repo, push, stage

    found = parse_weights(model)
    if not isinstance(found, Checkpoint | Folder):
        raise ValueError(f"'{model}' is no checkpoint of the zoo and no folder; these can be published")
    entry = found if isinstance(found, Checkpoint) else None
    source = found.path if isinstance(found, Folder) else fetch(found)
    repo = to if "/" in to else f"{to}/{entry.name if entry else source.resolve().name}"
    check_repo(repo)
    image = None if photo is None else _example(source, photo)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        stage(
            source,
            folder,
            repo,
            load=PSPNet.from_pretrained,
            license=entry.license if entry else None,
            metrics=entry.metrics if entry else (),
            example=image,
        )
        for path in sorted(folder.iterdir()):
            say(f"{path.stat().st_size:>12,}  {path.name}")
        if dry_run:
            say((folder / CARD_FILE).read_text(encoding="utf-8"))
            say(f"Would be published as {repo}; nothing was sent")
            return
        done = push(folder, repo, private=private, commit_message=f"Publish {repo.partition('/')[2]}")
    say(f"{'Published' if done.is_new else 'Unchanged'}: {done.url}")
    say(f"Read back and compared. Its entry in pspnet_zoo/zoo/copies.py:\n    {done.row}")


def _example(source: Path, photo: Path) -> bytes:
    from ..inference.predictor import Predictor

    buffer = io.BytesIO()
    Predictor(source)(photo).overlay(legend=True).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
