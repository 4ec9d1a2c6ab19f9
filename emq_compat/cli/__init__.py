"""The command line: ``emq-compat`` and its subcommands, one module each."""
