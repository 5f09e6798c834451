"""``python -m mixformerv2`` is the command line."""

from mixformerv2.cli import main

if __name__ == "__main__":
    main()
