"""``python -m kopt`` is ``kopt``."""

from kopt.cli.main import main

if __name__ == "__main__":
    main()
