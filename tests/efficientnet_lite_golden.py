"""Makes `golden/efficientnet_lite.npz`: feature maps of the reference EfficientNet-Lite with weights by formula.

    pip install efficientnet-lite-pytorch torch
    PYTHONPATH=. python tests/efficientnet_lite_golden.py

The package on PyPI gives the network; its weights, and the image, are computed here. Takes 5 seconds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrcnn.weights.golden.formula import noise

FILE = Path(__file__).parent / "golden" / "efficientnet_lite.npz"
SIDE = 64  # pixels
LEVEL_BLOCKS = {  # the last blocks of C2..C5
    "efficientnet_lite0": (2, 4, 10, 15),
    "efficientnet_lite1": (3, 6, 14, 20),
    "efficientnet_lite2": (3, 6, 14, 20),
}


def formula_array(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of the network by its name in PyTorch."""
    x = noise(name, shape)
    kind = name.rsplit(".", 1)[-1]
    if len(shape) > 1:
        x *= np.sqrt(2 / np.prod(shape[1:]))
    elif kind == "running_var":
        x = 1 + 0.4 * x  # 0.3 to 1.7
    elif kind == "weight":
        x = 1 + 0.2 * x
    else:
        x *= 0.1
    return x.astype("float32")


def photo() -> np.ndarray:
    """[1, SIDE, SIDE, 3] uint8."""
    return np.random.RandomState(0).randint(0, 256, (1, SIDE, SIDE, 3)).astype("uint8")


def main() -> None:
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    found = {}
    for backbone, blocks in LEVEL_BLOCKS.items():
        network = EfficientNet.from_name(backbone.replace("_", "-"), image_size=SIDE).eval()
        state = {
            name: torch.from_numpy(formula_array(name, tuple(tensor.shape)))
            for name, tensor in network.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        network.load_state_dict(state, strict=False)
        for level, block in enumerate(blocks, start=2):
            network._blocks[block].register_forward_hook(
                lambda module, inputs, output, key=f"{backbone}_c{level}": found.__setitem__(key, output)
            )
        with torch.no_grad():
            network(torch.from_numpy((photo().astype("float32") - 127) / 128).permute(0, 3, 1, 2))
    keep = {key: value.permute(0, 2, 3, 1).numpy() for key, value in found.items() if "lite0" in key or "_c5" in key}
    np.savez_compressed(FILE, **keep)
    for key, value in keep.items():
        print(f"{key} {value.shape} {value.std():.3f}")


if __name__ == "__main__":
    main()
