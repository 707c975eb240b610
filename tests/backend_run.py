"""Runs detection, training and saving on a small model and writes the results to a file for `test_backends`.

    KERAS_BACKEND=jax python tests/backend_run.py WEIGHTS RESULT

WEIGHTS: a .weights.h5 of `kit.tiny_model`; RESULT: the .npz that is written.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import keras  # noqa: E402
import numpy as np  # noqa: E402
from kit import TWO_IMAGES, Batches, loss_gradients, make_batch, photo, tiny_model  # noqa: E402

STEADY = ("rpn_class_loss", "rpn_bbox_loss")  # nothing random in these
LAYERS = ("conv1", "fpn_p2", "rpn_conv_shared", "rpn_bbox_pred")


def run(weights: str, result: str) -> None:
    folder = str(Path(result).parent)
    model = tiny_model("training", folder, ADD_GT_TO_PROPOSALS=True)
    model.load_weights(weights)
    if keras.backend.backend() == "jax":  # the first call may be inside `jit`: nothing of its trace is kept
        import jax

        jax.eval_shape(model, np.stack([photo()]))
    found = {}
    for i, detected in enumerate(model.detect([photo(), photo(40, 90, seed=1), photo(130, 64, seed=2)])):
        found |= {f"detect{i}_{name}": array for name, array in detected.items()}

    batch = make_batch(model.config, TWO_IMAGES)
    model.compile()
    logs = model.evaluate(Batches(batch), return_dict=True, verbose=0)
    found |= {name: np.array(logs[name]) for name in STEADY}
    for layer, gradient in zip(LAYERS, loss_gradients(model, batch, STEADY, LAYERS)):
        found[f"gradient_{layer}"] = gradient
    history = model.fit(Batches(batch, batch), epochs=2, verbose=0).history
    found |= {f"history_{name}": np.array(values) for name, values in history.items()}
    np.savez(result, **found)


if __name__ == "__main__":
    run(*sys.argv[1:])
