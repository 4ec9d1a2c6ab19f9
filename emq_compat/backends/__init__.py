"""Where results live: our broker (the default), Redis, an SQL database, a cache, or nowhere."""
