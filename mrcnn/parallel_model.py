"""The import path of matterport's `ParallelModel`."""

from mrcnn.compat.parallel_model import ParallelModel as ParallelModel
