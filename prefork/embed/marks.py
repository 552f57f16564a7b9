"""A WSGI application that says when its worker is busy.

A request is in hand from the call of the application to the close of what it returned (PEP 3333), in whatever thread
the server serves it. With it, ``timeout`` finds an application that hangs, and the scoreboard tells how long requests
take.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prefork.accept.offspring import guarded


def among_others(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """A WSGI application that is told that it has siblings; a server that knows of none denies it.

    A process that it forks doesn't come back to the server.
    """

    def told(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["wsgi.multiprocess"] = True
        with guarded():
            return application(environ, start_response)

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


def _goes_as_it_is(result: object, environ: dict[str, Any]) -> bool:
    """Whether the server is to have the very object: what is whole already, or a file that it can send by itself."""
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(result, (list, tuple)) or (isinstance(wrapper, type) and isinstance(result, wrapper))


class _FollowedBody:
    """What an application makes piece by piece; the request is in hand until it is closed, or has failed."""

    def __init__(self, result: Iterable[bytes], marks: contextlib.ExitStack) -> None:
        self._result = result
        self._pieces = iter(result)
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
            close = getattr(self._result, "close", None)
            if close is not None:
                close()
