"""``python -m emq_compat`` is the command ``emq-compat``."""

from emq_compat.cli.main import main

if __name__ == "__main__":
    main()
