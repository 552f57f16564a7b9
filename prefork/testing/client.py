"""A client that counts outcomes: one request, a burst of them, or a load that goes on.

    with Load(server.address, clients=8) as load:      # closed loop: eight requests under way at any time
        server.signal(signal.SIGHUP)
        load.wait_for(lambda tally: tally.answered > 1000)
    assert load.tally.lost == 0, load.tally

    with Load(server.address, interval=0.004) as load:  # open loop: a new client every 4 ms, whatever happens
        ...

    waiting = burst(server.address, 150)                # 150 clients at once, and time to do something meanwhile
    server.signal(signal.SIGTERM)
    assert waiting.wait().answered == 150

Everything a client here does on its own account when a server fails is documented: it never repeats a request.
After a loss, a client of a closed loop waits 10 ms before its next request, so that a server which is gone doesn't
turn the count into one of refusals. On AF_UNIX a full accept queue is waited for, as TCP does.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Final, Self

from prefork.testing.engine import ClientError, Engine, endpoint_of
from prefork.testing.exchange import GET, Expect, judge_of
from prefork.testing.tally import Answer, Tally
from prefork.testing.waiting import TIMEOUT, NotInTimeError, wait_for

__all__ = ["ClientError", "Load", "burst", "connect", "request"]

_LEEWAY: Final = 10.0  # seconds beyond the clients' own timeout, after which something here is wrong


def connect(address: str, *, timeout: float = TIMEOUT) -> socket.socket:
    """A connected socket, for a test that wants to speak for itself.

    Args:
        address: As the server reports it.
        timeout: Seconds, for the connect and for each operation after it.

    Returns:
        The socket, blocking, with that timeout.

    Raises:
        OSError: As of connect(2).
        ValueError: When the address is not one to connect to.
    """
    target = endpoint_of(address)
    sock = socket.socket(target.family, target.type)
    try:
        sock.settimeout(timeout)
        sock.connect(target.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def request(address: str, payload: bytes = GET, *, expect: Expect = None, timeout: float = TIMEOUT) -> Answer:
    """Make one request and say what became of it.

    Args:
        address: As the server reports it: "127.0.0.1:8000", "[::1]:8000", "unix:/path", "unix:@name".
        payload: What to send; by default a GET of "/" with ``Connection: close``.
        expect: What a whole answer is: bytes, exactly these; a predicate over all bytes so far; None, an HTTP answer.
        timeout: Seconds from connect to the end of the answer.

    Returns:
        The answer, whatever the outcome.

    Raises:
        ClientError: When it failed for a reason on this side.
        ValueError: When the address is not one to connect to.
    """
    answers: list[Answer] = []
    engine = Engine([endpoint_of(address)], payload, judge_of(expect), timeout, answers.append, clients=1, count=1)
    try:
        engine.run()
    finally:
        engine.close()
    return answers[0]


class Load:
    """Clients that send requests from a thread of their own, until stopped or until the count is done.

    A context manager: the load starts on entry and is stopped on exit, where requests under way are finished first
    (or dropped, when the block raised).

    Args:
        address: As the server reports it; of several, each request takes the next.
        clients: Closed loop: how many requests are under way at any time; each client starts its next request when
            its last has ended.
        interval: Open loop, instead of ``clients``: seconds between arrivals, kept to whatever happens.
        count: How many requests in all; None goes on until stopped.
        payload: As for `request`.
        expect: As for `request`.
        timeout: Seconds for each request, from connect to the end of the answer.
        bodies: Count the answers by body too; False where they are large or all different.

    Raises:
        ValueError: When not exactly one of ``clients`` and ``interval`` is given, a number is negative, there is no
            address, or one is not to be connected to.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        clients: int = 0,
        interval: float = 0.0,
        count: int | None = None,
        payload: bytes = GET,
        expect: Expect = None,
        timeout: float = TIMEOUT,
        bodies: bool = True,
    ) -> None:
        if (clients > 0) == (interval > 0) or clients < 0 or interval < 0:
            raise ValueError("give a number of clients (closed loop) or an interval in seconds (open loop)")
        if count is not None and count < 0:
            raise ValueError(f"a count of requests is 0 or more, not {count}")
        targets = [endpoint_of(one) for one in ([address] if isinstance(address, str) else address)]
        if not targets:
            raise ValueError("give an address to connect to")
        self.tally = Tally()
        """What has become of the requests so far; live while the load runs."""
        self._endless = count is None
        self._bodies = bodies
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._engine: Engine | None = None
        self._make_engine = partial(
            Engine,
            targets,
            payload,
            judge_of(expect),
            timeout,
            self._report,
            clients=clients,
            interval=interval,
            count=count,
        )

    def _report(self, answer: Answer) -> None:
        self.tally.add(answer, body=self._bodies)

    def _run(self, engine: Engine) -> None:
        try:
            engine.run()
        except BaseException as error:  # noqa: BLE001  # raised again in the thread that waits for the load
            self._error = error

    @property
    def sent(self) -> int:
        """How many clients have sent their whole request, or failed before they could."""
        return self._engine.sent if self._engine else 0

    def start(self) -> Self:
        """Begin; ``with`` does it.

        Returns:
            The load itself.

        Raises:
            RuntimeError: When it was started before; a load runs once.
        """
        if self._engine is not None:
            raise RuntimeError("a load runs once; make another")
        self._engine = self._make_engine()
        self._thread = threading.Thread(
            target=self._run, args=(self._engine,), name="prefork-testing-load", daemon=True
        )
        self._thread.start()
        return self

    def wait(self, timeout: float | None = None) -> Tally:
        """Wait until the count is done, or what was under way at `stop`.

        Args:
            timeout: Seconds; None waits as long as it takes, which has an end, for each request has its own.

        Returns:
            The tally.

        Raises:
            NotInTimeError: When it isn't done in time; the load is dropped.
            ClientError: When the clients' own side failed.
            RuntimeError: When the load was not started, or has no count and was not stopped.
        """
        if self._thread is None:
            raise RuntimeError("the load was not started")
        if self._endless:
            raise RuntimeError("a load without a count ends when it is stopped; call stop()")
        self._thread.join(timeout)
        late = self._thread.is_alive()
        self.abort()
        if late:
            raise NotInTimeError(f"the load was not done within {timeout:g} s: {self.tally}")
        if self._error is not None:
            raise self._error
        return self.tally

    def wait_for(self, predicate: Callable[[Tally], object], timeout: float = TIMEOUT) -> None:
        """Wait until the tally is as wanted, while the load goes on.

        Args:
            predicate: Given the live tally.
            timeout: Seconds.

        Raises:
            NotInTimeError: When time is up.
            ClientError: When the clients' own side failed.
        """

        def reached() -> bool:
            if self._error is not None:
                raise self._error
            return bool(predicate(self.tally))

        try:
            wait_for(reached, timeout, "the load's tally to be as wanted")
        except NotInTimeError as error:
            raise NotInTimeError(f"{error}; so far: {self.tally}") from None

    def stop(self) -> Tally:
        """Start no more requests, wait for those under way.

        Returns:
            The tally.

        Raises:
            ClientError: When the clients' own side failed.
        """
        if self._thread is not None:
            self._end(abort=False)
        if self._error is not None:
            raise self._error
        return self.tally

    def abort(self) -> None:
        """End it at once, whatever is under way; for who lets an error out that is none of the clients'."""
        self._end(abort=True)

    def _end(self, *, abort: bool) -> None:
        assert self._thread is not None
        assert self._engine is not None
        if self._thread.is_alive():
            self._engine.stop(abort=abort)
            self._thread.join()
        self._engine.close()

    def __enter__(self) -> Self:
        return self if self._engine is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self.abort()


def burst(
    address: str | Sequence[str],
    clients: int,
    *,
    payload: bytes = GET,
    expect: Expect = None,
    timeout: float = TIMEOUT,
) -> Load:
    """Connect many clients at the same moment, one request each.

    Args:
        address: As the server reports it; several are taken in turn.
        clients: How many.
        payload: As for `request`.
        expect: As for `request`.
        timeout: Seconds for each request.

    Returns:
        The load, under way: every client has connected and sent its request, or has failed. ``wait()`` gives the tally.

    Raises:
        ClientError: When the clients' own side failed.
        NotInTimeError: When some could neither connect nor fail within ``timeout``.
    """
    load = Load(address, clients=clients, count=clients, payload=payload, expect=expect, timeout=timeout).start()
    try:
        load.wait_for(lambda _: load.sent == clients, timeout + _LEEWAY)
    except BaseException:
        load.abort()
        raise
    return load
