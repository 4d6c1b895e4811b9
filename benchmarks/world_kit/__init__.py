"""Worlds for measuring an audit that share only the idea with the bundled picture world.

Two families: *photos* composites a folder of photographs with overlays, *rendered* draws outlines before procedural
textures. In both a picture is an editable list of causes, so that every planted cause can be left out exactly.
Start at `world.World`, then `families.family`, `training.train` and `effects.measure`.
"""
