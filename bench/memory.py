"""Memory: a crowd with slow readers, and a disk that is slower than the network."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.programs import Missing, need, run
from bench.sides import Pulltap
from bench.stage import MIB, Stage
from bench.table import OURS, Goal, Row

_BOUND = Goal(200.0 * MIB, alone=True, factor=1 / MIB)
_V1 = Path("/sys/fs/cgroup/blkio")
_V2 = Path("/sys/fs/cgroup")


def memory(stage: Stage) -> list[Row]:
    """50 clients at once on a large blob that is not there, ten of them slow."""
    row = Row("peak memory, 50 clients, 10 of them slow, cold", "MiB", _BOUND, 1 / MIB)
    row.note = "the slow ones stop when the fast ones are done"
    blob = stage.blobs.blob(stage.sizes.large)
    pulltap = Pulltap(stage.ground, stage.origin)
    try:
        rate = stage.sizes.slow_rate
        stage.load(pulltap.where, [blob.path], clients=50, slow=10, slow_rate=rate, hit=None)
        row.add(OURS, pulltap.program.peak())
    finally:
        pulltap.stop()
    return [row]


def slow_disk(stage: Stage) -> list[Row]:
    """One client, one large blob that is not there, a disk that writes 50 MB/s."""
    row = Row("peak memory, fill with a slow disk", "MiB", _BOUND, 1 / MIB)
    rate = Row("the same, throughput", "MB/s", None, 1e-6)
    blob = stage.blobs.blob(stage.sizes.large)
    try:
        with _slow_disk(stage.folder, blob.size + 256 * MIB, 50_000_000) as (folder, group):
            pulltap = Pulltap(stage.ground, stage.origin, store=folder / "store")
            try:
                (group / "cgroup.procs").write_text(str(pulltap.program.pid))
                rate.add(OURS, stage.load(pulltap.where, [blob.path], hit=False).rate)
                row.add(OURS, pulltap.program.peak())
            finally:
                pulltap.stop()
    except Missing as e:
        row.missing.append(f"a slow disk ({e})")
        return [row]
    return [row, rate]


@contextmanager
def _slow_disk(folder: Path, size: int, rate: int) -> Iterator[tuple[Path, Path]]:
    """A file system on a loop device that writes `rate` bytes a second, and the cgroup to which that applies.

    It is mounted with ``sync``, so that each write takes as long as the disk does; else it would take as long as a copy
    to the page cache, and only the last fsync would be slow.
    """
    if os.geteuid() != 0:
        raise Missing("needs root, for a loop device and a cgroup")
    losetup, mkfs, mount, umount = need("losetup"), need("mkfs.ext4"), need("mount"), need("umount")
    image, point = folder / "disk.img", folder / "disk"
    with image.open("wb") as file:
        file.truncate(size)
    run([mkfs, "-q", "-F", str(image)])
    point.mkdir()
    try:
        device = run([losetup, "--find", "--show", str(image)]).strip()
    except Exception as e:
        raise Missing("no loop device is to be had") from e
    try:
        run([mount, "-o", "sync", device, str(point)])
        try:
            number = Path(f"/sys/block/{Path(device).name}/dev").read_text().strip()
            with _throttled(number, rate) as group:
                yield point, group
        finally:
            run([umount, str(point)])
    finally:
        run([losetup, "--detach", device])


@contextmanager
def _throttled(device: str, rate: int) -> Iterator[Path]:
    group = (_V1 if _V1.is_dir() else _V2) / f"pulltap-bench-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as e:
        raise Missing(f"no cgroup can be made: {e.strerror}") from e
    try:
        try:
            if _V1.is_dir():
                (group / "blkio.throttle.write_bps_device").write_text(f"{device} {rate}")
            else:
                (group / "io.max").write_text(f"{device} wbps={rate}")
        except OSError as e:
            raise Missing(f"no cgroup limits a disk here: {e.strerror}") from e
        yield group
    finally:
        group.rmdir()
