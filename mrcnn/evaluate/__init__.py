"""How good a model is, and where it fails.

`matching` has matterport's measures of one image (`compute_ap` and its kin).
"""

from __future__ import annotations

from mrcnn.evaluate.matching import (
    compute_ap,
    compute_ap_range,
    compute_matches,
    compute_overlaps_masks,
    compute_recall,
    trim_zeros,
)
