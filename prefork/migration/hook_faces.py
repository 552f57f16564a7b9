"""gunicorn's hooks, called with what gunicorn would give them: our server and workers, with gunicorn's attributes.

A hook that asks for ``server.cfg.bind`` or ``worker.cfg.timeout`` finds the value that the configuration gave, under
gunicorn's name. All other attributes are those of our own object.

gunicorn has one object for a worker, from ``pre_fork`` on, so what one hook sets on it the next one finds: a number of
its own, say, that ``pre_fork`` gives and ``post_fork`` puts into the environment. We have several, one after the other
and in two processes; what hooks set on them is kept beside them (`HookMemory`).

And a hook that fails before anything is served ends the start with gunicorn: that there is no database, or that a
setting is a wrong one, is what some are for. So it does here, where a hook of ours would be logged and no more.
"""

from __future__ import annotations

import functools
import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from prefork.errors import BootError, SettingsError
from prefork.migration.gunicorn_cfg import Cfg
from prefork.system.ending import OrderedEndError
from prefork.system.forks import HERE

_log = logging.getLogger("prefork")

_PRE_FORK: Final = "pre_fork"
_ON_STARTING: Final = "on_starting"
_REFUSING: Final = frozenset({_ON_STARTING, "post_fork", "post_worker_init"})


class App:
    """The application as gunicorn's hooks find it at ``worker.app`` and ``server.app``.

    Args:
        cfg: gunicorn's settings.
        subject: The server, or the worker.

    Attributes:
        cfg: As given.
        app_uri: What is served, as MODULE:ATTRIBUTE.
    """

    def __init__(self, cfg: Cfg, subject: object) -> None:
        self.cfg = cfg
        self.app_uri = cfg.target
        self._subject = subject

    @property
    def callable(self) -> Any:
        """The application, where this process has loaded it, else None."""
        found = getattr(self._subject, "wsgi", None)
        return _loaded(self.app_uri) if found is None else found

    def wsgi(self) -> Any:
        """The application.

        Raises:
            SettingsError: This process has not loaded it.
        """
        if (found := self.callable) is None:
            raise SettingsError(
                "app.wsgi(): the application is not loaded here; the master never loads it, and a worker does before "
                "post_worker_init, or with preload before post_fork, where it is named and no factory's"
            )
        return found


def _loaded(target: str) -> Any:
    """What a target names, where its module has been imported and nothing has to be called; else None."""
    module, _, attribute = target.partition(":")
    found: Any = None if attribute.endswith(")") else sys.modules.get(module)
    for name in (attribute or "application").split("."):
        found = getattr(found, name, None)
    return found


class SetByHooks:
    """What hooks have set on one object, or on all those that gunicorn has one for.

    Args:
        age: How many workers had been forked when this one was; None where it is not known.

    Attributes:
        values: By the attributes' names.
        pid: Its pid, as soon as the master knows it.
        coming: What it is given, from ``pre_fork`` on; of the server, who is about to be forked.
    """

    __slots__ = ("age", "coming", "pid", "values")

    def __init__(self, age: int | None = None) -> None:
        self.age = age
        self.pid: int | None = None
        self.coming: Any = None
        self.values: dict[str, Any] = {}


class HookMemory:
    """What hooks have set, by the object. Any process: one that is forked has what was set in the other before.

    Attributes:
        server: On the server.
        told: Whether it was said that with a mold a worker does not have it.
    """

    def __init__(self) -> None:
        self.server = SetByHooks()
        self.told = False
        self._by_age: dict[int, SetByHooks] = {}
        self._by_entry: dict[int, SetByHooks] = {}

    def of(self, worker: Any) -> SetByHooks:
        """What is kept of a worker.

        Args:
            worker: What it will be given (`pre_fork`, `post_fork`), the worker itself, or in the master what that knows
                of it, or how it ended.
        """
        member = getattr(worker, "member", worker)
        entry = getattr(member, "entry", None)
        if not isinstance(entry, int):
            age = getattr(worker, "age", 0)
            return self._by_age.setdefault(age, SetByHooks(age))
        kept = self._by_entry.get(entry)
        if kept is None or kept.pid not in {None, member.pid}:  # of one that had the entry before
            kept = self._by_entry[entry] = SetByHooks()
        kept.pid = member.pid
        return kept

    def expect(self, worker: Any, living: Iterable[Any]) -> None:
        """MASTER. A worker is about to be forked.

        Args:
            worker: What it will be given.
            living: Those that live.
        """
        for member in living:
            self.of(member)
        # Who had been announced, and is none of them, was not forked, or has died before anybody asked for it.
        for entry, kept in list(self._by_entry.items()):
            nobody = kept.pid is None and kept.coming.slot == worker.slot
            if nobody or entry == worker.entry.index:
                del self._by_entry[entry]
                self._by_age.pop(kept.age or 0, None)
        kept = self.of(worker)
        kept.coming = worker
        self._by_entry[worker.entry.index] = kept

    def coming(self, but: object) -> Iterator[SetByHooks]:
        """Those that were announced, several at once perhaps, and have not been told of since.

        Args:
            but: Not what is kept of this one.
        """
        return (kept for kept in self._by_entry.values() if kept.pid is None and kept is not but)


class Face:
    """An object of ours, with what gunicorn's has beside it.

    Args:
        subject: The object.
        cfg: gunicorn's settings.
        kept: What hooks have set on it.
        memory: What they have set on all.
    """

    cfg: Cfg

    def __init__(self, subject: object, cfg: Cfg, kept: SetByHooks, memory: HookMemory) -> None:
        self.__dict__.update(_subject=subject, cfg=cfg, _kept=kept, _memory=memory)

    def __getattr__(self, name: str) -> Any:
        kept = self.__dict__["_kept"].values
        return kept[name] if name in kept else getattr(self.__dict__["_subject"], name)

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(getattr(type(self), name, None), property):
            super().__setattr__(name, value)
            return
        subject = self.__dict__["_subject"]
        if hasattr(subject, name):
            try:
                setattr(subject, name, value)
            except AttributeError:
                pass  # it is not to be changed: a hook sees what it has set all the same
            else:
                return
        self.__dict__["_kept"].values[name] = value


class ServerFace(Face):
    """The master as gunicorn's arbiter."""

    @property
    def WORKERS(self) -> dict[int | str, Any]:  # noqa: N802  # gunicorn's name of it
        """Workers by their pids; one that is being forked has none yet, and a text in its place."""
        memory = self.__dict__["_memory"]
        living = {member.pid: WorkerFace(member, self.cfg, memory.of(member), memory) for member in self.roster}
        coming = memory.coming(self.__dict__["_kept"].coming)
        return living | {f"[booting {kept.age}]": WorkerFace(kept.coming, self.cfg, kept, memory) for kept in coming}

    @property
    def LISTENERS(self) -> list[Any]:  # noqa: N802  # gunicorn's name of it
        """The listening sockets."""
        return list(self.listeners)

    @property
    def app(self) -> App:
        """The application, in gunicorn's cover."""
        return App(self.cfg, self.__dict__["_subject"])

    @property
    def num_workers(self) -> int:
        """How many workers there are."""
        return len(self.roster)

    @property
    def proc_name(self) -> str:
        """What the server is called."""
        return str(self.settings.name)

    @property
    def address(self) -> list[Any]:
        """Where it listens."""
        return self.cfg.address

    @property
    def timeout(self) -> Any:
        """The setting."""
        return self.cfg.timeout

    @property
    def master_name(self) -> str:
        """There is one master, whatever is upgraded."""
        return "Master"


class WorkerFace(Face):
    """A worker, or how one ended, as gunicorn's."""

    @property
    def app(self) -> App:
        """The application, in gunicorn's cover."""
        return App(self.cfg, self.__dict__["_subject"])

    @property
    def age(self) -> int:
        """How many workers had been forked when it was, itself included; in the master as ``pre_fork`` was told it."""
        kept, subject = self.__dict__["_kept"], self.__dict__["_subject"]
        if kept.age is None:
            raise AttributeError(f"the age of worker {subject.pid} is not known here; a file with pre_fork makes it so")
        return int(kept.age)

    @property
    def timeout(self) -> float:
        """Half of the setting, as gunicorn has it."""
        return float(self.cfg.timeout) / 2

    @property
    def alive(self) -> bool:
        """Whether it has not been told to leave."""
        return not getattr(self.__dict__["_subject"], "stopping", False)

    @alive.setter
    def alive(self, value: bool) -> None:
        if not value:
            self.recycle()


def faced(name: str, hook: Callable[..., object], cfg: Cfg, memory: HookMemory) -> Callable[..., object]:
    """A hook of gunicorn's as one of ours.

    Args:
        name: Its name.
        hook: The function; whether it can be called with its arguments is seen as of any hook (`inspect` follows it).
        cfg: gunicorn's settings.
        memory: What hooks have set so far; one for all of a configuration.
    """

    @functools.wraps(hook)
    def called(*given: Any) -> object:
        faces: list[Face] = []
        for one in given:
            of_server = hasattr(one, "roster")
            kept = memory.server if of_server else memory.of(one)
            faces.append((ServerFace if of_server else WorkerFace)(one, cfg, kept, memory))
        return hook(*faces)

    @functools.wraps(hook)
    def announced(server: Any, worker: Any) -> object:
        memory.expect(worker, server.roster)
        memory.server.coming = memory.of(worker)
        try:
            return called(server, worker)
        finally:
            memory.server.coming = None
            if server.settings.preload and not memory.told:
                memory.told = _tell_of_mold(memory.of(worker))

    @functools.wraps(hook)
    def refusing(*given: Any) -> object:
        try:
            return called(*given)
        except BaseException as error:
            if HERE.foreign or isinstance(error, OrderedEndError):
                raise
            raise _refusal(name, error) from None

    if name == _PRE_FORK:
        return announced
    return refusing if name in _REFUSING else called


def _refusal(name: str, error: BaseException) -> BootError:
    """Why there is no start, or no worker. The master tells of a worker's once for all; of its own it tells here."""
    whole = "".join(traceback.format_exception(error)).rstrip()
    if name != _ON_STARTING:
        return BootError(f"hook {name} failed:\n{whole}")
    _log.error("hook %s failed:\n%s", name, whole)
    last = "".join(traceback.format_exception_only(error)).strip().rpartition("\n")[2]
    return BootError(f"hook {name} failed: {last}")


def _tell_of_mold(kept: SetByHooks) -> bool:
    """Say that a worker will not have what was set on it; whether there was anything."""
    if kept.values:
        _log.warning(
            "gunicorn: %s sets %s on a worker, which does not reach it: with preload it is forked of the mold, beside "
            "the master; worker.slot is a number that each has",
            _PRE_FORK,
            ", ".join(kept.values),
        )
    return bool(kept.values)
