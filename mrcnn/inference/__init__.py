"""Detection: from images of any size to boxes, classes, scores and masks on these images."""
