"""The exception that means: the input is wrong, and the message says what to do.

And what tells that memory or the disk ran out.
"""

import errno

OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to map segment",
)


class InputError(Exception):
    """Bad input from the user: one clear line that names the file, row or field.

    No traceback (exit code 2).
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; of the CPU's, PyTorch raises a plain RuntimeError."""
    message = str(error).lower()
    return isinstance(error, MemoryError) or any(phrase in message for phrase in OUT_OF_MEMORY)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that the disk is full."""
    chain: BaseException | None = error
    while chain is not None:
        full_errno = isinstance(chain, OSError) and chain.errno in (errno.ENOSPC, errno.EDQUOT)
        if full_errno or "No space left on device" in str(chain) or "database or disk is full" in str(chain):
            return True
        chain = chain.__cause__ or chain.__context__
    return False
