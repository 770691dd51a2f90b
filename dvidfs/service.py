"""A running dvidfs: one store with its background work, served over HTTP, as a mount, or both, until it is told to end.

Decides the order of birth and death: the engine's own service first and last, the faces (HTTP, mount) in between; the
readiness line once everything answers; and what goes wrong at start in one line. What is served, and how, is theirs.
Invariant: however a service ends, requests in flight are answered, the mount is taken away and the store is closed.
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from dvidfs.autoinstances import make_auto_instances
from dvidfs.config import Address, Config
from dvidfs.engine import Engine, Store, open_engine
from dvidfs.errors import DvidfsError, Unsupported
from dvidfs.types.base import Registry
from dvidfs.types.builtin import registry
from dvidfs.types.proxy import places, reach

READY = "dvidfs: ready"
NO_PYFUSE3 = (
    "mounting needs pyfuse3: pip install 'dvidfs[mount]' "
    "(on Debian after: sudo apt install fuse3 libfuse3-dev pkg-config gcc python3-dev)"
)
PERIODIC = "durability is periodic: a power cut may lose the last second of writes, or damage the file"

log = logging.getLogger("dvidfs.service")

Say = Callable[[str], None]


def run(config: Config, *, ready: Say, tell: Say, until_unmounted: bool = False) -> None:
    """Serve until SIGINT or SIGTERM, or with ``until_unmounted`` until the mount is taken away.

    ``ready`` gets the readiness line, once; ``tell`` what a person should know at start.

    Raises:
        DvidfsError: it could not start: wrong store, busy mount point, port in use.
    """
    for warning in config.warnings:
        tell(warning)
    know_grid_stores(config)
    if config.mount is not None and importlib.util.find_spec("pyfuse3") is None:
        raise Unsupported(NO_PYFUSE3)
    if config.create and not (config.store / "data.mdb").exists():
        Store.create(config.store)
        tell(f"made the store {config.store}")
    if config.durability == "periodic":
        tell(PERIODIC)
    with _pid_file(config.pid_file):
        try:
            trio.run(partial(_serve, config, ready, tell, until_unmounted))
        except BaseExceptionGroup as group:
            raise first_of(group) from group


async def _serve(config: Config, ready: Say, tell: Say, until_unmounted: bool) -> None:
    types = registry()
    with open_engine(config.store, durability=config.durability, first_mutation_id=config.min_mutation_id) as engine:
        async with trio.open_nursery() as keeper:
            await keeper.start(engine.run)
            if any(store.instance for store in config.grid_stores.values()):
                await trio.to_thread.run_sync(make_auto_instances, engine, types, config.grid_stores, tell)
            async with trio.open_nursery() as faces:
                await faces.start(_stop_on_signal, faces.cancel_scope)
                said = [READY]
                if config.mount is not None:
                    ended = faces.cancel_scope.cancel if until_unmounted else None
                    point = await faces.start(_mount, engine, types, config, ended)
                    said.append(f"mounted at {point}")
                if config.http is not None:
                    bound = await _start_http(faces, engine, types, config, tell)
                    said.append(f"http://{bound}")
                # Collections never look again at what was imported: they would stop all threads for tens of ms.
                gc.freeze()
                gc.enable()
                ready(", ".join(said))
                keeper.start_soon(_warm, engine, types)
            keeper.cancel_scope.cancel()


async def _warm(engine: Engine, types: Registry) -> None:
    """Load what the first requests would wait for, of the datatypes that the store holds."""
    with engine.read() as txn:
        used = {instance.type for repo in txn.graph.repos.values() for instance in repo.instances.values()}
    for kind in types:
        if kind.warm is not None and kind.name in used:
            await trio.to_thread.run_sync(kind.warm, abandon_on_cancel=True)


async def _stop_on_signal(scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
    """End the faces at the first signal; a second one ends the process, as if nobody had listened."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            log.info("ending: %s", signal.Signals(number).name)
            scope.cancel()
            return


# -- HTTP --------------------------------------------------------------------------------------------------------


async def _start_http(faces: trio.Nursery, engine: Engine, types: Registry, config: Config, tell: Say) -> Address:
    """Serve HTTP in the background; where it listens."""
    from dvidfs.http.server import serve_http

    assert config.http is not None
    options = http_options(config)
    if not options.loopback and not options.admin_token:
        tell(f"{config.http} can be reached from elsewhere and DVID_ADMIN_TOKEN is not set: nobody is an administrator")
    host, port = await faces.start(serve_http, engine, types, options)
    return Address(host, port)


def http_options(config: Config) -> Any:
    """What the HTTP server is told of a configuration."""
    from dvidfs.http.options import HttpOptions

    assert config.http is not None
    return HttpOptions(
        host=config.http.host,
        port=config.http.port,
        cors=config.cors,
        admin_token=config.admin_token,
        read_only=config.mode == "readonly",
        full_write=config.mode == "fullwrite",
        allow_timing=config.allow_timing,
        allow_split=config.allow_split,
        note=config.note,
        config_path=str(config.file or ""),
        config_text=config.text,
        public_host=config.host,
        request_log=config.request_log,
    )


# -- the mount ---------------------------------------------------------------------------------------------------


async def _mount(
    engine: Engine,
    types: Registry,
    config: Config,
    ended: Callable[[], None] | None,
    *,
    task_status: trio.TaskStatus[Any],
) -> None:
    """Mount until cancelled; ``ended`` is called when the mount was taken away from outside."""
    from dvidfs.fuse.mount import MountOptions, serve_mount

    assert config.mount is not None
    options = MountOptions(allow_other=config.allow_other)
    await serve_mount(engine, types, config.mount, options, task_status=task_status)
    if ended is not None:
        ended()


def know_grid_stores(config: Config) -> None:
    """Makes known the volumes that live elsewhere, and how much of them is kept in memory."""
    places.configure_stores(
        {a: places.configured_place(s.engine, s.ref, s.path) for a, s in config.grid_stores.items()}
    )
    reach.configure_cache(config.cache_mb)


# -- small things ------------------------------------------------------------------------------------------------


@contextmanager
def _pid_file(path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    path.write_text(f"{os.getpid()}\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def first_of(group: BaseExceptionGroup[Any]) -> BaseException:
    """The one error of a group that tells most: ours, then the system's, then any."""
    leaves = list(_leaves(group))
    for kind in (DvidfsError, OSError):
        for error in leaves:
            if isinstance(error, kind):
                return error
    return leaves[0]


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def set_up_logging(config: Config, *, verbose: bool) -> None:
    """Where the log goes: the configured file, else stderr."""
    logging.basicConfig(
        filename=config.logfile,
        level=logging.INFO if verbose or config.logfile is not None else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
