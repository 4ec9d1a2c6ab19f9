"""Features of our own: what runs, with a broker and workers."""
