"""`python -m anabranch`, the same as the command."""

from anabranch.cli import main

if __name__ == "__main__":
    main()
