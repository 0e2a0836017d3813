"""What can go wrong between an episode and its score. None of it ever becomes a default reward."""

from babylon_rl.scoring.local import ScoringError


class JudgeError(ScoringError):
    """A group could not be judged."""


class JudgeSetupError(JudgeError):
    """Key, model, address, rubric or price is wrong: no repetition helps, and all windows would fail."""


class JudgeUnavailableError(JudgeError):
    """The judge is unreachable, overloaded or hangs, also after the attempts: later it may work."""


class BudgetReachedError(JudgeError):
    """The next request could exceed JUDGE_DAILY_BUDGET_USD."""


class UnusableReplyError(JudgeError):
    """The judge answered, but never with exactly one valid score per episode."""


class ContextOverflowError(JudgeError):
    """The request is longer than the judge can read, and cannot be split further."""


class RequestError(JudgeError):
    """One request failed.

    Attributes:
        kind: `rate_limited`, `timeout`, `unreachable`, `server_error` or `rejected`.
        retry: Whether the same request may succeed later.
        after: Seconds that the server asked to wait, None if it did not say.
        charged: Whether the judge may have worked, and will be paid, although nothing arrived.
    """

    def __init__(
        self,
        problem: str,
        remedy: str = "",
        *,
        kind: str,
        retry: bool = False,
        after: float | None = None,
        charged: bool = False,
    ) -> None:
        super().__init__(problem, remedy)
        self.kind, self.retry, self.after, self.charged = kind, retry, after, charged


class InvalidReplyError(JudgeError):
    """One reply does not hold exactly one valid score per episode; `kind` is a short code."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind.replace('_', ' ')}: {detail}")
        self.kind, self.detail = kind, detail
