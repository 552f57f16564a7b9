"""gevent: ``prefork serve with_gevent:Worker --app-dir examples/embed``."""

from prefork import embed

Worker = embed.gevent("application:wsgi", log=None)
