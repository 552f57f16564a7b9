"""A page for whoever would rather look than type: what ``prefork top`` shows, in a browser. Read only.

The master answers with the page (``dashboard.html``, whole: it asks for nothing of anybody else's) and with the status
as JSON, which the page asks for once a second; what was before, the page remembers. So a server at which nobody looks
does nothing, and however many look, the status is taken twice a second at the most.

A page of another site, open in the browser of somebody who may reach this place, is the one who might ask for more than
he should: he can't read what is here (no CORS, and the Host that a rebound name brings is refused), nor frame it, nor
change anything, for nothing here changes anything.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import ipaddress
import pkgutil
import re
from collections.abc import Callable
from typing import Final

from prefork._version import __version__
from prefork.config.address import parse
from prefork.services.answers import AnswerService
from prefork.status.collector import FRESH, StatusCollector
from prefork.status.totals import Counters
from prefork.supervisor.notifications import Notification
from prefork.supervisor.service import ServerView
from prefork.system import codec

_PAGE: Final = "dashboard.html"
_REQUEST: Final = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.[01]\r?\n((?:[^\r\n]+\r?\n)*)\r?\n")
_HOST: Final = re.compile(rb"^host:[ \t]*(\S*)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_PORT: Final = re.compile(r":[0-9]*$")
_METHODS: Final = ("GET", "HEAD")


class DashboardService(AnswerService):
    """MASTER. The page, and the status that it shows.

    Args:
        setting: the name of the setting, for messages.
        where: its value.
    """

    asks = True

    def __init__(self, setting: str, where: str) -> None:
        super().__init__(setting, where)
        self._counters = Counters()
        self._local = parse(where).kind in {"unix", "abstract"}
        self._status = b""
        self._taken = float("-inf")

    def attach(self, server: ServerView) -> None:
        """Listen.

        Raises:
            ListenError: the address can't be had.
        """
        self._collector = StatusCollector(server, self._counters, __version__)
        super().attach(server)

    def notify(self, notification: Notification) -> None:
        """Enter it into the counters."""
        self._counters.notify(notification)

    def save(self) -> object:
        """The sums so far, and since when."""
        return self._collector.save()

    def restore(self, saved: object) -> None:
        """Go on with the sums of the image before.

        Raises:
            ValueError: they can't be read.
        """
        self._collector.restore(saved)

    def answer(self, request: bytes) -> bytes:
        """A whole response."""
        return answer(request, self._fresh, local=self._local)

    def _fresh(self) -> bytes:
        """The status as JSON, no older than what the system says of processes."""
        now = self._loop.clock.monotonic()
        if now - self._taken >= FRESH:
            self._status = codec.encoded(self._collector.status(processes=True)).encode()
            self._taken = now
        return self._status


def answer(request: bytes, status: Callable[[], bytes], *, local: bool = False) -> bytes:
    """The response to a request. Pure, but for ``status``.

    Args:
        request: all that has come of it.
        status: gives the status as JSON.
        local: whether it came by a unix socket, which no browser opens by itself: a proxy did, with a name of its own.
    """
    read = _REQUEST.match(request)
    if read is None:
        return _response("400 Bad Request", b"this is no request that the dashboard understands\n")
    method, path = read[1].decode(), read[2].partition(b"?")[0]
    if not (local or _at_home(_HOST.findall(read[3]))):
        return _response("403 Forbidden", b"the dashboard answers to localhost and its addresses alone\n")
    if method not in _METHODS:
        allowed = ", ".join(_METHODS)
        return _response("405 Method Not Allowed", b"the dashboard can only be read\n", more=f"Allow: {allowed}\r\n")
    whole = method == "GET"
    if path == b"/":
        text, policy = _page()
        return _response("200 OK", text, "text/html; charset=utf-8", policy, whole=whole)
    if path == b"/status.json":
        return _response("200 OK", status(), "application/json", whole=whole)
    return _response("404 Not Found", b"the dashboard is at /\n", whole=whole)


def _at_home(hosts: list[bytes]) -> bool:
    """Whether the one Host field names this machine as nobody else can.

    A name of somebody's own that leads here (DNS rebinding) would make his page one of ours to the browser.
    """
    if len(hosts) != 1:
        return False
    name = _PORT.sub("", hosts[0].decode("latin-1").lower())
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, 6.3
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


@functools.cache
def _page() -> tuple[bytes, str]:
    """The page, and the policy by which a browser runs what stands in it and nothing else (Content Security Policy)."""
    text = pkgutil.get_data(__package__, _PAGE)  # by whatever has loaded the package, from an archive (zipapp) as well
    assert text is not None  # or it would have raised
    allowed = {
        tag: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(inside).digest()).decode()}'"
            for inside in re.findall(rb"<%s>(.*?)</%s>" % (tag.encode(), tag.encode()), text, re.DOTALL)
        )
        for tag in ("script", "style")
    }
    return text, (
        f"Content-Security-Policy: default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; "
        "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
    )


def _response(
    status: str, body: bytes, kind: str = "text/plain; charset=utf-8", more: str = "", *, whole: bool = True
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nCache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"
        "Cross-Origin-Resource-Policy: same-origin\r\nCross-Origin-Opener-Policy: same-origin\r\n"
        f"{more}Connection: close\r\n\r\n"
    )
    return head.encode() + (body if whole else b"")
