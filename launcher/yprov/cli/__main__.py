"""`python -m yprov.cli`: the same as `yprov`, where that is in no PATH."""

from yprov.cli import main

if __name__ == "__main__":
    main()
