"""What the workers of all embedded servers have in common: where the application and the server come from.

Both are imported in the worker, after the fork: a server that was imported in the master would have made its threads,
event loops and patches there.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

from prefork.config import target
from prefork.config.settings import Settings
from prefork.embed.connections import Connections
from prefork.errors import SettingsError, TargetError, did_you_mean
from prefork.scoreboard.layout import Readiness
from prefork.system import limits
from prefork.system.natives import os, socket
from prefork.worker import Worker

NO_OPTIONS: Final[Mapping[str, str]] = MappingProxyType({})


def parameters(*functions: Callable[..., Any]) -> set[str]:
    """The names of what functions take, beside what takes any: the options of a server whose constructors these are."""
    import inspect

    return {
        one.name
        for function in functions
        for one in inspect.signature(function).parameters.values()
        if one.kind not in {one.VAR_POSITIONAL, one.VAR_KEYWORD} and one.name != "self"
    }


def constructors(kind: Any) -> list[Callable[..., Any]]:
    """The constructors of a class, inherited ones too, of which each hands on what it doesn't know."""
    return [one.__init__ for one in kind.__mro__[:-1] if "__init__" in vars(one)]


def attributes(kind: type) -> set[str]:
    """The public attributes of a class: the options of a server whose configuration it is."""
    return {name for name in dir(kind) if not name.startswith("_")}


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
    """

    application: object = None
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""
    names: tuple[str, ...] = ()
    around: Callable[[Any, Callable[[], Readiness]], Any] | None = None
    check: Callable[[Any], object] | None = None


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

    def known_options(self) -> Collection[str]:
        """The names of the server's own options, as itself has them; none where that can't be told."""
        return ()

    def _check_options(self) -> None:
        if not self.given.options:
            return
        known = set(self.known_options())
        for name in self.given.options:
            if known and name not in known:
                remedy = did_you_mean(name, known - set(self.reserved), "leave it out")
                raise SettingsError(f"worker_options: {name} is no option of {self.server}'s; {remedy}")

    def _loaded(self) -> Any:
        found = self.given.application
        if not isinstance(found, str):
            return found
        first = self.given.folder or (sys.path[0] if sys.path else "")
        return target.load(found, first if os.path.isdir(first) else ".", self.given.names)

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
