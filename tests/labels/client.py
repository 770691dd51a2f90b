"""A client of labels over HTTP: one thin method for each endpoint, values in and out, everything else refused.

Decides how a request is spelt and how its answer is read (through :mod:`wire`); what the answer should have been is
the model's. Invariant: an answer other than 200 is raised as :class:`Refused`, never returned as a value.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlencode

import numpy as np
import wire
from numpy.typing import NDArray
from wire import LabelIndex, Points, Voxels, Xyz


class Refused(Exception):
    """The server said no."""

    def __init__(self, request: str, status: int, text: str) -> None:
        super().__init__(f"{request}: {status} {text}")
        self.status, self.text = status, text


class Connection:
    """One kept connection to a server on this machine."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def close(self) -> None:
        self._http.close()

    def ask(self, method: str, path: str, body: Any = None, **query: Any) -> bytes:
        """The answer's body. Raises Refused unless it is 200."""
        if isinstance(body, dict | list):
            body = json.dumps(body).encode()
        told = {key: _spelt(value) for key, value in query.items() if value is not None}
        url = path + ("?" + urlencode(told) if told else "")
        self._http.request(method, url, body=body)
        answer = self._http.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise Refused(f"{method} {url}", answer.status, data.decode(errors="replace").strip())
        return data

    # -- repos and versions --------------------------------------------------------------------------------------------

    def new_repo(self) -> str:
        return json.loads(self.ask("POST", "/api/repos", {}))["root"]

    def new_instance(self, uuid: str, name: str, kind: str = "labelmap", **settings: str) -> None:
        self.ask("POST", f"/api/repo/{uuid}/instance", {"typename": kind, "dataname": name, **settings})

    def commit(self, uuid: str) -> None:
        self.ask("POST", f"/api/node/{uuid}/commit", {"note": "done"})

    def child(self, uuid: str, branch: str) -> str:
        return json.loads(self.ask("POST", f"/api/node/{uuid}/branch", {"branch": branch}))["child"]

    def merge_versions(self, parents: Sequence[str]) -> tuple[str, dict[str, Any]]:
        """The child, and the conflicts by instance: {"count", "keys"}."""
        body = {"mergeType": "conflict-free", "parents": list(parents), "note": "both"}
        answer = json.loads(self.ask("POST", f"/api/repo/{parents[0]}/merge", body))
        return answer["child"], answer["conflicts"]


def _spelt(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _place(place: Iterable[int]) -> str:
    return "_".join(map(str, place))


def _sides(shape: tuple[int, ...]) -> str:
    """A shape (z, y, x) as the size in a URL."""
    return _place(reversed(shape))


@dataclass(frozen=True)
class Labels:
    """One labels instance at one version. ``shape`` and ``start`` say a box: (z, y, x) and its first voxel (x, y, z)."""

    connection: Connection
    uuid: str
    name: str = "labels"

    def at(self, uuid: str) -> Self:
        return type(self)(self.connection, uuid, self.name)

    def ask(self, method: str, rest: str, body: Any = None, **query: Any) -> bytes:
        return self.connection.ask(method, f"/api/node/{self.uuid}/{self.name}/{quote(rest)}", body, **query)

    def json(self, rest: str, body: Any = None, **query: Any) -> Any:
        return json.loads(self.ask("GET", rest, body, **query))

    # -- voxels --------------------------------------------------------------------------------------------------------

    def raw(self, start: Xyz, shape: tuple[int, ...], compression: str | None = None, **query: Any) -> Voxels:
        """``query``: supervoxels, scale, roi."""
        data = self.ask("GET", f"raw/0_1_2/{_sides(shape)}/{_place(start)}", compression=compression, **query)
        return wire.unpack_volume(data, compression or "", shape)  # type: ignore[arg-type]

    def post_raw(self, start: Xyz, voxels: Voxels, compression: str | None = None, **query: Any) -> None:
        data = wire.pack_volume(voxels, compression or "")
        rest = f"raw/0_1_2/{_sides(voxels.shape)}/{_place(start)}"
        self.ask("POST", rest, data, compression=compression, **query)

    def blocks(
        self,
        start: Xyz,
        shape: tuple[int, ...],
        block: tuple[int, int, int],
        compression: str | None = None,
        **query: Any,
    ) -> dict[Xyz, Voxels]:
        """The stored blocks of an aligned box, by block coordinate; ``block``: the shape of each."""
        data = self.ask("GET", f"blocks/{_sides(shape)}/{_place(start)}", compression=compression, **query)
        return wire.decode_blocks(data, compression or "lz4", block)

    def specific_blocks(
        self, places: Iterable[Xyz], block: tuple[int, int, int], compression: str | None = None, **query: Any
    ) -> dict[Xyz, Voxels]:
        text = ",".join(str(n) for place in places for n in place)
        data = self.ask("GET", "specificblocks", blocks=text, compression=compression, **query)
        return wire.decode_blocks(data, compression or "blocks", block)

    def post_blocks(self, blocks: Mapping[Xyz, Voxels], **query: Any) -> None:
        """``query``: scale, downres, noindexing."""
        self.ask("POST", "blocks", wire.encode_blocks(blocks), **query)

    def ingest(self, blocks: Mapping[Xyz, Voxels], **query: Any) -> None:
        self.ask("POST", "ingest-supervoxels", wire.encode_blocks(blocks), **query)

    def label(self, point: Iterable[int], **query: Any) -> int:
        return self.json(f"label/{_place(point)}", **query)["Label"]

    def labels(self, points: Sequence[Sequence[int]], **query: Any) -> list[int]:
        return self.json("labels", [list(p) for p in points], **query)

    # -- mapping -------------------------------------------------------------------------------------------------------

    def mapping(self, supervoxels: Sequence[int], **query: Any) -> list[int]:
        return self.json("mapping", list(supervoxels), **query)

    def mappings(self) -> dict[int, int]:
        """Whatever is not mapped to itself; text and binary form must agree."""
        lines = [tuple(map(int, line.split())) for line in self.ask("GET", "mappings").decode().splitlines()]
        pairs = np.frombuffer(self.ask("GET", "mappings", format="binary"), "<u8").reshape(-1, 2)
        assert sorted(lines) == sorted(map(tuple, pairs.tolist()))
        assert len(dict(lines)) == len(lines)
        return dict(lines)

    def post_mappings(self, pairs: Mapping[int, Iterable[int]]) -> None:
        """``pairs``: supervoxels by the body they shall be of."""
        self.ask("POST", "mappings", wire.encode_mappings(pairs))

    def supervoxel_splits(self) -> list[tuple[str, list[list[int]]]]:
        """By version: [mutation id, old, remain, split]."""
        flat = self.json("supervoxel-splits")
        return list(zip(flat[::2], flat[1::2], strict=True))

    # -- indices -------------------------------------------------------------------------------------------------------

    def index(self, label: int) -> LabelIndex:
        return wire.decode_index(self.ask("GET", f"index/{label}"))

    def index_metadata(self, label: int) -> dict[str, Any]:
        return self.json(f"index/{label}", **{"metadata-only": True})

    def post_index(self, index: LabelIndex) -> None:
        self.ask("POST", f"index/{index.label}", wire.encode_index(index))

    def indices(self, labels: Sequence[int]) -> list[LabelIndex]:
        return wire.decode_indices(self.ask("GET", "indices", list(labels)))

    def post_indices(self, indices: Iterable[LabelIndex]) -> None:
        self.ask("POST", "indices", wire.encode_indices(indices))

    def indices_compressed(self, labels: Sequence[int]) -> dict[int, LabelIndex | None]:
        return wire.decode_compressed_indices(self.ask("GET", "indices-compressed", list(labels)))

    def index_version(self, label: int) -> str:
        return self.ask("GET", f"index-version/{label}").decode().strip()

    def existing_labels(self) -> list[int]:
        return self.json("existing-labels")

    def listlabels(self, **query: Any) -> list[int]:
        """``query``: start, number."""
        return np.frombuffer(self.ask("GET", "listlabels", **query), "<u8").tolist()

    def listlabels_sizes(self, **query: Any) -> dict[int, int]:
        flat = np.frombuffer(self.ask("GET", "listlabels", sizes=True, **query), "<u8").reshape(-1, 2)
        assert (np.diff(flat[:, 0].astype(object)) > 0).all(), "not ascending"
        return dict(flat.tolist())

    def size(self, label: int, **query: Any) -> int:
        return self.json(f"size/{label}", **query)["voxels"]

    def sizes(self, labels: Sequence[int], **query: Any) -> list[int]:
        return self.json("sizes", list(labels), **query)

    def supervoxels(self, label: int) -> set[int]:
        found = self.json(f"supervoxels/{label}")
        assert len(set(found)) == len(found)
        return set(found)

    def supervoxel_sizes(self, label: int) -> dict[int, int]:
        found = self.json(f"supervoxel-sizes/{label}")
        return dict(zip(found["supervoxels"], found["sizes"], strict=True))

    def lastmod(self, label: int) -> dict[str, Any]:
        return self.json(f"lastmod/{label}")

    # -- sparse volumes ------------------------------------------------------------------------------------------------

    def sparsevol(self, label: int, form: str = "rles", compression: str | None = None, **query: Any) -> Points:
        """``query``: scale, supervoxels, minx to maxz, exact."""
        return self._sparse(f"sparsevol/{label}", label, form, compression, query)

    def sparsevol_by_point(self, point: Iterable[int], label: int, form: str = "rles", **query: Any) -> Points:
        return self._sparse(f"sparsevol-by-point/{_place(point)}", label, form, None, query)

    def _sparse(self, rest: str, label: int, form: str, compression: str | None, query: Mapping[str, Any]) -> Points:
        data = self.ask("GET", rest, format=form, compression=compression, **query)
        if form == "blocks":
            return wire.decode_masks(data, label)
        if form == "srles":
            return wire.points_of_runs(wire.decode_runs(data))
        if compression == "lz4" and data:
            data = wire.lz4.block.decompress(data, uncompressed_size=1 << 24)
        elif compression == "gzip" and data:
            data = wire.gzip.decompress(data)
        return wire.points_of_runs(wire.decode_rles(data))

    def has_sparsevol(self, label: int, **query: Any) -> bool:
        """HEAD: 200 or 204."""
        try:
            self.ask("HEAD", f"sparsevol/{label}", **query)
        except Refused as e:
            if e.status != 204:
                raise
            return False
        return True

    def coarse(self, label: int, **query: Any) -> Points:
        """In blocks."""
        return wire.points_of_runs(wire.decode_rles(self.ask("GET", f"sparsevol-coarse/{label}", **query)))

    def coarse_many(self, first: int, last: int) -> dict[int, Points]:
        return wire.decode_coarse_stream(self.ask("GET", f"sparsevols-coarse/{first}/{last}"))

    def sparsevol_size(self, label: int, **query: Any) -> dict[str, Any]:
        return self.json(f"sparsevol-size/{label}", **query)

    # -- numbers -------------------------------------------------------------------------------------------------------

    def max_label(self) -> int:
        return self.json("maxlabel")["maxlabel"]

    def next_label(self) -> int:
        return self.json("nextlabel")["nextlabel"]

    def reserve(self, count: int) -> tuple[int, int]:
        answer = json.loads(self.ask("POST", f"nextlabel/{count}"))
        return answer["start"], answer["end"]

    # -- mutations -----------------------------------------------------------------------------------------------------

    def merge(self, target: int, others: Sequence[int], **query: Any) -> int:
        """The mutation's id. ``query``: u, app, as in all mutations."""
        return json.loads(self.ask("POST", "merge", [target, *others], **query))["MutationID"]

    def cleave(self, body: int, supervoxels: Sequence[int], **query: Any) -> tuple[int, int]:
        """The new body and the mutation's id."""
        answer = json.loads(self.ask("POST", f"cleave/{body}", list(supervoxels), **query))
        return answer["CleavedLabel"], answer["MutationID"]

    def renumber(self, pairs: Sequence[int], **query: Any) -> None:
        """``pairs``: new, old, new, old ..."""
        self.ask("POST", "renumber", list(pairs), **query)

    def split_supervoxel(self, supervoxel: int, runs: NDArray[np.int32], **query: Any) -> tuple[int, int, int]:
        """The new ids of what is in the runs and of what remains, and the mutation's id."""
        answer = json.loads(self.ask("POST", f"split-supervoxel/{supervoxel}", wire.encode_rles(runs), **query))
        return answer["SplitSupervoxel"], answer["RemainSupervoxel"], answer["MutationID"]

    def split(self, body: int, runs: NDArray[np.int32], **query: Any) -> tuple[int, int]:
        """The new body and the mutation's id."""
        answer = json.loads(self.ask("POST", f"split/{body}", wire.encode_rles(runs), **query))
        return answer["label"], answer["MutationID"]

    def mutations(self) -> list[dict[str, Any]]:
        return self.json("mutations")

    def mutations_range(self, first: str, last: str) -> list[dict[str, Any]]:
        return self.json(f"mutations-range/{first}/{last}")

    def history(self, label: int, first: str, last: str) -> list[dict[str, Any]]:
        """The answer is JSON objects with nothing between them."""
        text, out, at = self.ask("GET", f"history/{label}/{first}/{last}").decode(), [], 0
        while at < len(text):
            found, at = json.JSONDecoder().raw_decode(text, at)
            out.append(found)
        return out
