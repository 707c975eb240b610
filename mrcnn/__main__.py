"""`python -m mrcnn`, the same as the command `mrcnn`."""

from mrcnn.cli import main

if __name__ == "__main__":
    main()
