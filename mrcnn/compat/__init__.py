"""What exists only for scripts written against matterport's mrcnn and TensorFlow 1."""
