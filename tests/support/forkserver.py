"""The program of a process that has imported what a server imports, and forks one whenever it is told to.

    python [FLAG ...] forkserver.py FILLER DESCRIPTOR LAUNCHER MODULE ...

Each message on the descriptor, a JSON object, is answered by another. One that says what a process is started with, and
has its three standard streams beside it, is answered with the process's id: it is what ``python [FLAG ...] -m MODULE
ARGUMENT ...`` or ``python [FLAG ...] FILE ARGUMENT ...`` is, as soon as that has imported these modules. One that names
a process is answered with its exit code, once it has ended, and the process is reaped by that. LAUNCHER is the file of
`prefork.testing.inject`, by which a process is put under injection that has a fourth descriptor.

FILLER makes room: a title is written over arguments and environment, and this process has few of either.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import socket
import sys
import time
from types import ModuleType
from typing import Any

_FRESH = {name: value for name, value in globals().items() if name.startswith("__")}
"""What a main module has before it runs."""


def _import(modules: list[str]) -> None:
    """As `prefork.system.importing` has it, nobody looks for garbage meanwhile."""
    gc.disable()
    for name in modules:
        importlib.import_module(name)
    gc.enable()


def _next(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What a new process is to be, and its descriptors: in that process. Ends this one when nobody asks any more."""
    while True:
        message, fds, _, _ = socket.recv_fds(channel, 1 << 20, 4)
        if not message:
            os._exit(0)
        told: dict[str, Any] = json.loads(message)
        if "ended" in told:
            pid, status = os.waitpid(told["ended"], os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status) if pid else None}
        elif pid := os.fork():
            answer = {"pid": pid}
        else:
            return told, fds
        for fd in fds:
            os.close(fd)
        channel.send(json.dumps(answer).encode())


def _begin(told: dict[str, Any], fds: list[int]) -> None:
    """Be as a process is that is executed with this."""
    os.setsid()
    os.chdir(told["cwd"])
    for number, fd in enumerate(fds[:3]):
        os.dup2(fd, number)
        os.close(fd)
    environment: dict[str, str] = told["environment"]
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    # What is the same stays where it is in memory: a title's room is found from there.
    os.environ.update({name: value for name, value in environment.items() if os.environ.get(name) != value})
    time.tzset()
    sys.orig_argv = told["command"]
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__.update(_FRESH, __doc__=None)


def _launcher(path: str) -> Any:
    """The module `prefork.testing.inject`, without its being one that is loaded."""
    spec = importlib.util.spec_from_file_location("launcher", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Serve forks; in each of them, become what was asked for."""
    del sys.path[0]  # this file's folder
    with socket.socket(fileno=int(sys.argv[2])) as channel:
        _import(sys.argv[4:])
        launcher = _launcher(sys.argv[3])
        told, fds = _next(channel)
    _begin(told, fds)
    if told["faults"]:
        launcher.launch(str(fds[3]), *told["faults"])
    what, *arguments = told["runs"]
    if what.endswith(".py"):
        _run_file(what, arguments)
        return
    sys.argv = ["-m", *arguments]
    if what != "prefork":  # which leaves it at once, see `prefork.system.safepath`
        sys.path.insert(0, told["cwd"])
        sys.modules.pop(what, None)
    import runpy  # which a file does not need

    runpy._run_module_as_main(what)  # type: ignore[attr-defined]  # which is how Python itself does it for -m


def _run_file(path: str, arguments: list[str]) -> None:
    """As Python runs a file: unlike `runpy`, leaving all as it is in the end, for whatever is done at exit."""
    sys.argv = [path, *arguments]
    sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec")
    namespace = sys.modules["__main__"].__dict__
    namespace["__file__"] = path
    exec(code, namespace)


main()
