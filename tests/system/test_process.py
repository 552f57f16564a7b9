import ctypes
import os
import subprocess
import sys
from typing import Any

import pytest

from prefork.errors import RefusedError
from prefork.system import process
from prefork.system.process import Exit
from prefork.testing.processes import is_gone
from prefork.testing.waiting import wait_for
from tests.support.programs import ROOT, command, facts, run_program

# How a death reads.


@pytest.mark.parametrize(
    ("status", "code", "signum", "core", "text"),
    [
        (0, 0, None, False, "exited with code 0"),
        (4 << 8, 4, None, False, "exited with code 4"),
        (255 << 8, 255, None, False, "exited with code 255"),
        (9, None, 9, False, "killed by SIGKILL"),
        (11 | 0x80, None, 11, True, "killed by SIGSEGV, core dumped"),
        (40, None, 40, False, "killed by signal 40"),
    ],
)
def test_a_wait_status_is_decoded(status: int, code: int | None, signum: int | None, core: bool, text: str) -> None:
    end = Exit.from_status(status)
    assert (end.code, end.signal, end.core) == (code, signum, core)
    assert str(end) == text
    assert end.clean is (status == 0)


def test_an_exit_that_somebody_else_took_is_not_clean_and_says_so() -> None:
    assert str(Exit(None)) == "ended, and somebody else's wait() took how"
    assert not Exit(None).clean


def test_what_it_used_is_kept() -> None:
    assert Exit.from_status(0, 1.5, 0.25, 4096) == Exit(0, user=1.5, system=0.25, rss=4096)
    assert Exit.from_status(9, 1.5, 0.25, 4096) == Exit(None, 9, user=1.5, system=0.25, rss=4096)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (None, 0),
        (0, 0),
        (3, 3),
        (True, 1),
        (False, 0),
        (256, 0),
        (-1, 255),
        (2**70 + 5, 5),
        ("a message", 1),
        ("", 1),
        (1.0, 1),
    ],
)
def test_an_exit_code_is_read_as_the_interpreter_reads_it(code: Any, expected: int) -> None:
    assert process.exit_code(SystemExit(code)) == expected


@pytest.mark.parametrize("code", [-1, 256, "a message", True])
def test_and_the_interpreter_agrees(code: object) -> None:
    ended = subprocess.run([sys.executable, "-ISc", f"raise SystemExit({code!r})"], capture_output=True, check=False)
    assert ended.returncode == process.exit_code(SystemExit(code))


# The one fork.

FORK = """
    import atexit, os, signal, sys, traceback
    from prefork.system import process, signals
    atexit.register(lambda: print("atexit of", "the parent" if os.getpid() == parent else "A CHILD"))
    parent = os.getpid()

    class Odd(BaseException):
        pass

    def run(child):
        try:
            pid = process.fork(child)
        finally:
            if os.getpid() != parent:
                os.write(1, b"A CHILD CAME BACK")
        print(process.Exit.from_status(os.waitpid(pid, 0)[1]))

    def leave(error):
        def child():
            raise error
        return child
"""

CHILDREN = {
    "lambda: 0": "exited with code 0",
    "lambda: 7": "exited with code 7",
    "lambda: 256 + 7": "exited with code 7",
    "lambda: 2**80 + 7": "exited with code 7",
    "lambda: -1": "exited with code 255",
    "lambda: os._exit(9)": "exited with code 9",
    "lambda: os.kill(os.getpid(), 9)": "killed by SIGKILL",
    "sys.exit": "exited with code 0",
    "lambda: sys.exit(5)": "exited with code 5",
    "lambda: sys.exit('why')": "exited with code 1",
}


def test_a_child_ends_in_its_fork_with_what_it_returns_or_asks_for() -> None:
    ended = run_program(FORK + "".join(f"\n    run({child})" for child in CHILDREN))
    assert ended.stdout.splitlines() == [*CHILDREN.values(), "atexit of the parent"]
    assert (ended.returncode, ended.stderr) == (0, "")


COMPLAINTS = {
    "lambda: None": "TypeError",
    "lambda: 'text'": "TypeError",
    "leave(ValueError('broken'))": "ValueError: broken",
    "leave(KeyboardInterrupt())": "KeyboardInterrupt",
    "leave(GeneratorExit())": "GeneratorExit",
    "leave(Odd())": "Odd",
}


def test_a_child_that_raises_ends_in_its_fork_and_shows_where() -> None:
    ended = run_program(FORK + "".join(f"\n    run({child})" for child in COMPLAINTS))
    assert ended.stdout.splitlines() == ["exited with code 70"] * len(COMPLAINTS) + ["atexit of the parent"]
    assert ended.stderr.count("Traceback (most recent call last)") == len(COMPLAINTS)
    last_lines = [line for line in ended.stderr.splitlines() if not line.startswith((" ", "Traceback"))]
    assert len(last_lines) == len(COMPLAINTS)
    assert all(line.startswith(text) for line, text in zip(last_lines, COMPLAINTS.values(), strict=True))


STREAMS = {
    "sys.stdout = sys.stderr = None": (0, 70),
    "sys.stdout.close(); sys.stderr.close()": (0, 70),
    "sys.stdout = sys.stderr = object()": (0, 70),
    "os.close(1); os.close(2); sys.stdout.write('x')": (0, 70),
    "sys.stdout.flush = leave(SystemExit(3))": (70, 70),
    "sys.stdout.flush = leave(KeyboardInterrupt())": (70, 70),
    "traceback.print_exc = leave(KeyboardInterrupt())": (0, 70),
}


def test_a_child_ends_in_its_fork_whatever_has_become_of_its_streams() -> None:
    program = """
    def broken(how, then):
        def child():
            exec(how, globals())
            return then()
        return child
    """
    for how in STREAMS:
        for then in ("int", "leave(ValueError())"):
            program += f"\n    run(broken({how!r}, {then}))"
    ended = run_program(FORK + program)
    ends = [f"exited with code {code}" for codes in STREAMS.values() for code in codes]
    assert ended.stdout.splitlines() == [*ends, "atexit of the parent"]
    assert ended.returncode == 0


def test_a_signal_whose_handler_raises_at_the_very_end_does_not_bring_the_child_back() -> None:
    """As an order to leave does that comes while a worker whose boot failed is flushing."""
    program = """
    class Slow:
        def write(self, text): pass
        def flush(self):
            os.kill(os.getpid(), signal.SIGTERM)
            sum(range(1000))  # the handler runs here
    def child():
        def handler(signum, frame):
            sys.exit(0)
        signal.signal(signal.SIGTERM, handler)
        sys.stdout = Slow()
        return 4
    run(child)
    """
    ended = run_program(FORK + program)
    assert ended.stdout.splitlines() == ["exited with code 70", "atexit of the parent"]


def test_what_was_printed_before_the_fork_appears_once_and_what_is_printed_in_the_child_appears() -> None:
    program = """
    print("before")
    run(lambda: print("in the child") or 0)
    run(lambda: print("in another") or sys.exit(1))
    """
    ended = run_program(FORK + program)
    assert ended.stdout.splitlines() == [
        "before",
        "in the child",
        "exited with code 0",
        "in another",
        "exited with code 1",
        "atexit of the parent",
    ]


def test_a_fork_that_fails_raises_and_leaves_nothing() -> None:
    program = """
        import json, os, resource
        from prefork.system import process
        os.setuid(65534)  # root is not held to the limit
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        try:
            process.fork(lambda: 0)
        except OSError as error:
            found = error.errno
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            print(json.dumps(found))
    """
    if os.geteuid():
        pytest.skip("as root only: setuid() to a user whose processes can be limited to none")
    assert facts(program) == 11  # EAGAIN


def test_signals_blocked_across_the_fork_wait_for_the_child_s_handlers() -> None:
    program = """
        import json, os, signal
        from prefork.system import process, signals
        ready, tell = os.pipe()
        signal.signal(signal.SIGTERM, lambda *_: print("the parent's handler ran"))

        def child():
            os.write(tell, b"forked")
            while signal.SIGTERM not in signal.sigpending():
                pass
            seen = []
            signals.become_worker(signals.of_worker({signal.SIGTERM: lambda *_: seen.append("ours")}))
            return 42 if seen == ["ours"] else 1

        before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        with signals.blocked():
            pid = process.fork(child)
        after = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        os.read(ready, 10)
        os.kill(pid, signal.SIGTERM)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps([code, before == after]))
    """
    assert facts(program) == [42, True]


def test_the_main_thread_meets_what_is_sent_to_it() -> None:
    """Among many that are woken with it."""
    program = """
        import json, os, select, signal, threading, time
        from prefork.system import process
        heard, say = os.pipe()

        def child():
            signal.signal(signal.SIGRTMIN + 1, lambda *_: os.write(say, b"."))
            for _ in range(30):
                threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
            os.write(say, b".")
            while True:
                time.sleep(600)

        pid = process.fork(child)
        answers = [os.read(heard, 9).decode()]
        for _ in range(10):
            os.kill(pid, signal.SIGSTOP)
            os.waitpid(pid, os.WUNTRACED)
            answers.append(process.kill_main_thread(pid, signal.SIGRTMIN + 1))
            os.kill(pid, signal.SIGCONT)
            answers.append(os.read(heard, 9).decode() if select.select([heard], [], [], 5)[0] else "")
        os.kill(pid, 9)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        answers.append(process.kill_main_thread(pid, signal.SIGRTMIN + 1))
        os.waitpid(pid, 0)
        answers.append(process.kill_main_thread(pid, signal.SIGRTMIN + 1))
        print(json.dumps(answers))
    """
    assert facts(program) == [".", *[True, "."] * 10, True, False]


def test_who_may_have_no_more_signals_queued_is_sent_one_all_the_same() -> None:
    """A real-time signal of tgkill(2) is refused then (EAGAIN); one of kill(2) is not."""
    program = """
        import json, os, resource, select, signal
        from prefork.system import process
        heard, say = os.pipe()

        def child():
            resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))
            signal.signal(signal.SIGRTMIN + 1, lambda *_: os.write(say, b"."))
            os.write(say, b".")
            while True:
                signal.pause()

        pid = process.fork(child)
        answers = [os.read(heard, 9).decode(), process.kill_main_thread(pid, signal.SIGRTMIN + 1)]
        answers.append(os.read(heard, 9).decode() if select.select([heard], [], [], 5)[0] else "")
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        print(json.dumps(answers))
    """
    assert facts(program) == [".", True, "."]


# Learning of a death.


def test_an_exit_is_taken_once_from_the_child_that_was_asked_for() -> None:
    program = """
        import json, os, select, signal
        from prefork.system import process
        first, second = process.fork(lambda: 3), process.fork(lambda: signal.pause() or 0)
        pidfd = process.open_pidfd(first)
        select.select([pidfd], [], [])
        facts = [process.ended(first), process.ended(first), process.ended(second), process.reap(second)]
        end = process.reap(first)
        facts += [end.code, end.user >= 0.0, end.rss > 1 << 20]
        for gone in (process.reap, process.ended):
            try:
                gone(first)
            except ChildProcessError:
                facts.append("no child")
        facts.append(process.kill(second, signal.SIGTERM))
        while not process.ended(second):
            pass
        facts += [process.any_ended() == second, str(process.reap(second)), process.any_ended()]
        print(json.dumps(facts))
    """
    assert facts(program) == [
        *(True, True, False, None),
        *(3, True, True),
        *("no child", "no child"),
        True,
        *(True, "killed by SIGTERM", None),
    ]


def test_any_ended_is_none_while_all_live() -> None:
    program = """
        import json, os, signal
        from prefork.system import process
        pid = process.fork(lambda: signal.pause() or 0)
        alive = process.any_ended()
        os.kill(pid, 9)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        print(json.dumps([alive, process.any_ended() == pid, process.any_ended() == pid]))
        os.waitpid(pid, 0)
    """
    assert facts(program) == [None, True, True]


def test_an_exit_that_somebody_else_takes_is_no_child_s() -> None:
    program = """
        import json, signal
        from prefork.system import process
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        pid = process.fork(lambda: 0)
        while True:
            try:
                if process.reap(pid) is not None:
                    print(json.dumps("taken"))
                    break
            except ChildProcessError:
                print(json.dumps("gone"))
                break
    """
    assert facts(program) == "gone"


def test_a_pidfd_is_not_to_be_had_at_the_limit_of_descriptors() -> None:
    program = """
        import json, os, resource, signal
        from prefork.system import process
        pid = process.fork(lambda: signal.pause() or 0)
        facts = []
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        facts.append(process.open_pidfd(pid))
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        pidfd = process.open_pidfd(pid)
        facts.append(os.get_inheritable(pidfd))
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        facts.append(process.open_pidfd(pid))
        print(json.dumps(facts))
    """
    assert facts(program) == [None, False, None]


def test_a_process_that_has_ended_is_killed_in_vain() -> None:
    program = """
        import json, os, signal
        from prefork.system import process
        pid = process.fork(lambda: 0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        zombie = process.kill(pid, signal.SIGTERM)
        process.reap(pid)
        print(json.dumps([zombie, process.kill(pid, signal.SIGTERM)]))
    """
    assert facts(program) == [True, False]  # a zombie takes signals and does nothing with them


# Who dies with whom.

FAMILY = """
    import os, signal, sys
    from prefork.system import process, signals

    def child(parent):
        signal.alarm(30)  # a child that is never told ends all the same
        alive = process.die_with_parent(signal.SIGTERM, parent)
        def told(signum, frame):
            os.write(1, b"told\\n")
            os._exit(0)
        signal.signal(signal.SIGTERM, told)
        os.write(1, f"{os.getpid()} {alive}\\n".encode())
        while True:  # pause() would miss a signal that comes just before it
            pass
"""


def test_a_child_is_told_when_its_parent_is_killed() -> None:
    program = FAMILY + "\n    process.fork(lambda: child(os.getppid()))\n    signal.pause()\n"
    parent = subprocess.Popen(command(program), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, alive = parent.stdout.readline().split()
    assert alive == "True"
    parent.kill()
    parent.wait()
    assert parent.stdout.read() == "told\n"
    wait_for(lambda: is_gone(int(pid)))
    parent.stdout.close()


def test_a_child_finds_out_that_its_parent_died_before_it_could_ask() -> None:
    """The signal would never come."""
    program = """
        import json, os, signal
        from prefork.system import process
        waiting, go = os.pipe()
        told, tell = os.pipe()

        def child(parent):
            os.close(go)
            os.read(waiting, 1)  # until the parent is gone
            os.write(tell, b"true" if process.die_with_parent(signal.SIGTERM, parent) else b"false")
            return 0

        def parent():
            me = os.getpid()
            process.fork(lambda: child(me))
            return 0

        pid = process.fork(parent)
        os.waitpid(pid, 0)
        os.close(go)
        print(os.read(told, 10).decode())
    """
    assert facts(program) is False


def test_a_signal_that_there_is_not_is_refused() -> None:
    before = ctypes.c_int()
    with pytest.raises(RefusedError, match=r"prctl\(2\)\): Invalid argument"):
        process.die_with_parent(4000, os.getppid())
    libc = ctypes.CDLL(None)
    assert libc.prctl(2, ctypes.byref(before)) == 0  # PR_GET_PDEATHSIG
    assert before.value == 0
