"""hypercorn: ``prefork serve with_hypercorn:Worker --app-dir examples/embed``."""

from prefork import embed

Worker = embed.hypercorn("application:asgi")
