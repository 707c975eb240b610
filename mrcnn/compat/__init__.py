"""Names and behavior needed only by scripts written for matterport's mrcnn and TensorFlow 1."""

from mrcnn.data.imgaug_numpy2 import restore_sctypes

restore_sctypes()  # scripts with imgaug 0.4.0 import it after mrcnn.model or mrcnn.utils
