"""emq-compat: runs Celery-style tasks over the eventmq protocol, with a durable broker of its own."""

import sys

__version__ = "0.1.0.dev0"

if "kombu" in sys.modules:
    # Where kombu hasn't looked for entry points, or this package isn't installed but only on the path.
    from emq_compat import registration as registration
