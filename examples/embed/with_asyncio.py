"""asyncio's streams: ``prefork serve with_asyncio:Worker --app-dir examples/embed``."""

from prefork import embed

Worker = embed.asyncio("application:streams")
