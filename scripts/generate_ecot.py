"""Chain-of-thought annotations of one subset."""

from experiment.cli import script

if __name__ == "__main__":
    raise SystemExit(script("generate_ecot"))
