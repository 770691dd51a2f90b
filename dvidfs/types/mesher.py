"""Surfaces made in a process of its own, one at a time, so that threads that serve others never wait for it.

Decides how a mask gets there and a mesh back; what a surface is, is :mod:`dvidfs.types.formats.meshes`. The process is
started at first use and ends when nobody has asked for a while. Invariant: it never outlives the process that started
it for longer than one surface takes: it ends with its input.
"""

from __future__ import annotations

import os
import select
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from dvidfs.errors import BadRequest, Busy, DvidfsError
from dvidfs.types.formats import meshes
from dvidfs.types.formats.meshes import Mesh

_ASKED = struct.Struct("<3I3d3q")
"""Shape (z, y, x), voxel size and first voxel (x, y, z); the bits of the mask follow."""
_TOLD = struct.Struct("<BQQ")
"""Whether it went well; vertices and triangles, else bytes of a text."""
WAITING = 6
"""Surfaces that may wait for each other; whoever asks for one more is sent away, so that threads remain for all else."""
IDLE = 15.0
"""Seconds without work after which the process ends."""
_NICE = 5


@cache
def available() -> bool:
    """Whether surfaces can be made at all: zmesh is installed."""
    return find_spec("zmesh") is not None


class Mesher:
    """The process; for any number of threads, which wait for each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places = threading.Semaphore(WAITING)
        self._process: subprocess.Popen[bytes] | None = None

    def mesh(
        self, mask: NDArray[np.bool_], voxel_size: tuple[float, float, float], offset: tuple[int, int, int]
    ) -> Mesh:
        """As :func:`meshes.mesh_of`.

        Raises:
            BadRequest: the mask is too large.
            Busy: :data:`WAITING` others wait already, or the process was ended from outside.
        """
        if not self._places.acquire(blocking=False):
            raise Busy(f"{WAITING} meshes are waited for already: ask again later")
        try:
            return self._next(mask, voxel_size, offset)
        finally:
            self._places.release()

    def _next(
        self, mask: NDArray[np.bool_], voxel_size: tuple[float, float, float], offset: tuple[int, int, int]
    ) -> Mesh:
        asked = _ASKED.pack(*mask.shape, *voxel_size, *offset) + np.packbits(mask).tobytes()
        with self._lock:
            try:
                return self._ask(asked)
            except _Ended:  # it had waited long enough, just as it was asked
                try:
                    return self._ask(asked)
                except _Ended:
                    raise Busy(
                        "the process that makes meshes was ended (too little memory?): ask again later"
                    ) from None

    def _ask(self, asked: bytes) -> Mesh:
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        pipes: Any = self._process
        try:
            pipes.stdin.write(asked)
            pipes.stdin.flush()
            return _mesh(pipes.stdout)
        except BadRequest:
            raise
        except (OSError, _Ended):
            self.stop()
            raise _Ended from None
        except BaseException:  # its answer, which nobody reads, must not be taken for the next one
            self.stop()
            raise

    @staticmethod
    def _start() -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", __name__]
        quiet = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        # In a session of its own, so that an interrupt from a terminal reaches only its parent.
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=quiet, start_new_session=True)

    def stop(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with suppress(OSError), process:  # closes the pipes, one of which may be broken, and waits
                pass


@cache
def mesher() -> Mesher:
    """The one of this process."""
    return Mesher()


class _Ended(Exception):
    """The other side has ended."""


def _exactly(source: IO[bytes], size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise _Ended
    return data


def _mesh(out: IO[bytes]) -> Mesh:
    well, first, second = _TOLD.unpack(_exactly(out, _TOLD.size))
    if not well:
        raise BadRequest(_exactly(out, first).decode())
    vertices = np.frombuffer(_exactly(out, 12 * first), np.float32).reshape(-1, 3)
    return Mesh(vertices, np.frombuffer(_exactly(out, 12 * second), np.uint32).reshape(-1, 3))


# ---------------------------------------------------------------- the process


def _answer(source: IO[bytes], head: bytes) -> list[Any]:
    z, y, x, *numbers = _ASKED.unpack(head)
    count = z * y * x
    bits = np.frombuffer(_exactly(source, -(-count // 8)), np.uint8)
    mask = np.unpackbits(bits, count=count).reshape(z, y, x).view(np.bool_)
    size, offset = numbers[:3], numbers[3:]
    try:
        mesh = meshes.mesh_of(mask, (size[0], size[1], size[2]), (offset[0], offset[1], offset[2]))
    except (DvidfsError, MemoryError) as error:
        text = (str(error) or "too little memory for this mesh").encode()
        return [_TOLD.pack(0, len(text), 0), text]
    return [
        _TOLD.pack(1, len(mesh.vertices), len(mesh.triangles)),
        mesh.vertices.tobytes(),
        mesh.triangles.tobytes(),
    ]


def main() -> NoReturn:
    """Meshes what comes in, until nothing comes any more."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    os.nice(_NICE)
    try:
        while select.select([source], [], [], IDLE)[0] and (head := source.read(_ASKED.size)):
            for part in _answer(source, head):
                sink.write(part)
            sink.flush()
    except (_Ended, OSError, struct.error):
        pass  # nobody is there any more
    os._exit(0)


if __name__ == "__main__":
    main()
