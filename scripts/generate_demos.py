"""Demonstrations by the scripted expert, in LIBERO's file layout."""

from experiment.cli import script

if __name__ == "__main__":
    raise SystemExit(script("generate_demos"))
