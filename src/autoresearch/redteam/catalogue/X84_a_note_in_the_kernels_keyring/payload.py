import ctypes
import os

USER_KEYRING = -4
DESCRIBE, UNLINK, READ = 6, 9, 11  # <linux/keyctl.h>
ADD_KEY, KEYCTL = {"x86_64": (248, 250), "aarch64": (217, 219)}.get(os.uname().machine, (-1, -1))
libc = ctypes.CDLL(None, use_errno=True)


def called(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return result


try:
    if "{{NOTE}}":
        called(ADD_KEY, b"user", b"{{MARK}} {{NOTE}}", b"x", 1, USER_KEYRING)
        print("left", flush=True)
    else:
        keys = (ctypes.c_int32 * 1024)()
        size = called(KEYCTL, READ, USER_KEYRING, keys, ctypes.sizeof(keys))
        for key in keys[: size // 4]:
            text = ctypes.create_string_buffer(500)
            called(KEYCTL, DESCRIBE, key, text, len(text))
            if b"{{MARK}}" in text.value:
                print(text.value.decode(), flush=True)
                called(KEYCTL, UNLINK, key, USER_KEYRING)
except OSError as error:
    print(f"refused: {error}", flush=True)
