import signal

import pytest

from prefork.system import signals
from tests.support.programs import facts, run_program

# The recorder.


def test_signals_are_noted_in_their_order_and_taken_once() -> None:
    program = """
        import json, os, select, signal
        from prefork.system.signals import Recorder
        recorder = Recorder()
        recorder.install([signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])

        def readable():
            return bool(select.select([recorder], [], [], 0)[0])

        facts = [readable(), recorder.pending, recorder.take_signals()]
        for signum in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            os.kill(os.getpid(), signum)
        facts += [readable(), recorder.pending, [signal.Signals(n).name for n in recorder.take_signals()]]
        facts += [readable(), recorder.pending, recorder.take_signals()]
        print(json.dumps(facts))
    """
    assert facts(program) == [
        *(False, False, []),
        *(True, True, ["SIGHUP", "SIGTERM", "SIGHUP", "SIGUSR1"]),
        *(False, False, []),
    ]


def test_more_signals_than_the_pipe_holds_are_all_noted_and_say_nothing() -> None:
    program = """
        import fcntl, json, os, signal
        from prefork.system.signals import Recorder
        recorder = Recorder()
        fcntl.fcntl(recorder.fileno(), fcntl.F_SETPIPE_SZ, 4096)
        recorder.install([signal.SIGUSR1])
        for _ in range(5000):
            os.kill(os.getpid(), signal.SIGUSR1)
        print(json.dumps([len(recorder.take_signals()), recorder.take_signals()]))
    """
    assert facts(program) == [5000, []]


def test_a_sleep_in_the_kernel_ends_when_a_signal_comes() -> None:
    """By the wake-up descriptor: a handler that only notes would let the sleep go on (PEP 475)."""
    program = """
        import json, select, signal
        from prefork.system.signals import Recorder
        recorder = Recorder()
        recorder.install([signal.SIGALRM])
        signal.alarm(1)
        epoll = select.epoll()
        epoll.register(recorder, select.EPOLLIN)
        epoll.poll()
        print(json.dumps(recorder.take_signals()))
    """
    assert facts(program) == [signal.SIGALRM]


def test_what_the_host_had_installed_is_given_back() -> None:
    program = """
        import json, os, signal
        from prefork.system.signals import Recorder
        def mine(signum, frame): pass
        reader, writer = os.pipe2(os.O_NONBLOCK)
        signal.set_wakeup_fd(writer)
        signal.signal(signal.SIGTERM, mine)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        before = sorted(os.listdir("/proc/self/fd"))
        recorder = Recorder()
        recorder.install([signal.SIGTERM, signal.SIGHUP])
        recorder.install([signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])  # and again: what was first there stays so
        recorder.restore()
        recorder.restore()
        facts = [
            signal.getsignal(signal.SIGTERM) is mine,
            signal.getsignal(signal.SIGHUP) is signal.SIG_IGN,
            signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL,
            signal.getsignal(signal.SIGINT) is signal.default_int_handler,
            signal.set_wakeup_fd(-1) == writer,
            sorted(os.listdir("/proc/self/fd")) == before,
        ]
        print(json.dumps(facts))
    """
    assert facts(program) == [True] * 6


def test_a_recorder_that_was_never_installed_leaves_the_wake_up_descriptor_alone() -> None:
    program = """
        import json, os, signal
        from prefork.system.signals import Recorder
        reader, writer = os.pipe2(os.O_NONBLOCK)
        signal.set_wakeup_fd(writer)
        Recorder().restore()
        print(json.dumps(signal.set_wakeup_fd(-1) == writer))
    """
    assert facts(program) is True


def test_both_ends_are_known_and_neither_blocks_nor_survives_an_exec() -> None:
    recorder = signals.Recorder()
    try:
        ends = recorder.descriptors
        assert ends[0] == recorder.fileno()
        program = """
            import json, os, sys
            print(json.dumps([os.path.exists(f"/proc/self/fd/{fd}") for fd in sys.argv[1:]]))
        """
        assert facts(program, *map(str, ends)) == [False, False]
    finally:
        recorder.restore()
    assert recorder.descriptors == (-1, -1)


def test_a_process_that_the_host_forks_takes_signals_by_default() -> None:
    """As multiprocessing does in a hook; terminate() has to end it."""
    program = """
        import json, os, signal
        from prefork.system.signals import Recorder
        recorder = Recorder()
        recorder.install([signal.SIGTERM])
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                signal.alarm(30)
                os.write(tell, b"forked")
                while True:
                    pass
            finally:
                os._exit(1)
        os.read(ready, 10)  # what comes before CPython has cleaned up after the fork is lost there
        os.kill(pid, signal.SIGTERM)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), recorder.pending]))
    """
    assert facts(program) == [-signal.SIGTERM, False]


def test_only_the_main_thread_installs() -> None:
    program = """
        import signal, threading
        from prefork.system.signals import Recorder
        raised = []

        def elsewhere():
            try:
                Recorder().install([signal.SIGTERM])
            except ValueError as error:
                raised.append(str(error))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert "main thread" in raised[0]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    """
    ended = run_program(program)
    assert (ended.returncode, ended.stderr) == (0, "")


# The mask.


def test_what_was_blocked_before_stays_blocked_after() -> None:
    program = """
        import json, signal
        from prefork.system import signals
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        with signals.blocked([signal.SIGTERM, signal.SIGUSR1]) as before:
            inside = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        after = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        try:
            with signals.blocked():
                most = signal.pthread_sigmask(signal.SIG_BLOCK, [])
                raise KeyError
        except KeyError:
            pass
        again = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        print(json.dumps([sorted(mask) for mask in (before, inside, after, most, again)]))
    """
    usr1, term = int(signal.SIGUSR1), int(signal.SIGTERM)
    everything = sorted(map(int, signals.ACROSS_FORKS))
    assert facts(program) == [[usr1], sorted([usr1, term]), [usr1], everything, [usr1]]


def test_the_mask_is_put_back_where_a_handler_raises_when_it_is_changed() -> None:
    program = """
        import json, os, signal
        from prefork.system import signals

        def late(signum, frame):
            raise TimeoutError

        signal.signal(signal.SIGUSR1, late)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        os.kill(os.getpid(), signal.SIGUSR1)
        try:
            with signals.blocked([signal.SIGTERM], only=True):
                pass
        except TimeoutError:
            print(json.dumps(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))))
    """
    assert facts(program) == [signal.SIGUSR1]


def test_within_a_block_all_others_can_be_let_in() -> None:
    """As a hook is called between two forks: what it executes inherits the mask (execve(2))."""
    program = """
        import json, signal
        from prefork.system import signals
        with signals.blocked() as before:
            with signals.blocked(before, only=True) as outside:
                inside = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            after = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        print(json.dumps([sorted(mask) for mask in (before, outside, inside, after)]))
    """
    everything = sorted(map(int, signals.ACROSS_FORKS))
    assert facts(program) == [[], everything, [], everything]


def test_a_signal_that_comes_while_it_is_blocked_waits() -> None:
    program = """
        import json, os, signal
        from prefork.system import signals
        seen = []
        signal.signal(signal.SIGHUP, lambda signum, frame: seen.append(signum))
        with signals.blocked():
            os.kill(os.getpid(), signal.SIGHUP)
            inside = list(seen)
        print(json.dumps([inside, seen]))
    """
    assert facts(program) == [[], [signal.SIGHUP]]


def test_the_master_s_signals_are_those_that_ask_for_something() -> None:
    asked = {"TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "TTIN", "TTOU", "WINCH", "CONT", "CHLD"}
    assert {signum.name for signum in signals.MASTER} == {f"SIG{name}" for name in asked}
    assert not {signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGABRT} & set(signals.MASTER)


# The child.

CHILD = """
    import json, os, signal
    from prefork.system import process, signals
    told, tell = os.pipe()

    def report(value):
        os.write(tell, json.dumps(value).encode())

    def in_child(function):
        with signals.blocked():
            pid = process.fork(function)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == 0, code
        print(os.read(told, 10_000).decode())
"""


def test_a_worker_s_handlers_replace_the_master_s() -> None:
    program = """
    recorder = signals.Recorder()
    recorder.install(signals.MASTER)
    def ours(signum, frame): pass

    def child():
        handled = (signal.SIGTERM, signal.SIGCHLD, signal.SIGABRT, 40)
        signals.become_worker(signals.of_worker(dict.fromkeys(handled, ours)))
        dispositions = {}
        for signum in (*signals.MASTER, signal.SIGABRT, 40):
            handler = signal.getsignal(signum)
            name = signal.Signals(signum).name if signum != 40 else "40"
            dispositions[name] = "ours" if handler is ours else getattr(handler, "name", handler.__class__.__name__)
        for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTTIN, signal.SIGWINCH):
            os.kill(os.getpid(), signum)  # none of which ends it
        blocked = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        report([dispositions, signal.set_wakeup_fd(-1), blocked])
        return 0

    in_child(child)
    assert set(recorder.take_signals()) == {signal.SIGCHLD}  # the worker's signals are not ours
    """
    dispositions, wakeup, blocked = facts(CHILD + program)
    nothing = dict.fromkeys(
        ("SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGTTIN", "SIGTTOU", "SIGWINCH"), "function"
    )
    ours = dict.fromkeys(("SIGTERM", "SIGABRT", "40"), "ours")
    assert dispositions == {**nothing, **ours, "SIGCHLD": "SIG_DFL", "SIGCONT": "SIG_DFL"}
    assert (wakeup, blocked) == (-1, [])


def test_what_a_worker_does_not_handle_is_not_ignored_by_what_it_executes() -> None:
    """SIG_IGN would survive the exec (signal(7)); a handler that does nothing does not."""
    program = """
    import subprocess, sys

    def child():
        signals.become_worker(signals.of_worker({}))
        listing = "import signal; print([s.name for s in signal.Signals if signal.getsignal(s) is signal.SIG_IGN])"
        report(subprocess.run([sys.executable, "-ISc", listing], capture_output=True, text=True).stdout.strip())
        return 0

    in_child(child)
    """
    ignored = facts(CHILD + program)
    assert ignored == "['SIGPIPE', 'SIGXFSZ']"  # Python's own


def test_a_child_that_will_execute_another_program_gives_all_handlers_up() -> None:
    program = """
    recorder = signals.Recorder()
    recorder.install(signals.MASTER)

    def child():
        signals.give_up()
        left = [s.name for s in signals.MASTER if signal.getsignal(s) is not signal.SIG_DFL]
        report([left, signal.set_wakeup_fd(-1), sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))])
        return 0

    in_child(child)
    """
    assert facts(CHILD + program) == [[], -1, []]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGABRT])
def test_a_handler_may_have_its_signal_act_by_default(signum: signal.Signals) -> None:
    program = """
        import os, signal, sys
        from prefork.system import signals
        signum = int(sys.argv[1])
        signal.signal(signum, lambda *_: signals.act_by_default(signum))
        os.kill(os.getpid(), signum)
        print("alive")
    """
    ended = run_program(program, str(int(signum)))
    assert (ended.returncode, ended.stdout) == (-signum, "")
