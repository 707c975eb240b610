"""Arithmetic on arrays: boxes, anchors, NMS, RoIAlign, resizing, masks and the image_meta vector.

Nothing here knows a `Config`, a Keras layer or a file. Functions ending in `_graph` are the versions for tensors of any
Keras backend of the NumPy functions beside them; tests compare the two.
"""
