"""The life of a worker's process, from the fork to the exit.

:func:`live` is the only thing that the master's fork calls:

    forked -> handlers, parent-death signal -> application built -> init() -> READY -> run() -> exit() -> os._exit

All of it runs in the WORKER.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import time
import traceback
from collections.abc import Callable

from prefork.bells import Bells, Heard
from prefork.errors import BootError, PreforkError
from prefork.net import verdict as table
from prefork.scoreboard import Order, State
from prefork.seat import Seat
from prefork.spell import SCARCITY
from prefork.system import identity, process, signals
from prefork.worker import Assignment, Worker

DUMP_SIGNAL = signal.SIGRTMIN + 1
"""Makes a worker write the tracebacks of all its threads to its report pipe (faulthandler)."""


def live(build: Callable[[], Worker], given: Assignment) -> int:
    """WORKER. The whole life of the process, called right after the fork with the master's signals blocked.

    Args:
        build: makes the worker; with the application not preloaded, this is where it is imported.
        given: what the master gives.

    Returns:
        The exit code: 0 after an order to leave; that of the error after a failed boot; 1 when the loop failed.
    """
    # What is inherited stays where it is: a collection here would write to each object's header and so copy its page.
    gc.freeze()
    given.private.close()
    for listener in given.listeners:
        listener.after_fork(given.slot)
    given.after_fork(given.slot, given.generation)
    seat = Seat(given.board, given.seat, given.events, given.go, given.master)
    seat.enter(State.STARTING)
    bells = Bells(seat, given.report)
    faulthandler.register(DUMP_SIGNAL, file=given.report, all_threads=True)
    try:
        identity.assume(given.identity)
        process.die_with_parent(signal.SIGTERM, given.master)  # a change of identity would have cleared it
        signals.become_worker(bells.handlers())
        process.announce_hangup(given.report)
        given.hooks.call("post_fork", given.server, given)
        gc.enable()
        booting = build()
        booting._board(given, seat)
        booting.init()
        given.hooks.call("post_worker_init", booting)
        booting._prepare()
        bells.heard = Heard(
            ordered=booting._on_signal,
            orphaned=lambda: booting._obey(Order.SEAL),
            aborted=lambda: given.hooks.call("worker_abort", booting),
        )
    except BaseException as error:  # noqa: BLE001  # whatever it is, the boot has failed and the master is told why
        return 0 if seat.order is not Order.RUN else _boot_failed(error, seat, given.report)
    return _serve(booting, seat, given)


def _serve(worker: Worker, seat: Seat, given: Assignment) -> int:
    """From READY to the exit code."""
    code = 1
    try:
        worker._obey(seat.order)  # it may have come at the last moment of the boot
        if not worker.stopping:
            worker.ready()
            worker.run()
        code = 0
    except SystemExit as end:
        code = process.exit_code(end)
    except KeyboardInterrupt:
        # The application has a SIGINT handler of its own that raises this, as Python's default one does.
        code = 0 if worker.stopping else 130
    except PreforkError as error:
        worker.log.critical("%s", error)
        code = error.exit_code
    except Exception:  # logged, and the exit code tells the master
        worker.log.exception("the worker's loop failed")
    finally:
        seat.enter(State.LEAVING)
        try:
            worker.exit()
        except Exception:  # logged; the exit code stays that of the loop
            worker.log.exception("exit() failed")
        given.hooks.call("worker_exit", given.server, worker)
    return code


def _boot_failed(error: BaseException, seat: Seat, report: int) -> int:
    """Tell the master why, through the report pipe, so that it is logged once and not by every worker."""
    if isinstance(error, PreforkError):
        text, code = str(error), error.exit_code
    else:
        text, code = "".join(traceback.format_exception(error)), BootError.exit_code
    if _starved(error):
        code = process.STARVED
    seat.enter(State.FAILED_TO_BOOT)
    deadline = time.monotonic() + 1.0
    data = text.encode(errors="backslashreplace")[-_REPORT_BYTES:]
    while data and time.monotonic() < deadline:
        try:
            data = data[os.write(report, data) :]
        except BlockingIOError:
            time.sleep(0.005)  # the pipe is full; the master is reading it
        except OSError:
            break
    return code


_REPORT_BYTES = 32 * 1024


def _starved(error: BaseException) -> bool:
    """Whether want of descriptors or memory is behind ``error``: it may be there in a moment."""
    return any(table.verdict(number) in SCARCITY for number in table.errnos(error))
