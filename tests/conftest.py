"""Tiers: plain tests always; `sim` needs software GL; `sim_official` needs $LIBERO_ASSETS_PATH; `slow` needs --slow."""

import contextlib
import os

# One thread per process: the suite runs one process per core, and spinning threads cost sixty times the work.
for name, value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "LP_NUM_THREADS": "1"}.items():
    os.environ.setdefault(name, value)

import pytest  # noqa: E402

# The suite has simulator and model in one process, and LLVM in triton crashes when it is loaded after software GL's.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

TIERS = ("sim", "sim_official", "slow")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes")
    parser.addoption("--renew-golden", action="store_true", help="write golden files anew instead of comparing")


def pytest_collection_modifyitems(config, items):
    for item in items:
        item.user_properties += [("tier", tier) for tier in TIERS if item.get_closest_marker(tier)]
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow tier: add --slow"))
        if item.get_closest_marker("sim_official") and not os.environ.get("LIBERO_ASSETS_PATH"):
            item.add_marker(pytest.mark.skip(reason="sim_official tier: set LIBERO_ASSETS_PATH"))


@pytest.fixture
def renew_golden(request):
    return request.config.getoption("--renew-golden")


def pytest_terminal_summary(terminalreporter):
    """A skipped test is not a passed one: say which tiers ran."""
    stats = terminalreporter.stats
    for tier in TIERS:
        counts = {
            outcome: sum(("tier", tier) in map(tuple, report.user_properties) for report in stats.get(outcome, []))
            for outcome in ("passed", "failed", "skipped")
        }
        if any(counts.values()):
            terminalreporter.write_line(f"tier {tier}: " + ", ".join(f"{n} {outcome}" for outcome, n in counts.items()))
