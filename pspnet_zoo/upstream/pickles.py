"""Pickles read as data: nothing that a pickle asks for is imported, called or hashed.

A pickle is a program for a small stack machine. This one runs it with stand-ins: where Python would import a name, there is its
text, and where it would call something or restore an object, there is a `Stand` that notes with what. Whoever wants a tensor of it
builds the tensor from these notes.

Source of the opcodes: the standard library's pickletools.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MOST_OPERATIONS = 5_000_000
"""Limit for one pickle: hundreds of times those of a network with its optimizer; each makes at most one small object."""


class Name(str):
    """The dotted name of something that a pickle wants imported."""

    __slots__ = ()


@dataclass(eq=False, repr=False, slots=True)
class Stand:
    """A note of an object that a pickle would make."""

    kind: str
    """The name of what it wants called."""
    args: Any
    """The arguments of the call, a tuple in whole pickles."""
    state: Any = None
    """The state that would be restored."""
    entries: dict[Any, Any] = field(default_factory=dict)
    """Items that would be set by key; an OrderedDict has its content here."""


class PickleError(ValueError):
    """A pickle that is damaged, or does what no checkpoint's does."""


def read_pickle(file: Any, persistent: Callable[[Any], Any] = lambda id: Stand("persistent", id)) -> Any:
    """The content of the pickle at the file's position: plain data, `Name`s and `Stand`s.

    Entries whose key is neither text, number nor None are left out: hashing what is nested could take for ever.

    Args:
        file: An open file, or an mmap.
        persistent: Gives what stands for a persistent id, as which torch.save writes storages.

    Raises:
        PickleError: If it is damaged, or longer than any checkpoint's.
    """
    machine = _Machine(persistent)
    try:
        for count, (operation, value, _) in enumerate(pickletools.genops(file)):
            if operation.name == "STOP":
                return machine.pop()
            if count > MOST_OPERATIONS:
                raise PickleError(f"it has more than {MOST_OPERATIONS:,} operations")
            machine.run(operation.name, value)
    except PickleError:
        raise
    except Exception as error:  # pickletools and the stack fail in any way on a damaged pickle
        raise PickleError(str(error).strip().partition("\n")[0] or type(error).__name__) from None
    raise PickleError("it does not end")


_MARK = object()
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    def __init__(self, persistent: Callable[[Any], Any]) -> None:
        self.persistent = persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise PickleError("it takes a mark for a value")
        return value

    def pop_to_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise PickleError("it lacks a mark")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def run(self, name: str, value: Any) -> None:
        push = self.stack.append
        if name in ("PROTO", "FRAME"):
            return
        if name == "MARK":
            push(_MARK)
        elif name in _CONSTANTS:
            push(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[int(value)] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            push(self.memo[int(value)])
        elif name in _TUPLES:
            values = [self.pop() for _ in range(_TUPLES[name])]
            push(tuple(reversed(values)))
        elif name in ("TUPLE", "LIST", "FROZENSET"):
            values = self.pop_to_mark()
            push(values if name == "LIST" else tuple(values))
        elif name in ("EMPTY_LIST", "EMPTY_SET"):
            push([])
        elif name == "EMPTY_DICT":
            push({})
        elif name == "DICT":
            push(_filled({}, self.pop_to_mark()))
        elif name in ("SETITEM", "SETITEMS"):
            pairs = self.pop_to_mark() if name == "SETITEMS" else [self.pop(), self.pop()][::-1]
            _filled(self.stack[-1], pairs)
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            values = [self.pop()] if name == "APPEND" else self.pop_to_mark()
            if isinstance(self.stack[-1], list):
                self.stack[-1].extend(values)
        elif name == "POP":
            self.stack.pop()
        elif name == "POP_MARK":
            self.pop_to_mark()
        elif name == "DUP":
            push(self.stack[-1])
        elif operation := _OBJECTS.get(name):
            operation(self, value)
        elif value is not None and name not in _REFUSED:
            push(value)  # numbers, texts and bytes, which pickletools has decoded
        else:
            raise PickleError(f"it has the operation {name}, which no checkpoint has")

    def persist(self, _: Any) -> None:
        self.stack.append(self.persistent(self.pop()))

    def name(self, value: str) -> None:
        self.stack.append(Name(value.replace(" ", ".")))

    def stack_name(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("it names something by what is no text")
        self.stack.append(Name(f"{module}.{name}"))

    def call(self, _: Any) -> None:
        args, kind = self.pop(), self.pop()
        self.stack.append(Stand(kind if isinstance(kind, Name) else "something", args))

    def call_with_options(self, _: Any) -> None:
        self.pop()
        self.call(None)

    def make(self, _: Any) -> None:
        kind, *args = self.pop_to_mark()
        self.stack.append(Stand(kind if isinstance(kind, Name) else "something", tuple(args)))

    def make_by_name(self, value: str) -> None:
        self.stack.append(Stand(Name(value.replace(" ", ".")), tuple(self.pop_to_mark())))

    def restore(self, _: Any) -> None:
        state = self.pop()
        if isinstance(self.stack[-1], Stand):
            self.stack[-1].state = state


_OBJECTS = {
    "BINPERSID": _Machine.persist,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_options,
    "OBJ": _Machine.make,
    "INST": _Machine.make_by_name,
    "BUILD": _Machine.restore,
}
_REFUSED = {"PERSID", "EXT1", "EXT2", "EXT4"}


def _filled(target: Any, pairs: list[Any]) -> Any:
    """Put keys and values, one after the other, into a dict or what stands for one."""
    entries = target.entries if isinstance(target, Stand) else target
    if isinstance(entries, dict):
        entries.update((k, v) for k, v in zip(pairs[::2], pairs[1::2], strict=True) if isinstance(k, str | int | float | None))
    return target
