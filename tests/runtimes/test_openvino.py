"""What OpenVINO leaves behind in a process."""

import ctypes
import gc
import sys

import pytest

from pspnet_zoo.runtimes.open import open_runtime
from pspnet_zoo.runtimes.openvino import openvino_core

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the layout of stack_t is Linux's")


class Stack(ctypes.Structure):
    """`stack_t`: where the signals of a thread arrive."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack():
    gc.collect()
    stack = Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    return stack.address, stack.flags, stack.size


def test_networks_that_are_closed_leave_the_stack_on_which_signals_arrive(files):
    """Each had a core of its own, which left the thread a stack that is freed: the next signal was a segmentation fault."""
    openvino_core()
    before = signal_stack()
    runtimes = [open_runtime(files["openvino"]) for _ in range(2)]
    assert runtimes.pop(0) and runtimes.pop() and signal_stack() == before
