"""Small servers of the standard library, good and bad, that prefork.testing itself is tested against."""

from __future__ import annotations

from typing import Final

PREAMBLE: Final = '''
import os, signal, socket, struct, sys, time

def listen(address="127.0.0.1:0", backlog=512, workers=1):
    """Listen on what a test gave, and say so as prefork does."""
    if address.startswith("unix:@"):
        listener = socket.socket(socket.AF_UNIX); listener.bind("\\0" + address[6:])
    elif address.startswith("unix:"):
        listener = socket.socket(socket.AF_UNIX); listener.bind(address[5:])
    elif address.startswith("seqpacket:"):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); listener.bind(address[10:])
    else:
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if "[" in host else socket.AF_INET
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), int(port)))
        address = f"{host}:{listener.getsockname()[1]}"
    listener.listen(backlog)
    return listener, address

def ready(address, workers=1):
    print(f"serving on {address} with {workers} worker{'s' if workers != 1 else ''}, pid {os.getpid()}", flush=True)

def answer(connection, body):
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body))

def answer_in(connection, *chunks):
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n" + b"\\r\\n".join(chunks))

def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()

listener, address = listen(*sys.argv[1:2])
'''

GOOD: Final = (
    PREAMBLE
    + """
ready(address)
while True:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        answer(connection, b"%d" % os.getpid())
"""
)
"""Answers every request with its process id."""

FORKING: Final = (
    PREAMBLE
    + """
def work():
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            answer(connection, b"%d" % os.getpid())

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
pids = []
for _ in range(3):
    pid = os.fork()
    if not pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        work()
    pids.append(pid)
ready(address, 3)
signal.sigwait([signal.SIGTERM])
for pid in pids:
    os.kill(pid, signal.SIGTERM)
for pid in pids:
    os.waitpid(pid, 0)
sys.exit(7)
"""
)
"""A master with three workers that contend in accept; ends with code 7 on SIGTERM."""

BY_PATH: Final = (
    PREAMBLE
    + """
ready(address)
held = []
while True:
    connection, _ = listener.accept()
    path = connection.recv(65536).split()[1]
    if path == b"/empty":
        pass
    elif path == b"/reset":
        reset(connection)
        continue
    elif path == b"/half-reset":
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 100\\r\\n\\r\\nhalf")
        reset(connection)
        continue
    elif path == b"/truncated":
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 100\\r\\n\\r\\nhalf")
    elif path == b"/unframed":
        connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nuntil the close")
    elif path == b"/chunked":
        answer_in(connection, b"5", b"hello", b"6;x=y", b" world", b"0", b"", b"")
    elif path == b"/cut-chunked":
        answer_in(connection, b"5", b"hello", b"6", b" wor")
    elif path == b"/bad-chunked":
        answer_in(connection, b"-6", b"hello", b"")
    elif path == b"/interim":
        connection.sendall(b"HTTP/1.1 100 Continue\\r\\n\\r\\nHTTP/1.1 204 No Content\\r\\n\\r\\n")
    elif path == b"/503":
        connection.sendall(b"HTTP/1.1 503 Service Unavailable\\r\\nContent-Length: 0\\r\\n\\r\\n")
    elif path == b"/nonsense":
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\\r\\n")
    elif path == b"/hang":
        held.append(connection)
        continue
    connection.close()
"""
)
"""Does with a connection what the path says."""
