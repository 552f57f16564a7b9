"""Orphans that are given to a process which expects some: whose exits are taken, and whose are left."""

from __future__ import annotations

import json
import subprocess
import sys

from prefork.system.process import BIRTH, MOLD

SCRIPT = """
import json, os, select, signal, sys, time
from prefork.system import process
from prefork.system.child import Children, pids_of_children
from prefork.system.orphans import Adoption

class Loop:
    def __init__(self):
        self.callbacks = {}
    def register(self, fd, callback):
        self.callbacks[fd] = callback
    def unregister(self, fd):
        self.callbacks.pop(fd, None)
    def call_later(self, seconds, callback):
        raise AssertionError("there are pidfds")

def is_left(name):
    loop = Loop()
    adoption = Adoption(Children(loop))
    adoption.open()
    reader, writer = os.pipe()
    between = os.fork()
    if not between:
        if not os.fork():
            process.call_itself(name.encode())
            os.write(writer, str(os.getpid()).encode())
        signal.pause()
    orphan = int(os.read(reader, 20))

    def hook():
        os.kill(between, signal.SIGKILL)
        os.waitpid(between, 0)
        while orphan not in pids_of_children():
            time.sleep(0.001)

    adoption.passing(hook)
    os.kill(orphan, signal.SIGKILL)
    adoption.close()
    while loop.callbacks:
        for fd in select.select(list(loop.callbacks), [], [])[0]:
            loop.callbacks[fd]()
    left = orphan in pids_of_children()
    if left:
        os.waitpid(orphan, 0)
    return left

print(json.dumps({name: is_left(name) for name in sys.argv[1:]}))
"""


def test_who_comes_during_a_hook_is_the_hook_s_unless_workers_are_forked_by_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, BIRTH, MOLD, "somebody"], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == {BIRTH: False, MOLD: False, "somebody": True}
