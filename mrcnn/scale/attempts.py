"""Finds the image that ends the process, so that a job does not repeat its shard without end.

A file beside the results counts how often a shard was begun. From the third time on, it names the image that is being
searched; if the process ends then, that image gets an error the next time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from mrcnn.scale.plan import Image, Shard
from mrcnn.scale.rows import ImageResult
from mrcnn.scale.store import Store

CAREFUL_FROM = 3  # attempts; a machine that is taken away ends one as well
DIED = "The process ended each time while this image was searched."

Search = Callable[[Sequence[Image]], list[ImageResult]]


def search_shard(store: Store, shard: Shard, search: Search) -> list[ImageResult]:
    """`search(shard.images)`, which may end the process: then call this again with the same shard.

    `forget(store, shard)` follows when the shard's file is written.
    """
    name = _name(shard)
    state = json.loads(store.read(name)) if store.exists(name) else {"attempts": 0, "image": None, "ended": []}
    if state["image"] is not None:
        state["ended"].append(state["image"])
    state |= {"attempts": state["attempts"] + 1, "image": None}
    _write(store, name, state)
    if state["attempts"] < CAREFUL_FROM:
        return search(shard.images)
    results = []
    for image_id, path in shard.images:
        if image_id in state["ended"]:
            results.append(ImageResult(image_id, path, error=DIED))
            continue
        state["image"] = image_id
        _write(store, name, state)
        results += search([(image_id, path)])
    return results


def forget(store: Store, shard: Shard) -> None:
    """Deletes the shard's count."""
    store.delete(_name(shard))


def _name(shard: Shard) -> str:
    return f"_attempts-{shard.number:06d}.json"


def _write(store: Store, name: str, state: dict) -> None:
    store.write(name, json.dumps(state).encode(), durable=False)
