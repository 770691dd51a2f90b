"""What a page of neuroglancer shows, seen through a browser, and what it asked a server for.

Decides when a page is finished, and how a picture is looked for on it; what should be shown is for others. Invariant: the browser
is gone when a page has been seen.
"""

from __future__ import annotations

import collections
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import live
import numpy as np
from chromium import Chromium
from numpy.typing import NDArray

SIZE = 640, 480
"""The page, in pixels."""
FOREIGN = "neuroglancer.example"
"""A host name that the browser takes for this machine, and our server for a stranger."""
LAYERS = "(typeof viewer === 'undefined' ? [] : viewer.layerManager.managedLayers)"
READY = f"({LAYERS}.length > 0 && viewer.isReady() && {LAYERS}.every(layer => layer.isReady()))"
ERRORS = f"""{LAYERS}.flatMap(managed => (managed.layer ? managed.layer.dataSources : [])
    .map(source => source.loadState && source.loadState.error && source.loadState.error.message))
    .filter(Boolean).join('; ')"""


@dataclass
class Page:
    """An open page that is finished, or has told of an error."""

    browser: Chromium
    said: str

    async def picture(self) -> NDArray[np.uint8]:
        return await self.browser.picture()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Page]:
    """The page of a viewer, when all is loaded or an error is told."""
    async with Chromium(*SIZE, stands_for={FOREIGN: "127.0.0.1"}) as browser:
        await browser.open(url)
        is_ready = await browser.until(f"{READY} || {ERRORS} !== ''", 60)
        said = await browser.evaluate(ERRORS)
        if is_ready:
            await browser.settled()
        yield Page(browser, said or ("" if is_ready else "not ready"))


@contextmanager
def served(store: Path, folder: Path, *words: object) -> Iterator[tuple[str, Path]]:
    """A server that logs its requests: HOST:PORT, and the log."""
    log = folder / "requests.log"
    log.write_text("")
    with live.Server(store, "--request-log", log, *words, log=folder / "server.log") as server:
        os.environ["DVID_CREDENTIALS"] = f"{server.url}=none"  # the viewer of the Python package asks for some
        yield server.url.removeprefix("http://"), log


def likeness(shown: NDArray, wanted: NDArray) -> float:
    """Where in ``shown`` (height, width) ``wanted`` fits best: the correlation there."""
    mask = wanted - wanted.mean()
    padded = np.zeros(shown.shape)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    fits = np.fft.irfft2(np.fft.rfft2(shown) * np.conj(np.fft.rfft2(padded)), shown.shape)
    y, x = np.unravel_index(np.argmax(fits), fits.shape)
    window = shown[y : y + mask.shape[0], x : x + mask.shape[1]]
    if window.shape != mask.shape or not window.std():
        return 0.0
    return float(np.corrcoef(window.ravel(), mask.ravel())[0, 1])


def requests_in(log: Path) -> str:
    """How many requests of each method and status a log has."""
    lines = [line.split() for line in log.read_text().splitlines()]
    counts = collections.Counter(f"{words[1]} {words[-4]}" for words in lines)
    return ", ".join(f"{count} x {what}" for what, count in sorted(counts.items()))
