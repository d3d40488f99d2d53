"""Run a command for which bpf(2) fails with EPERM, as where a container's seccomp profile or a lockdown forbids it.

By hand or by a test: `python tests/kernel/refuse_bpf.py COMMAND [ARG ...]`. All capabilities stay.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # classic BPF
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_OFFSET_OF_NUMBER = 0  # in struct seccomp_data
_SYS_BPF = 321  # x86-64


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def refuse_bpf() -> None:
    """From now on, for this process and what it executes, bpf(2) fails with EPERM."""
    instructions = (_Instruction * 4)(
        _Instruction(_LOAD_WORD, 0, 0, _OFFSET_OF_NUMBER),
        _Instruction(_JUMP_IF_EQUAL, 0, 1, _SYS_BPF),
        _Instruction(_RETURN, 0, 0, _FAIL | errno.EPERM),
        _Instruction(_RETURN, 0, 0, _ALLOW),
    )
    program = _Program(len(instructions), instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) or libc.prctl(
        _PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(program), zero, zero
    ):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


if __name__ == "__main__":
    refuse_bpf()
    os.execvp(sys.argv[1], sys.argv[1:])
