"""cheroot: ``prefork serve with_cheroot:Worker --app-dir examples/embed``."""

from prefork import embed

Worker = embed.cheroot("application:wsgi", numthreads=4)
