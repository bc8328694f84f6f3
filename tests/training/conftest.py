"""One small study and one base for the whole folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.training_study import Study, write_study


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def base(study: Study) -> Path:
    return study.inputs["base"] / "base"
