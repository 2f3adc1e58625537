"""Errors that a user can act on: printed with the next step, never as a traceback."""


class Failure(Exception):
    """What went wrong, and what to do about it."""

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step
