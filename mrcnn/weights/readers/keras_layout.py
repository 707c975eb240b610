"""Keras's `.weights.h5`.

    /layers/<class>_<n>/vars/0, 1, ...   arrays; the layer's name is the attribute `name` of `vars`

Layers inside a layer (of a wrapper or a nested model) are in groups below its group.
"""

from __future__ import annotations

from collections.abc import Iterator

import h5py

from .stored_arrays import StoredArray, member, natural_order, number_array


def recognizes(file: h5py.File) -> bool:
    """Whether `file` has this layout."""
    return "layers" in list(file)


def read_layers(file: h5py.File, path: str) -> dict[str, list[StoredArray]]:
    """Returns {layer name: arrays}. `path` is for messages."""
    root = member(file, "layers", path)
    layers, seen = {}, set()
    for key in sorted(root, key=natural_order):
        group = member(root, key, path)
        name = _layer_name(group, path)
        if name is not None:
            layers[name] = list(_read_arrays(group, (), seen, path))
    if len(root) and not layers:
        raise ValueError(
            f"{path} doesn't say the names of its layers (Keras before 3 wrote such .weights.h5 files), so it can't be"
            " loaded by name. Load it with the version that wrote it, and save it as a plain .h5 file."
        )
    return layers


def _read_arrays(group: h5py.Group, inside: tuple[str, ...], seen: set[int], path: str) -> Iterator[StoredArray]:
    """Yields a layer's arrays, then those of layers inside it. `inside`: names of the layers around; `seen`: groups."""
    address = h5py.h5o.get_info(group.id).addr
    if address in seen:
        raise ValueError(f"{path}: several ways lead to the group {group.name[:200]}; the file is broken or hostile.")
    seen.add(address)
    inside = (*inside, _layer_name(group, path) or group.name.rsplit("/", 1)[-1])
    keys = sorted(group, key=natural_order)
    if "vars" in keys:
        variables = member(group, "vars", path)
        for number in sorted(variables, key=natural_order):
            dataset = number_array(member(variables, number, path), path)
            yield StoredArray("/".join((*inside, number)), dataset, in_order=False)
    for key in keys:
        if key != "vars":
            yield from _read_arrays(member(group, key, path), inside, seen, path)


def _layer_name(group: h5py.Group, path: str) -> str | None:
    # `in group` would follow a link; the list of names doesn't.
    name = member(group, "vars", path).attrs.get("name") if "vars" in list(group) else None
    return name.decode("utf-8") if isinstance(name, bytes) else name
