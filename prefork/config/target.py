"""From ``module:attribute`` to the object that it names.

    hello:handle            an attribute of a module
    shop.server:app.handle  an attribute of an attribute
    shop.server:create()    what a function returns; it is called without arguments
    shop.hooks              the module itself (for hooks), or the first of some usual names in it

A target that isn't there is the user's mistake and raises `TargetError` with one line. So does an import that fails,
with the place where it did. Whatever else the application's own code raises is the application's, and passes through.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from types import TracebackType
from typing import Final, NamedTuple

from prefork.config import sources
from prefork.config.launch import absolute
from prefork.errors import TargetError, did_you_mean
from prefork.system.natives import os

_NAME: Final = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_TEXT: Final = re.compile(rf"(?P<module>{_NAME})(?::(?P<attribute>{_NAME})(?P<call>\(\))?)?")
_MACHINERY: Final = ("<frozen importlib", os.path.dirname(importlib.__file__) + os.sep, __file__)


class Target(NamedTuple):
    """A target's parts.

    Attributes:
        text: All of it, as written.
        module: The dotted name of the module.
        attribute: The dotted name within it; "" for the module itself.
        call: Whether the attribute is a factory, to be called.
    """

    text: str
    module: str
    attribute: str
    call: bool


def parse(text: str) -> Target:
    """Take a target apart. Pure.

    Raises:
        TargetError: The text has another form.
    """
    match = _TEXT.fullmatch(text)
    if match is not None and not match["module"].endswith(".py"):
        return Target(text, match["module"], match["attribute"] or "", match["call"] is not None)
    if ".py" in text:
        remedy = "give the module's name without .py, as in hello:handle, and its folder with --app-dir"
    elif "/" in text:
        remedy = "give module:attribute, and the module's folder with --app-dir"
    elif text.endswith(")"):
        remedy = "give module:factory(), which is called without arguments"
    else:
        remedy = "give module:attribute, as in hello:handle"
    raise TargetError(f"{text!r} does not name a target; {remedy}")


def check(text: str, app_dir: str, names: Sequence[str] = (), path: Sequence[str] = ()) -> None:
    """Find what is wrong with a target before the application's code runs.

    A server that doesn't preload imports its application in the workers; the master looks here first, so that a
    mistyped name is one line before anything was bound or forked.

    Args:
        text: The target. It must have an attribute, unless there are ``names``.
        app_dir: The folder that is looked into first. It doesn't go on the import path: what this process itself has
            yet to import would be taken from there, and it may be root, while the folder is somebody else's.
        names: The attributes that a module alone stands for.
        path: Folders that are looked into then, likewise.

    Raises:
        TargetError: The text is not ``module:attribute``, there is no such folder, or no such module. Only the first
            part of a module's dotted name is looked for: the rest may be made by what the first imports.
    """
    sources.by_content()
    target = parse(text)
    if not target.attribute and not names:
        raise TargetError(f"{text!r} has no attribute; give {text}:NAME, with the name of what is to be served")
    folder = _folder(app_dir)
    top = target.module.partition(".")[0]
    if PathFinder.find_spec(top, [folder, *path]) is None and not _known(top):
        raise _no_module(target, top, folder)


def lies_in(text: str, app_dir: str) -> bool:
    """Whether the first part of a target's module is in ``app_dir``. Nothing is imported, and the path stays as it is.

    Raises:
        TargetError: the text is no target, or there is no such folder.
    """
    top = parse(text).module.partition(".")[0]
    return PathFinder.find_spec(top, [_folder(app_dir)]) is not None


def folders(text: str, app_dir: str) -> Iterator[str]:
    """``app_dir``, and the folders of the packages in it that a target's module is in, or is. Nothing is imported.

    Raises:
        TargetError: the text is no target, or there is no such folder.
    """
    folder = _folder(app_dir)
    yield folder
    for part in parse(text).module.split("."):
        folder = os.path.join(folder, part)
        if not os.path.isdir(folder):
            return
        yield folder


def _known(top: str) -> bool:
    """Whether a module is loaded, or on the import path."""
    try:
        return importlib.util.find_spec(top) is not None
    except ValueError:
        return True  # it is loaded already, but not by the import system


def load(text: str, app_dir: str = "", names: Sequence[str] = (), path: Sequence[str] = ()) -> object:
    """Import what a target names. Runs in the process that will use it: the worker, or the master with preload.

    Args:
        text: The target.
        app_dir: The folder that goes first on the import path, and stays there; "" leaves the path as it is.
        names: Of a module alone the first attribute of these that it has is meant; without them, the module.
        path: Folders that go there behind it.

    Returns:
        The object, or what the factory returned.

    Raises:
        TargetError: It is not there, or an import failed. Anything else that the application raises passes through.
    """
    sources.by_content()
    target = parse(text)
    folder = _put_first(app_dir, path) if app_dir else os.getcwd()
    try:
        found: object = importlib.import_module(target.module)
        if names and not target.attribute:
            return _usual(target, found, names)
        for name in target.attribute.split(".") if target.attribute else ():
            found = _attribute(target, found, name)
        return _made_by(target, found) if target.call else found
    except TargetError:
        if why := _hidden(target, folder):
            raise TargetError(why) from None
        raise
    except ImportError as error:
        place = _raised_at(error.__traceback__)
        asked_for = isinstance(error, ModuleNotFoundError) and f"{target.module}.".startswith(f"{error.name}.")
        if place is None and asked_for:
            raise _no_module(target, str(error.name), folder) from error
        message = " ".join(str(error).split())
        where = f"{place}: " if place else ""
        raise TargetError(f"{text!r} can't be imported: {where}{type(error).__name__}: {message}") from error


def _hidden(target: Target, folder: str) -> str:
    """Why it is not the module in the folder that was found: another of its name had been loaded; "" if it was."""
    top = target.module.partition(".")[0]
    spec = PathFinder.find_spec(top, [folder])
    loaded = getattr(sys.modules.get(top), "__spec__", None)
    if spec is None or spec.origin is None or loaded is None or loaded.origin == spec.origin:
        return ""
    where = "the interpreter's own" if loaded.origin in {None, "built-in", "frozen"} else loaded.origin
    return (
        f"{target.text!r}: a module of this name is loaded already, {where}, and hides {spec.origin}; rename the latter"
    )


def _put_first(app_dir: str, path: Sequence[str]) -> str:
    folder = _folder(app_dir)
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    sys.path[1:1] = [other for other in path if other not in sys.path]
    return folder


def _folder(app_dir: str) -> str:
    folder = absolute(app_dir)
    if not os.path.isdir(folder):
        raise TargetError(f"app_dir: {app_dir!r} is not a folder; give the one that the application's module is in")
    # Folders may have changed since they were last looked at: in a worker, by the master, whose caches it has. Not in
    # load alone: Python 3.13 imports importlib.metadata for it, which each worker would then have for itself, and which
    # a worker that is another user may not be allowed to read. What the master has imported in check, they share.
    importlib.invalidate_caches()
    return folder


def _no_module(target: Target, name: str, folder: str) -> TargetError:
    # Only what lies in the application's folder: the whole path would offer the standard library's names as well.
    here = [module.name for module in pkgutil.iter_modules([folder])]
    remedy = did_you_mean(name, here, "name another, or its folder with --app-dir")
    return TargetError(f"{target.text!r}: there is no module {name!r} in {folder} or on the import path; {remedy}")


def _usual(target: Target, module: object, names: Sequence[str]) -> object:
    for name in names:
        try:
            return _attribute(target, module, name)
        except TargetError:
            continue
    remedy = f"give {target.text}:NAME, with the name of what is to be served"
    raise TargetError(f"{target.text!r}: it has neither {' nor '.join(names)}; {remedy}")


def _attribute(target: Target, holder: object, name: str) -> object:
    try:
        return getattr(holder, name)
    except AttributeError as error:
        if error.name not in {None, name}:
            raise  # code behind the attribute failed to find one of its own
    known = [public for public in dir(holder) if not public.startswith("_")]
    shown = getattr(holder, "__name__", type(holder).__name__)
    remedy = did_you_mean(name, known, "name one that it has")
    raise TargetError(f"{target.text!r}: {shown} has no attribute {name!r}; {remedy}") from None


def _made_by(target: Target, factory: object) -> object:
    if not callable(factory):
        kind = type(factory).__name__
        raise TargetError(f"{target.text!r}: {target.attribute} is {kind}, not a function; leave the () out")
    import inspect

    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise TargetError(f"{target.text!r}: {target.attribute} can't be called without arguments: {error}") from None
    except ValueError:
        pass  # a built-in that doesn't say what it takes
    made: object = factory()
    return made


def _raised_at(traceback: TracebackType | None) -> str | None:
    """``file:line`` of the innermost frame that is neither ours nor the import system's; None without one."""
    place = None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not code.co_filename.startswith(_MACHINERY):
            place = f"{code.co_filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place
