"""``python -m keeper``."""

from keeper.cli import main

if __name__ == "__main__":
    main()
