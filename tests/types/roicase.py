"""A roi instance over a store of its own, with its operations called as the adapters call them; and regions to draw."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from imagecase import Case

from dvidfs.engine import Engine, repos
from dvidfs.types.base import find_file, is_shown
from dvidfs.types.roi import ROI, files, requests

_numbers = itertools.count()
SPANS = [[-1, 0, 0, 0], [0, 0, 0, 3], [0, 1, 1, 1], [0, 1, 5, 6], [1, 0, 2, 2], [3, -2, -4, -1]]


def blocks_of(spans) -> set[tuple[int, int, int]]:
    """The blocks (x, y, z) of spans."""
    return {(x, y, z) for z, y, x0, x1 in spans for x in range(x0, x1 + 1)}


@st.composite
def regions(draw, reach: int = 6) -> list[list[int]]:
    """Spans around the origin, in any order, overlapping or the same twice."""
    place = st.integers(-reach, reach)
    spans = draw(st.lists(st.tuples(place, place, place, st.integers(0, 5)), max_size=25))
    return [[z, y, x, x + more] for z, y, x, more in spans]


@dataclass(frozen=True)
class RoiCase(Case):
    """One instance, seen at version ``uuid``."""

    @staticmethod
    def new(engine: Engine, *, versioned: bool = True, **settings: str) -> RoiCase:
        name = f"region{next(_numbers)}"
        configured = ROI.configure({k.lower(): v for k, v in settings.items()})

        def make(txn):
            repo = repos.create_repo(txn, alias=name)
            node = txn.graph.version(repo.uuid)
            repos.create_instance(txn, node, "roi", name, settings=configured, versioned=versioned)
            return repo.uuid

        return RoiCase(engine, engine.write(make), name)

    def post(self, spans: Any) -> None:
        body = spans if isinstance(spans, bytes) else json.dumps(spans).encode()
        self.write(requests.post_roi, **self.read(requests.prepare_roi, body))

    def spans(self) -> list[list[int]]:
        return json.loads(self.read(requests.get_roi))

    def delete(self) -> None:
        self.write(requests.delete_roi)

    def points(self, points) -> list[bool]:
        return json.loads(self.read(requests.post_ptquery, json.dumps(points).encode()))

    def mask(self, size: str, offset: str) -> np.ndarray:
        """(z, y, x)."""
        data = self.read(requests.get_mask, "0_1_2", size, offset)
        return np.frombuffer(data, np.uint8).reshape(*map(int, reversed(size.split("_"))))

    def partition(self, batch: int, *, optimized: bool = False) -> dict[str, Any]:
        return json.loads(self.read(requests.get_partition, str(batch), optimized))

    def info(self) -> dict[str, Any]:
        return self.read(lambda view: dict(ROI.extended(view.instance, view)))

    def check(self) -> list[str]:
        assert ROI.verify is not None
        return self.read(ROI.verify)

    def listed(self) -> list[str]:
        """Names of the files that are there."""
        return [
            name
            for name, entry in files.TREE.entries.items()
            if self.read(lambda view, entry=entry: is_shown(entry, view, ()))
        ]

    def file_bytes(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        entry, _ = self.read(lambda view: find_file(files.TREE, view, [path]))
        size = self.read(entry.size)
        data = bytes(self.read(entry.read, offset, size if length is None else length))
        assert len(data) == (size if length is None else max(0, min(length, size - offset)))
        return data
