"""ONNX, for onnxruntime on servers, desktops, phones and in browsers.

The converter is tf2onnx, which copies constants again and again: 10 GB of memory for a ResNet-50. So it gets a graph
whose large weights are inputs, and they are put into the file afterwards. All operations are ONNX's own. The NMS of
proposals is one of them: as a loop, it took four fifths of the time of a small network.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mrcnn.export.export_graphs import WEIGHT, Network

if TYPE_CHECKING:
    import onnx

SUFFIX = ".onnx"
FIXED_SHAPES = False
OPSET = 17  # of 2022; every current runtime reads it


def write(network: Network, path: Path) -> None:
    """Writes `network` to `path`.

    Raises:
        ImportError: tf2onnx is missing.
    """
    try:
        import onnx
        import tf2onnx
    except ImportError as error:
        raise ImportError('ONNX needs tf2onnx and onnx: pip install "mrcnn[export]"') from error
    # Vectors remain constants: tf2onnx moves them through the change from channels last to channels first.
    large = [i for i, x in enumerate(network.constants) if x.ndim > 1 and x.dtype == np.float32]
    traced = network.traced(large, has_nms=True)
    # Otherwise tf2onnx copies the whole graph before each of its 36 optimizations.
    os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")
    converted, _ = tf2onnx.convert.from_function(traced, traced.input_signature, opset=OPSET)
    put_weights(converted.graph, {f"{WEIGHT}{i}": network.constants[i] for i in large})
    onnx.save(converted, path)


def put_weights(graph: onnx.GraphProto, weights: dict[str, np.ndarray]) -> None:
    """Replaces inputs of `graph` by their values, and nodes that compute with nothing else by their results."""
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    known = {x.name: x for x in graph.initializer}
    values = dict(weights)
    for node in list(graph.node):  # in the order in which they run
        if not node.input or not all(name in values or name in known for name in node.input):
            continue
        if any(name in values for name in node.input):
            feeds = {
                name: values[name] if name in values else numpy_helper.to_array(known[name]) for name in node.input
            }
            values |= zip(node.output, ReferenceEvaluator(node).run(None, feeds))
            graph.node.remove(node)
    values |= {name: numpy_helper.to_array(x) for name, x in known.items()}
    used = {name for part in subgraphs(graph) for node in part.node for name in node.input}
    inputs = [x for x in graph.input if x.name not in weights]
    del graph.input[:], graph.initializer[:]
    graph.input.extend(inputs)
    graph.initializer.extend(numpy_helper.from_array(x, name) for name, x in values.items() if name in used)


def subgraphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """The graph, and those of its loops and branches."""
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return [graph, *(part for one in inner for part in subgraphs(one))]
