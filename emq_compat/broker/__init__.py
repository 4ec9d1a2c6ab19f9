"""The durable broker: a pure engine, a SQLite journal, and the loop that joins them to sockets."""
