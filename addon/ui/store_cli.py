"""``./run.sh store …``: looks at the store, and tidies it, while no proxy runs or beside one."""

import argparse
import json
import sys
from collections.abc import Iterable
from typing import Any

from mitmproxy.utils import human
from rich.console import Console
from rich.table import Table

from addon.registry.digest import Digest
from addon.registry.reference import Reference
from addon.settings import Settings
from addon.store.disk import Store
from addon.store.room import Limits
from addon.ui import listing
from addon.ui.listing import counted
from addon.ui.terminal import bars, console, show

_MOST_SHOWN = 20
_FOLDED = ("IMAGE", "REPOSITORIES")


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the words of the command."""
    store = commands.add_parser("store", help="look at the store, and tidy it", allow_abbrev=False)
    actions = store.add_subparsers(dest="action", required=True, metavar="ACTION")
    ls = actions.add_parser("ls", help="list images, or blobs", allow_abbrev=False)
    ls.add_argument("--blobs", action="store_true", help="list blobs, those first that were not used for longest")
    ls.add_argument("--json", action="store_true", help="both, as JSON; sizes in bytes, times by RFC 3339")
    verify = actions.add_parser("verify", help="compare blobs with their digests", allow_abbrev=False)
    verify.add_argument("names", nargs="*", metavar="IMAGE|DIGEST", help="only these; default: everything")
    gc = actions.add_parser(
        "gc",
        help="remove what is of no use: rests of broken fills, bad blobs, and what is over the limits",
        allow_abbrev=False,
    )
    gc.add_argument("--to", metavar="SIZE", help="make the store so small (50g), what is of least use first")
    gc.add_argument("--unreferenced", action="store_true", help="also blobs that no known image names")
    rm = actions.add_parser("rm", help="remove images or blobs", allow_abbrev=False)
    rm.add_argument("names", nargs="+", metavar="IMAGE|DIGEST")
    for each in (gc, rm):
        each.add_argument("--yes", action="store_true", help="do not ask")
    stats = actions.add_parser("stats", help="what is stored, and what it was good for", allow_abbrev=False)
    stats.add_argument("--json", action="store_true", help="as JSON; sizes in bytes")
    for name, text in (("pin", "keep images, whatever else goes to make room"), ("unpin", "let them go again")):
        pin = actions.add_parser(name, help=text, allow_abbrev=False)
        pin.add_argument("names", nargs="+", metavar="IMAGE")


def run(chosen: argparse.Namespace, settings: Settings) -> int:
    """Carry the command out.

    Args:
        chosen: its words.
        settings: those of the proxy.

    Returns:
        The exit status.

    Raises:
        ValueError: a word means nothing.
        StoreError: the store cannot be used.
        OSError: the disk failed.
    """
    out = console()
    store = Store(settings.store, Limits(settings.max_size, settings.min_free))
    try:
        store.reconcile()
        match chosen.action:
            case "ls":
                return _ls(store, out, blobs=chosen.blobs, as_json=chosen.json)
            case "verify":
                return _verify(store, out, chosen.names)
            case "gc":
                return _gc(store, out, chosen)
            case "rm":
                return _rm(store, out, chosen)
            case "stats":
                return _stats(store, out, settings, as_json=chosen.json)
            case _:
                return _pin(store, out, chosen.names, pin=chosen.action == "pin")
    finally:
        store.close()


def _ls(store: Store, out: Console, *, blobs: bool, as_json: bool) -> int:
    if as_json:
        _json(
            {
                "store": str(store.root),
                "images": [image.fields() for image in listing.images(store)],
                "blobs": [blob.fields() for blob in listing.blobs(store)],
            }
        )
        return 0
    if blobs:
        table = _table("DIGEST", "SIZE>", "LAST USED", "USES>", "REPOSITORIES")
        for blob in listing.blobs(store):
            entry = blob.entry
            names = ", ".join(blob.repositories) or "-"
            table.add_row(entry.digest.short, listing.size(entry.size), listing.ago(entry.used), str(entry.uses), names)
    else:
        table = _table("IMAGE", "PLATFORM", "STORED", "SIZE>", "LAST USED", "")
        for image in listing.images(store):
            table.add_row(*listing.row(image))
    show(out, table)
    entries = store.inventory.entries()
    total = listing.size(sum(entry.size for entry in entries))
    out.print(f"{counted(len(entries), 'blob')}, {total} in {store.root}")
    return 0


def _verify(store: Store, out: Console, names: list[str]) -> int:
    chosen = listing.digests(store, names)
    bad, unread, gone = list[Digest](), list[str](), 0
    with bars(out) as progress:
        task = progress.add_task("verify", total=store.inventory.size_of(chosen))
        for digest in chosen:
            try:
                good = store.verify(digest, lambda count: progress.advance(task, count))
            except OSError as e:
                unread.append(f"{digest} cannot be read: {e.strerror or e}")
                continue
            # What a proxy beside this removes meanwhile, to make room, is not bad.
            gone += good is None
            if good is False and not store.path(digest).exists():
                bad.append(digest)
    store.write_index()
    for digest in bad:
        out.print(f"bad: {digest}; it went to {store.layout.quarantine}, and is fetched anew by the next pull")
    for line in unread:
        out.print(line)
    out.print(listing.verified(len(chosen) - len(bad) - len(unread) - gone, len(bad) + len(unread), gone))
    return 1 if bad or unread else 0


def _gc(store: Store, out: Console, chosen: argparse.Namespace) -> int:
    to = None if chosen.to is None else _parsed(chosen.to)
    plan = listing.waste(store, to, unreferenced=chosen.unreferenced)
    if not plan.lines():
        out.print("There is nothing to remove.")
        return 0
    if not _agreed(out, plan.lines(), yes=chosen.yes):
        return 1
    before, after = listing.collect(store, plan)
    gone = listing.size(max(0, before - after))
    out.print(f"{gone} went; {listing.size(after)} are in {store.root}")
    return 0


def _rm(store: Store, out: Console, chosen: argparse.Namespace) -> int:
    plan = listing.removal(store, chosen.names)
    lines = [f"{image.name} ({image.descriptor.digest.short})" for image in plan.images]
    lines += _some(f"blob {entry.digest.short}, {listing.size(entry.size)}" for entry in plan.blobs)
    lines.append(f"together {counted(len(plan.blobs), 'blob')}, {listing.size(plan.size)}")
    if plan.shared:
        lines.append(f"({counted(plan.shared, 'blob')} more will stay, since other images have them, too)")
    if not _agreed(out, lines, yes=chosen.yes):
        return 1
    stayed = listing.remove(store, plan)
    for entry in stayed:
        out.print(f"blob {entry.digest.short} stays: it is being read just now")
    size = plan.size - sum(entry.size for entry in stayed)
    out.print(f"{counted(len(plan.blobs) - len(stayed), 'blob')}, {listing.size(size)} went")
    return 1 if stayed else 0


def _stats(store: Store, out: Console, settings: Settings, *, as_json: bool) -> int:
    numbers = listing.stats(store)
    if as_json:
        _json({"store": str(settings.store), **numbers})
        return 0
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row("store", str(settings.store))
    for row in listing.stats_lines(numbers):
        table.add_row(*row)
    show(out, table)
    return 0


def _pin(store: Store, out: Console, names: list[str], *, pin: bool) -> int:
    status = 0
    for wanted in [Reference.parse(name) for name in names]:
        if pin:
            store.images.pin(wanted)
            known = store.images.find(wanted)
            out.print(
                f"{wanted} is pinned" + ("" if known else "; it has not been pulled yet: ./run.sh warm fetches it")
            )
        elif store.images.unpin(wanted):
            out.print(f"{wanted} may go again")
        else:
            out.print(f"{wanted} was not pinned")
            status = 1
    return status


def _agreed(out: Console, lines: Iterable[str], *, yes: bool) -> bool:
    """Whether the person wants this to be removed.

    Raises:
        ValueError: there is nobody to ask.
    """
    out.print("This is removed:")
    for line in lines:
        out.print(f"  {line}")
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ValueError("nothing was removed: there is no terminal to ask at; add --yes to go on without asking")
    try:
        answer = out.input("Go on? [y/N] ", markup=False)
    except EOFError:
        answer = ""
        out.print()
    if answer.strip().lower() in ("y", "yes"):
        return True
    out.print("Nothing was removed.")
    return False


def _some(lines: Iterable[str]) -> list[str]:
    every = list(lines)
    more = [f"... and {len(every) - _MOST_SHOWN} more"] if len(every) > _MOST_SHOWN else []
    return every[:_MOST_SHOWN] + more


def _table(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        right, folded = head.endswith(">"), head in _FOLDED
        table.add_column(
            head.removesuffix(">"), justify="right" if right else "left", overflow="fold", no_wrap=not folded
        )
    return table


def _json(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content, indent=2) + "\n")
    # What cannot be written is to be told as long as there is somebody to tell it.
    sys.stdout.flush()


def _parsed(text: str) -> int:
    try:
        size = human.parse_size(text)
    except ValueError:
        size = None
    if size is None or size < 0:
        raise ValueError(f"{text!r} is no size; write 50g, or 500m")
    return size
