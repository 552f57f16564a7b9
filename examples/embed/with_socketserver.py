"""A socketserver class, here http.server's: ``prefork serve with_socketserver:Worker --app-dir examples/embed``."""

from http.server import ThreadingHTTPServer

from application import Handler

from prefork import embed

Worker = embed.socketserver(ThreadingHTTPServer, Handler)
