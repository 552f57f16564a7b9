"""Applications for the tests of the WSGI server, by name. Each runs under `wsgiref.validate` unless a test says no."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import importlib
import io
import json
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prefork.wsgi.files import FileWrapper

Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], object]]
TEXT = ("Content-Type", "text/plain")


def hello(environ: Environ, start: Start) -> list[bytes]:
    start("200 OK", [TEXT, ("Content-Length", "5")])
    return [b"hello"]


def unsized(environ: Environ, start: Start) -> list[bytes]:
    start("200 OK", [TEXT])
    return [b"hello"]


def show(environ: Environ, start: Start) -> list[bytes]:
    """The environ as JSON, and the digest and length of the body."""
    body = environ["wsgi.input"].read(-1) if "wsgi.input" in environ else b""
    shown: dict[str, object] = {key: value for key, value in environ.items() if isinstance(value, str)}
    shown["body.length"] = len(body)
    shown["pid"] = os.getpid()
    shown["body.sha256"] = hashlib.sha256(body).hexdigest()
    start("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(shown).encode()]


def django_secure(environ: Environ, start: Start) -> Iterable[bytes]:
    """A Django site that wants TLS, and believes X-Forwarded-Proto where it is told of it."""
    conf, wsgi, http, urls = map(
        importlib.import_module, ("django.conf", "django.core.wsgi", "django.http", "django.urls")
    )
    if not conf.settings.configured:
        home = urls.path("", lambda request: http.HttpResponse(request.scheme))
        conf.settings.configure(
            ALLOWED_HOSTS=["*"],
            MIDDLEWARE=["django.middleware.security.SecurityMiddleware"],
            ROOT_URLCONF=(home,),
            SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
            SECURE_SSL_REDIRECT=True,
        )
    answer: Iterable[bytes] = wsgi.get_wsgi_application()(environ, start)
    return answer


def echo(environ: Environ, start: Start) -> list[bytes]:
    body = environ["wsgi.input"].read(-1)
    start("200 OK", [TEXT])
    return [body]


def lines(environ: Environ, start: Start) -> list[bytes]:
    """What readline, readlines and iteration give, as JSON."""
    source = environ["wsgi.input"]
    first = source.readline(-1)
    part = source.readline(3)
    rest = [line.decode() for line in source]
    start("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([first.decode(), part.decode(), rest, source.read(10).decode()]).encode()]


def digest(environ: Environ, start: Start) -> list[bytes]:
    """Reads the body in pieces; answers its digest and the most memory this process has ever held, in bytes."""
    seen = hashlib.sha256()
    length = 0
    for piece in iter(lambda: environ["wsgi.input"].read(1 << 16), b""):
        seen.update(piece)
        length += len(piece)
    with open("/proc/self/status", encoding="ascii") as status:
        peak = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
    start("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"sha256": seen.hexdigest(), "length": length, "peak": peak}).encode()]


class _NoText:
    """As an object of a framework's that stands for something which is there no more."""

    def __str__(self) -> str:
        raise RuntimeError("out of its context")

    __repr__ = __str__


def leaves_no_text(environ: Environ, start: Start) -> list[bytes]:
    environ["REMOTE_USER"] = _NoText()
    return hello(environ, start)


def ignore_body(environ: Environ, start: Start) -> list[bytes]:
    start("200 OK", [TEXT, ("Content-Length", "7")])
    return [b"ignored"]


def count_body(environ: Environ, start: Start) -> list[bytes]:
    length = 0
    while piece := environ["wsgi.input"].read(1 << 16):
        length += len(piece)
    start("200 OK", [TEXT])
    return [b"%d" % length]


def any_file(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", [TEXT])
    wrapper: Callable[[object], Iterable[bytes]] = environ["wsgi.file_wrapper"]
    return wrapper(open(environ["QUERY_STRING"], "rb"))  # the server closes it


def begin_then_read(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", [TEXT])
    yield b"begun,"
    yield environ["wsgi.input"].read(-1)


def pieces(environ: Environ, start: Start) -> Iterator[bytes]:
    start("200 OK", [TEXT])
    yield b""
    yield b"one,"
    yield b""
    yield b"two,"
    yield b"x" * 100_000


def dies(environ: Environ, start: Start) -> Iterator[bytes]:
    start("200 OK", [TEXT])
    yield b"begun,"
    os.kill(os.getpid(), signal.SIGKILL)


def nothing(environ: Environ, start: Start) -> list[bytes]:
    start("200 OK", [TEXT])
    return []


def by_write(environ: Environ, start: Start) -> list[bytes]:
    write = start("200 OK", [TEXT])
    write(b"written,")
    return [b"returned"]


def status_of_path(environ: Environ, start: Start) -> Iterable[bytes]:
    """The status that the path names, and no content; but a length or a body, in the form that the query says."""
    said = environ["QUERY_STRING"]
    fields = [("X-Kept", "yes"), ("Content-Length", "5")]
    write = start(f"{environ['PATH_INFO'][1:4]} Whatever", fields[: 1 + (said == "length")])
    if said == "write":
        write(b"hello")
    if said == "pieces":
        return iter([b"hel", b"lo"])
    return [b"hello"] if said in {"piece", "length"} else []


def exchanged(environ: Environ, start: Start) -> list[bytes]:
    """Changes its mind before anything was sent."""
    start("200 OK", [TEXT])
    try:
        raise ValueError("a change of mind")
    except ValueError:
        start("404 Not Found", [TEXT, ("X-Second", "yes")], sys.exc_info())
    return [b"second"]


def exchanged_late(environ: Environ, start: Start) -> Iterator[bytes]:
    start("200 OK", [TEXT])
    yield b"sent"
    try:
        raise ValueError("too late")
    except ValueError:
        start("500 Oops", [TEXT], sys.exc_info())
    yield b"never"


def started_twice(environ: Environ, start: Start) -> list[bytes]:
    start("200 OK", [TEXT])
    start("200 OK", [TEXT])
    return [b"never"]


def never_started(environ: Environ, start: Start) -> list[bytes]:
    return [b"never"]


def raises(environ: Environ, start: Start) -> list[bytes]:
    raise ZeroDivisionError("on purpose")


def clears(environ: Environ, start: Start) -> list[bytes]:
    environ.clear()
    raise ZeroDivisionError("on purpose")


class OfItsOwn(BaseException):
    """An application's own, which is no Exception."""


NO_EXCEPTIONS: dict[str, type[BaseException]] = {
    "exit": SystemExit,
    "interrupt": KeyboardInterrupt,
    "generator": GeneratorExit,
    "cancelled": asyncio.CancelledError,
    "own": OfItsOwn,
    "base": BaseException,
}


def raises_no_exception(environ: Environ, start: Start) -> Iterable[bytes]:
    """Raises what the path says: at once, or where the query says, between two pieces or at the close."""
    kind = NO_EXCEPTIONS[environ["PATH_INFO"][1:]]
    if not environ["QUERY_STRING"]:
        raise kind("on purpose")

    def produce() -> Iterator[bytes]:
        yield b"sent"
        if environ["QUERY_STRING"] == "pieces":
            raise kind("on purpose")

    class Bad(Closing):
        def close(self) -> None:
            if environ["QUERY_STRING"] == "close":
                raise kind("on purpose")

    start("200 OK", [TEXT])
    return Bad(produce())


class Closing:
    """An iterable that writes to the log when it is closed."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._source = pieces
        self._pieces = iter(pieces)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        if isinstance(self._source, io.IOBase | FileWrapper):
            self._source.close()
        print("the iterable was closed", flush=True)


def closing(environ: Environ, start: Start) -> Closing:
    """Fails after as many pieces as the path says; "/" doesn't fail."""
    start("200 OK", [TEXT])
    count = environ["PATH_INFO"][1:]

    def produce() -> Iterator[bytes]:
        for number in range(3):
            if count == str(number):
                raise ZeroDivisionError("on purpose")
            yield b"piece,"

    return Closing(produce())


def fails_to_close(environ: Environ, start: Start) -> Iterable[bytes]:
    class Bad(Closing):
        def close(self) -> None:
            raise ZeroDivisionError("on purpose")

    start("200 OK", [TEXT])
    return Bad([b"whole"])


def wrong_length(environ: Environ, start: Start) -> list[bytes]:
    """Five bytes; the path says how many it promises."""
    start("200 OK", [TEXT, ("Content-Length", environ["PATH_INFO"][1:])])
    return [b"he", b"llo"]


_HEADERS: dict[str, Any] = {
    "cr": [("X-A", "b\rc")],
    "lf": [("X-A", "b\nSet-Cookie: c=d")],
    "crlf": [("X-A", "b\r\nSet-Cookie: c=d")],
    "nul": [("X-A", "b\0c")],
    "name-crlf": [("X-A\r\nSet-Cookie", "c=d")],
    "name-colon": [("X-A:", "c=d")],
    "name-empty": [("", "c=d")],
    "name-space": [("X A", "c=d")],
    "not-latin-1": [("X-A", "\N{SNOWMAN}")],
    "not-str": [("X-A", 5)],
    "name-not-str": [(b"X-A", "5")],
    "connection-crlf": [("Connection", "close\r\nX-A: b")],
    "connection-not-str": [("Connection", 5)],
    "length-word": [("Content-Length", "five")],
    "length-negative": [("Content-Length", "-5")],
    "length-twice": [("Content-Length", "5"), ("Content-Length", "6")],
}
_STATUSES: dict[str, Any] = {
    "status-crlf": "200 OK\r\nX-A: b",
    "status-lf": "200 O\nK",
    "status-short": "20",
    "status-no-blank": "200OK",
    "status-word": "fine OK",
    "status-1xx": "101 Switching Protocols",
    "status-bytes": b"200 OK",
}
BAD_STARTS = (*_HEADERS, *_STATUSES)


def bad_start(environ: Environ, start: Start) -> list[bytes]:
    """Gives start_response what the path says, which is wrong."""
    name = environ["PATH_INFO"][1:]
    start(_STATUSES.get(name, "200 OK"), _HEADERS.get(name, []))
    return [b"hello"]


def hop_by_hop(environ: Environ, start: Start) -> list[bytes]:
    """Fields that its author has seen elsewhere; the query is the value of Connection."""
    said = [("connection", environ["QUERY_STRING"]), ("Keep-Alive", "timeout=9"), ("Transfer-Encoding", "chunked")]
    start("200 OK", [TEXT, *said, ("Trailer", "X-A"), ("X-Accel-Buffering", "no")])
    return [b"data"]


def not_bytes(environ: Environ, start: Start) -> list[Any]:
    start("200 OK", [TEXT])
    return ["hello"]


def latin(environ: Environ, start: Start) -> list[bytes]:
    start("200 Sch\xf6n", [TEXT, ("X-Name", 'J\xf6rg\t"x"'), ("Date", "Thu, 01 Jan 1970 00:00:00 GMT")])
    return [b"hello"]


def reasonless(environ: Environ, start: Start) -> list[bytes]:
    start("404", [TEXT])
    return [b"hello"]


def repeats(environ: Environ, start: Start) -> list[bytes]:
    start("200 OK", [TEXT, ("Set-Cookie", "a=b"), ("Set-Cookie", "c=d")])
    return [b"hello"]


def many(environ: Environ, start: Start) -> Iterator[bytes]:
    """Megabytes without end, in one kind of framing or another: /chunked, /length, /write."""
    kind = environ["PATH_INFO"]
    headers = [TEXT, ("Content-Length", str(1 << 40))] if kind == "/length" else [TEXT]
    write = start("200 OK", headers)
    while True:
        if kind == "/write":
            write(b"x" * (1 << 20))
        else:
            yield b"x" * (1 << 20)


def tell(environ: Environ, start: Start) -> list[bytes]:
    """Writes the path to the log, /error into wsgi.errors; then waits for the FIFO that the query names."""
    if environ["PATH_INFO"] == "/error":
        environ["wsgi.errors"].write("a word of the application\n")
        environ["wsgi.errors"].flush()
    print("application ran:", environ["PATH_INFO"], flush=True)
    if environ["QUERY_STRING"]:
        with open(environ["QUERY_STRING"], "rb") as fifo:
            fifo.read()
    start("200 OK", [TEXT])
    return [b"told"]


def slow(environ: Environ, start: Start) -> list[bytes]:
    """Takes as many milliseconds as the path says."""
    time.sleep(int(environ["PATH_INFO"][1:]) / 1000)  # the work of an application
    start("200 OK", [TEXT])
    return [b"slow"]


def slow_to_close(environ: Environ, start: Start) -> Iterable[bytes]:
    """Its iterable closes once the FIFO that the query names was written to."""

    class Slow(Closing):
        def close(self) -> None:
            with open(environ["QUERY_STRING"], "rb") as fifo:
                fifo.read()

    start("200 OK", [TEXT, ("Content-Length", "5")] if environ["PATH_INFO"] == "/length" else [TEXT])
    return Slow([b"hello"])


def fails_late(environ: Environ, start: Start) -> Iterator[bytes]:
    """Fails once the FIFO that the query names was written to, when the client has what was sent before."""
    start("200 OK", [TEXT])
    yield b"sent"
    with open(environ["QUERY_STRING"], "rb") as fifo:
        fifo.read()
    raise ZeroDivisionError("on purpose")


def big(environ: Environ, start: Start) -> list[bytes]:
    """As many MiB as the query says in one piece; waits before for the FIFO that the path names, if there is one."""
    if environ["PATH_INFO"] != "/":
        print("application ran", flush=True)
        with open(environ["PATH_INFO"], "rb") as fifo:
            fifo.read()
    start("200 OK", [TEXT])
    return [b"x" * (int(environ["QUERY_STRING"]) << 20)]


def reads_on(environ: Environ, start: Start) -> list[bytes]:
    """What each of three reads gives, as JSON, whatever the one before gave."""
    got = []
    for _ in range(3):
        try:
            got.append(environ["wsgi.input"].read(5).decode())
        except OSError as error:
            got.append(str(error))
    start("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(got).encode()]


def remote_user(environ: Environ, start: Start) -> list[bytes]:
    environ["REMOTE_USER"] = 'a "quoted" \u263a user'
    start("200 OK", [TEXT])
    return [b"hello"]


def changes_environ(environ: Environ, start: Start) -> list[bytes]:
    """As middleware does that keeps no rule of PEP 3333."""
    environ["REMOTE_USER"] = uuid.UUID(int=5)
    del environ["SERVER_PROTOCOL"]
    start("200 OK", [TEXT])
    return [b"hello"]


CONTENT = bytes(range(256)) * 4096


def _in_file(at: int = 0, buffering: int = -1) -> Any:
    source = tempfile.TemporaryFile(buffering=buffering)  # noqa: SIM115  # the end of the response closes it
    source.write(CONTENT)
    source.seek(at)
    return source


def _unflushed() -> Any:
    """What was written is in the buffer alone: a seek within what was read into it writes nothing."""
    begin = len(CONTENT) - 100
    source = _in_file(begin)
    source.read(1)
    source.seek(len(CONTENT) - 6)
    source.write(b"end")
    source.seek(begin)
    return source


def _gzipped() -> Any:
    return gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(CONTENT)))


def _gzipped_in_file() -> Any:
    with tempfile.NamedTemporaryFile() as packed:
        packed.write(gzip.compress(CONTENT))
        packed.flush()
        return gzip.open(packed.name)  # which has a fileno() of other bytes than it reads


def _pipe() -> Any:
    reading, writing = os.pipe()
    os.write(writing, b"from a pipe")
    os.close(writing)
    return open(reading, "rb")  # the end of the response closes it


FILES: dict[str, tuple[Callable[[], Any], dict[str, str]]] = {
    "buffered": (_in_file, {}),
    "raw": (lambda: _in_file(buffering=0), {}),
    "unflushed": (_unflushed, {}),
    "offset": (lambda: _in_file(1000), {}),
    "end": (lambda: _in_file(len(CONTENT)), {}),
    "short": (_in_file, {"Content-Length": "1000"}),
    "long": (_in_file, {"Content-Length": "2000000"}),
    "memory": (lambda: io.BytesIO(CONTENT), {}),
    "gzip": (_gzipped, {}),
    "gzip-in-file": (_gzipped_in_file, {}),
    "proc": (lambda: open("/proc/self/cmdline", "rb"), {}),  # noqa: SIM115  # the end of the response closes it
    "pipe": (_pipe, {}),
}


def file(environ: Environ, start: Start) -> Iterable[bytes]:
    """A file by wsgi.file_wrapper, of the kind that the path names; with the query as its status."""
    make, headers = FILES[environ["PATH_INFO"][1:]]
    status = f"{environ['QUERY_STRING'] or 200} Whatever"
    start(status, [("Content-Type", "application/octet-stream"), *headers.items()][status[0] == "3" :])
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](make())
    return wrapped


def file_after_write(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", [("Content-Type", "application/octet-stream")])(b"written,")
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](_in_file())
    return wrapped


def file_in_pieces(environ: Environ, start: Start) -> Iterable[bytes]:
    """A file_wrapper that middleware has hidden."""
    start("200 OK", [("Content-Type", "application/octet-stream")])
    return Closing(environ["wsgi.file_wrapper"](_in_file(), 4096))


def big_file(environ: Environ, start: Start) -> Iterable[bytes]:
    """A sparse file of 1 GiB; the query is how many milliseconds later it is cut."""
    source = tempfile.TemporaryFile()  # noqa: SIM115  # the end of the response closes it
    source.truncate(1 << 30)
    start("200 OK", [("Content-Type", "application/octet-stream")])
    if environ["QUERY_STRING"] and os.fork() == 0:
        time.sleep(int(environ["QUERY_STRING"]) / 1000)  # by then the buffers are full, and most of it still to go
        os.ftruncate(source.fileno(), 1 << 25)
        print("the file is short", flush=True)
        os._exit(0)
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](source)
    return wrapped


def nap(environ: Environ, start: Start) -> list[bytes]:
    """Sleeps for as many seconds as the path says."""
    time.sleep(float(environ["PATH_INFO"][1:]))
    start("200 OK", [TEXT])
    return [b"awake"]


def peer_and_body(environ: Environ, start: Start) -> list[bytes]:
    """Sleeps for as many seconds as the path says, and tells how the request came."""
    length = len(environ["wsgi.input"].read())
    time.sleep(float(environ["PATH_INFO"][1:]))
    start("200 OK", [("Content-Type", "application/json")])
    told = {"peer": environ["REMOTE_ADDR"], "scheme": environ["wsgi.url_scheme"], "body": length}
    return [json.dumps(told).encode()]


def forking(environ: Environ, start: Start) -> list[bytes]:
    """Leaves a process behind that sleeps for a while."""
    if os.fork() == 0:
        time.sleep(10)  # for longer than the test lasts
        os._exit(0)
    start("200 OK", [TEXT])
    return [b"forked"]


_inside = 0
_lock = threading.Lock()


def crowded(environ: Environ, start: Start) -> list[bytes]:
    """How many requests this process has in hand, itself included; what kind of thread has it.

    Behind it stands whether the request had waited for 5 ms, and the 4 that the kernel's clock may be wrong by.
    """
    global _inside  # it is the process's
    with _lock:
        _inside += 1
        count = _inside
    time.sleep(0.002)  # for others to come
    with _lock:
        _inside -= 1
    start("200 OK", [TEXT, ("Multithread", str(environ["wsgi.multithread"])), ("Daemon", str(_thread().daemon))])
    return [b"%d, waited" % count if environ.get("prefork.queue_time", 0.0) > 0.009 else b"%d" % count]


def slow_echo(environ: Environ, start: Start) -> list[bytes]:
    """As `echo`, after some milliseconds for which another thread can serve."""
    time.sleep(0.005)
    return echo(environ, start)


def hanging(environ: Environ, start: Start) -> list[bytes]:
    """Sleeps for as many seconds as the path says, and says where: the pid."""
    time.sleep(float(environ["PATH_INFO"][1:]))
    start("200 OK", [TEXT])
    return [b"%d" % os.getpid()]


def _thread() -> threading.Thread:
    """A thread as a handler makes one."""
    return threading.Thread()
