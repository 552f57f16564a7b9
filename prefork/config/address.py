"""Where to listen, as text and as a value.

`parse` reads what a user writes, ``str()`` of an `Address` writes the canonical form of it back, and parsing that
gives an equal address. Nothing here asks the system anything: host names are resolved by the listener, and whether
a path or a descriptor is any good shows when it is used.

    127.0.0.1:8000      one IPv4 address; port 0 lets the kernel choose a free one
    example.org:8000    a host name, resolved when the server starts
    [::1]:8000          one IPv6 address, in brackets; a zone may follow it: [fe80::1%eth0]:8000
    :8000, 8000         every IPv4 address of the host (INADDR_ANY, ip(7))
    [::]:8000           every IPv6 address, and every IPv4 address too unless v6only is set (ipv6(7))
    unix:/run/app.sock  a path (unix(7))
    unix:@app           a name in Linux's abstract namespace
    seqpacket:/path, seqpacket:@name    the same with SOCK_SEQPACKET
    fd://3              a listening socket that was inherited under this number
    systemd:, systemd:web    the sockets that the service manager passed; all of them, or those of one name
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, Literal

from prefork.system.natives import os, socket
from prefork.system.record import Record

AddressKind = Literal["inet", "inet6", "unix", "abstract", "fd", "systemd"]

_UNIX_TYPES: Final = {"unix": socket.SOCK_STREAM, "seqpacket": socket.SOCK_SEQPACKET}
_UNIX_BYTES: Final = 107  # sun_path has 108; one goes to the closing NUL of a path or the leading one of a name
_FOLDER: Final = re.compile(r"(^|/)\.{0,2}$")  # a path that ends so can only be a folder
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_HOST_CHARACTERS: Final = 253  # of a whole host name (RFC 1035, 2.3.4, in its written form)
_FD_NAME: Final = re.compile(r"[!-9;-~]{1,255}")  # sd_listen_fds_with_names(3): printable ASCII without ":"
_BIGGEST_FD: Final = 2**31 - 1


class Address(Record):
    """Somewhere to listen. Made by `parse`; the fields that a kind has no use for keep their defaults.

    Args:
        kind: What sort of address. A host name is "inet" until the listener has resolved it.
        host: An IPv4 or IPv6 address (without brackets) or a host name; "" is every IPv4 address.
        port: The TCP port, 0 for one of the kernel's choice.
        path: The path of a unix socket, as text (``os.fsencode`` gives its bytes).
        fd: The number of an inherited descriptor.
        name: The abstract name without its "@", or the name of a service manager's sockets, "" for all of them.
        type: ``SOCK_STREAM`` or ``SOCK_SEQPACKET``; what a descriptor really is shows when it is adopted.
        folder: Where a relative path begins; "" for the working directory. No part of what the address is.
    """

    kind: AddressKind
    host: str = ""
    port: int = 0
    path: str = ""
    fd: int = -1
    name: str = ""
    type: socket.SocketKind = socket.SOCK_STREAM
    folder: str = ""

    def __eq__(self, other: object) -> bool:
        return self._said == other._said if isinstance(other, Address) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._said)

    @property
    def _said(self) -> tuple[object, ...]:
        return self.kind, self.host, self.port, self.path, self.fd, self.name, self.type

    @property
    def file(self) -> str:
        """The path of a unix socket from where it begins; it may be longer than an address."""
        return os.path.join(self.folder, self.path)

    @property
    def is_here(self) -> bool:
        """Whether nobody on another machine can reach it: a unix socket, a loopback address or localhost (RFC 6761)."""
        if self.kind in {"inet", "inet6"}:
            parsed = IPv6Address if self.kind == "inet6" else IPv4Address
            try:
                return parsed(self.host).is_loopback
            except AddressValueError:
                return self.host == "localhost"
        return self.kind in {"unix", "abstract"}

    def __str__(self) -> str:
        match self.kind:
            case "inet":
                return f"{self.host}:{self.port}"
            case "inet6":
                return f"[{self.host}]:{self.port}"
            case "fd":
                return f"fd://{self.fd}"
            case "systemd":
                return f"systemd:{self.name}"
        scheme = "seqpacket" if self.type == socket.SOCK_SEQPACKET else "unix"
        return f"{scheme}:{self.path}" if self.kind == "unix" else f"{scheme}:@{self.name}"


def parse(text: str) -> Address:
    """Read an address as a user writes it. Pure.

    Args:
        text: One of the forms that the module's docstring lists.

    Returns:
        The address; equal for all ways to write the same one.

    Raises:
        ValueError: The text is none of those forms. The message is one clause with the text and the remedy.
    """
    if not text.isprintable():
        raise ValueError(f"{text!r} holds a character that can't be printed; give host:port or unix:/path")
    scheme, colon, rest = text.partition(":")
    if colon and scheme in _UNIX_TYPES:
        return _unix(text, rest, _UNIX_TYPES[scheme])
    if colon and scheme == "fd":
        return _fd(text, rest)
    if colon and scheme == "systemd":
        if rest and not _FD_NAME.fullmatch(rest):
            raise ValueError(f"{text!r} does not name a socket; give systemd: or systemd:NAME")
        return Address("systemd", name=rest)
    return _inet(text)


def _unix(text: str, rest: str, kind: socket.SocketKind) -> Address:
    if rest.startswith("///"):
        rest = "/" + rest.lstrip("/")  # the URL's way to write an absolute path
    elif rest.startswith("//"):
        raise ValueError(f"{text!r} can be read as two paths; give {text.replace('//', '/', 1)}")
    abstract = rest.startswith("@")
    name = rest[1:] if abstract else rest
    if not name or (not abstract and _FOLDER.search(name)):
        raise ValueError(f"{text!r} names no socket; give unix:/path or unix:@name")
    try:
        length = len(os.fsencode(name))
    except UnicodeEncodeError:
        raise ValueError(f"{text!r} can't be written in the file system's encoding; give plain text") from None
    if length > _UNIX_BYTES:
        raise ValueError(f"{text!r} has {length} bytes after the colon; a unix socket's may have {_UNIX_BYTES}")
    return Address("abstract", name=name, type=kind) if abstract else Address("unix", path=name, type=kind)


def _fd(text: str, rest: str) -> Address:
    number = _digits(rest.removeprefix("//")) if rest.startswith("//") else None
    if number is None or number > _BIGGEST_FD:
        raise ValueError(f"{text!r} is not a descriptor; give fd://NUMBER, as in fd://3")
    return Address("fd", fd=number)


def _inet(text: str) -> Address:
    host, colon, port_text = text.rpartition(":")
    if "]" in port_text or (not colon and _digits(text) is None):
        raise ValueError(f"{text!r} has no port; give host:port, [address]:port or unix:/path")
    port = _digits(port_text)
    if port is None or port > 65535:
        raise ValueError(f"{text!r} has no port that TCP knows; give 0 to 65535 after the last colon")
    if host.startswith("[") and host.endswith("]"):
        return Address("inet6", host=_ipv6(text, host[1:-1]), port=port)
    if "://" in text:
        raise ValueError(f"{text!r} starts with no known scheme; give host:port, unix:/path or fd://NUMBER")
    if ":" in host:
        raise ValueError(f"{text!r} is an IPv6 address without brackets; give [address]:port")
    return Address("inet", host=_ipv4_or_name(text, host), port=port)


def _ipv6(text: str, host: str) -> str:
    try:
        return str(IPv6Address(host))
    except AddressValueError:
        raise ValueError(f"{text!r} has no IPv6 address in its brackets; give one, as in [::1]:8000") from None


def _ipv4_or_name(text: str, host: str) -> str:
    if not host:
        return ""
    labels = host.lower().removesuffix(".").split(".")
    if labels[-1].isdecimal():  # no top-level domain is a number: this was meant as an IPv4 address
        try:
            return str(IPv4Address(host))
        except AddressValueError:
            raise ValueError(f"{text!r} has no IPv4 address before its port; give four numbers") from None
    if len(host) > _HOST_CHARACTERS or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text!r} has no host name before its port; give letters, digits, dots and hyphens")
    return ".".join(labels)


def _digits(text: str) -> int | None:
    """The number that ASCII digits alone spell; None for anything else, and for what no port or fd reaches."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 else None
