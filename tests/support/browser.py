"""A real browser without a window: Chromium, told what to do through a pair of pipes (the Chrome DevTools Protocol)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from prefork.testing import wait_for

TIMEOUT: Final = 60.0

CHROMIUM: Final = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
"""The browser; "" where none is installed."""

_FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",  # it opens nothing but our page, perhaps as root in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class BrowserPage:
    """A page that is open.

    Args:
        commands: Where commands go.
        answers: Where their answers and events come from.

    Attributes:
        complaints: What went wrong in it: exceptions, and what its policy has forbidden.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = answers
        self._input = b""
        self._last = 0
        self._session = ""
        self._loaded = False
        self.complaints: list[str] = []

    def open(self, address: str) -> None:
        """Load a page in a tab; returns when it has run."""
        if not self._session:
            tab = self.ask("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.ask("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self.ask(f"{domain}.enable")
        self._loaded = False
        self.ask("Page.navigate", url=address)
        deadline = time.monotonic() + TIMEOUT
        while not self._loaded:
            self._note(self._next(deadline))

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript is in the page, as JSON has it."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true in the page."""
        wait_for(lambda: self.value(expression), TIMEOUT, expression)

    def picture(self, path: Path, width: int, height: int, *, dark: bool = False) -> None:
        """Draw it, as PNG."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.ask("Emulation.setEmulatedMedia", features=scheme)
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def ask(self, method: str, **parameters: object) -> dict[str, Any]:
        """One command of the protocol."""
        self._last += 1
        message: dict[str, object] = {"id": self._last, "method": method, "params": parameters}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT
        while True:
            told = self._next(deadline)
            if told.get("id") == self._last:
                assert "error" not in told, told
                answer: dict[str, Any] = told["result"]
                return answer
            self._note(told)

    def _note(self, told: dict[str, Any]) -> None:
        if told.get("method") == "Page.loadEventFired":
            self._loaded = True
        if told.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(told["params"]["exceptionDetails"]))
        elif told.get("method") == "Log.entryAdded" and told["params"]["entry"]["source"] == "security":
            self.complaints.append(told["params"]["entry"]["text"])

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._input:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._answers, 1 << 16)
            assert data, "the browser has ended"
            self._input += data
        text, _, self._input = self._input.partition(b"\0")
        told: dict[str, Any] = json.loads(text)
        return told


@contextlib.contextmanager
def browser() -> Iterator[BrowserPage]:
    """A browser with one page, for the block."""
    to_it, commands = os.pipe()
    answers, from_it = os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        # The browser has its commands on descriptor 3 and answers on 4.
        line = f'exec "$@" 3<&{to_it} 4>&{from_it}'
        process = subprocess.Popen(
            ["bash", "-c", line, "bash", CHROMIUM, *_FLAGS, f"--user-data-dir={folder}", "about:blank"],
            pass_fds=(to_it, from_it),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"HOME": folder},
        )
        os.close(to_it)
        os.close(from_it)
        page = BrowserPage(commands, answers)
        try:
            yield page
            page.ask("Browser.close")
        finally:
            os.close(commands)
            os.close(answers)
            try:
                process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
