"""tornado: ``prefork serve with_tornado:Worker --app-dir examples/embed``."""

from prefork import embed

Worker = embed.tornado("application:tornado()")
