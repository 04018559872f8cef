"""What is in a pickle, without unpickling it: its keys and plain values, read from the instructions alone.

No class of it is looked up and no code of it is run, so it may be anybody's.
"""

from __future__ import annotations

import pickletools
from typing import IO, Any

LARGEST = 8 * 2**20  # bytes; a state of 20 000 tensors has two
READS = ("GET", "BINGET", "LONG_BINGET")
WRITES = ("PUT", "BINPUT", "LONG_BINPUT")
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
DICTS = ("collections OrderedDict", "collections defaultdict", "builtins dict")
TENSOR = "a tensor"  # stands for one, and for the parameter that wraps one
MAKES_TENSOR = ("torch._utils _rebuild_", "torch._tensor _rebuild_")

_MARK = object()


class Named(str):
    """A function or a class, by its module and name."""

    __slots__ = ()


class Other:
    """Whatever is neither a dict, a tensor nor a plain value."""


def outline(stream: IO[bytes]) -> Any:
    """What a pickle holds: dicts, texts, numbers, TENSOR; an `Other` in place of all else.

    Args:
        stream: at the pickle's first byte; at its end afterwards.

    Raises:
        ValueError: it is no pickle, or is cut short.
    """
    machine = _Machine()
    try:
        for instruction, argument, _ in pickletools.genops(stream):
            if instruction.name == "STOP":
                return machine.stack.pop()
            machine.run(instruction, argument)
    except (ValueError, IndexError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(f"no pickle ({error})") from None
    raise ValueError("no pickle: it has no end")


class _Machine:
    """The stack and the memory of a pickle's reader."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._memory: dict[int, Any] = {}

    def run(self, instruction: pickletools.OpcodeInfo, argument: Any) -> None:
        name, stack = instruction.name, self.stack
        if name in WRITES:
            self._memory[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memory[len(self._memory)] = stack[-1]
        elif name in READS:
            stack.append(self._memory[argument])
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in ("SETITEM", "SETITEMS", "DICT"):
            self._set_items(name)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            if argument is None:
                second, first = stack.pop(), stack.pop()
                if not (isinstance(first, str) and isinstance(second, str)):  # as text a dict may have no end
                    raise ValueError("a name that is no text")
                argument = f"{first} {second}"
            stack.append(Named(argument))
        elif name in ("REDUCE", "NEWOBJ"):
            self._make()
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Other):  # an object: what it consists of tells more
                stack[-1] = state
        elif not instruction.stack_before and len(instruction.stack_after) == 1 and argument is not None:
            stack.append(argument)
        else:
            self._skip(instruction)

    def _set_items(self, name: str) -> None:
        items = [self.stack.pop(), self.stack.pop()][::-1] if name == "SETITEM" else self._pop_to_mark()
        if name == "DICT":
            self.stack.append({})
        target = self.stack[-1]
        if isinstance(target, dict):  # no other keys: to hash what is nested deeply could take for ever
            pairs = zip(items[::2], items[1::2], strict=True)
            target.update((key, value) for key, value in pairs if isinstance(key, str | int))

    def _make(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if function in DICTS and isinstance(function, Named):
            self.stack.append({})
        elif isinstance(function, Named) and function.startswith(MAKES_TENSOR):
            self.stack.append(TENSOR)
        else:
            self.stack.append(arguments if isinstance(arguments, dict) else Other())

    def _skip(self, instruction: pickletools.OpcodeInfo) -> None:
        before = [item.name for item in instruction.stack_before]
        if "mark" in before:
            self._pop_to_mark()
            before = before[: before.index("mark")]
        for _ in before:
            self.stack.pop()
        self.stack += [Other() for _ in instruction.stack_after]

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]
