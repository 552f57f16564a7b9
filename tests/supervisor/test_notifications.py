"""Whoever subscribes is told, in the order of subscriptions, of one thing after the other."""

from typing import get_args

import pytest

from prefork.supervisor.notifications import Notification, Notifier, Reloaded, Scaled, Serving, Stopping


def test_subscribers_are_told_in_their_order_and_of_their_kind_alone() -> None:
    notifier, said = Notifier(), list[str]()
    notifier.subscribe(Scaled, lambda told: said.append(f"first {told.size}"))
    notifier.subscribe(Serving, lambda _: said.append("serving"))
    notifier.subscribe(Scaled, lambda told: said.append(f"second {told.size}"))
    notifier.notify(Scaled(3))
    assert said == ["first 3", "second 3"]
    notifier.notify(Stopping())
    assert said == ["first 3", "second 3"]


def test_what_happens_because_of_a_notification_is_told_when_all_know_of_that() -> None:
    notifier, said = Notifier(), list[object]()
    notifier.subscribe(Serving, lambda _: notifier.notify(Reloaded(1)))
    notifier.subscribe_to_all(said.append)
    notifier.notify(Serving())
    assert said == [Serving(), Reloaded(1)]


def test_services_are_told_all_that_is_meant_for_them() -> None:
    notifier, said = Notifier(), list[object]()
    notifier.subscribe_to_all(lambda told: said.append(type(told)))
    for kind in get_args(Notification):
        notifier.notify(object.__new__(kind))
    assert said == list(get_args(Notification))


def test_a_subscriber_that_fails_silences_nobody_for_good() -> None:
    notifier, said = Notifier(), list[object]()

    def fail(_: Serving) -> None:
        notifier.notify(Reloaded(2))
        raise RuntimeError("a defect")

    notifier.subscribe(Serving, fail)
    notifier.subscribe(Reloaded, said.append)
    notifier.subscribe(Scaled, said.append)
    with pytest.raises(RuntimeError):
        notifier.notify(Serving())
    notifier.notify(Scaled(1))
    assert said == [Reloaded(2), Scaled(1)]
