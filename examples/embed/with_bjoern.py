"""bjoern: ``prefork serve with_bjoern:Worker --app-dir examples/embed``."""

from prefork import embed

Worker = embed.bjoern("application:wsgi")
