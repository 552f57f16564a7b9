"""From an address to listening sockets, or to one line that says why not and what to do.

Everything that can go wrong between a setting and a listening socket is known beforehand: the address is in use, not
ours, forbidden, unknown; what we inherited is no socket, or does not listen. Each is a `ListenError` whose text names
the setting, its value and the remedy.
"""

from __future__ import annotations

import contextlib
import errno
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from prefork.config.address import Address
from prefork.errors import InUseError, ListenError
from prefork.net import port_owner, unixpath
from prefork.net.inetaddress import InetAddress
from prefork.net.ipsocket import IPSocket, local_address
from prefork.net.kernelsocket import KernelSocket
from prefork.net.options import SocketOptions, apply
from prefork.net.unixsocket import UnixSocket
from prefork.system.natives import os, socket
from prefork.system.need import remedy

_UNPRIVILEGED: Final = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def bind(
    address: Address,
    *,
    count: int,
    backlog: int,
    options: SocketOptions,
    reuse_port: bool,
    beside: KernelSocket | None = None,
    listen: bool = True,
) -> tuple[list[KernelSocket], unixpath.FileId | None]:
    """Listen on an address of any kind that we make ourselves.

    Args:
        address: Of kind "inet", "inet6", "unix" or "abstract".
        count: How many sockets; more than one only in a SO_REUSEPORT group.
        backlog: The length of each accept queue, in connections.
        options: What to set before they listen.
        reuse_port: Whether they are a SO_REUSEPORT group.
        beside: A member of the group to join; None when they are its first.
        listen: Whether TCP sockets listen already, or that is left to the caller.

    Returns:
        The sockets, in the order in which they began to listen, and what the file of a unix path is.

    Raises:
        ListenError: It can't be done, and why; nothing is left.
    """
    if address.kind in {"unix", "abstract"}:
        alone, file_id = bind_unix(address, backlog=backlog, options=options)
        return [alone], file_id
    sockets: list[KernelSocket] = []
    try:
        for _ in range(count):
            sockets.append(
                bind_inet(
                    address,
                    backlog=backlog,
                    options=options,
                    reuse_port=reuse_port,
                    beside=sockets[0] if sockets else beside,
                    listen=listen,
                )
            )
    except ListenError:
        for sock in sockets:
            sock.close()
        raise
    return sockets, None


def check(address: Address, *, options: SocketOptions, reuse_port: bool = False) -> None:
    """Find out whether `bind` could do it, but for who has the address now; nothing listens, and no file is made.

    Args:
        address: Of kind "inet", "inet6", "unix" or "abstract".
        options: As for `bind`.
        reuse_port: Whether it would be a SO_REUSEPORT group.

    Raises:
        ListenError: It can't be done, and why.
    """
    with contextlib.suppress(InUseError):
        if address.kind == "unix":
            try:
                unixpath.check(address, options)
            except OSError as error:
                raise ListenError(f"bind: {address}: {_unix_clause(error, address)}") from error
        elif address.kind != "abstract":
            bind_inet(address, backlog=0, options=options, reuse_port=reuse_port, listen=False, whose=False).close()


def bind_inet(
    address: Address,
    *,
    backlog: int,
    options: SocketOptions,
    reuse_port: bool = False,
    beside: KernelSocket | None = None,
    listen: bool = True,
    whose: bool = True,
) -> IPSocket:
    """Listen on a TCP address.

    Args:
        address: Of kind "inet" or "inet6"; a host name is resolved (getaddrinfo(3)), IPv4 preferred.
        backlog: The length of the accept queue, in connections.
        options: What to set before the socket is bound.
        reuse_port: Whether the socket joins a SO_REUSEPORT group.
        beside: A member of the group to join: its name is taken, so that port 0 and a host name give the same twice.
        listen: Whether to listen already, or to leave that to the caller.
        whose: Whether to find out who has an address that is in use, which means a look at every process.

    Raises:
        ListenError: It can't be done, and why.
    """
    name = local_address(beside) if beside is not None else _resolve(address)
    sock = IPSocket(name.family)
    try:
        sock.socket()
    except OSError as error:
        unknown = f"this machine does not speak {socket.AddressFamily(name.family).name}"
        raise ListenError(f"bind: {address}: {_plain(error)}; {remedy(error, unknown)}") from error
    try:
        apply(sock, options, reuse_port=reuse_port)
        sock.bind(name)
        if reuse_port and beside is None and whose:
            port_owner.check_group(address, sock)
        if listen:
            sock.listen(backlog)
    except ListenError:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            by = port_owner.of_port(name.host, name.port) if whose else port_owner.UNKNOWN
            raise port_owner.in_use(address, by, "port", shared=reuse_port) from error
        raise ListenError(f"bind: {address}: {_inet_clause(error, name)}") from error
    return sock


def bind_unix(address: Address, *, backlog: int, options: SocketOptions) -> tuple[UnixSocket, unixpath.FileId | None]:
    """Listen on a unix path, or under an abstract name.

    Args:
        address: Of kind "unix" or "abstract".
        backlog: The length of the accept queue, in connections.
        options: Of these mode, user and group, for a path.

    Returns:
        The socket, and what its file is (None for an abstract name, which has none).

    Raises:
        ListenError: It can't be done, and why.
    """
    try:
        if address.kind == "unix":
            return unixpath.take(address, backlog=backlog, options=options)
        sock = UnixSocket()
        sock.socket(address.type)
        try:
            sock.bind("\0" + address.name)
            sock.listen(backlog)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise port_owner.in_use(address, port_owner.of_unix(f"@{address.name}"), "name") from error
        raise ListenError(f"bind: {address}: {_unix_clause(error, address)}") from error
    return sock, None


def adopt(address: Address, fd: int) -> KernelSocket:
    """Take over a listening socket that this process inherited.

    The descriptor becomes close-on-exec; its O_NONBLOCK, which it shares with whoever gave it, stays as it is.

    Args:
        address: How the user named it, for the messages.
        fd: The descriptor.

    Raises:
        ListenError: It is not open, not a socket, or does not listen.
    """
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        raise ListenError(f"bind: {address}: descriptor {fd} is not open; pass a listening socket under it") from None
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"bind: {address}: descriptor {fd} is not a socket; pass a listening socket under it")
    sock = _held(fd)
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise ListenError(f"bind: {address}: the socket of descriptor {fd} does not listen; call listen(2) before")
    os.set_inheritable(fd, False)
    return sock


def descriptors(
    addresses: Iterable[Address], passed: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[Address, int | None]]:
    """Each address and the descriptor that it stands for.

    Args:
        addresses: Of any kind.
        passed: What the service manager passed, by name: see `prefork.system.systemd.listen_fds`.

    Yields:
        One pair for each address, and for "systemd" one for each socket that was passed; None where there is no
        descriptor yet.

    Raises:
        ListenError: The service manager did not pass what is asked for.
    """
    for address in addresses:
        if address.kind == "systemd":
            for fd in _passed_under(address, passed):
                yield address, fd
        else:
            yield address, address.fd if address.kind == "fd" else None


def _passed_under(address: Address, passed: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    fds = passed.get(address.name, ()) if address.name else tuple(sorted(fd for fds in passed.values() for fd in fds))
    if fds:
        return fds
    if not passed:
        raise ListenError(
            f"bind: {address}: the service manager passed no sockets; start through a .socket unit, or give an address"
        )
    names = ", ".join(sorted(passed))
    raise ListenError(f"bind: {address}: the service manager passed no socket of this name; it passed {names}")


def _held(fd: int) -> KernelSocket:
    """The object that holds a socket of its family."""
    unknown = KernelSocket(socket.AF_UNSPEC, fd)
    try:
        family = unknown.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
    finally:
        unknown.detach()
    if family == socket.AF_UNIX:
        return UnixSocket(fd)
    return IPSocket(family, fd) if family in {socket.AF_INET, socket.AF_INET6} else KernelSocket(family, fd)


def _resolve(address: Address) -> InetAddress:
    family = socket.AF_INET6 if address.kind == "inet6" else socket.AF_UNSPEC
    try:
        # As bytes: for text Python looks for its idna codec first, and an address has only ASCII letters.
        host = (address.host or "0.0.0.0").encode("ascii")
        found = socket.getaddrinfo(host, address.port, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ListenError(
            f"bind: {address}: the host name is unknown ({error.strerror}); give one of this machine's addresses"
        ) from error
    # A name for both families means the IPv4 one here, as the address's text (host:port) promises.
    *_, name = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return InetAddress(*name)


def _inet_clause(error: OSError, name: InetAddress) -> str:
    host, port = name.host, name.port
    match error.errno:
        case errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine; give one of its own, or :{port} for all"
        case errno.EACCES if port < _first_unprivileged_port():
            return (
                f"no permission for port {port}; use {_first_unprivileged_port()} or above, start as root, "
                "or grant CAP_NET_BIND_SERVICE"
            )
    return f"{_plain(error)}; {remedy(error, 'choose another address')}"


def _unix_clause(error: OSError, address: Address) -> str:
    path = address.path
    match error.errno:
        case errno.ENOENT:
            return f"the folder {os.path.dirname(path) or '.'} does not exist; make it"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"{_plain(error)}; let this user write to the folder {os.path.dirname(path) or '.'}"
        case errno.ELOOP:
            return f"{path}.lock is a symbolic link; remove it"
    return f"{_plain(error)}; {remedy(error, 'choose another path')}"


def _plain(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _first_unprivileged_port() -> int:
    try:
        return int(_UNPRIVILEGED.read_bytes())
    except (OSError, ValueError):
        return 1024
