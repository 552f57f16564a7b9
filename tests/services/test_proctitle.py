"""What ps(1) calls the processes."""

from __future__ import annotations

import errno
import os
import re
import signal
from pathlib import Path

import pytest

from prefork.errors import SettingsError
from prefork.services import proctitle
from prefork.testing import Server, call_until
from prefork.testing.plugin import ServerFactory
from tests.support.probing import held, probe
from tests.support.programs import facts

pytestmark = pytest.mark.executed

pytest.importorskip("setproctitle", reason="prefork[proctitle] is not installed")


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()


def workers(server: Server) -> list[str]:
    return sorted(title(pid) for pid in server.workers())


def test_the_processes_are_named(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2)
    assert title(server.pid) == "prefork: master [probe:Probe]"
    assert workers(server) == ["prefork: worker 0", "prefork: worker 1"]


def test_the_server_can_have_a_name(prefork_server: ServerFactory, tmp_path: Path) -> None:
    server = probe(prefork_server, workers=1, name="the shop", control=tmp_path / "c")
    assert title(server.pid) == "prefork: master [the shop]"


def test_titles_say_what_workers_do(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=2, proc_titles="live")
    call_until(lambda: workers(server), lambda now: now == ["prefork: worker 0 [idle]", "prefork: worker 1 [idle]"])
    with held(server) as (one,):
        busy = re.compile(r"prefork: worker [01] \[busy [0-9.]+[um]?s\]")
        seen = call_until(lambda: title(one.pid), busy.fullmatch)
        longer = call_until(lambda: title(one.pid), lambda now: now != seen)
        assert "busy" in longer
        server.signal(signal.SIGTERM)
        call_until(lambda: title(one.pid), lambda now: "[leaving]" in now)
        one.finish()
    assert server.wait() == 0


@pytest.mark.long
def test_a_worker_s_title_goes_on_after_an_upgrade(prefork_server: ServerFactory) -> None:
    """Its memory lies elsewhere than that of the image that writes there now."""
    server = probe(prefork_server, workers=1, proc_titles="live")
    call_until(lambda: workers(server), lambda now: now == ["prefork: worker 0 [idle]"])
    with held(server) as (one,):
        server.signal(signal.SIGUSR2)
        server.wait_for_log("generation 1")
        call_until(lambda: title(one.pid), lambda now: now == "prefork: worker 0 [leaving]")
        assert title(server.pid) == "prefork: master [probe:Probe]"
        one.finish()


def test_titles_can_be_left_alone(prefork_server: ServerFactory) -> None:
    server = probe(prefork_server, workers=1, proc_titles="off")
    for pid in [server.pid, *server.workers()]:
        assert "-m\0prefork\0serve\0" in title(pid)


def test_a_host_program_has_its_own_title_back() -> None:
    assert facts(
        """
        import json, os, prefork, setproctitle, signal
        setproctitle.setproctitle("mine")
        seen = []
        hooks = prefork.Hooks(when_ready=lambda server: (seen.append(setproctitle.getproctitle()), server.stop()))
        prefork.serve(lambda connection, address: None, bind="127.0.0.1:0", workers=1, hooks=hooks)
        print(json.dumps([*seen, setproctitle.getproctitle()]))
        """
    ) == ["prefork: master", "mine"]


@pytest.mark.parametrize("length", [1, 30, 300])
def test_a_title_may_be_shorter_or_longer_than_the_one_before(length: int) -> None:
    assert (
        facts(
            """
            import json, os, setproctitle, signal, sys
            from prefork.services import proctitle
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                setproctitle.setproctitle("prefork: worker 3 and then some")
                os.write(writer, b"x")
                signal.pause()
            os.read(reader, 1)
            wanted = "t" * int(sys.argv[1])
            proctitle.write(pid, wanted)
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                found = file.read().rstrip(b"\\0").decode()
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            print(json.dumps(found == wanted or found))
            """,
            str(length),
        )
        is True
    )


def test_a_worker_that_lies_about_its_arguments_costs_the_master_no_memory() -> None:
    """A process may say of itself where they lie (prctl(2), PR_SET_MM_MAP): here, that they are a terabyte."""
    assert facts(
        """
        import ctypes, json, os, resource, signal, struct
        from prefork.services import proctitle
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            libc = ctypes.CDLL(None, use_errno=True)
            libc.sbrk.restype = ctypes.c_void_p
            with open("/proc/self/stat") as file:
                fields = [0, 0, *map(int, file.read().rpartition(")")[2].split()[1:])]
            code, stack, data = fields[24:26], fields[26], fields[43:46]
            told = [*code, *data, libc.sbrk(0), stack, 1 << 40, 1 << 41, *fields[48:50], 0]
            map_ = struct.pack("=12QII", *told, 0, 0xffffffff)
            done = libc.prctl(35, 14, map_, len(map_), 0)  # PR_SET_MM, PR_SET_MM_MAP
            os.write(writer, b"y" if done == 0 else os.strerror(ctypes.get_errno()).encode())
            signal.pause()
        lied = os.read(reader, 100).decode()
        resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
        try:
            proctitle.write(pid, "prefork: worker 3")
        except OSError as error:
            said = error.strerror
        except MemoryError:
            said = "MemoryError"
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        print(json.dumps([lied, said]))
        """
    ) == ["y", os.strerror(errno.EIO)]


def test_without_setproctitle_there_are_no_titles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proctitle, "_setproctitle", lambda: None)
    proctitle.Titles(live=False).after_fork(0, 0)
    with pytest.raises(SettingsError, match=r"^proc_titles: live needs setproctitle; pip install"):
        proctitle.Titles(live=True)
