"""Training a `MaskRCNN`: trainable layers, losses by name, optimizer, batches, and what a run writes."""

from mrcnn.config import LOSS_NAMES
from mrcnn.training.batches import evaluate_arguments, fit_arguments, named_worker_errors, stream_of
from mrcnn.training.callbacks import Checkpoint, run_callbacks
from mrcnn.training.failed_steps import NonFiniteLoss, after_one_batch, with_failed_steps
from mrcnn.training.guard import guarded_step, keep_records
from mrcnn.training.losses_by_name import compute_losses, loss_means, weight_decay, weighted_sum
from mrcnn.training.optimizer import default_optimizer, is_learning_rate, refuse_losses
from mrcnn.training.recipe import use_recipe
from mrcnn.training.trainable_layers import HEADS, LAYER_REGEX, STAGES, freeze, frozen_layers, set_trainable
from mrcnn.training.unused_settings import warn_of_unused_optimizer_settings
