"""What has run out is told with what helps, and not with another value of the setting."""

from __future__ import annotations

import errno
import os

import pytest

from prefork.system.need import WRITABLE, told


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EMFILE, "raise the limit (ulimit -n, LimitNOFILE=; fs.file-max)"),
        (errno.ENFILE, "raise the limit (ulimit -n, LimitNOFILE=; fs.file-max)"),
        (errno.ENOSPC, "make room there"),
        (errno.EDQUOT, "make room there"),
        (errno.EACCES, WRITABLE),
        (errno.EISDIR, WRITABLE),
    ],
)
def test_the_remedy_is_for_what_is_wrong(number: int, remedy: str) -> None:
    assert told(OSError(number, os.strerror(number)), WRITABLE) == f"{os.strerror(number)}; {remedy}"


def test_an_error_without_a_number_is_told_too() -> None:
    assert told(OSError("it is another file at each look"), WRITABLE) == f"it is another file at each look; {WRITABLE}"
