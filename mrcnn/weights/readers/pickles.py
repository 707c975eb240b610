"""Reads pickles of numbers, tensors and arrays without running any code.

A pickle is a program. Python's `pickle` imports and calls whatever that program names, so a weight file from the
internet can run anything. Here the program is interpreted: a name from `ALLOWED` makes a plain value, any other name is
refused. Time and memory are linear in the size of the file: there is a limit on instructions, and none of them
allocates more than its bytes in the file.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MOST_INSTRUCTIONS = 200_000  # a Cascade R-CNN of ResNet-101 with its optimizer has 50,000
LONGEST_LINE = 1000  # bytes of a name in protocol 0 to 3
DTYPE_CODES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")


class Bytes:
    """A file-like object on bytes that are in memory or mapped to it.

    Args:
        content: Only the parts that are read are copied.
    """

    def __init__(self, content: memoryview | bytes):
        self.content, self.position = memoryview(content), 0

    def read(self, size: int) -> bytes:
        start, self.position = self.position, min(self.position + size, len(self.content))
        return bytes(self.content[start : self.position])

    def readline(self) -> bytes:
        """Returns a line, or as much of it as a name may have."""
        line, end, _ = bytes(self.content[self.position :][:LONGEST_LINE]).partition(b"\n")
        self.position += len(line) + len(end)
        return line + end


@dataclass(frozen=True)
class Global:
    """A name that the pickle refers to, "torch.FloatStorage"."""

    name: str


@dataclass(eq=False)
class PickledArray:
    """A NumPy array as its pickle describes it, unchecked."""

    shape: Any = None
    dtype: Any = None
    fortran: bool = False
    data: Any = None  # bytes, or the same as text


@dataclass(eq=False)
class PickledDtype:
    """A NumPy dtype."""

    code: str
    byteorder: str = "<"


@dataclass(eq=False)
class TensorView:
    """A PyTorch tensor: a view of a storage, unchecked. Sizes count elements."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


@dataclass(eq=False)
class Opaque:
    """An object that holds no weights and whose content is dropped, such as the arguments of a training script."""

    name: str


@dataclass
class _State:
    persistent: Callable[[Any], Any]
    stack: list = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def pop_mark(self) -> list:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("an instruction takes a value that is not there")
        return self.stack.pop()


def read_pickle(stream: Bytes, persistent: Callable[[Any], Any] | None = None) -> Any:
    """Interprets one pickle, from the stream's position up to its end.

    Args:
        stream: Its position is after the pickle then.
        persistent: Gets a persistent id, returns the value. None: these are refused.

    Returns:
        dict, list, tuple, str, bytes, numbers, None; `TensorView`, `PickledArray`, `Opaque`.

    Raises:
        ValueError: It names anything but arrays of numbers, is broken, or is too long.

    Example:
        >>> import pickle
        >>> read_pickle(Bytes(pickle.dumps({"epoch": 3})))
        {'epoch': 3}
    """
    state = _State(persistent or _refuse_persistent)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count >= MOST_INSTRUCTIONS:
            raise ValueError(f"its pickle has more than {MOST_INSTRUCTIONS:,} instructions, far more than weights need")
        if opcode.name == "STOP":
            return state.pop()
        instruction = INSTRUCTIONS.get(opcode.name)
        if instruction is None:
            raise ValueError(f"its pickle uses the instruction {opcode.name}, which weights do not need")
        instruction(state, argument)
    raise ValueError("its pickle has no end")


# ---- Instructions --------------------------------------------------------------------------------------------------
def _push_argument(state: _State, argument: Any) -> None:
    state.stack.append(argument)


def _push(make: Callable[[], Any]) -> Callable[[_State, Any], None]:
    return lambda state, _: state.stack.append(make())


def _ignore(state: _State, argument: Any) -> None:
    """PROTO and FRAME, which don't affect the value."""


def _mark(state: _State, _: Any) -> None:
    state.marks.append(len(state.stack))


def _pop(state: _State, _: Any) -> None:
    if state.marks and state.marks[-1] == len(state.stack):
        state.marks.pop()
    else:
        state.pop()


def _tuple(count: int) -> Callable[[_State, Any], None]:
    def make(state: _State, _: Any) -> None:
        state.stack.append(tuple(reversed([state.pop() for _ in range(count)])))

    return make


def _marked(make: Callable[[list], Any]) -> Callable[[_State, Any], None]:
    return lambda state, _: state.stack.append(make(state.pop_mark()))


def _dict_of(items: list) -> dict:
    return {_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _key(key: Any) -> str | int:
    # A tuple could take forever to hash: ((x, x), (x, x)), 40 levels deep.
    if not isinstance(key, (str, int)) or (isinstance(key, int) and abs(key) >= 2**63):
        raise ValueError(f"a dictionary has a key of type {type(key).__name__}; expected names or numbers")
    return key


def _extend(items: list, target: Any) -> None:
    if isinstance(target, dict):
        target.update(_dict_of(items))
    elif isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Opaque):
        raise ValueError(f"items are added to a {type(target).__name__}; expected a list or dictionary")


def _put(state: _State, index: int | None) -> None:
    if not state.stack:
        raise ValueError("an instruction keeps a value that is not there")
    state.memo[len(state.memo) if index is None else index] = state.stack[-1]


def _get(state: _State, index: int) -> None:
    if index not in state.memo:
        raise ValueError("an instruction takes back a value that was not kept")
    state.stack.append(state.memo[index])


def _global(state: _State, name: str) -> None:
    state.stack.append(_allowed(name.replace(" ", ".", 1)))


def _stack_global(state: _State, _: Any) -> None:
    name, module = state.pop(), state.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise ValueError("the name of a function or class is not text")
    state.stack.append(_allowed(f"{module}.{name}"))


def _allowed(name: str) -> Global:
    if name not in ALLOWED and not _is_storage_type(name):
        raise ValueError(
            f"it asks for {name[:80]!r}, which is no part of weights. Nothing was run. Save only the weights, as with"
            " torch.save(model.state_dict(), path), or don't use this file: it may be hostile"
        )
    return Global(name)


def _is_storage_type(name: str) -> bool:
    return name.startswith("torch.") and name.count(".") == 1 and name.endswith("Storage")


def _reduce(state: _State, _: Any) -> None:
    arguments, target = state.pop(), state.pop()
    if not isinstance(target, Global) or not isinstance(arguments, tuple):
        raise ValueError(f"a {type(target).__name__} is called as if it were a function")
    call = ALLOWED.get(target.name)
    if call is None:
        raise ValueError(f"{target.name} is called, which weights do not need")
    state.stack.append(Opaque(target.name) if call is Opaque else call(*arguments))


def _build(state: _State, _: Any) -> None:
    """Sets the state of an object: of NumPy's arrays and dtypes. Attributes of others (OrderedDict) are dropped."""
    content = state.pop()
    target = state.stack[-1] if state.stack else None
    if isinstance(target, PickledArray):
        _, target.shape, target.dtype, target.fortran, target.data = content
    elif isinstance(target, PickledDtype):
        if content[1] not in ("<", ">", "|", "="):
            raise ValueError("a NumPy dtype has no byte order")
        target.byteorder = content[1]


def _persistent_id(state: _State, _: Any) -> None:
    state.stack.append(state.persistent(state.pop()))


def _refuse_persistent(_: Any) -> Any:
    raise ValueError("it refers to data outside of its pickle, and there is none")


INSTRUCTIONS: dict[str, Callable[[_State, Any], None]] = {
    **dict.fromkeys(
        ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
         "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES",
         "SHORT_BINBYTES", "BINBYTES8"), _push_argument),
    **dict.fromkeys(("PROTO", "FRAME"), _ignore),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    "NONE": _push(lambda: None), "NEWTRUE": _push(lambda: True), "NEWFALSE": _push(lambda: False),
    "EMPTY_TUPLE": _push(tuple), "EMPTY_LIST": _push(list), "EMPTY_DICT": _push(dict),
    "MARK": _mark, "POP": _pop, "POP_MARK": lambda state, _: state.pop_mark(),
    "DUP": lambda state, _: state.stack.append(state.stack[-1]),
    "TUPLE1": _tuple(1), "TUPLE2": _tuple(2), "TUPLE3": _tuple(3),
    "TUPLE": _marked(tuple), "LIST": _marked(list), "DICT": _marked(_dict_of),
    "APPEND": lambda state, _: _extend([state.pop()], state.stack[-1]),
    "SETITEM": lambda state, _: _extend([state.pop(), state.pop()][::-1], state.stack[-1]),
    "APPENDS": lambda state, _: _extend(state.pop_mark(), state.stack[-1]),
    "SETITEMS": lambda state, _: _extend(state.pop_mark(), state.stack[-1]),
    "GLOBAL": _global, "STACK_GLOBAL": _stack_global, "REDUCE": _reduce, "NEWOBJ": _reduce, "BUILD": _build,
    "BINPERSID": _persistent_id,
}  # fmt: skip


# ---- What a pickle may name ----------------------------------------------------------------------------------------
def _new_dict(*arguments: Any) -> dict:
    if len(arguments) == 1 and isinstance(arguments[0], dict):
        return arguments[0]
    pairs = arguments[0] if arguments and isinstance(arguments[0], (list, tuple)) else ()
    return _dict_of([part for pair in pairs for part in pair])


def _rebuild_tensor(storage, offset, shape, strides, *_) -> TensorView:
    return TensorView(storage, offset, shape, strides)


def _rebuild_parameter(data, *_) -> Any:
    return data


def _size(dimensions) -> tuple:
    return tuple(dimensions) if isinstance(dimensions, (list, tuple)) else ()


def _encode(text: str, _) -> str:
    """Protocol 2 stores bytes as text. They stay text until an array reads them, as many calls may share one text."""
    return text


def _new_array(*_) -> PickledArray:
    return PickledArray()


def _new_dtype(code, *_) -> PickledDtype:
    if code not in DTYPE_CODES:
        raise ValueError(f"a NumPy array has the dtype {str(code)[:20]!r}; expected numbers")
    return PickledDtype(code)


def _numpy_scalar(dtype, data) -> PickledArray:
    return PickledArray((), dtype, False, data)


ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": _new_dict,
    "collections.defaultdict": lambda *_: {},
    "collections.Counter": _new_dict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.Size": _size,
    "torch.device": Opaque,
    "argparse.Namespace": Opaque,  # torchvision's training script stores its arguments beside the weights
    "numpy.ndarray": None,
    "numpy.dtype": _new_dtype,
    "_codecs.encode": _encode,
    **{f"{module}._reconstruct": _new_array for module in NUMPY_MODULES},
    **{f"{module}.scalar": _numpy_scalar for module in NUMPY_MODULES},
}


def array_bytes(data: Any) -> bytes:
    """The bytes of an array, from a pickle that stores them as bytes or as Latin-1 text."""
    if isinstance(data, str):
        return data.encode("latin-1")
    if not isinstance(data, bytes):
        raise ValueError(f"the numbers of an array are a {type(data).__name__}; expected bytes")
    return data


def numpy_dtype(dtype: Any) -> np.dtype:
    """The dtype of a pickled array."""
    if not isinstance(dtype, PickledDtype):
        raise ValueError("a NumPy array has no dtype")
    return np.dtype(dtype.code).newbyteorder(dtype.byteorder if dtype.byteorder in "<>" else "=")
