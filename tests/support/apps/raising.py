"""Hooks that fail in every way."""

from __future__ import annotations

import sys
from typing import Any, NoReturn


def on_starting(_: Any) -> NoReturn:
    raise RuntimeError("on_starting failed")


def when_ready(_: Any) -> NoReturn:
    sys.exit(3)


def pre_fork(_: Any, __: Any) -> NoReturn:
    raise KeyboardInterrupt


def post_fork(_: Any, __: Any) -> NoReturn:
    sys.exit(3)


def post_worker_init(_: Any) -> NoReturn:
    raise OSError("post_worker_init failed")


def worker_abort(_: Any) -> NoReturn:
    raise RuntimeError("worker_abort failed")


def worker_exit(_: Any, __: Any) -> NoReturn:
    sys.exit(3)


def child_exit(_: Any, __: Any) -> NoReturn:
    raise RuntimeError("child_exit failed")


def on_reload(_: Any) -> NoReturn:
    raise GeneratorExit


def on_exit(_: Any) -> NoReturn:
    raise RuntimeError("on_exit failed")
