"""waitress: ``prefork serve with_waitress:Worker --app-dir examples/embed``."""

from prefork import embed

Worker = embed.waitress("application:wsgi")
