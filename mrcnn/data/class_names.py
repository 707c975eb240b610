"""Class names as the meaning of class ids: the same id must mean the same class in training, validation and the model.

Names are listed in the order of their ids: names[0] is the background "BG", names[1] the class with id 1, and so on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from mrcnn.data.dataset import Dataset

BACKGROUND = "BG"
BACKGROUND_NAMES = ("bg", "background", "__background__", "_background_")
# Names that don't tell what a class is: the default "object" of some formats, "class 3", YOLO's numbers without names.
PLACEHOLDER = re.compile(r"(class|object|id)?[ _-]*\d*", re.IGNORECASE)


def class_list(classes: Dataset | Sequence[str]) -> list[str]:
    """Names of the classes 1, 2, ..., without the background.

    Args:
        classes: a prepared Dataset, or names in the order of their ids, with or without the background in front.

    Raises:
        ValueError: a single string, a dataset that isn't prepared, no name at all, or a name that occurs twice.

    Example:
        >>> class_list(["BG", "cat", "dog"])
        ['cat', 'dog']
    """
    if isinstance(classes, str):
        raise ValueError(f"classes is {classes!r}; expected a list of names, such as [{classes!r}], or a Dataset.")
    if isinstance(classes, Dataset):
        classes = _names_of(classes)
    names = [str(name).strip() for name in classes]
    if names and is_background(names[0]):
        names = names[1:]
    if not names:
        raise ValueError(f"classes is {list(classes)!r}; expected at least one name besides the background.")
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ValueError(f"classes has {twice[0]!r} more than once; expected each name once.")
    return names


def number_classes(dataset: Dataset, classes: Dataset | Sequence[str]) -> None:
    """Gives the classes of a dataset the ids they have in another one. Calls `dataset.prepare()`.

    A class of `classes` that the dataset lacks is registered for all its sources, as one that they annotate but that no
    image shows. So the dataset has as many classes as `classes`, and later ids keep their meaning.

    Args:
        dataset: Dataset with its classes registered, prepared or not. Its `load_mask` must look class ids up with
            `map_source_class_id` when it is called; those of `mrcnn.data.formats` do.
        classes: as in `class_list`.

    Raises:
        ValueError: the dataset has a class that isn't among `classes`.

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
        alike = [name for name in names if name.casefold() == unknown[0].strip().casefold()]
        hint = f"Use one spelling of {alike[0]!r} and {unknown[0]!r} in both" if alike else "Add it there"
        raise ValueError(
            f"{type(dataset).__name__} has the class {unknown[0]!r}, which isn't in classes={names}. {hint}, or"
            " open the dataset without it."
        )
    sources = {info["source"]: None for info in [*dataset.class_info[1:], *dataset.image_info]}
    present = {name.strip() for name in dataset.class_names}
    for name in names:
        for source in sources if name not in present else ():
            dataset.add_class(source, _free_id(dataset, source), name)
    dataset.prepare()
    keys = dataset.class_from_source_map.items()
    dataset.prepare({key: dataset.class_names[i].strip() for key, i in keys if i > 0})  # merges classes of one name
    dataset.class_info[1:] = sorted(dataset.class_info[1:], key=lambda info: names.index(info["name"]))
    dataset.prepare()


def check_same_classes(expected_names: Sequence[str] | None, dataset: Dataset, what: str) -> None:
    """Raises an error if the class ids of a dataset mean other classes than expected.

    Accepted are names that don't tell what the class is, such as "", "object" or "class 3", and a dataset that has only
    the first ones of the expected classes. The name of the background isn't compared.

    Args:
        expected_names: names in the order of their ids, the background first, such as those of the training set;
            None: unknown, so that nothing is compared.
        dataset: prepared Dataset.
        what: what the dataset is, for the message: "the validation set".

    Raises:
        ValueError: an id means another class. The message has both lists and says how to open the dataset instead.

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
        Use the same class ids: open_dataset(path, classes=train_dataset), or call add_class in the same order.
    """
    if expected_names is None:
        return
    expected, found = ([str(name).strip() for name in names] for names in (expected_names, _names_of(dataset)))
    if not expected or not is_background(expected[0]):
        with_background = [BACKGROUND, *expected]
        raise ValueError(f"expected_names is {expected}; expected the background in front: {with_background}.")
    for class_id, name in enumerate(found[1:], start=1):
        wanted = expected[class_id] if class_id < len(expected) else None
        if not _names_differ(name, wanted):
            continue
        but = f"but {wanted!r} was expected" if wanted is not None else "and no class was expected"
        raise ValueError(
            f"Class id {class_id} is {name!r} in {what} ({type(dataset).__name__}), {but}.\n"
            f"  expected: {_number_names(expected)}\n  {what}: {_number_names(found)}\n"
            "Use the same class ids: open_dataset(path, classes=train_dataset), or call add_class in the same order."
        )


def is_background(name: str) -> bool:
    """Whether a name is one of the usual ones of class 0.

    Example:
        >>> is_background("BG"), is_background("cat")
        (True, False)
    """
    return str(name).strip().lower() in BACKGROUND_NAMES


def _names_of(dataset: Dataset) -> list[str]:
    if not hasattr(dataset, "class_names"):
        raise ValueError(f"{type(dataset).__name__} isn't prepared; call its prepare() first.")
    return dataset.class_names


def _names_differ(name: str, wanted: str | None) -> bool:
    """Whether both names are meaningful and differ. Two numbers count as names, such as those of digits."""
    if wanted is None:
        return PLACEHOLDER.fullmatch(name) is None
    is_placeholder = PLACEHOLDER.fullmatch(name) or PLACEHOLDER.fullmatch(wanted)
    both_numbers = name.isdigit() and wanted.isdigit()
    return name != wanted and (both_numbers or not is_placeholder)


def _number_names(names: Sequence[str]) -> str:
    return ", ".join(f"{class_id} {name}" for class_id, name in enumerate(names) if class_id > 0) or "none"


def _free_id(dataset: Dataset, source: str) -> int:
    """A class id that the source doesn't use: its highest number plus one."""
    members = [key.split(".", 1) for key in dataset.class_from_source_map]
    used = [info["id"] for info in dataset.class_info if info["source"] == source]
    used += [int(own_id) for other, own_id in members if other == source and own_id.isdigit()]
    return 1 + max([own_id for own_id in used if isinstance(own_id, int)], default=0)
