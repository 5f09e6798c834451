"""Online rules that make no sense are refused when they are written down."""

from __future__ import annotations

import pytest

from mixformerv2.config import TrackerConfig

NAN, INFINITE = float("nan"), float("inf")
BEYOND = {
    "search_factor": ((1.0, NAN, INFINITE), "be above 1"),
    "template_factor": ((0.5, NAN, INFINITE), "be above 1"),
    "min_side_px": ((-5.0, 0.0, NAN, INFINITE), "be above 0"),
    "update_interval": ((0, -1), "be at least 1"),
    "online_templates": ((0,), "be at least 1"),
    "widen_when_lost": ((0.0, 0.9, NAN, INFINITE), "be at least 1"),
    "update_threshold": ((-0.1, 1.1, NAN), r"lie in \[0, 1\]"),
    "score_decay": ((-0.1, 3.0, NAN), r"lie in \[0, 1\]"),
    "lost_threshold": ((-0.1, 40.0, NAN), r"lie in \[0, 1\]"),
    "found_threshold": ((-0.1, 60.0, NAN), r"lie in \[0, 1\]"),
    "size_calibration": ((-0.1, 1.1, NAN), r"lie in \[0, 1\]"),
    "size_inertia": ((-0.1, 1.0, NAN), r"lie in \[0, 1\)"),
}


@pytest.mark.parametrize(
    ("rule", "value", "right"),
    [(rule, value, right) for rule, (values, right) in BEYOND.items() for value in values],
)
def test_a_rule_beyond_its_range_is_named_with_what_would_be_right(
    rule: str, value: float, right: str
) -> None:
    with pytest.raises(ValueError, match=f"^{rule} must {right}, got {value}$"):
        TrackerConfig(**{rule: value})
