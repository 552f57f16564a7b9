"""A WSGI application that says when its worker is busy, and that ends no server.

A request is in hand from the call of the application to the close of what it returned (PEP 3333), in whatever thread
the server serves it. With it, ``timeout`` finds an application that hangs, and the scoreboard tells how long requests
take.

A library may call sys.exit() and mean its caller. Servers take SystemExit and KeyboardInterrupt for their own end, and
lose with it what else is in hand; or their threads do, and nobody is answered. What they do about an application that
fails they know: so it has failed (`Quit`).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Final

from prefork.accept.offspring import guarded, leave

_QUIT: Final = "the application has raised %s, which ends its request and nothing else"


class Quit(Exception):  # noqa: N818  # it is no error
    """In place of a SystemExit or KeyboardInterrupt that an application has raised, which is its cause."""


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """A block of the application's: neither a process that it has forked comes out of it, nor an end of the server."""
    try:
        with guarded():
            yield
    except (SystemExit, KeyboardInterrupt) as error:
        raise Quit(_QUIT % type(error).__name__) from error


def among_others(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """A WSGI application that is told that it has siblings; a server that knows of none denies it.

    A process that it forks doesn't come back to the server.
    """

    def told(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["wsgi.multiprocess"] = True
        with contained():
            result = application(environ, start_response)
            return result if _goes_as_it_is(result, environ) else _ContainedBody(result)

    return told


class Marked:
    """A WSGI application around another, `among_others`. WORKER, any thread.

    Args:
        application: The application.
        marks: The context in which a request is in hand: ``worker.busy``.
        took: Called before each request; for servers whose connections nobody counts.
    """

    def __init__(
        self,
        application: Callable[..., Iterable[bytes]],
        marks: Callable[[], contextlib.AbstractContextManager[None]],
        *,
        took: Callable[[], object] | None = None,
    ) -> None:
        self._application = among_others(application)
        self._marks = marks
        self._took = took

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        if self._took is not None:
            self._took()
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._marks())
            result = self._application(environ, start_response)
            if _goes_as_it_is(result, environ):
                return result
            return _FollowedBody(result, stack.pop_all())


def contained_asgi(application: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[None]]:
    """An ASGI application (version 3) that ends no server."""

    async def told(scope: object, receive: object, send: object) -> None:
        with contained():
            await application(scope, receive, send)

    return told


def _goes_as_it_is(result: object, environ: dict[str, Any]) -> bool:
    """Whether the server is to have the very object: what is whole already, or a file that it can send by itself."""
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(result, (list, tuple)) or (isinstance(wrapper, type) and isinstance(result, wrapper))


class _ContainedBody:
    """What an application makes piece by piece."""

    def __init__(self, result: Iterable[bytes]) -> None:
        self._result = result
        self._pieces = iter(result)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:  # written out: this is for each piece
            piece = next(self._pieces)
        except (SystemExit, KeyboardInterrupt) as error:
            leave(error)
            raise Quit(_QUIT % type(error).__name__) from error
        except BaseException as error:
            leave(error)
            raise
        leave()
        return piece

    def close(self) -> None:
        """The server is done with it."""
        close = getattr(self._result, "close", None)
        if close is not None:
            with contained():
                close()


class _FollowedBody:
    """The same; the request is in hand until it is closed, or has failed."""

    def __init__(self, result: Any, marks: contextlib.ExitStack) -> None:
        self._pieces: Iterator[bytes] = iter(result)
        self._close: Callable[[], object] = result.close
        self._marks = marks

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            raise
        except BaseException:
            self._marks.__exit__(*sys.exc_info())
            raise

    def close(self) -> None:
        """The server is done with it."""
        with self._marks:
            self._close()
