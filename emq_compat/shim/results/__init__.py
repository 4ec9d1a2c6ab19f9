"""What became of tasks: one result, sets of results, and results of tasks that were run in place."""
