"""Arrays in files: the cache that cannot lie."""
