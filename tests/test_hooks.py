import logging
import sys
import types
from collections.abc import Callable

import pytest

from prefork import hooks
from prefork.errors import BootError, SettingsError
from prefork.hooks import Hooks
from prefork.system.ending import OrderedEndError
from prefork.testing.clock import FakeClock

NAMES = [hook.name for hook in hooks.described()]


def problems_of(make: Callable[[], object]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as raised:
        make()
    return raised.value.problems


def test_who_runs_each_hook_with_what() -> None:
    assert {hook.name: (hook.runs_in, hook.arguments) for hook in hooks.described()} == {
        "on_starting": ("master", ("server",)),
        "when_ready": ("master", ("server",)),
        "pre_fork": ("master", ("server", "worker")),
        "post_fork": ("worker", ("server", "worker")),
        "post_worker_init": ("worker", ("worker",)),
        "on_idle": ("worker", ("worker",)),
        "warm": ("mold", ("worker",)),
        "worker_abort": ("worker", ("worker",)),
        "worker_exit": ("worker", ("server", "worker")),
        "child_exit": ("master", ("server", "exit")),
        "on_reload": ("master", ("server",)),
        "on_exit": ("master", ("server",)),
        "on_pressure": ("master", ("server", "pressure")),
    }


@pytest.mark.parametrize("hook", hooks.described(), ids=NAMES)
def test_every_hook_is_described(hook: hooks.Hook) -> None:
    assert hook.help[0].isupper()
    assert hook.help.endswith(".")


@pytest.mark.parametrize("hook", hooks.described(), ids=NAMES)
def test_a_hook_gets_its_arguments(hook: hooks.Hook) -> None:
    seen: list[tuple[object, ...]] = []
    given = Hooks.from_namespace(types.SimpleNamespace(**{hook.name: lambda *a: seen.append(a)}))
    for name in NAMES:
        given.call(name, *hook.arguments)
    assert seen == [hook.arguments]


def test_a_hook_that_is_not_set_is_nothing() -> None:
    Hooks().call("when_ready", None)


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(3), KeyboardInterrupt()])
def test_what_a_hook_raises_is_logged_and_goes_no_further(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def post_fork(_server: object, _worker: object) -> None:
        raise error

    Hooks(post_fork=post_fork).call("post_fork", None, None)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("prefork", logging.ERROR)
    assert record.getMessage() == "hook post_fork failed"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize("name", ["on_starting", "post_fork", "post_worker_init", "pre_fork", "worker_exit"])
def test_what_is_about_to_begin_may_be_refused(name: str, caplog: pytest.LogCaptureFixture) -> None:
    def refuses(*_given: object) -> None:
        raise BootError("no database")

    given = Hooks.from_namespace(types.SimpleNamespace(**{name: lambda *_: refuses()}))
    if name in hooks.REFUSING:
        with pytest.raises(BootError, match="no database"):
            given.call(name)
        assert not caplog.records
    else:
        given.call(name)
        assert caplog.records[0].getMessage() == f"hook {name} failed"


def test_an_order_to_end_is_no_failure_of_a_hook(caplog: pytest.LogCaptureFixture) -> None:
    def told_to_end(*_given: object) -> None:
        raise OrderedEndError(0)

    with pytest.raises(OrderedEndError):
        Hooks(post_fork=told_to_end).call("post_fork", None, None)
    assert not caplog.records


def test_only_the_masters_slow_hooks_are_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    monkeypatch.setattr(hooks, "SYSTEM", clock)

    def slow(*_arguments: object) -> None:
        clock.advance(hooks.SLOW + 0.05)

    given = Hooks(worker_exit=slow, on_reload=slow, on_exit=lambda _server: None)
    given.call("worker_exit", None, None)
    given.call("on_exit", None)
    assert not caplog.records
    given.call("on_reload", None)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("hook on_reload kept the master from its work for 1.")


def test_an_unknown_hook_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(AttributeError):
        Hooks().call("when_redy")


def test_functions_are_found_by_name_in_a_module() -> None:
    module = types.ModuleType("app_hooks")
    exec("def when_ready(server): server.append('ready')\npre_fork = None\nother = 5", module.__dict__)
    given = Hooks.from_namespace(module)
    called: list[str] = []
    given.call("when_ready", called)
    assert called == ["ready"]
    assert given.pre_fork is None


def test_methods_of_an_object_are_found() -> None:
    class Mine:
        def __init__(self) -> None:
            self.reloads = 0

        def on_reload(self, _server: object) -> None:
            self.reloads += 1

    mine = Mine()
    Hooks.from_namespace(mine).call("on_reload", None)
    assert mine.reloads == 1


def test_all_problems_are_reported_at_once() -> None:
    async def pre_fork(_server: object, _worker: object) -> None: ...

    namespace = types.SimpleNamespace(
        when_ready="yes", pre_fork=pre_fork, post_fork=lambda _worker: None, worker_exit=lambda *_all: None
    )
    assert problems_of(lambda: Hooks.from_namespace(namespace)) == (
        "hooks: when_ready is str, not a function; define when_ready(server)",
        "hooks: pre_fork is a coroutine function, which nobody would await; define plain pre_fork(server, worker)",
        (
            "hooks: post_fork can't be called with (server, worker): too many positional arguments; "
            "define post_fork(server, worker)"
        ),
    )


def test_a_class_given_for_its_object_is_noticed() -> None:
    class Mine:
        def when_ready(self, _server: object) -> None: ...

    (line,) = problems_of(lambda: Hooks.from_namespace(Mine))
    assert line.startswith("hooks: when_ready can't be called with (server): missing a required argument")


def test_a_namespace_without_hooks_is_a_mistake() -> None:
    (line,) = problems_of(lambda: Hooks.from_namespace(sys))
    assert line.startswith("hooks: sys has no function named as a hook; give one of on_starting, when_ready,")


def test_a_builtin_without_a_signature_is_taken_at_its_word() -> None:
    Hooks(when_ready=min)  # inspect.signature() refuses to describe it
