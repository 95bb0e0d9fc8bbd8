"""Runs a program on a kernel that does not know FUSE_NOTIFY_RESEND (Linux before 6.9): write(2) of a message of 16 bytes is EINVAL.

Answers to the kernel are written otherwise (writev), and nothing else that oncefs writes has this length.
"""

import ctypes
import os
import platform
import struct
import sys

WRITE = {"x86_64": 1, "aarch64": 64}[platform.machine()]
NUMBER, THIRD_ARGUMENT = 0, 32  # of struct seccomp_data, where its lower half stands on these
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
EINVAL, ALLOW = 0x00050000 | 22, 0x7FFF0000
CODE = [
    (LOAD, 0, 0, NUMBER),
    (JUMP_IF_EQUAL, 0, 3, WRITE),
    (LOAD, 0, 0, THIRD_ARGUMENT),
    (JUMP_IF_EQUAL, 0, 1, 16),
    (RETURN, 0, 0, EINVAL),
    (RETURN, 0, 0, ALLOW),
]
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2

code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in CODE))
program = ctypes.create_string_buffer(struct.pack("@HP", len(CODE), ctypes.addressof(code)))
if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program) != 0:
    sys.exit(f"cannot filter system calls: {os.strerror(ctypes.get_errno())}")
os.execvp(sys.argv[1], sys.argv[1:])
