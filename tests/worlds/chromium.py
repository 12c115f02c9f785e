"""A headless Chromium over its DevTools protocol, spoken through pipes: no package is needed."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
SECONDS = 60.0
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip
# Chromium reads commands from descriptor 3 and answers on 4; our pipes are its stdin and stdout until then.
LAUNCH = 'exec "$@" 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null'


def find() -> str | None:
    """The browser's path; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab of one browser with a profile of its own, in a ``with`` statement."""

    def __init__(self, profile: Path, width: int, *, dark: bool = False) -> None:
        self.errors: list[str] = []  # of the console
        self.requests: list[str] = []  # URLs, the page's own included
        self._width, self._dark = width, dark
        self._number, self._buffer, self._session = 0, b"", ""
        self._answers: dict[int, dict[str, Any]] = {}
        self._loaded = False
        command = ["sh", "-c", LAUNCH, "sh", str(find()), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)

    def __enter__(self) -> Page:
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")
        self._call(
            "Emulation.setDeviceMetricsOverride", width=self._width, height=900, deviceScaleFactor=1,
            mobile=self._width < 600,
        )  # fmt: skip
        scheme = "dark" if self._dark else "light"
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        return self

    def __exit__(self, *error: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def print_media(self) -> None:
        """As on paper, whatever the screen is."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if self._dark else "light"}]
        self._call("Emulation.setEmulatedMedia", media="print", features=features)

    def open(self, url: str) -> None:
        self._loaded = False
        self._call("Page.navigate", url=url)
        self._until(lambda: self._loaded)

    def value(self, expression: str) -> Any:
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, expression: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not self.value(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.2)

    def screenshot(self, path: Path, *, whole: bool = True) -> Path:
        found = self._call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
        return path

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        self._until(lambda: number in self._answers)
        answer = self._answers.pop(number)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def _until(self, done: Any) -> None:
        assert self._process.stdout is not None
        deadline = time.monotonic() + SECONDS
        while not done():
            readable, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, "the browser is silent"
            piece = os.read(self._process.stdout.fileno(), 1 << 16)
            assert piece, "the browser ended"
            *messages, self._buffer = (self._buffer + piece).split(b"\0")
            for message in messages:
                self._hear(json.loads(message))

    def _hear(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
            return
        method, params = message["method"], message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert", "warning"):
            self.errors.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
