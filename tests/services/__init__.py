"""Real Redis and RabbitMQ servers for the tests: `python -m tests.services start|stop|env`."""
