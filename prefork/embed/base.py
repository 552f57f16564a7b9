"""What the workers of all embedded servers have in common: where the application and the server come from.

Both are imported in the worker, after the fork: a server that was imported in the master would have made its threads,
event loops and patches there.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

from prefork.accept.offspring import leave
from prefork.config import target
from prefork.config.settings import Settings
from prefork.embed.connections import Connections
from prefork.embed.server_options import misfit
from prefork.errors import PreforkError, SettingsError, TargetError, did_you_mean
from prefork.scoreboard.layout import Readiness
from prefork.system import limits
from prefork.system.natives import os, socket
from prefork.system.throttle import Throttle
from prefork.worker import Worker

NO_OPTIONS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class EmbeddedApplication:
    """What the user said.

    Attributes:
        application: What is served, or its name as ``module:attribute`` (see `prefork.config.target`).
        options: The server's own options, by name.
        folder: The folder that goes first on the import path; "" for what is first there.
        names: The attributes that a module alone stands for.
        around: Makes what the server is given of the application and of what tells whether the server is fit; None for
            the application itself.
        check: Raises what that would raise, given the application, and makes nothing; None when there is nothing.
        path: Folders that go on the import path behind that one.
    """

    application: object = None
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""
    names: tuple[str, ...] = ()
    around: Callable[[Any, Callable[[], Readiness]], Any] | None = None
    check: Callable[[Any], object] | None = None
    path: tuple[str, ...] = ()


class Embedded(Worker):
    """Serves an application with somebody else's server. WORKER; the functions of `prefork.embed` make subclasses.

    Attributes:
        server: What the server is called, in messages.
        reserved: Options of the server that are prefork's to say, and what to do instead.
        given: What the user said.
        one_address: Whether the server takes one listener only.
        needs: The module that the server is in, and what to install it by where that has another name.
        connections: What this worker has accepted.
    """

    server: ClassVar[str] = ""
    reserved: ClassVar[Mapping[str, str]] = NO_OPTIONS
    given: ClassVar[EmbeddedApplication] = EmbeddedApplication()
    one_address: ClassVar[bool] = False
    needs: ClassVar[tuple[str, str]] = ("", "")
    connections: Connections
    _throttle: Throttle | None = None

    @classmethod
    def of(cls, application: object, options: Mapping[str, Any]) -> type[Self]:
        """A Worker class that serves ``application``. Any process; nothing is imported.

        Args:
            application: What is served, or ``module:attribute``.
            options: The server's own options, by name.

        Raises:
            TargetError: The application is a text of another form.
            TypeError: An option is prefork's to say, or there is nothing to serve.
        """
        for name in options:
            if name in cls.reserved:
                raise TypeError(f"{cls.server}: {name} is no option here: {cls.reserved[name]}")
        if isinstance(application, str):
            target.parse(application)
        elif not callable(application) and not hasattr(application, "router"):
            kind = type(application).__name__
            raise TypeError(
                f"{cls.server}: the application is {kind}; give the object, or its name as module:attribute"
            )
        made: type[Self] = type(cls.__name__, (cls,), {"given": EmbeddedApplication(application, dict(options))})
        return made

    @property
    def options(self) -> dict[str, Any]:
        """The server's own options; a copy."""
        return dict(self.given.options)

    def __prefork_check__(self, settings: Settings) -> None:
        """As in `Worker`."""
        super().__prefork_check__(settings)
        if all(address.kind != "systemd" for address in settings.addresses):  # which may stand for several
            self._check_listeners([address.type for address in settings.addresses])
        if self.needs[0]:
            self.installed(*self.needs)
        self._check_options()
        found = self._loaded()
        if self.given.check is not None:
            self.given.check(found)

    def application(self) -> Any:
        """What is served, loaded if it was given by name.

        Raises:
            TargetError: It is not there, or an import failed. Anything else that the application raises passes through.
        """
        found = self._loaded()
        return found if self.given.around is None else self.given.around(found, self._readiness)

    def known_options(self) -> Mapping[str, object]:
        """The server's own options, as itself has them: their kinds by their names; none where that can't be told."""
        return {}

    @contextlib.contextmanager
    def options_tried(self) -> Iterator[None]:
        """Around what the server makes of its options, and of nothing else that could fail.

        Raises:
            SettingsError: It refuses them, and there are some; all else is as it was raised.
        """
        try:
            yield
        except Exception as error:
            if not self.given.options or isinstance(error, PreforkError):
                raise
            why = " ".join(f"{type(error).__name__}: {error}".split())
            given = self.given.options.items()
            meant = [(name, value) for name, value in given if isinstance(value, str) and value and value in why]
            said = ", ".join(f"{name}={value!r}" for name, value in meant or given)
            told = f"worker_options: {self.server} can't be made with {said}: {why}; correct it"
            raise SettingsError(told) from error

    def outlive(self, error: BaseException) -> None:
        """Something of the application's that is no request has ended the loop: to be run on until we are replaced.

        Args:
            error: SystemExit, KeyboardInterrupt, or what a loop raises that was stopped; a process that was forked ends
                by it.
        """
        leave(error)
        kind = type(error).__name__
        self._throttle = self._throttle or Throttle(self.log)
        told = "%s was raised in the loop; this worker serves on until it is replaced"
        self._throttle.tell(logging.ERROR, kind, told, kind, error=error)
        self.recycle()

    def _check_options(self) -> None:
        if not self.given.options:
            return
        known = self.known_options()
        for name, value in self.given.options.items():
            if known and name not in known:
                remedy = did_you_mean(name, set(known) - set(self.reserved), "leave it out")
                raise SettingsError(f"worker_options: {name} is no option of {self.server}'s; {remedy}")
            wanted = misfit(value, known.get(name, Any))
            if wanted:
                raise SettingsError(f"worker_options: {name} of {self.server}'s can't be {value!r}; give {wanted}")

    def _loaded(self) -> Any:
        found = self.given.application
        if not isinstance(found, str):
            return found
        first = self.given.folder or (sys.path[0] if sys.path else "")
        return target.load(found, first if os.path.isdir(first) else ".", self.given.names, self.given.path)

    def init(self) -> None:
        """Look at the listeners before anything is made of them.

        Raises:
            TargetError: The server can't serve them.
            SettingsError: The server has no such option.
        """
        if self.settings.raise_nofile:
            limits.raise_nofile()  # these servers hold many connections at once
        self._check_listeners([listener.type for listener in self.sockets])
        self._check_options()
        self.connections = Connections(self.sockets)
        self._given.offspring.keeps = False  # they are the server's, in this process

    def _check_listeners(self, types: Sequence[int]) -> None:
        if any(one != socket.SOCK_STREAM for one in types):
            raise TargetError(f"{self.server} serves byte streams, and one address is seqpacket; bind unix: instead")
        if self.one_address and len(types) != 1:
            raise TargetError(f"{self.server} serves one address, and there are {len(types)}; give one bind")

    def installed(self, module: str, package: str = "") -> Any:
        """Import a module of the server's.

        Args:
            module: Its dotted name.
            package: What to install it by, where that has another name.

        Raises:
            TargetError: It is not installed.
        """
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            top = module.partition(".")[0]
            if error.name != top:
                raise
            raise TargetError(f"{self.server} is not installed; pip install {package or top}") from error
