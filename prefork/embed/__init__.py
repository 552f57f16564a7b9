"""Servers that exist already, with prefork's processes, sockets and supervision under them.

Each function here makes a Worker class of an application, for ``prefork serve module:Worker`` or `prefork.Master`::

    # myserver.py
    from prefork import embed

    Worker = embed.uvicorn("myapp:application")

    $ prefork serve myserver:Worker --bind 127.0.0.1:8000 --workers 4

The application is given as the object, or as ``module:attribute``, which is imported in the worker; so is the server.
Further keyword arguments are the server's own options, by their own names, except for those that are prefork's to say:
they raise TypeError, with what to do instead. docs/embed.md says of each server how it is stopped, whether hangs are
found and what a reload costs, and how to write the next one.

What is made here runs in the WORKER, and no other room imports it.

Options that all servers on asyncio take: ``loop``, "asyncio" (the default, but for uvicorn), "uvloop", or "auto" for
uvloop where it is installed.
"""

from __future__ import annotations

import socketserver as _socketserver
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefork.worker import Worker

__all__ = [
    "aiohttp",
    "asyncio",
    "bjoern",
    "cheroot",
    "gevent",
    "hypercorn",
    "socketserver",
    "tornado",
    "uvicorn",
    "waitress",
    "werkzeug",
    "wsgiref",
]

# The workers' modules are imported in the functions, so that nobody pays for asyncio who serves with wsgiref.


def wsgiref(application: object, /, **options: Any) -> type[Worker]:
    """Serve a WSGI application with the standard library's ``wsgiref``, one request at a time.

    Args:
        application: The object, or ``module:attribute``.
        options: ``server_class``, ``handler_class``, and attributes of the server.

    Raises:
        TargetError: The text is not ``module:attribute``.
        TypeError: An option is prefork's to say, or the application can't be called.
    """
    from prefork.embed.socketserver_worker import WsgirefWorker

    return WsgirefWorker.of(application, options)


def werkzeug(application: object, /, **options: Any) -> type[Worker]:
    """Serve a WSGI application with werkzeug's development server.

    Args:
        application: The object, or ``module:attribute``.
        options: Of ``werkzeug.serving.make_server``: ``threaded``, ``processes`` and so on.

    Raises:
        TargetError: The text is not ``module:attribute``.
        TypeError: An option is prefork's to say, or the application can't be called.
    """
    from prefork.embed.socketserver_worker import WerkzeugWorker

    return WerkzeugWorker.of(application, options)


def waitress(application: object, /, **options: Any) -> type[Worker]:
    """Serve a WSGI application with waitress: an event loop and a pool of threads.

    Args:
        application: The object, or ``module:attribute``.
        options: Of ``waitress.create_server``: ``threads`` and so on.

    Raises:
        TargetError: The text is not ``module:attribute``.
        TypeError: An option is prefork's to say, or the application can't be called.
    """
    from prefork.embed.waitress_worker import WaitressWorker

    return WaitressWorker.of(application, options)


def cheroot(application: object, /, **options: Any) -> type[Worker]:
    """Serve a WSGI application with cheroot: a pool of threads. On one address.

    Args:
        application: The object, or ``module:attribute``.
        options: Of ``cheroot.wsgi.Server``: ``numthreads`` and so on; ``ssl_adapter``.

    Raises:
        TargetError: The text is not ``module:attribute``.
        TypeError: An option is prefork's to say, or the application can't be called.
    """
    from prefork.embed.cheroot_worker import CherootWorker

    return CherootWorker.of(application, options)


def bjoern(application: object, /, **options: Any) -> type[Worker]:
    """Serve a WSGI application with bjoern: an event loop in C. On one address.

    Args:
        application: The object, or ``module:attribute``.
        options: ``statsd``, as of ``bjoern.server_run``.

    Raises:
        TargetError: The text is not ``module:attribute``.
        TypeError: An option is prefork's to say, or the application can't be called.
    """
    from prefork.embed.bjoern_worker import BjoernWorker

    return BjoernWorker.of(application, options)


def gevent(application: object, /, **options: Any) -> type[Worker]:
    """Serve a WSGI application with gevent's WSGI server: a greenlet a connection.

    Args:
        application: The object, or ``module:attribute``.
        options: Of ``gevent.pywsgi.WSGIServer``; ``connections``, how many are served at a time (1000); ``patch``,
            False to leave the standard library as it is.

    Raises:
        TargetError: The text is not ``module:attribute``.
        TypeError: An option is prefork's to say, or the application can't be called.
    """
    from prefork.embed.gevent_worker import GeventWorker

    return GeventWorker.of(application, options)


def uvicorn(application: object, /, **options: Any) -> type[Worker]:
    """Serve an ASGI application with uvicorn.

    Args:
        application: The object, or ``module:attribute``.
        options: Of ``uvicorn.Config``.

    Raises:
        TargetError: The text is not ``module:attribute``.
        TypeError: An option is prefork's to say, or the application can't be called.
    """
    from prefork.embed.uvicorn_worker import UvicornWorker

    return UvicornWorker.of(application, options)


def hypercorn(application: object, /, **options: Any) -> type[Worker]:
    """Serve an ASGI or WSGI application with hypercorn.

    Args:
        application: The object, or ``module:attribute``.
        options: Attributes of ``hypercorn.Config``; ``mode``, "asgi" or "wsgi", where it can't be seen.

    Raises:
        TargetError: The text is not ``module:attribute``.
        TypeError: An option is prefork's to say, or the application can't be called.
    """
    from prefork.embed.hypercorn_worker import HypercornWorker

    return HypercornWorker.of(application, options)


def aiohttp(application: object, /, **options: Any) -> type[Worker]:
    """Serve an ``aiohttp.web.Application``, or a function or coroutine function that makes one.

    Args:
        application: The object, or ``module:attribute``.
        options: Of ``aiohttp.web.AppRunner``; ``ssl_context``.

    Raises:
        TargetError: The text is not ``module:attribute``.
        TypeError: An option is prefork's to say, or the application can't be called.
    """
    from prefork.embed.aiohttp_worker import AiohttpWorker

    return AiohttpWorker.of(application, options)


def tornado(application: object, /, **options: Any) -> type[Worker]:
    """Serve a ``tornado.web.Application``, a request callback, or a WSGI application, one request at a time.

    Args:
        application: The object, or ``module:attribute``.
        options: Of ``tornado.httpserver.HTTPServer``.

    Raises:
        TargetError: The text is not ``module:attribute``.
        TypeError: An option is prefork's to say, or the application can't be called.
    """
    from prefork.embed.tornado_worker import TornadoWorker

    return TornadoWorker.of(application, options)


def asyncio(handle: object, /, **options: Any) -> type[Worker]:
    """Serve ``handle(reader, writer)``, a coroutine function as for ``asyncio.start_server``.

    Args:
        handle: The coroutine function, or ``module:attribute``. The writer is closed when it has ended; an exception
            is logged.
        options: Of ``asyncio.start_server``: ``limit``, ``ssl`` and so on.

    Raises:
        TargetError: The text is not ``module:attribute``.
        TypeError: An option is prefork's to say, or ``handle`` can't be called.
    """
    from prefork.embed.streams_worker import StreamsWorker

    return StreamsWorker.of(handle, options)


def socketserver(
    server: type[_socketserver.BaseServer],
    handler: Callable[..., object],
    /,
    **options: Any,
) -> type[Worker]:
    """Serve with a class of the standard library's ``socketserver``, threading and forking ones included.

    Args:
        server: ``TCPServer``, ``ThreadingTCPServer``, ``http.server.HTTPServer``, ``UnixStreamServer`` and so on.
        handler: Its request handler class.
        options: Attributes of the server.

    Raises:
        TypeError: An option is prefork's to say, or the server is not one for connections.
    """
    from prefork.embed.socketserver_worker import SocketserverWorker

    if not issubclass(server, _socketserver.TCPServer) or issubclass(server, _socketserver.UDPServer):
        raise TypeError(f"socketserver: {server.__name__} is no class of servers of connections (TCPServer)")
    return SocketserverWorker.of(server, {"handler": handler, **options})
