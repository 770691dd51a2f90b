"""Volumes that live elsewhere, made by tensorstore in a folder, and a file server on loopback that can be stopped and started.

Decides how a test's remote volumes are written; what is read of them is the tests' own. Invariant: a server has let go of
its port and of all connections when it is stopped.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 1,
    "minishard_bits": 1,
    "shard_bits": 1,
    "hash": "identity",
    "data_encoding": "gzip",
    "minishard_index_encoding": "gzip",
}


def smooth(shape: tuple[int, ...], dtype: Any = np.uint8, seed: int = 0) -> NDArray:
    """Voxels (z, y, x) or (z, y, x, channels) that JPEG does not spoil, unlike along each axis."""
    grid = np.indices(shape, np.int64)
    wave = sum((axis * (3 + 2 * i) + seed * 17 for i, axis in enumerate(grid)), np.zeros(shape, np.int64))
    return (wave % 251).astype(dtype)


def precomputed(folder: Path, *scales: NDArray, **options: Any) -> str:
    """Write scales of voxels (z, y, x[, channels]) as precomputed; the text of ``GridStore`` that names them.

    Options: ``encoding``, ``chunk``, ``offset``, ``resolution``, ``sharded``.
    """
    for level, voxels in enumerate(scales):
        channels = voxels.shape[3] if voxels.ndim == 4 else 1
        scale = {
            "size": list(voxels.shape[2::-1]),
            "encoding": options.get("encoding", "raw"),
            "chunk_size": list(options.get("chunk", (32, 32, 32))),
            "voxel_offset": [o >> level for o in options.get("offset", (0, 0, 0))],
            "resolution": [r * 2**level for r in options.get("resolution", (4, 4, 40))],
        }
        if options.get("sharded"):
            scale["sharding"] = SHARDING
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{folder}/"},
            "multiscale_metadata": {"type": "image", "data_type": voxels.dtype.name, "num_channels": channels},
            "scale_metadata": scale,
        }
        store = ts.open(spec, create=True, open=True).result()
        store[...].write(np.moveaxis(voxels.reshape(*voxels.shape[:3], channels), (0, 1, 2), (2, 1, 0))).result()
    return f"precomputed://{folder.as_uri()}"


def array(folder: Path, driver: str, voxels: NDArray, chunk: Sequence[int], **options: Any) -> None:
    """Write one array as ``zarr``, ``zarr3`` or ``n5``; axes and ``chunk`` as in ``voxels``, for n5 turned round."""
    turned = voxels.T if driver == "n5" else voxels
    layout: dict[str, Any] = {"read_chunk_shape": list(reversed(chunk)) if driver == "n5" else list(chunk)}
    if "shard" in options:
        layout["write_chunk_shape"] = list(options.pop("shard"))
    store = ts.open(
        {"driver": driver, "kvstore": {"driver": "file", "path": f"{folder}/"}},
        create=True,
        dtype=turned.dtype,
        shape=turned.shape,
        chunk_layout=ts.ChunkLayout(**layout),
        **options,
    ).result()
    store[...].write(turned).result()


def ome(folder: Path, version: str, *scales: NDArray, **options: Any) -> str:
    """Write an OME-Zarr of version 0.4 or 0.5 with the axes t, z, y, x: micrometers, the first voxel at ``offset`` (z, y, x)."""
    driver, offset = ("zarr3" if version == "0.5" else "zarr"), options.get("offset", (0, 0, 0))
    datasets = []
    for level, voxels in enumerate(scales):
        array(folder / str(level), driver, voxels[None], (1, 16, 16, 16))
        size = [0.04 * 2**level, 0.008 * 2**level, 0.008 * 2**level]
        shift = [a * b for a, b in zip((0.04, 0.008, 0.008), offset, strict=True)]
        steps = [{"type": "scale", "scale": [1.0, *size]}, {"type": "translation", "translation": [0.0, *shift]}]
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    axes = [{"name": "t", "type": "time"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "zyx")]
    image = {"version": version, "axes": axes, "datasets": datasets}
    if driver == "zarr3":
        attributes = {"ome": {"version": "0.5", "multiscales": [image]}}
        text = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes})
        (folder / "zarr.json").write_text(text)
    else:
        (folder / ".zgroup").write_text('{"zarr_format": 2}')
        (folder / ".zattrs").write_text(json.dumps({"multiscales": [image]}))
    return f"zarr://{folder.as_uri()}"


# -- a file server -------------------------------------------------------------------------------------------------


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def send_head(self) -> Any:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self._answer(404, b"")
            return None
        data, size = path.read_bytes(), path.stat().st_size
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            self._answer(200, data)
            return None
        first = int(match[1]) if match[1] else size - int(match[2])
        last = min(int(match[2]), size - 1) if match[1] and match[2] else size - 1
        self._answer(206, data[first : last + 1], ("Content-Range", f"bytes {first}-{last}/{size}"))
        return None

    def _answer(self, status: int, data: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Length", str(len(data))), ("Accept-Ranges", "bytes"), *headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], folder: Path) -> None:
        super().__init__(address, functools.partial(_Handler, directory=str(folder)))
        self.asked: list[str] = []
        self.connections: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a connection that was cut


class FileServer:
    """Serves a folder on loopback, with byte ranges; the port stays the same when it is started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self.asked: list[str] = []
        self._server: _Server | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self.port), self.folder)
        self._server.asked = self.asked
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), name="file server", daemon=True).start()

    def stop(self) -> None:
        """Nobody listens any more, and whoever was connected is cut."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        for connection in server.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


@contextlib.contextmanager
def file_server(folder: Path) -> Iterator[FileServer]:
    running = FileServer(folder)
    try:
        yield running
    finally:
        running.stop()
