"""What the codes of a fitted tokenizer mean, weights apart; without torch, so that a plan can compare it."""

from __future__ import annotations

from typing import Any

from configs.building import canonical
from configs.slices import CodebookSlice
from data_pipeline.contract import POINT_GRID
from flow_pipeline.companding import COMPAND_SCALE_PX
from flow_pipeline.flow_field import STORED_CELLS

MAX_UNITS = 4.6  # companded, 255 px: no flow is longer than the picture is wide
FSQ_CONSTANTS: dict[str, Any] = {
    "name": "fsq",
    "scale_px": COMPAND_SCALE_PX,
    "max_units": MAX_UNITS,
    "input_cells": STORED_CELLS,
    "point_grid": POINT_GRID,
}


def fsq_definition(config: CodebookSlice) -> dict[str, Any]:
    """Sizes, gate, and what the weights were fitted on and how; plain JSON values."""
    fit = canonical(config.codebook)
    sizes = {name: fit.pop(name) for name in ("levels", "width", "blocks")}
    return {**FSQ_CONSTANTS, **sizes, "cells": config.cells, "static_px": config.static_px, "fit": fit}
