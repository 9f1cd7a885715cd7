"""Checkpoints onto the Hub: staged, checked, sent in one commit, and read back."""

import json
import logging
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..meta import Metric
from .card import EXAMPLE_FILE, LICENSE_FILE, check_card, license_text, model_card
from .files import CONFIG_FILE, WEIGHTS_FILE, WeightsError, file_digest, weights_digest, write_atomically
from .hub import digest_as, digests, hub_api, retried
from .hub_errors import explained, is_passing

CARD_FILE = "README.md"
REPORT_FILE = "report.json"
_OPTIONAL_FILES = (REPORT_FILE, LICENSE_FILE, EXAMPLE_FILE)

_PAUSES = (1.0, 3.0, 9.0)  # seconds before another attempt at a commit, which the client does not repeat

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """A checkpoint on the Hub."""

    repo: str
    commit: str
    url: str
    """Address of the commit, for a browser."""
    sha256: str
    """sha256 of `model.safetensors`."""
    size: int
    """Size of `model.safetensors`, in bytes."""
    is_new: bool
    """False if the repository had exactly these files already; no commit was made."""

    @property
    def row(self) -> str:
        """The row of `pspnet_zoo/zoo/copies.py`, as Python."""
        name = self.repo.partition("/")[2]
        return f'"{name}": HubCopy(repo="{name}", revision="{self.commit}", sha256="{self.sha256}", size={self.size}),'


def stage(
    source: Path,
    folder: Path,
    repo: str,
    *,
    load: Callable[[Path], Any],
    license: str | None = None,
    metrics: Sequence[Metric] = (),
    example: bytes | None = None,
) -> None:
    """Make the folder that `push` sends: the checkpoint byte for byte, its card, and what else there is.

    That is `report.json`, an example, and `LICENSE.md` where the Hub has no name for the licence.

    Args:
        source: Folder of a checkpoint. Its `report.json`, from `pspnet-zoo evaluate --json`, gives measured numbers.
        folder: Made if it does not exist.
        repo: "org/name", for the card.
        load: Makes the network of a checkpoint's folder, strictly and in evaluation mode.
        license: Of the weights; None takes it from their provenance.
        metrics: Of the weights; those that their provenance lists are added.
        example: A JPEG of a photo and its segmentation.

    Raises:
        WeightsError: If the checkpoint does not load strictly, gives NaN or Inf, its report is of other weights, other classes or
            another threshold, or the card cannot be read.
        OSError: If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS_FILE, CONFIG_FILE, REPORT_FILE):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    model = load(folder)
    with torch.inference_mode():
        outputs = model(torch.zeros(1, model.config["in_channels"], 64, 64))
    if not all(output.isfinite().all() for output in (outputs if isinstance(outputs, tuple) else (outputs,))):
        raise WeightsError(f"The network in '{source}' gives NaN or Inf; it is not published. Train it again")
    if example is not None:
        write_atomically(folder / EXAMPLE_FILE, example)
    provenance = model.provenance or {}
    license = license or inherited_license(provenance)
    if (terms := license_text(license, provenance)) is not None:
        write_atomically(folder / LICENSE_FILE, terms.encode())
    sha256 = file_digest(folder / WEIGHTS_FILE, "sha256")
    report = _read_report(source / REPORT_FILE)
    # of a file in half precision, the network in float32 is what was measured
    if report and report["weights_sha256"] not in (sha256, weights_digest(model.state_dict())):
        raise WeightsError(
            f"'{source / REPORT_FILE}' was measured with other weights than those beside it. Measure them again with "
            "pspnet-zoo evaluate --json, or remove the report"
        )
    if report:
        _check_report(report, source / REPORT_FILE, model)
    numbers = dict.fromkeys([*metrics, *_recorded(provenance), *_measured(report)])
    card = model_card(
        model,
        repo,
        sha256=sha256,
        license=license,
        metrics=list(numbers),
        has_example=example is not None,
    )
    check_card(card)
    write_atomically(folder / CARD_FILE, card.encode())


def inherited_license(provenance: Mapping[str, Any] | None) -> str | None:
    """The licence of weights: their own, or else that of the weights they started from or of their teachers."""
    if not provenance:
        return None
    if own := provenance.get("license"):
        return own
    teachers = (provenance.get("teachers") or {}).get("networks", ())
    sources = [provenance.get("start_provenance"), *(network.get("provenance") for network in teachers)]
    found = dict.fromkeys(filter(None, map(inherited_license, sources)))
    return "; ".join(found) or None


def check_repo(repo: str) -> None:
    """Raise a ValueError unless a name is "org/name" in what the Hub allows."""
    if not re.fullmatch(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", repo, re.ASCII):
        raise ValueError(f"The repository is '{repo}'; write it as 'organisation/name', in letters, digits, '.', '_' and '-'")


def push(
    folder: Path, repo: str, *, private: bool = False, token: str | None = None, commit_message: str = "Publish the checkpoint"
) -> Published:
    """Send the files of a folder that differ from the repository's, in one commit, and read them back.

    A report, a licence and an example of an earlier publication that the folder does not have are deleted by that commit.

    Args:
        folder: From `stage`.
        repo: "org/name"; made if it is not there.
        private: Only for a repository that is made.
        token: That may write; None takes the one that is logged in.
        commit_message: First line of the commit.

    Raises:
        WeightsError: If the Hub refuses, someone else commits meanwhile (nothing is published then), or it gives back other bytes.
        ValueError: If `repo` is not "org/name".
    """
    check_repo(repo)
    api = hub_api(token)
    with explained(f"'{repo}'", token):
        retried(lambda: api.create_repo(repo, private=private, exist_ok=True))
    info, there = digests(repo, "main", token)
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    changed = [path for path in paths if not _is_there(path, there)]
    stale = [name for name in _OPTIONAL_FILES if name in there and not (folder / name).is_file()]
    commit = _commit(api, repo, changed, stale, info.sha, token, commit_message, _PAUSES) if changed or stale else info.sha
    _read_back(api if info.private or info.gated else hub_api(False), repo, commit, folder, token)
    weights = folder / WEIGHTS_FILE
    return Published(
        repo=repo,
        commit=commit,
        url=f"{api.endpoint}/{repo}/commit/{commit}",
        sha256=file_digest(weights, "sha256"),
        size=weights.stat().st_size,
        is_new=bool(changed or stale),
    )


def _recorded(provenance: dict[str, Any]) -> list[Metric]:
    """Numbers that the upstream claims, as conversion recorded them."""
    try:
        metrics = [Metric(**entry) for entry in provenance.get("metrics", ())]
        for metric in metrics:
            str(metric)  # a value that is no number
        return metrics
    except (TypeError, ValueError) as error:
        raise WeightsError(f"The provenance in {CONFIG_FILE} has 'metrics' of another kind ({error}). Remove them") from None


def _read_report(path: Path) -> dict[str, Any] | None:
    """The report of `pspnet-zoo evaluate --json`; None where there is none."""
    if not path.is_file():
        return None
    try:
        report = json.loads(path.read_bytes())
        for key, kind in _REPORT.items():
            if not isinstance(report[key], kind):
                raise TypeError(f"{key} is a {type(report[key]).__name__}")
        len(report["protocol_settings"]["scales"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"'{path}' is not of pspnet-zoo evaluate --json ({error!r}). Make it anew or remove it") from None
    if report["miou"] is None:
        raise WeightsError(f"'{path}' has no mIoU, since its split has no pixel of any class. Measure on another, or remove it")
    return report


def _check_report(report: Mapping[str, Any], path: Path, model: Any) -> None:
    """Refuse numbers of these weights that are not of the checkpoint as it predicts now. Older reports lack some of the keys."""
    wrong = None
    threshold = list(model.threshold) if isinstance(model.threshold, tuple) else model.threshold
    if report.get("mapping") is not None:
        wrong = "was measured with --mapping, so its numbers are not of the checkpoint's own classes"
    elif report.get("threshold", threshold) != threshold:
        wrong = f"was measured with the threshold {report['threshold']}, and {CONFIG_FILE} has {threshold}"
    elif model.labels and isinstance(report.get("iou"), dict):
        names, own = list(report["iou"]), list(model.labels.names)
        if names != own and not (len(own) == 1 and names[1:] == own):  # the background of a binary network has any name
            wrong = f"has the classes {', '.join(names)}, and the checkpoint {', '.join(own)}"
    if wrong:
        raise WeightsError(f"'{path}' {wrong}. Measure again with pspnet-zoo evaluate --json, or remove the report")


_REPORT = {"weights_sha256": str, "dataset": str, "split": str, "protocol": str, "protocol_settings": dict}
_REPORT |= {"miou": int | float | None, "pixel_accuracy": int | float}


def _measured(report: dict[str, Any] | None) -> list[Metric]:
    if report is None:
        return []
    multi_scale = len(report["protocol_settings"]["scales"]) > 1
    where = (report["dataset"], report["split"], report["protocol"], "measured", multi_scale)
    return [Metric(name, report[name], *where) for name in ("miou", "pixel_accuracy")]


def _is_there(path: Path, there: dict[str, str]) -> bool:
    digest = there.get(path.name)
    return digest is not None and digest_as(path, digest) == digest


def _commit(
    api: Any,
    repo: str,
    paths: Sequence[Path],
    stale: Sequence[str],
    parent: str,
    token: str | None,
    message: str,
    pauses: Sequence[float],
) -> str:
    """One commit on top of `parent`. After a failure, look whether it was made nevertheless before another attempt."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations = [*(CommitOperationAdd(path.name, str(path)) for path in paths), *map(CommitOperationDelete, stale)]
    with explained(f"The commit to '{repo}'", token):
        try:
            return api.create_commit(repo, operations, commit_message=message, parent_commit=parent).oid
        except Exception as error:
            if not pauses or not is_passing(error):
                _refuse_if_moved(error, repo, parent)
                raise
            _log.warning("The commit to '%s' failed (%s); trying again in %g s", repo, type(error).__name__, pauses[0])
    time.sleep(pauses[0])
    info, there = digests(repo, "main", token)
    if info.sha == parent:
        return _commit(api, repo, paths, stale, parent, token, message, pauses[1:])
    if all(_is_there(path, there) for path in paths) and not any(name in there for name in stale):
        return info.sha  # the commit was made, and its answer was lost
    raise WeightsError(_moved(repo, parent))


def _refuse_if_moved(error: Exception, repo: str, parent: str) -> None:
    response = getattr(error, "response", None)
    if response is not None and response.status_code == 412:
        raise WeightsError(_moved(repo, parent)) from None


def _moved(repo: str, parent: str) -> str:
    return f"Someone else committed to '{repo}' after {parent}, so nothing was published. Look at what changed, then publish again"


def _read_back(api: Any, repo: str, commit: str, folder: Path, token: str | None) -> None:
    """Compare what the Hub gives at the commit with what was sent."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        with tempfile.TemporaryDirectory() as cache, explained(f"'{name}' of '{repo}' at '{commit}'", token):
            got = Path(retried(lambda n=name, c=cache: api.hf_hub_download(repo, n, revision=commit, cache_dir=c)))
            if file_digest(got, "sha256") != file_digest(folder / name, "sha256"):
                raise WeightsError(
                    f"The Hub gives other bytes for '{name}' of '{repo}' at {commit} than were sent. "
                    "Do not use that commit; publish again"
                )
