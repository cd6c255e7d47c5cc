"""`python -m anabranch`, the same as the command."""

from anabranch.cli.app import app

if __name__ == "__main__":
    app()
