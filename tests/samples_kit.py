"""Helpers for the tests of the samples."""

from __future__ import annotations

from samples import common


def config_built_for(monkeypatch, backbone: str | None, build):
    """The config of the model that `build(path)` would build for weights of a backbone."""
    monkeypatch.setattr(common, "find_weights", lambda name, *_: name)
    monkeypatch.setattr(common, "backbone_of", lambda path: backbone)
    monkeypatch.setattr(common, "load_weights", lambda *_: None)
    monkeypatch.setattr(common, "MaskRCNN", lambda mode, config, model_dir: config)
    monkeypatch.setattr(common.weights, "read_settings", lambda path: None)
    return build("x.h5")
