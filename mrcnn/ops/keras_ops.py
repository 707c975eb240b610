"""`ops`: `keras.ops`, imported when a function of it is first used.

For modules that have NumPy and graph forms side by side. The processes that load data and programs that only draw or
evaluate call the NumPy forms, and would otherwise wait for a backend: TensorFlow takes seconds to import.
"""

from __future__ import annotations

from typing import Any


class _KerasOps:
    def __getattr__(self, name: str) -> Any:
        from keras import ops

        function = getattr(ops, name)
        setattr(self, name, function)  # found without this method from now on
        return function


ops = _KerasOps()
