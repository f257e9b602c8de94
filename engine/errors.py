"""The one exception that means: the input is wrong, and the message says what to do."""


class InputError(Exception):
    """Bad input from the user: one clear line that names the file, row or field; no traceback (exit code 2)."""
