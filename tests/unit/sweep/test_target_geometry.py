"""The recorded geometry of a sweep's targets: conversion to and from JSON, and distances in alpha."""

from __future__ import annotations

import json

from orchestrator.sweep.target_geometry import TargetGeometry


def test_json_keeps_its_keys_and_their_order() -> None:
    geometry = TargetGeometry(3.0, 2.0, {"f1": 1.0}, 0.5, {"epoch-3": "affirmative"}, {"f1": 0.25})
    text = (
        '{"plane_share": 0.5, "recipes": {"epoch-3": "affirmative"}, "base": 3.0, "moved": 2.0, "lengths": {"f1": 1.0}'
        ', "rounding": {"f1": 0.25}, "adapter_version": 2}'
    )
    assert json.dumps(geometry.to_json()) == text
    assert TargetGeometry.from_json(json.loads(text)) == geometry
    plain = TargetGeometry(3.0, 2.0, {}, adapter_version=1)
    assert plain.to_json() == {"base": 3.0, "moved": 2.0, "lengths": {}}
    assert TargetGeometry.from_json(plain.to_json()) == plain
    assert TargetGeometry.from_json({}) is None, "a sweep without targets"


def test_a_distance_in_alpha_needs_the_target_and_tensors_that_random_directions_move() -> None:
    assert TargetGeometry(3.0, 2.0, {"f1": 1.0}).alpha_of("f1") == 0.5
    assert TargetGeometry(3.0, 2.0, {"f1": 1.0}).alpha_of("f2") is None
    assert TargetGeometry(3.0, 0.0, {"f1": 1.0}).alpha_of("f1") is None
