"""The mount as a service: made ready, run, and taken away whatever ends it.

Decides what is refused before anything is mounted, what a dead mount point is healed by, and in which order things
end: no new names, buffers committed, notices stopped, the connection closed. Invariant: when :func:`serve_mount` has
returned, the mount point is an ordinary folder again and every acknowledged write is in the store.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyfuse3
import trio

from dvidfs.engine import Engine
from dvidfs.errors import BadRequest, StoreError
from dvidfs.fuse import control
from dvidfs.fuse.handles import Opens
from dvidfs.fuse.invalidate import Notices
from dvidfs.fuse.keyfiles import RowsCache
from dvidfs.fuse.made import Products
from dvidfs.fuse.nodes import Context, MountOptions
from dvidfs.fuse.operations import Operations
from dvidfs.types.base import Registry

log = logging.getLogger(__name__)

MNT_DETACH = 2
CONNECTIONS = Path("/sys/fs/fuse/connections")
COLLECTING = 20_000, 20, 100
"""When to look for garbage: a listing makes many objects that live on, and none in cycles."""
HANDLERS = 999
"""Requests that are answered at one time; one that waits for a file to be made is one of them."""


@dataclass(frozen=True)
class Mounted:
    """A line of the kernel's list of mounts: where, device number, kind, source."""

    point: str
    device: str
    kind: str
    source: str


def mounts() -> Iterator[Mounted]:
    """What is mounted now; read from the kernel's list, so that no dead mount is touched."""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        words, _, rest = line.partition(" - ")
        fields = words.split()
        kind, source, *_ = rest.split()
        yield Mounted(_unescape(fields[4]), fields[2], kind, _unescape(source))


def _unescape(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def mounted_at(point: Path) -> Mounted | None:
    """The uppermost mount at a mount point."""
    found = [m for m in mounts() if m.point == str(point)]
    return found[-1] if found else None


# -- before ------------------------------------------------------------------------------------------------------


def prepare_mountpoint(mountpoint: Path) -> Path:
    """The mount point as an absolute path, healed if a mount died there.

    Raises:
        BadRequest: it does not exist, is no folder, not empty, or something is mounted there.
        StoreError: this machine offers no FUSE.
    """
    whole = Path.cwd() / mountpoint
    point = whole.parent.resolve() / whole.name  # without a look at what may be dead
    if not Path("/dev/fuse").exists():
        raise StoreError("/dev/fuse is absent: this kernel or container offers no FUSE, so nothing can be mounted")
    _heal(point)
    found = mounted_at(point)
    if found is not None:
        whose = "a dvidfs store" if found.kind == "fuse.dvidfs" else f"something ({found.kind})"
        raise BadRequest(
            f"{point} has {whose} mounted already: `dvidfs umount {point}` first, or choose another folder"
        )
    try:
        inside = next(os.scandir(point), None)
    except FileNotFoundError:
        raise BadRequest(f"{point} does not exist: make it with `mkdir -p {point}`") from None
    except NotADirectoryError:
        raise BadRequest(f"{point} is not a folder: choose an empty folder to mount on") from None
    except OSError as e:
        raise BadRequest(f"{point} cannot be used: {e.strerror}") from None
    if inside is not None:
        raise BadRequest(f"{point} is not empty: choose an empty folder to mount on")
    return point


def _heal(point: Path) -> None:
    """Take away a mount whose process has died; every access to it fails."""
    for _ in range(8):  # one mount may lie on another
        found = mounted_at(point)
        if found is None or not found.kind.startswith("fuse") or not _is_dead(point):
            return
        log.warning("a mount died at %s: it is taken away", point)
        unmount_lazily(point)
    raise StoreError(f"a mount died at {point} and cannot be taken away: run `fusermount3 -uz {point}`")


def _is_dead(point: Path) -> bool:
    try:
        os.statvfs(point)  # never answered from the kernel's memory, as stat is
    except OSError as e:
        return e.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def unmount_lazily(point: Path) -> None:
    """Take a mount off its folder, even a busy or dead one; who has it open keeps it until the end."""
    if _fusermount("-u", "-z", str(point)):
        return
    _libc().umount2(os.fsencode(point), MNT_DETACH)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _fusermount(*words: str) -> bool:
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        return False
    done = subprocess.run([program, *words], capture_output=True, check=False, timeout=30)
    return done.returncode == 0


def fuse_options(options: MountOptions, source: str) -> set[str]:
    """Words for libfuse. Never ``default_permissions``: who may write is decided by versions, not by modes."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_./") else "_" for c in source)
    words = {f"fsname=dvidfs:{plain}", "subtype=dvidfs"}
    if options.allow_other:
        words.add("allow_other")
    if options.auto_unmount:
        words.add("auto_unmount")
    return words


# -- while -------------------------------------------------------------------------------------------------------


async def serve_mount(
    engine: Engine,
    registry: Registry,
    mountpoint: Path,
    options: MountOptions | None = None,
    *,
    task_status: trio.TaskStatus[Path] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount the store and serve it until cancelled or unmounted. Ready, when started, means that it can be used.

    On cancellation the mount is taken away (lazily if it is busy), what is still in buffers is committed, and it
    returns as after any cancellation. One mount a process: libfuse's session is global.

    Raises:
        BadRequest: the mount point cannot be used.
        StoreError: this machine, or this user, cannot mount.
    """
    options = options or MountOptions()
    point = await trio.to_thread.run_sync(prepare_mountpoint, mountpoint)
    notices = Notices()
    opens = Opens(engine, notices)
    context = Context(engine, registry, options, point, opens, RowsCache(), Products(engine))
    operations = Operations(context)
    logging.getLogger("dvidfs").addHandler(control.ERRORS)
    collecting = gc.get_threshold()
    gc.set_threshold(*COLLECTING)
    try:
        await trio.to_thread.run_sync(_mount, operations, point, fuse_options(options, engine.store.path.name))
        await _serve(context, notices, task_status)
    finally:
        gc.set_threshold(*collecting)
        logging.getLogger("dvidfs").removeHandler(control.ERRORS)


def _mount(operations: Operations, point: Path, words: set[str]) -> None:
    try:
        pyfuse3.init(operations, str(point), words)
    except RuntimeError as e:
        raise StoreError(
            f"cannot mount at {point} ({e}): a user other than root needs fusermount3 (package fuse3), write access "
            "to the folder, and user_allow_other in /etc/fuse.conf for --allow-other"
        ) from None


async def _serve(context: Context, notices: Notices, task_status: trio.TaskStatus[Path]) -> None:
    serving = trio.CancelScope(shield=True)
    clean = False
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answer, serving, nursery.cancel_scope)
            async with trio.open_nursery() as helpers:
                context.opens.nursery = helpers
                try:
                    await trio.to_thread.run_sync(_tune, context, abandon_on_cancel=True)
                    notices.start(context)
                    task_status.started(context.mountpoint)
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        clean = await _end(context, notices)
                        helpers.cancel_scope.cancel()
                        serving.cancel()
    finally:
        serving.cancel()
        if clean:
            pyfuse3.close(unmount=False)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_unmount, context.mountpoint)


async def _answer(serving: trio.CancelScope, whole: trio.CancelScope) -> None:
    """Answer the kernel until the mount is taken away, by us or by anybody."""
    with serving:
        await pyfuse3.main(max_tasks=HANDLERS)
    whole.cancel()


async def _end(context: Context, notices: Notices) -> bool:
    """No new names, everything in the store, no more notices; whether the session may be closed."""
    await trio.to_thread.run_sync(_unmount, context.mountpoint)
    for error in await context.opens.commit_all():
        log.error("at unmount a buffer could not be committed: %s", error)
    context.made.clear()
    return await trio.to_thread.run_sync(notices.stop)


def _unmount(point: Path) -> None:
    found = mounted_at(point)
    if found is not None and found.kind == "fuse.dvidfs" and not _fusermount("-u", str(point)):
        unmount_lazily(point)


def _tune(context: Context) -> None:
    """Raise the mount's read-ahead and its number of requests under way: only root may."""
    os.statvfs(context.mountpoint)  # answered, so the kernel and we have agreed on all else
    found = mounted_at(context.mountpoint)
    if found is None:
        return
    options = context.options
    connection = CONNECTIONS / found.device.split(":")[1]
    if not connection.exists() and os.geteuid() == 0:  # a container without init has nobody to mount it
        _libc().mount(b"fusectl", os.fsencode(CONNECTIONS), b"fusectl", 0, None)
    try:
        Path(f"/sys/class/bdi/{found.device}/read_ahead_kb").write_text(str(options.read_ahead_kb))
        (connection / "max_background").write_text(str(options.max_background))
        (connection / "congestion_threshold").write_text(str(options.max_background * 3 // 4))
    except OSError as e:
        log.warning("reading long files is slower than it could be: only root may raise read-ahead (%s)", e.strerror)
