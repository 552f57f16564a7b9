"""How long a WSGI request is in hand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from prefork.embed.marks import Marked


class Marks:
    """What is asked of a worker: it counts what is in hand, what was served and what has failed."""

    def __init__(self) -> None:
        self.now = self.served = self.failed = 0

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Count."""
        self.now += 1
        try:
            yield
        except BaseException:
            self.failed += 1
            raise
        else:
            self.served += 1
        finally:
            self.now -= 1


class Closing:
    """A body that says what was in hand when it was closed."""

    def __init__(self, marks: Marks, pieces: Iterable[bytes]) -> None:
        self.marks, self.pieces = marks, pieces
        self.at_close: list[int] = []

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.pieces)

    def close(self) -> None:
        """Look."""
        self.at_close.append(self.marks.now)


def call(marks: Marks, application: Callable[..., Any], **environ: object) -> Any:
    return Marked(application, marks.busy)(dict(environ), lambda *_: None)


def test_a_body_is_in_hand_until_it_is_closed() -> None:
    marks = Marks()
    body = Closing(marks, [b"a", b"b"])
    given = call(marks, lambda *_: body)
    assert list(given) == [b"a", b"b"]
    assert (marks.now, marks.served) == (1, 0)
    given.close()
    assert body.at_close == [1]
    assert (marks.now, marks.served, marks.failed) == (0, 1, 0)


def test_a_body_that_fails_is_in_hand_no_more() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"a"
        raise ZeroDivisionError

    marks = Marks()
    given = call(marks, lambda *_: pieces())
    with pytest.raises(ZeroDivisionError):
        list(given)
    given.close()
    assert (marks.now, marks.served, marks.failed) == (0, 0, 1)


def test_an_application_that_fails_is_in_hand_no_more() -> None:
    def application(*_: object) -> None:
        raise ZeroDivisionError

    marks = Marks()
    with pytest.raises(ZeroDivisionError):
        call(marks, application)
    assert (marks.now, marks.served, marks.failed) == (0, 0, 1)


def test_what_is_whole_or_a_file_goes_to_the_server_as_it_is() -> None:
    class Wrapper:
        """A server's file_wrapper."""

    marks = Marks()
    for body in ([b"a"], (b"a",), Wrapper()):
        assert call(marks, lambda *_, body=body: body, **{"wsgi.file_wrapper": Wrapper}) is body
    assert (marks.now, marks.served) == (0, 3)


def test_each_request_is_told_before_it_is_served() -> None:
    told: list[int] = []
    marks = Marks()
    Marked(lambda *_: [], marks.busy, took=lambda: told.append(marks.now))({}, lambda *_: None)
    assert told == [0]
