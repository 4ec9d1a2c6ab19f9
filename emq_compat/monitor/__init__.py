"""What broker, worker and beat tell of themselves over HTTP: whether they live, are ready, and their figures.

The HTTP server is a thread of its own (``serving.py``). It never looks at what belongs to a broker's or a
worker's loop: it has the loop called (``asking.py``), and that the loop answers in time is what "it lives"
means. A beat's loop sleeps, and notes what it does (``beat.py``). So nothing polls, and without ``--http``
nothing of this is imported.
"""
