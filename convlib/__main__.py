"""`python -m convlib` is the command line."""

from convlib.cli import app

if __name__ == "__main__":
    app(prog_name="convlib")
