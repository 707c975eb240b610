"""Arithmetic on arrays: boxes, anchors, NMS, RoIAlign, resizing, masks and the image_meta vector.

The ground floor. Nothing here knows a Config, a Keras layer or a file. NumPy functions that users call stand beside
their graph twins (`..._graph`, written with `keras.ops`); a test holds the two together.
"""
