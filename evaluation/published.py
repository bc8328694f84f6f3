"""Published LIBERO success rates, to stand beside ours labelled as what they are. In percent, as the papers print them.

They were measured with other simulator versions, other data filters and up to five hundred episodes per suite.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Success rates of one model, percent."""

    name: str
    spatial: float
    object: float
    goal: float
    long: float
    source: str

    @property
    def average(self) -> float:
        """Mean of the four suites."""
        return (self.spatial + self.object + self.goal + self.long) / 4


PUBLISHED = (
    Published("NORA", 85.6, 89.4, 80.0, 63.0, "arXiv 2504.19854"),
    Published("NORA-Long", 92.2, 95.4, 89.4, 74.6, "arXiv 2504.19854"),
    Published("OpenVLA", 84.7, 88.4, 79.2, 53.7, "arXiv 2406.09246"),
    Published("OpenVLA-OFT", 97.6, 98.4, 97.9, 94.5, "arXiv 2502.19645"),
    Published("pi0-FAST", 96.4, 96.8, 88.6, 60.2, "arXiv 2501.09747"),
    Published("CoT-VLA", 87.5, 91.6, 87.6, 69.0, "arXiv 2503.22020"),
    Published("DeepThinkVLA", 96.6, 99.0, 96.4, 96.2, "arXiv 2511.15669"),
)
