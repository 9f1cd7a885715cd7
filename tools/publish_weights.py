"""Publish checkpoints of the zoo on the Hub, one at a time, and pin the copies so that `create` takes them.

    python tools/publish_weights.py list "*mmseg_cityscapes*"
    HF_TOKEN=... python tools/publish_weights.py publish pspnet_r50c.mmseg_cityscapes --to pspnet-zoo -o copies
    python tools/publish_weights.py pin copies

`list` prints the checkpoints that can be fetched and have no copy yet, as a JSON list. `publish` fetches and converts one, checks
it against its row, publishes it, reads it back, and leaves `copies/NAME.json`. `pin` writes what lies in that folder into
`pspnet_zoo/zoo/copies.py`. Each can be repeated: what is done is not done again. `.github/workflows/publish-weights.yml` runs them.
"""

import argparse
import fnmatch
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from pspnet_zoo import PSPNet
from pspnet_zoo.factory import fetch
from pspnet_zoo.storage.errors import WeightsError
from pspnet_zoo.storage.files import write_atomically
from pspnet_zoo.storage.publish import push, stage
from pspnet_zoo.zoo.copies import COPIES
from pspnet_zoo.zoo.entries import Checkpoint, HubCopy
from pspnet_zoo.zoo.registry import CHECKPOINTS, find_checkpoint

COPIES_FILE = Path(__file__).parent.parent / "pspnet_zoo" / "zoo" / "copies.py"


def main() -> None:
    """See the module; what goes wrong is one line, and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list").add_argument("pattern", nargs="?", default="*")
    publishing = commands.add_parser("publish")
    publishing.add_argument("name")
    publishing.add_argument("--to", required=True, help="organisation on the Hub")
    publishing.add_argument("-o", "--output", type=Path, required=True)
    pinning = commands.add_parser("pin")
    pinning.add_argument("folder", type=Path)
    pinning.add_argument("--file", type=Path, default=COPIES_FILE)
    options = parser.parse_args()
    try:
        if options.command == "list":
            print(json.dumps(unpublished(options.pattern)))
        elif options.command == "publish":
            print(json.dumps(publish(find_checkpoint(options.name), options.to, options.output)))
        else:
            print(f"{pin(options.folder, options.file)} copies are in {options.file}")
    except (WeightsError, ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)


def unpublished(pattern: str) -> list[str]:
    """Names of the checkpoints that a program can fetch and that have no copy on the Hub yet."""
    return [
        row.name
        for row in CHECKPOINTS
        if row.hub is None
        and fnmatch.fnmatch(row.name, pattern)
        and (row.folder or (row.upstream and row.upstream.urls and not row.upstream.same_weights_as))
    ]


def publish(row: Checkpoint, organisation: str, folder: Path) -> dict[str, str | int]:
    """Fetch, convert, check, publish; the copy's fields, which are written into the folder too.

    Raises:
        WeightsError: If a step fails, or the network is not the row's; nothing is published then.
    """
    if row.hub is not None:
        raise ValueError(f"'{row.name}' has its copy already: '{row.hub.repo}' at {row.hub.revision}")
    source = fetch(row)
    check(row, PSPNet.from_pretrained(source))
    with tempfile.TemporaryDirectory() as staged:
        repo = f"{organisation}/{row.name}"
        stage(source, Path(staged), repo, load=PSPNet.from_pretrained, license=row.license, metrics=row.metrics)
        done = push(Path(staged), repo, commit_message=f"Publish {row.name}")
    copy = HubCopy(repo=row.name, revision=done.commit, sha256=done.sha256, size=done.size)
    fields = {"name": row.name, **asdict(copy)}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{row.name}.json", (json.dumps(fields, indent=2) + "\n").encode())
    return fields


def check(row: Checkpoint, network: PSPNet) -> None:
    """That a network is the one that the row tells of.

    Raises:
        WeightsError: If it differs.
    """
    found = {
        "parameters": (sum(p.numel() for p in network.parameters()), row.parameters),
        "labels": (network.labels, row.labels),
        "preprocess": (network.preprocess, row.upstream and row.upstream.preprocess),
    }
    for name, (value, wanted) in found.items():
        if wanted is not None and value != wanted:
            raise WeightsError(f"The {name} of '{row.name}' are {value}, and its row says {wanted}; nothing was published")


def pin(folder: Path, file: Path) -> int:
    """Write the copies of a folder into the module beside those that are there; returns how many it then has.

    Raises:
        ValueError: If a file is of something else.
    """
    copies = dict(COPIES)
    for path in sorted(folder.glob("*.json")):
        try:
            fields = json.loads(path.read_bytes())
            name = find_checkpoint(fields.pop("name")).name
            copies[name] = HubCopy(**fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"'{path}' is not what 'publish' wrote: {error!r}") from None
    text = file.read_text()
    head, opening, _ = text.partition("COPIES: Mapping[str, HubCopy] = {")
    if not opening:
        raise ValueError(f"'{file}' has no 'COPIES: Mapping[str, HubCopy] = {{' to write after")
    rows = "".join(_row(name, copy) for name, copy in sorted(copies.items()))
    write_atomically(file, f"{head}{opening}{os.linesep if rows else ''}{rows}}}\n".encode())
    return len(copies)


def _row(name: str, copy: HubCopy) -> str:
    """Format Python as ruff does."""
    fields = "".join(f"        {field}={json.dumps(value)},\n" for field, value in asdict(copy).items())
    return f"    {json.dumps(name)}: HubCopy(\n{fields}    ),\n"


if __name__ == "__main__":
    main()
