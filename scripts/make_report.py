"""The results table, made again from the stored evaluations."""

from experiment.cli import script

if __name__ == "__main__":
    raise SystemExit(script("make_report"))
