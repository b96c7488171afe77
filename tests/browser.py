"""A headless Chromium driven over its DevTools protocol: for tests of pages, and for their pictures in the docs."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

#: No name is looked up but that of this machine: whatever a page asks of others fails, and is seen.
_OPTIONS = (
    "--headless=new", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-extensions", "--mute-audio", "--hide-scrollbars", "--force-device-scale-factor=1",
    "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-port=0",
)  # fmt: skip


def chromium() -> str | None:
    """The program; None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One tab.

    Args:
        folder: gets the profile.
        size: of the window, in pixels.

    Attributes:
        problems: what the console complained of: errors, warnings, exceptions, refusals of the policy.
        requests: every URL that was asked for.
    """

    def __init__(self, folder: Path, size: tuple[int, int] = (1280, 1600)) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._numbers = itertools.count(1)
        self._open = contextlib.ExitStack()
        self._session: str | None = None
        folder.mkdir(parents=True, exist_ok=True)
        command = [chromium() or "chromium", *_OPTIONS, f"--user-data-dir={folder}", "--window-size={},{}".format(*size)]
        if os.geteuid() == 0:
            command.append("--no-sandbox")
        self._log = (folder / "browser.log").open("wb")
        self._process = subprocess.Popen([*command, "about:blank"], stdout=self._log, stderr=self._log)
        try:
            self._socket = self._open.enter_context(connect(self._address(folder), max_size=64 << 20))
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def _address(self, folder: Path) -> str:
        file, ends = folder / "DevToolsActivePort", time.monotonic() + 60
        while True:
            lines = file.read_text().splitlines() if file.exists() else []
            if len(lines) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            if self._process.poll() is not None or time.monotonic() > ends:
                said = (folder / "browser.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"chromium: expected it to start, got: {said}")
            time.sleep(0.05)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol and its result."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            said = json.loads(self._socket.recv(timeout=60))
            if said.get("id") == number:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']}")
                result: dict[str, Any] = said["result"]
                return result
            self._note(said)

    def open(self, url: str) -> None:
        """Go to a page, as one who types its address; a page that is there already is loaded anew."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)

    def ask(self, script: str) -> Any:
        """The value of an expression in the page, awaited where it is a promise."""
        said = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in said:
            raise RuntimeError(f"{script}: {said['exceptionDetails'].get('exception', {}).get('description')}")
        return said["result"].get("value")

    def wait(self, script: str, holds: Callable[[Any], bool] = bool, seconds: float = 30.0) -> Any:
        """The value of an expression, as soon as it `holds`.

        Raises:
            AssertionError: not within `seconds`.
        """
        ends = time.monotonic() + seconds
        while not holds(value := self.ask(script)):
            if time.monotonic() > ends:
                raise AssertionError(f"{script}: not in {seconds:g} s, last {value!r}; console: {self.problems[-3:]}")
            time.sleep(0.05)
        return value

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, code: int) -> None:
        """Press and release one key, e.g. ``("Enter", 13)``."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def screenshot(self, file: Path, *, whole: bool = False, **clip: float) -> None:
        """A PNG of the window, of the whole page, or of `clip`: x, y, width, height."""
        more = {"clip": {"scale": 1, **clip}} if clip else {}
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **more)["data"]
        file.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End it."""
        self._open.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _note(self, said: dict[str, Any]) -> None:
        method, params = said.get("method"), said.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"].get("exception", params["exceptionDetails"])))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(str([one.get("value") for one in params["args"]]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
