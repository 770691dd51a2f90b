"""The requests that a labelmap answers, one row each; help, docs and the API description are read from here."""

from __future__ import annotations

from dataclasses import replace

from dvidfs.types import imageblk as images
from dvidfs.types.base import OCTETS, PLAIN, Body, Endpoint, Param, flag
from dvidfs.types.formats import sparsevol
from dvidfs.types.labelmap import blocks, edits, lists, log, points, sparse, splits, windows
from dvidfs.types.labelmap.blocks import scale_of
from dvidfs.types.labelmap.volume import KIND


def is_true(text: str) -> bool:
    return text == "true"


THROTTLE = Param("throttle", flag, False, "true: refuse (503) if too many such calls run")
SCALE = Param("scale", scale_of, 0, "each has half the voxels of the one below along each axis")
SUPERVOXELS = Param("supervoxels", is_true, False, "true: supervoxels, not the bodies that they are mapped to")
HASH = Param("hash", default="", help="MD5 of the body: another body is refused")
ROI = Param("roi", default="", help="name of a roi instance: blocks outside are left out")
STREAM = "A record: int32 x, y, z (in blocks), int32 n, then n bytes of payload."
DIMS = "dims: xy, xz, yz, or 0_1_2 for a volume; size: w_h or x_y_z; offset: x_y_z. "
BLOCKS_OUT = Param(
    "compression", default="blocks", help="blocks: gzip of label blocks; lz4, gzip, uncompressed: voxels"
)
VOXELS = Param(
    "compression", default="", help="lz4, gzip, google or googlegzip (neuroglancer's form); without it plain"
)

VOXEL_ROWS = (
    Endpoint(
        "GET",
        "blocks/{size}/{offset}",
        blocks.get_blocks,
        "The stored blocks of a volume, as a stream of records.",
        query=(
            Param("compression", default="lz4", help="lz4, gzip, uncompressed: voxels; blocks: gzip of label blocks"),
            SCALE,
            SUPERVOXELS,
            THROTTLE,
        ),
        type=OCTETS,
        throttled=True,
        detail="Size and offset, in voxels of the scale, are multiples of the block size. " + STREAM,
        example="blocks/64_64_64/0_0_0?compression=blocks",
    ),
    Endpoint(
        "POST",
        "blocks",
        blocks.post_blocks,
        "Store a stream of blocks.",
        body=Body.BYTES,
        query=(
            SCALE,
            Param("compression", default="blocks", help="blocks, the only one"),
            Param("downres", is_true, False, "true: scales above 0 follow"),
            Param("noindexing", is_true, False, "true: the label index stays as it is"),
            THROTTLE,
        ),
        prepare=blocks.prepare_blocks,
        throttled=True,
        type="",
        detail=STREAM + " A payload is the gzip stream of a label block. Counts of a block replace those it had.",
        example="blocks",
    ),
    Endpoint(
        "POST",
        "ingest-supervoxels",
        blocks.post_ingest,
        "Store a stream of blocks and nothing else: no index, no extents, no scales.",
        body=Body.BYTES,
        query=(SCALE,),
        prepare=blocks.prepare_ingest,
        type="",
        detail=STREAM + " Say indices, mappings, extents and the largest label yourself.",
        example="ingest-supervoxels",
    ),
    Endpoint(
        "GET",
        "specificblocks",
        blocks.get_specificblocks,
        "The stored ones of named blocks, as a stream of records.",
        query=(
            Param("blocks", default="", help="x,y,z,x,y,z,... in blocks of the scale"),
            BLOCKS_OUT,
            SCALE,
            SUPERVOXELS,
        ),
        type=OCTETS,
        detail=STREAM,
        example="specificblocks?blocks=0,0,0,1,0,0",
    ),
    Endpoint(
        "GET",
        "raw/{dims}/{size}/{offset}/{format?}",
        windows.get_raw,
        "A slice as a picture, or a volume as its labels.",
        query=(ROI, SCALE, SUPERVOXELS, VOXELS, THROTTLE),
        type=OCTETS,
        throttled=True,
        uncached=("roi",),
        detail=DIMS
        + "A volume is uint64, x fastest; a slice is a 16-bit RGBA picture whose samples are the label's bytes.",
        example="raw/0_1_2/64_64_64/0_0_0",
    ),
    Endpoint(
        "POST",
        "raw/{dims}/{size}/{offset}",
        blocks.post_raw,
        "Store a volume of whole blocks.",
        body=Body.BYTES,
        query=(
            ROI,
            Param("compression", default="", help="lz4 or gzip; without it plain"),
            Param("mutate", is_true, False, "true: what is there is being replaced"),
            THROTTLE,
        ),
        prepare=blocks.prepare_raw,
        throttled=True,
        type="",
        detail="The body is uint64, x fastest. Size and offset are multiples of the block size. Scales follow.",
        example="raw/0_1_2/64_64_64/0_0_0",
    ),
    Endpoint(
        "GET",
        "isotropic/{dims}/{size}/{offset}/{format?}",
        windows.get_isotropic,
        "The same with square pixels, by the voxel size.",
        query=(ROI, SCALE, SUPERVOXELS, VOXELS, THROTTLE),
        type="image/png",
        throttled=True,
        cached=False,
        detail=DIMS,
        example="isotropic/xz/200_200/0_0_0",
    ),
    Endpoint(
        "GET",
        "pseudocolor/{dims}/{size}/{offset}/{format?}",
        windows.get_pseudocolor,
        "A slice in colours, each label its own.",
        query=(ROI, SCALE, SUPERVOXELS, THROTTLE),
        type="image/png",
        throttled=True,
        uncached=("roi",),
        detail=DIMS,
        example="pseudocolor/xy/200_200/0_0_0",
    ),
)

POINT_ROWS = (
    Endpoint(
        "GET",
        "label/{coord}",
        points.get_label,
        "The label at a point.",
        query=(SUPERVOXELS, SCALE),
        light=points.is_light,
        detail='coord: x_y_z in voxels of the scale. The answer: {"Label": 23}',
        example="label/10_20_30",
    ),
    Endpoint(
        "GET",
        "labels",
        points.get_labels,
        "The labels at many points.",
        body=Body.BYTES,
        query=(SUPERVOXELS, SCALE, HASH),
        detail="The body is [[x, y, z], ...] in voxels of the scale.",
        example="labels",
    ),
    Endpoint(
        "GET",
        "mapping",
        points.get_mapping,
        "The bodies of supervoxels.",
        body=Body.BYTES,
        query=(Param("nolookup", is_true, False, "true: do not check that a supervoxel without mapping exists"), HASH),
        detail="The body is [supervoxel, ...]. 0: there is no such supervoxel any more.",
        example="mapping",
    ),
)

EDIT_ROWS = (
    Endpoint(
        "POST",
        "merge",
        edits.post_merge,
        "Merge bodies into one.",
        body=Body.JSON,
        detail='The body: [target, body, body, ...]. The answer: {"MutationID": 1000000001}',
        example="merge",
    ),
    Endpoint(
        "POST",
        "cleave/{label}",
        edits.post_cleave,
        "Take supervoxels out of a body into a new one.",
        body=Body.JSON,
        detail='The body: [supervoxel, ...]. The answer: {"CleavedLabel": 28, "MutationID": 1000000002}',
        example="cleave/23",
    ),
    Endpoint(
        "POST",
        "split-supervoxel/{label}",
        splits.post_split_supervoxel,
        "Cut a supervoxel in two.",
        body=Body.BYTES,
        query=(
            Param("split", edits.parse_label, help="the number of what the runs hold; without it a new one"),
            Param("remain", edits.parse_label, help="the number of the rest; without it a new one"),
            Param("downres", lambda text: text != "false", True, "false: scales above 0 do not follow"),
        ),
        prepare=splits.prepare_split_supervoxel,
        detail="The body is a sparse volume (rles) of some of its voxels, each once, and no others. The answer: "
        '{"SplitSupervoxel": 91, "RemainSupervoxel": 92, "MutationID": 1000000003}',
        example="split-supervoxel/23",
    ),
    Endpoint(
        "POST",
        "split/{label}",
        splits.post_split,
        "Take voxels of a body out into a new one.",
        body=Body.BYTES,
        prepare=splits.prepare_split,
        option="allow_split",
        detail="The body is a sparse volume (rles) of some of its voxels, each once, and no others. Supervoxels that have some of them are "
        'cut. The server must allow it: allowLabelmapSplit in its file. The answer: {"label": 91, "MutationID": 1000000004}',
        example="split/23",
    ),
    Endpoint(
        "POST",
        "renumber",
        edits.post_renumber,
        "Give bodies other numbers.",
        body=Body.BYTES,
        type="",
        detail="The body: [new, old, new, old, ...]. All of it is done, or nothing.",
        example="renumber",
    ),
    Endpoint("GET", "maxlabel", edits.get_maxlabel, "The largest label of this version.", example="maxlabel"),
    Endpoint(
        "POST",
        "maxlabel/{label}",
        edits.post_maxlabel,
        "Raise the largest label; administrators only.",
        type="",
        admin=True,
        detail="It never gets smaller.",
        example="maxlabel/8000",
    ),
    Endpoint("GET", "nextlabel", edits.get_nextlabel, "The next new label.", example="nextlabel"),
    Endpoint(
        "POST",
        "nextlabel/{count}",
        edits.post_nextlabel,
        "Reserve new labels.",
        detail='The answer: {"start": 101, "end": 110}, both included.',
        example="nextlabel/10",
    ),
    Endpoint(
        "POST",
        "set-nextlabel/{label}",
        edits.post_set_nextlabel,
        "Let new labels follow a number; administrators only.",
        query=(Param("ceiling", help="no new label is larger; 0: no limit"),),
        type="",
        admin=True,
        example="set-nextlabel/1000",
    ),
)

VOLUME_ROWS = (
    Endpoint(
        "POST",
        "info",
        edits.post_info,
        "Change settings of the instance, at all versions.",
        body=Body.JSON,
        type=PLAIN,
        detail='The body: {"MaxDownresLevel": "5"}; values are strings.',
        example="info",
    ),
    Endpoint(
        "*",
        "metadata",
        edits.metadata(KIND),
        "Axes and properties as dvid-nd-data.",
        type="application/vnd.dvid-nd-data+json",
        cached=False,
        example="metadata",
    ),
    *(row for row in images.ENDPOINTS if row.keyword in ("extents", "resolution")),
)

INDEX_ROWS = (
    Endpoint(
        "GET",
        "index/{label}",
        lists.get_index,
        "The label index of a body.",
        query=(
            Param("metadata", is_true, False, "true: size and last change as JSON", alias="metadata-only"),
            Param("mutid", help="as it was before this mutation"),
            THROTTLE,
        ),
        type=OCTETS,
        throttled=True,
        detail="Protobuf LabelIndex.",
        light=lists.is_light,
        example="index/23",
    ),
    Endpoint(
        "POST",
        "index/{label}",
        lists.post_index,
        "Replace the label index of a body; the mapping stays.",
        body=Body.BYTES,
        query=(THROTTLE,),
        throttled=True,
        type="",
        detail="Protobuf LabelIndex; one without blocks: the body is gone.",
        example="index/23",
    ),
    Endpoint(
        "GET",
        "indices",
        lists.get_indices,
        "The label indices of many bodies.",
        body=Body.BYTES,
        query=(THROTTLE,),
        type=OCTETS,
        throttled=True,
        detail="The body is [label, ...], at most 50,000. The answer: protobuf LabelIndices.",
        example="indices",
    ),
    Endpoint(
        "POST",
        "indices",
        lists.post_indices,
        "Replace the label indices of many bodies; the mapping stays.",
        body=Body.BYTES,
        query=(THROTTLE,),
        throttled=True,
        type="",
        detail="Protobuf LabelIndices.",
        example="indices",
    ),
    Endpoint(
        "GET",
        "indices-compressed",
        lists.get_indices_compressed,
        "The label indices of many bodies, each compressed.",
        body=Body.BYTES,
        query=(THROTTLE,),
        type=OCTETS,
        throttled=True,
        detail="The body is [label, ...]. For each: uint64 size, uint64 label, and as many bytes (LZ4).",
        example="indices-compressed",
    ),
    Endpoint(
        "GET",
        "index-version/{label}",
        lists.get_index_version,
        "The version at which the index of a body was written.",
        query=(THROTTLE,),
        type=PLAIN,
        throttled=True,
        example="index-version/23",
    ),
    Endpoint("GET", "lastmod/{label}", lists.get_lastmod, "Who changed a body last, and when.", example="lastmod/23"),
    Endpoint(
        "GET", "supervoxels/{label}", lists.get_supervoxels, "The supervoxels of a body.", example="supervoxels/23"
    ),
    Endpoint(
        "GET",
        "supervoxel-sizes/{label}",
        lists.get_supervoxel_sizes,
        "The supervoxels of a body and their voxels.",
        example="supervoxel-sizes/23",
    ),
    Endpoint(
        "GET",
        "size/{label}",
        lists.get_size,
        "The voxels of a body.",
        query=(Param("supervoxels", is_true, False, "true: of a supervoxel"),),
        inline=True,
        example="size/23",
    ),
    Endpoint(
        "GET",
        "sizes",
        lists.get_sizes,
        "The voxels of many bodies.",
        body=Body.BYTES,
        query=(Param("supervoxels", is_true, False, "true: of supervoxels"), HASH),
        detail="The body is [label, ...]; 0 for one that is not there.",
        example="sizes",
    ),
    Endpoint("GET", "existing-labels", lists.get_existing_labels, "All bodies.", example="existing-labels"),
    Endpoint(
        "GET",
        "listlabels",
        lists.get_listlabels,
        "All bodies, as numbers of 64 bits.",
        query=(
            Param("start", edits.parse_label, 0, "the first label"),
            Param("number", edits.parse_label, 0, "at most so many labels, 10,000,000 at most"),
            Param("sizes", is_true, False, "true: each label is followed by its voxels"),
        ),
        type=OCTETS,
        detail="uint64, little-endian, ascending.",
        example="listlabels?sizes=true",
    ),
    Endpoint(
        "GET",
        "mappings",
        lists.get_mappings,
        "All supervoxels that are mapped to a body of another number.",
        query=(
            Param("binary", lambda text: text == "binary", False, "binary: pairs of uint64", alias="format"),
            THROTTLE,
        ),
        type=PLAIN,
        throttled=True,
        detail="A line for each: supervoxel, body.",
        example="mappings",
    ),
    Endpoint(
        "POST",
        "mappings",
        lists.post_mappings,
        "Map supervoxels to bodies; the index stays.",
        body=Body.BYTES,
        query=(THROTTLE,),
        prepare=lists.prepare_mappings,
        throttled=True,
        type="",
        detail="Protobuf MappingOps.",
        example="mappings",
    ),
    Endpoint("GET", "map-stats", lists.get_map_stats, "How large the mappings are.", cached=False, example="map-stats"),
)

BOX = tuple(
    Param(f"{end}{axis}", default="", help=f"the {word} {axis} of the box, in voxels of the scale")
    for end, word in (("min", "least"), ("max", "largest"))
    for axis in "xyz"
)
SPARSE = (
    Param("format", sparsevol.parse_form, sparsevol.RLES, "rles, srles (runs without their number) or blocks (masks)"),
    Param("compression", default="", help="of rles: lz4 or gzip"),
    SCALE,
    SUPERVOXELS,
    *BOX,
    Param("exact", default="", help="false: whole blocks that the box touches"),
)
RUNS = "Runs are int32 x, y, z, length along x; rles: 0 3 0 0, uint32 0, uint32 number of runs, the runs. "
SPARSE_ROWS = (
    Endpoint(
        "GET",
        "sparsevol/{label}",
        sparse.get_sparsevol,
        "The voxels of a body.",
        query=SPARSE,
        light=sparse.is_light,
        type=OCTETS,
        detail=RUNS + "Nothing is sent if no voxel lies in the box; 404 if no block does.",
        example="sparsevol/23?format=srles",
    ),
    Endpoint(
        "HEAD",
        "sparsevol/{label}",
        sparse.head_sparsevol,
        "Whether a body has blocks: 200 or 204.",
        query=(SCALE, SUPERVOXELS, *BOX),
        type="",
        example="sparsevol/23",
    ),
    Endpoint(
        "*",
        "sparsevol-by-point/{coord}",
        sparse.get_sparsevol_by_point,
        "The voxels of the body at a point.",
        query=SPARSE,
        type=OCTETS,
        detail="coord: x_y_z in voxels of the scale. " + RUNS,
        example="sparsevol-by-point/10_20_30",
    ),
    Endpoint(
        "GET",
        "sparsevol-size/{label}",
        sparse.get_size,
        "The voxels and blocks of a body.",
        query=(SUPERVOXELS,),
        light=sparse.is_known,
        detail='{"voxels": 1000, "numblocks": 3, "minvoxel": [0, 0, 0], "maxvoxel": [63, 63, 63]}: of whole blocks.',
        example="sparsevol-size/23",
    ),
    *(
        Endpoint(
            method,
            "sparsevol-coarse/{label}",
            sparse.get_coarse,
            "The blocks of a body.",
            query=(SUPERVOXELS, *BOX),
            light=sparse.is_known,
            type=OCTETS,
            detail="rles whose numbers count blocks.",
            example="sparsevol-coarse/23",
        )
        for method in ("GET", "HEAD")
    ),
    Endpoint(
        "GET",
        "sparsevols-coarse/{begin}/{end}",
        sparse.get_coarse_range,
        "The blocks of all bodies from one number up to and with another.",
        query=BOX,
        type=OCTETS,
        detail="For each: uint64 label, int32 number of runs, runs that count blocks.",
        example="sparsevols-coarse/1/100",
    ),
    Endpoint(
        "GET",
        "proximity/{label1}/{label2}",
        sparse.get_proximity,
        "Checks two labels; the answer is empty, as in the original.",
        query=(THROTTLE,),
        throttled=True,
        example="proximity/23/911",
    ),
)

LOG_ROWS = (
    Endpoint(
        "GET",
        "mutations",
        log.get_mutations,
        "The mutations at this version.",
        query=(THROTTLE, Param("userid", help="taken, without effect")),
        throttled=True,
        example="mutations",
    ),
    Endpoint(
        "GET",
        "mutations-range/{begin}/{end}",
        log.get_mutations_range,
        "The mutations of the versions from end up to begin, the newest version first.",
        query=(THROTTLE,),
        throttled=True,
        cached=False,
        example="mutations-range/abc/def",
    ),
    Endpoint(
        "GET",
        "history/{label}/{begin}/{end}",
        log.get_history,
        "The mutations that a body came from, between two versions.",
        cached=False,
        detail="JSON objects one behind the other.",
        example="history/23/abc/def",
    ),
    Endpoint(
        "GET",
        "supervoxel-splits",
        log.get_supervoxel_splits,
        "All splits of supervoxels, from this version up to the root.",
        detail='["<uuid>", [[mutation, supervoxel, remainder, split], ...], ...]',
        example="supervoxel-splits",
    ),
)

HEAD_ROWS = tuple(
    replace(row, method="HEAD") for row in INDEX_ROWS if row.path in ("size/{label}", "supervoxels/{label}")
)
"""Some clients only ask whether there is an answer."""

ENDPOINTS = (*INDEX_ROWS, *HEAD_ROWS, *SPARSE_ROWS, *LOG_ROWS, *VOXEL_ROWS, *POINT_ROWS, *EDIT_ROWS, *VOLUME_ROWS)
