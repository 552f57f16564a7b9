"""Services that can't do their work: they end a start, and nothing else."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Sequence
from typing import cast

import pytest

from prefork.supervisor.service import ServerView, Service, Services

INSIDE = cast("ServerView", None)  # nothing here looks in


class Good(Service):
    """Does its work."""

    def __init__(self) -> None:
        self.restored: object = None
        self.detached = False

    def restore(self, saved: object) -> None:
        self.restored = saved

    def detach(self) -> None:
        self.detached = True


class WithoutDescriptor(Service):
    """What it needs is not to be had."""

    def attach(self, server: ServerView) -> None:  # noqa: ARG002  # the service's own signature
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Forgetful(Service):
    """Can't read what another release has saved."""

    def restore(self, saved: object) -> None:  # noqa: ARG002  # as above
        raise KeyError("totals")


def test_at_the_start_it_ends_the_run_and_the_others_are_given_back() -> None:
    good = Good()
    services = Services([good, WithoutDescriptor()])
    with pytest.raises(OSError, match="Too many open files"):
        services.attach(INSIDE, None)
    services.detach()
    assert good.detached


def test_after_an_upgrade_it_is_done_without(caplog: pytest.LogCaptureFixture) -> None:
    """The server serves already, and to end now would lose everybody."""
    good = Good()
    saved = {"Good": [1, 2], "WithoutDescriptor": 3}
    Services([WithoutDescriptor(), good]).attach(INSIDE, json.dumps(saved))
    assert good.restored == [1, 2]
    assert "after the upgrade: WithoutDescriptor does without: " in caplog.text


@pytest.mark.parametrize("saved", ['{"Forgetful": {}}', "[]", "1", "not JSON"])
def test_what_cannot_be_read_of_another_release_is_forgotten(saved: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "prefork"):
        Services([Forgetful()]).attach(INSIDE, saved)
    assert ("can't be read" in caplog.text) == (saved != "[]")  # there is nothing in an empty list to be read


class Keeper(Good):
    """Keeps a descriptor over an exec."""

    def __init__(self, *kept: int) -> None:
        super().__init__()
        self.kept: list[int] = list(kept)

    def keep(self) -> Sequence[int]:
        return self.kept

    def receive(self, kept: Sequence[int]) -> None:
        self.kept = list(kept)


def test_descriptors_come_to_the_same_service_and_to_nobody_else() -> None:
    reader, writer = os.pipe()
    before = Services([Keeper(reader)])
    before.attach(INSIDE, None)
    assert before.kept == [reader]
    os.set_inheritable(reader, True)
    after = Keeper()
    Services([after]).attach(INSIDE, before.save())
    assert after.kept == [reader]
    assert not os.get_inheritable(reader)
    Services([Good()]).attach(INSIDE, before.save())  # a release, or settings, that have no use for it
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reader)
    os.close(writer)


class Telling(Service):
    """Closes what is the master's, and says who it is."""

    def after_fork(self, slot: int, generation: int) -> None: ...

    def begin_life(self, slot: int, generation: int) -> None: ...


class Closing(Service):
    """Has only to close something."""

    def after_fork(self, slot: int, generation: int) -> None: ...


def test_workers_of_a_mold_are_spared_what_it_has_done_itself() -> None:
    telling, closing = Telling(), Closing()
    services = Services([telling, closing, Good()])
    services.attach(INSIDE, None)
    assert services.after_fork == (telling.after_fork, closing.after_fork, telling.begin_life)
    assert services.begin_life == (telling.begin_life,)
