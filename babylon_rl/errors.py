"""The errors that a user of babylon_rl can meet: one line that says what is wrong and what to do about it."""


class BabylonError(Exception):
    """Base of every error that is meant to be read by a person.

    Command-line entry points print `str(error)` on one line and exit with a non-zero status; anything that
    does not derive from this class is a defect of ours and keeps its traceback. Each room derives its own.

    Args:
        problem: What is wrong, naming the row, field, file or variable. With or without a final full stop.
        remedy: What the reader can do about it; empty when nothing can be done.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem = problem.strip()
        self.remedy = remedy.strip()
        super().__init__(self.problem, self.remedy)

    def __str__(self) -> str:
        problem = self.problem if self.problem.endswith((".", "?", "!")) else f"{self.problem}."
        return f"{problem} {self.remedy}".rstrip()
