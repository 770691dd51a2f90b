"""A headless Chromium, driven by its DevTools protocol: a page is opened, asked, and pictured.

Decides how the browser is started (WebGL in software, a profile of its own) and spoken to; what a page should show is for
others. Invariant: the browser and its profile are gone when the context ends; the kernel ends it with its parent.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import itertools
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import live
import numpy as np
from numpy.typing import NDArray
from PIL import Image

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--remote-debugging-port=0",
)


class Chromium:
    """The browser with one page. ``stands_for``: what a host name means in it, in place of what the network says."""

    def __init__(self, width: int, height: int, stands_for: dict[str, str] | None = None) -> None:
        self.size = width, height
        self._hosts = ",".join(f"MAP {name} {host}" for name, host in (stands_for or {}).items())
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def __aenter__(self) -> Self:
        self._profile = tempfile.TemporaryDirectory(prefix="dvidfs-viewers-", ignore_cleanup_errors=True)
        try:
            port = await asyncio.to_thread(self._start)
            self._session = aiohttp.ClientSession()
            async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                page = next(target for target in await answer.json() if target["type"] == "page")
            self._socket = await self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=1 << 28)
            self._listener = asyncio.create_task(self._listen())
            await self.send("Page.enable")
            width, height = self.size
            screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            await self.send("Emulation.setDeviceMetricsOverride", **screen)
        except BaseException:
            self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        with contextlib.suppress(Exception):  # whatever state it is in, it is ended below
            await self.send("Browser.close")
            await asyncio.to_thread(self._process.wait, 10)
        await self._socket.close()
        await self._listener
        await self._session.close()
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._profile.cleanup()

    def _start(self) -> int:
        """The port that it listens at."""
        own = (f"--user-data-dir={self._profile.name}", f"--host-resolver-rules={self._hosts}", "about:blank")
        command = ["setpriv", "--pdeathsig", "KILL", "chromium", *FLAGS, *own]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        file = Path(self._profile.name, "DevToolsActivePort")

        def said() -> str:
            if self._process.poll() is not None:
                raise SystemExit(f"chromium ended with {self._process.returncode} before it was ready")
            return file.read_text() if file.exists() else ""

        return int(live.wait_until(lambda: "\n" in said() and said(), 60, "chromium").splitlines()[0])

    async def _listen(self) -> None:
        async for message in self._socket:
            found = message.json()
            if "id" in found:
                self._waiting.pop(found["id"]).set_result(found)

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; its result."""
        number = next(self._ids)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        answer = await asyncio.wait_for(waiting, 60)
        if "error" in answer:
            raise SystemExit(f"chromium: {method}: {answer['error']['message']}")
        return answer["result"]

    async def open(self, url: str) -> None:
        await self.send("Page.navigate", url=url)

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        result = (await self.send("Runtime.evaluate", expression=expression, returnByValue=True))["result"]
        return result.get("value", result.get("description"))

    async def double_click(self, x: float, y: float) -> None:
        """Move the mouse to a place and click there twice."""
        await self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        await self.settled()  # what lies under the mouse is found while the page is drawn
        for count in (1, 2):
            for kind in ("mousePressed", "mouseReleased"):
                await self.send(
                    "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=count
                )

    async def until(self, expression: str, seconds: float = 60) -> bool:
        """Ask again and again until an expression of the page is true; False if it never was."""
        try:
            async with asyncio.timeout(seconds):
                while await self.evaluate(expression) is not True:
                    await asyncio.sleep(0.2)
        except TimeoutError:
            return False
        return True

    async def settled(self) -> None:
        """Wait until the page looks the same twice, half a second apart."""
        shown = await self.picture()
        async with asyncio.timeout(60):
            while True:
                await asyncio.sleep(0.5)
                last, shown = shown, await self.picture()
                if np.array_equal(last, shown):
                    return

    async def picture(self) -> NDArray[np.uint8]:
        """The page as (height, width, 3) samples."""
        shot = await self.send("Page.captureScreenshot", format="png")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB"))
