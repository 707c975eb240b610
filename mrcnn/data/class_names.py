"""Class names as the meaning of class ids: the same id must mean the same class in training, validation and the model.

Names are listed in the order of their ids: names[0] is the background "BG", names[1] the class with id 1, and so on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mrcnn.data.dataset import Dataset

BACKGROUND = "BG"
BACKGROUND_NAMES = ("bg", "background", "__background__", "_background_")
PLACEHOLDER = re.compile(r"(class|object|id)?[ _-]*\d*", re.IGNORECASE)  # says nothing about what the class is


def class_list(classes: Dataset | Sequence[str]) -> list[str]:
    """Names of the classes 1, 2, ..., without the background.

    Args:
        classes: a prepared Dataset, or names in the order of their ids, with or without the background in front.

    Raises:
        ValueError: a single string, a data set that isn't prepared, no name at all, or a name that occurs twice.

    Example:
        >>> class_list(["BG", "cat", "dog"])
        ['cat', 'dog']
    """
    if isinstance(classes, str):
        raise ValueError(f"classes is {classes!r}; expected a list of names, such as [{classes!r}], or a Dataset.")
    if isinstance(classes, Dataset):
        if not hasattr(classes, "class_names"):
            raise ValueError(f"{type(classes).__name__} isn't prepared; call its prepare() first.")
        classes = classes.class_names
    names = [str(name).strip() for name in classes]
    if names and is_background(names[0]):
        names = names[1:]
    if not names:
        raise ValueError(f"classes is {list(classes)!r}; expected at least one name besides the background.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"classes has {twice[0]!r} more than once; expected each name once.")
    return names


def number_classes(dataset: Dataset, classes: Dataset | Sequence[str]) -> None:
    """Numbers the classes of a data set as another one numbers them. Calls `dataset.prepare()`.

    Classes that only `classes` has get an id as well, so that later ids keep their meaning. They are registered for
    every source of the data set: the source could have shown them, but doesn't.

    Args:
        dataset: Dataset with its classes registered, prepared or not. Its `load_mask` must look class ids up with
            `map_source_class_id` when it is called; those of `mrcnn.data.formats` do.
        classes: as in `class_list`.

    Raises:
        ValueError: the data set has a class that isn't among `classes`.

    Example:
        >>> train, val = Dataset(), Dataset()
        >>> for i, name in enumerate(["cat", "dog", "horse"]):
        ...     train.add_class("pets", i + 1, name)
        >>> val.add_class("pets", 1, "horse")
        >>> val.add_class("pets", 2, "cat")
        >>> train.prepare()
        >>> number_classes(val, train)
        >>> val.class_names
        ['BG', 'cat', 'dog', 'horse']
        >>> val.map_source_class_id("pets.1")  # horse
        3
    """
    names = class_list(classes)
    dataset.prepare()
    unknown = [name for name in dataset.class_names[1:] if name.strip() not in names]
    if unknown:
        raise ValueError(
            f"{type(dataset).__name__} has the class {unknown[0]!r}, which isn't in classes={names}. Add it there, or"
            " open the data set without it."
        )
    for source in {info["source"]: None for info in [*dataset.class_info[1:], *dataset.image_info]}:
        own = {dataset.class_names[i].strip() for i in dataset.source_class_ids.get(source, ())}
        for name in names:
            if name not in own:
                dataset.add_class(source, _free_id(dataset, source), name)
    dataset.prepare()
    same_name = {key: dataset.class_names[i].strip() for key, i in dataset.class_from_source_map.items() if i > 0}
    dataset.prepare(same_name)  # one class for a name, whichever sources have it
    dataset.class_info[1:] = sorted(dataset.class_info[1:], key=lambda info: names.index(info["name"]))
    dataset.prepare()


def check_same_classes(expected_names: Sequence[str] | None, dataset: Dataset, what: str) -> None:
    """Raises an error if the class ids of a data set mean other classes than expected.

    Accepted are names that say nothing: an empty name, a number, "class 3". So is a data set that has only the first
    of the expected classes. Of the background's name only the usual spellings ("BG", "background") are the same.

    Args:
        expected_names: names in the order of their ids, the background first, such as those of the training set;
            None: unknown, so that nothing is compared.
        dataset: prepared Dataset.
        what: what the data set is, for the message: "the validation set".

    Raises:
        ValueError: an id means another class. The message has both lists and how to open the data set instead.

    Example:
        >>> dataset = Dataset()
        >>> dataset.add_class("pets", 1, "dog")
        >>> dataset.prepare()
        >>> check_same_classes(["BG", "dog", "cat"], dataset, "the validation set")
        >>> check_same_classes(["BG", "cat", "dog"], dataset, "the validation set")
        Traceback (most recent call last):
        ...
        ValueError: Class id 1 is 'dog' in the validation set (Dataset), but 'cat' was expected.
          expected: 1 cat, 2 dog
          the validation set: 1 dog
        Number its classes alike: open_dataset(path, classes=train_dataset), or call add_class in the same order.
    """
    if expected_names is None:
        return
    expected, found = ([str(name).strip() for name in names] for names in (expected_names, dataset.class_names))
    if not expected or not is_background(expected[0]):
        with_background = [BACKGROUND, *expected]
        raise ValueError(f"expected_names is {expected}; expected the background in front: {with_background}.")
    for class_id, name in enumerate(found[1:], start=1):
        wanted = expected[class_id] if class_id < len(expected) else None
        if name == wanted or _says_nothing(name) or (wanted is not None and _says_nothing(wanted)):
            continue
        but = f"but {wanted!r} was expected" if wanted is not None else "an id that was not expected"
        raise ValueError(
            f"Class id {class_id} is {name!r} in {what} ({type(dataset).__name__}), {but}.\n"
            f"  expected: {_numbered(expected)}\n  {what}: {_numbered(found)}\n"
            "Number its classes alike: open_dataset(path, classes=train_dataset), or call add_class in the same order."
        )


def is_background(name: str) -> bool:
    """Whether a name is one of the usual ones of class 0.

    Example:
        >>> is_background("BG"), is_background("cat")
        (True, False)
    """
    return str(name).strip().lower() in BACKGROUND_NAMES


def _says_nothing(name: str) -> bool:
    return PLACEHOLDER.fullmatch(name) is not None


def _numbered(names: Sequence[str]) -> str:
    return ", ".join(f"{class_id} {name}" for class_id, name in enumerate(names) if class_id > 0) or "none"


def _free_id(dataset: Dataset, source: str) -> int:
    """A class id that the source doesn't use: one above its highest number."""
    members = [key.split(".", 1) for key in dataset.class_from_source_map]
    used = [info["id"] for info in dataset.class_info if info["source"] == source]
    used += [int(own_id) for other, own_id in members if other == source and own_id.isdigit()]
    return 1 + max([own_id for own_id in used if isinstance(own_id, int)], default=0)
