"""The networks that a demo offers, and those that it keeps in memory."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from ..factory import fetch
from ..inference.predictor import Predictor
from ..models.pspnet import PSPNet
from ..storage.download import Progress
from ..upstream.cache import is_cached
from ..zoo.entries import Checkpoint
from ..zoo.registry import CHECKPOINTS, find, is_checkpoint

KEPT = 2
"""Networks in memory at a time; the one unused for longest makes room."""


class Models:
    """What a demo's list of networks shows, and how a choice becomes a predictor.

    Args:
        first: Names of the zoo, folders, exported files or repositories that whoever starts the demo names; the first is chosen.
        zoo: Also offer the zoo's other checkpoints, fetched when they are chosen.

    Attributes:
        choices: (what the list shows, the name) for each network.

    Raises:
        ValueError: If a name is unknown.
    """

    def __init__(self, first: Sequence[str], *, zoo: bool) -> None:
        rows = {row.name: row for row in CHECKPOINTS if _is_offered(row)}
        names = [find(name).name if is_checkpoint(name) and not Path(name).exists() else name for name in first]
        self.choices = [(_label(name, rows.get(name)), name) for name in dict.fromkeys(names)]
        if zoo:
            others = [row for row in rows.values() if row.name not in names]
            others.sort(key=lambda row: (not _is_here(row), row.dataset, row.parameters))
            self.choices += [(_label(row.name, row), row.name) for row in others]
        self._offered = {name for _, name in self.choices}
        self._kept: OrderedDict[str, Predictor] = OrderedDict()

    def predictor(self, name: str, progress: Progress | None = None) -> Predictor:
        """The predictor of a name among the choices.

        Args:
            name: As in `choices`.
            progress: Told of bytes as they come, where weights must be fetched.

        Raises:
            ValueError: If the name is not among the choices.
            WeightsError: If its weights cannot be had.
        """
        if name not in self._offered:
            raise ValueError(f"'{name}' is not one of the networks of this page")
        if name not in self._kept:
            row = find(name) if is_checkpoint(name) and not Path(name).exists() else None
            network = name if row is None else PSPNet.from_pretrained(fetch(row, progress=progress))
            self._kept[name] = Predictor(network)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(name)
        return self._kept[name]


def _is_offered(row: Checkpoint) -> bool:
    """Whether a program can have its weights, and its classes have names."""
    return row.folder is not None or bool(
        row.labels and (row.hub or (row.upstream and row.upstream.urls and not row.upstream.twin))
    )


def _is_here(row: Checkpoint) -> bool:
    return row.folder is not None or (row.upstream is not None and is_cached(row))


def _label(name: str, row: Checkpoint | None) -> str:
    if row is None:
        return Path(name).name or name
    if _is_here(row):
        return f"{name} ({row.dataset})"
    return f"{name} ({row.dataset}, fetches about {row.parameters * 4 / 1e6:.0f} MB)"
