"""The scales of image volumes, for those who ask about them: everything that :mod:`dvidfs.types.pyramids` does, said of these."""

from __future__ import annotations

from functools import partial

from dvidfs.types.imageblk.coarse import PYRAMID
from dvidfs.types.pyramids import requests, rows, scales, work

JOB = PYRAMID.job
ENDPOINTS = requests.endpoints(PYRAMID)

ready = partial(scales.ready, PYRAMID)
pending = partial(rows.pending, PYRAMID)
step = work.stepper(PYRAMID)
build = partial(work.build, PYRAMID)
check = partial(requests.check, PYRAMID)
get_pyramid = partial(requests.get_pyramid, PYRAMID)
post_pyramid = partial(requests.post_pyramid, PYRAMID)
