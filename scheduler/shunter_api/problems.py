"""What is wrong with a file, where, and what would be accepted."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    origin: str  # the file
    line: int  # from 1; 0: the file as a whole
    field: str  # spec.profiles[0].accelerator; empty: the document as a whole
    message: str

    @property
    def place(self) -> str:
        return f"{self.origin}:{self.line}" if self.line else self.origin

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place, self.field, self.message) if part)


class ConfigurationError(ValueError):
    """A configuration that cannot be used; `problems` says all that is wrong with it."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems
