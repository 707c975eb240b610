"""Data on its way to the network: data sets and their formats, loading, augmenting, targets, batches.

NumPy and OpenCV only, but for the `keras.utils.PyDataset` that `generator.DataGenerator` is.
"""
