"""A page that shows a broker's queues, workers and failures as they are, and lets an operator act."""
