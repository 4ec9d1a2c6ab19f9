"""Stock eventmq 0.3.13 in an environment of its own: the peer of the interoperability tests."""
