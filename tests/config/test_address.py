import os
import socket
import string
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prefork.config.address import Address, parse
from prefork.system.peer import format_peer

SEQ = socket.SOCK_SEQPACKET

CANONICAL = [
    ("127.0.0.1:8000", Address("inet", host="127.0.0.1", port=8000)),
    ("0.0.0.0:0", Address("inet", host="0.0.0.0", port=0)),
    (":8000", Address("inet", host="", port=8000)),
    ("localhost:65535", Address("inet", host="localhost", port=65535)),
    ("xn--bcher-kva.example:80", Address("inet", host="xn--bcher-kva.example", port=80)),
    ("[::]:80", Address("inet6", host="::", port=80)),
    ("[::1]:0", Address("inet6", host="::1", port=0)),
    ("[fe80::1%eth0]:80", Address("inet6", host="fe80::1%eth0", port=80)),
    ("unix:/run/app.sock", Address("unix", path="/run/app.sock")),
    ("unix:app.sock", Address("unix", path="app.sock")),
    ("unix:./@app", Address("unix", path="./@app")),
    ("unix:/run/a:b.sock", Address("unix", path="/run/a:b.sock")),
    ("unix:@app", Address("abstract", name="app")),
    ("unix:@a/", Address("abstract", name="a/")),
    ("seqpacket:/run/app.sock", Address("unix", path="/run/app.sock", type=SEQ)),
    ("seqpacket:@app", Address("abstract", name="app", type=SEQ)),
    ("fd://3", Address("fd", fd=3)),
    ("systemd:", Address("systemd")),
    ("systemd:web.socket", Address("systemd", name="web.socket")),
    ("unix:" + "/" * 1 + "x" * 106, Address("unix", path="/" + "x" * 106)),
]


@pytest.mark.parametrize(("text", "address"), CANONICAL)
def test_canonical_text_is_read_and_written_back(text: str, address: Address) -> None:
    assert parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("8000", ":8000"),
        ("0", ":0"),
        ("08000", ":8000"),
        ("LOCALHOST:80", "localhost:80"),
        ("example.org.:80", "example.org:80"),
        ("[0:0::1]:80", "[::1]:80"),
        ("unix:///run/app.sock", "unix:/run/app.sock"),
        ("fd://003", "fd://3"),
    ],
)
def test_other_ways_to_write_an_address_give_the_canonical_one(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("", "has no port; give host:port"),
        ("localhost", "has no port; give host:port"),
        ("[::1]", "has no port; give host:port"),
        (":", "give 0 to 65535"),
        ("localhost:", "give 0 to 65535"),
        ("localhost:http", "give 0 to 65535"),
        ("localhost:70000", "give 0 to 65535"),
        ("70000", "give 0 to 65535"),
        ("localhost:-1", "give 0 to 65535"),
        ("localhost:80 ", "give 0 to 65535"),
        ("localhost:²", "give 0 to 65535"),
        ("localhost:" + "9" * 5000, "give 0 to 65535"),
        ("::1:80", "without brackets; give"),
        ("[127.0.0.1]:80", "has no IPv6 address in its brackets"),
        ("[]:80", "has no IPv6 address in its brackets"),
        ("300.0.0.1:80", "give four numbers"),
        ("127.1:80", "give four numbers"),
        ("a b:80", "has no host name"),
        ("-a:80", "has no host name"),
        ("a..b:80", "has no host name"),
        ("bücher.example:80", "has no host name"),
        ("a" * 64 + ":80", "has no host name"),
        ("http://localhost:80", "starts with no known scheme; give host:port"),
        ("unix:", "names no socket"),
        ("unix:@", "names no socket"),
        ("unix:/run/", "names no socket"),
        ("unix:/run/..", "names no socket"),
        ("unix:.", "names no socket"),
        ("unix://run/app.sock", "two paths; give unix:/run/app.sock"),
        ("unix:/" + "x" * 107, "has 108 bytes after the colon"),
        ("seqpacket:@" + "é" * 54, "has 108 bytes after the colon"),
        ("unix:/run/\udfff", "can't be printed"),
        ("unix:/a\0b", "can't be printed"),
        ("local\nhost:80", "can't be printed"),
        ("fd:3", "give fd://NUMBER"),
        ("fd://", "give fd://NUMBER"),
        ("fd://-1", "give fd://NUMBER"),
        ("fd://2147483648", "give fd://NUMBER"),
        ("systemd:a:b", "give systemd: or systemd:NAME"),
        ("systemd:ä", "give systemd: or systemd:NAME"),
    ],
)
def test_anything_else_is_refused_with_its_text_and_the_remedy(text: str, remedy: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # the message is what the next lines look at
        parse(text)
    message = str(raised.value)
    assert message.startswith(repr(text))
    assert remedy in message
    assert "\n" not in message


ports = st.integers(0, 65535)
unix_names = st.text(st.characters(categories=["L", "N", "P"], max_codepoint=0x2FF), min_size=1, max_size=53).filter(
    lambda name: name not in {".", ".."} and not name.endswith(("/", "/.", "/.."))
)
types = st.sampled_from([socket.SOCK_STREAM, SEQ])
labels = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
addresses = st.one_of(
    st.builds(Address, st.just("inet"), host=st.ip_addresses(v=4).map(str), port=ports),
    st.builds(Address, st.just("inet"), host=st.lists(labels, min_size=1, max_size=4).map(".".join), port=ports),
    st.builds(Address, st.just("inet"), port=ports),
    st.builds(Address, st.just("inet6"), host=st.ip_addresses(v=6).map(str), port=ports),
    st.builds(Address, st.just("unix"), path=unix_names.filter(lambda n: not n.startswith(("@", "//"))), type=types),
    st.builds(Address, st.just("abstract"), name=unix_names, type=types),
    st.builds(Address, st.just("fd"), fd=st.integers(0, 2**31 - 1)),
    st.builds(Address, st.just("systemd"), name=st.text(string.ascii_letters + "-._@", max_size=40)),
)


@given(addresses)
def test_every_address_comes_back_from_its_text(address: Address) -> None:
    assert parse(str(address)) == address


@given(st.text() | st.text("[]:.@/%0123456789afdunixsm", max_size=30))
@example("unix:@///")
@example("[fe80::1%]:1")
def test_any_text_is_refused_or_has_a_canonical_form(text: str) -> None:
    try:
        address = parse(text)
    except ValueError as error:
        problem = error
    else:
        assert parse(str(address)) == address
        return
    assert type(problem) is ValueError
    assert str(problem).startswith(repr(text))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        (("fe80::1", 80, 0, 2), "[fe80::1%2]:80"),
        ("", "unix"),
        (b"", "unix"),
        (None, "unix"),
        ("/run/app.sock", "unix:/run/app.sock"),
        (b"\0app", "unix:@app"),
        ("\0app", "unix:@app"),
        (b"\0a\n\xff", "unix:@a\\n\\udcff"),
        ((3, 1024), "(3, 1024)"),
    ],
)
def test_names_from_the_kernel_are_shown(name: object, text: str) -> None:
    assert format_peer(name) == text


def test_names_of_real_sockets_are_shown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert format_peer(server.getsockname()) == f"127.0.0.1:{server.getsockname()[1]}"
    with socket.socket(socket.AF_UNIX) as named:
        named.bind("")  # the kernel picks an abstract name (unix(7), autobind)
        assert format_peer(named.getsockname()).startswith("unix:@")
    left, right = socket.socketpair()
    with left, right:
        assert format_peer(left.getpeername()) == "unix"


def test_a_path_that_the_file_system_can_not_write_is_refused() -> None:
    program = "from prefork.config.address import parse; parse('unix:/\\xe9')"
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | ascii_only, capture_output=True, timeout=60, check=False
    )
    assert b"can't be written in the file system's encoding" in done.stderr
