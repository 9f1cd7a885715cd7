"""The models that a demo offers, and those that it keeps in memory."""

import threading
from collections import OrderedDict
from collections.abc import Container, Sequence
from pathlib import Path

from ..factory import fetch
from ..inference.predictor import Predictor
from ..model_source import ExportedFile, Folder, parse_weights
from ..models.pspnet import PSPNet
from ..storage.download import Progress
from ..upstream.cache import is_cached
from ..zoo.registry import CHECKPOINTS, Checkpoint

KEPT = 2
"""Models in memory at a time; the one unused for longest makes room."""
MOST_CLASSES = 255
"""Most classes of a model: the ids of the viewer have 8 bits."""


class Models:
    """The models of a demo: what its list shows, and the predictor of a choice.

    Args:
        first: Names of the zoo, folders, exported files or repositories to list first; the first of them is chosen.
        zoo: Also offer the zoo's other checkpoints, downloaded when they are chosen.

    Attributes:
        choices: (what the list shows, what visitors send) of each model. Visitors see both, so that neither is a path of this
            machine: a folder or file has its last part, with a number where that is taken.

    Raises:
        ValueError: If a name is unknown.
    """

    def __init__(self, first: Sequence[str], *, zoo: bool) -> None:
        entries = {entry.name: entry for entry in CHECKPOINTS if _is_offered(entry)}
        self._sources: dict[str, Checkpoint | str] = {}
        for name, found in {name: parse_weights(name) for name in first}.items():
            is_path = isinstance(found, ExportedFile | Folder)
            public = found.name if isinstance(found, Checkpoint) else _public(name, self._sources) if is_path else name
            self._sources[public] = found if isinstance(found, Checkpoint) else name
        self.choices = [(_label(public, entries.get(public)), public) for public in self._sources]
        if zoo:
            others = [entry for entry in entries.values() if entry.name not in self._sources]
            others.sort(key=lambda entry: (not _is_here(entry), entry.dataset, entry.parameters))
            self.choices += [(_label(entry.name, entry), entry.name) for entry in others]
            self._sources |= {entry.name: entry for entry in others}
        self._kept: OrderedDict[str, Predictor] = OrderedDict()
        self._lock = threading.Lock()

    def public_name(self, sent: str) -> str:
        """The choice that a request means: its own word, or the choice that stands for the host's path of a model."""
        return next((public for public, source in self._sources.items() if source == sent), sent)

    def predictor(self, name: str, progress: Progress | None = None) -> Predictor:
        """The predictor of a name among the choices. Safe in threads, of which one at a time loads.

        Args:
            name: As visitors send it, see `choices`.
            progress: Called with the bytes that have come, where weights are downloaded.

        Raises:
            ValueError: If the name is not among the choices, or the network reads other images than photos.
            WeightsError: If its weights cannot be loaded.
        """
        if name not in self._sources:
            raise ValueError(f"'{name}' is not one of the models of this page")
        with self._lock:
            if name not in self._kept:
                source = self._sources[name]
                network = PSPNet.from_pretrained(fetch(source, progress=progress)) if isinstance(source, Checkpoint) else source
                self._kept[name] = page_predictor(network)
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(name)
            return self._kept[name]


def page_predictor(model: str | PSPNet) -> Predictor:
    """The predictor of a model that the page can show.

    Raises:
        ValueError: If the network reads other images than photos, is multi-label, or has more than `MOST_CLASSES`.
        WeightsError: If its weights cannot be loaded.
    """
    predictor = Predictor(model)
    predictor.require_photos("The page")
    predictor.require_one_class("The page")
    if len(predictor.labels) > MOST_CLASSES:
        raise ValueError(f"The page shows up to {MOST_CLASSES} classes, and this network has {len(predictor.labels)}")
    return predictor


def _public(path: str, taken: Container[str]) -> str:
    """The last part of a path, with a number where that is a model's already, or the zoo's."""
    name = Path(path).resolve().name
    zoo = {entry.name for entry in CHECKPOINTS}
    numbered = (name, *(f"{name} ({number})" for number in range(2, 1000)))
    return next(public for public in numbered if public not in taken and public not in zoo)


def _is_offered(entry: Checkpoint) -> bool:
    """Whether a program can have its weights, and its classes have names."""
    return entry.folder is not None or bool(
        entry.labels and (entry.hub or (entry.upstream and entry.upstream.urls and not entry.upstream.same_weights_as))
    )


def _is_here(entry: Checkpoint) -> bool:
    return entry.folder is not None or (entry.upstream is not None and is_cached(entry))


def _label(name: str, entry: Checkpoint | None) -> str:
    """An entry of the list: the name, and where the zoo knows the model, its dataset, its mIoU and its download."""
    if entry is None:
        return name
    facts = [entry.dataset]
    mious = sorted((metric for metric in entry.metrics if metric.name == "miou"), key=lambda metric: metric.multi_scale or False)
    if mious:
        facts.append(f"mIoU {100 * mious[0].value:.1f} % {mious[0].origin}")
    if not _is_here(entry):
        facts.append(f"downloads {entry.parameters * 4 / 1e6:.0f} MB")
    return f"{name} ({', '.join(facts)})"
