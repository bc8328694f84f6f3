"""Any part of the study, end to end: --phase or --all-phases, --subset or --all-subsets."""

from experiment.cli import script

if __name__ == "__main__":
    raise SystemExit(script("run_experiment"))
