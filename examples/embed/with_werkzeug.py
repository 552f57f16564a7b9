"""werkzeug, a thread a connection: ``prefork serve with_werkzeug:Worker --app-dir examples/embed``."""

from prefork import embed

Worker = embed.werkzeug("application:wsgi", threaded=True)
