"""A fleet under a mixed load, parts of which are killed, stopped and terminated at random moments.

    python -m tests.faults.mayhem --rounds 200 --seed 7

``load`` has the tasks and the schedule, ``canvases`` what is published of them; ``client`` publishes and
waits, ``fleet`` starts all processes and again what has ended, ``villain`` sends signals. Each of them writes
down what it did in a ledger of its own. ``checker``, with ``times`` and ``exits``, reads nothing but these
ledgers: ``story`` is what they tell.
"""
