"""What people who run task queues suffer from, one test a case; the number in a docstring is the case's."""
