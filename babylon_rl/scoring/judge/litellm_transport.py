"""One request through litellm, for providers that speak something else than OpenAI's protocol.

Imported only when such a judge is asked: litellm takes seconds to import, and fetches a price list from the
network unless told otherwise.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from babylon_rl.scoring.judge.address import NO_KEY, JudgeAddress
from babylon_rl.scoring.judge.errors import ContextOverflowError, JudgeSetupError, RequestError
from babylon_rl.scoring.judge.transport import Answer, failure, read_answer


class LiteLlmTransport:
    """litellm on one model; see `Transport`. Keys come from JUDGE_API_KEY, else from the provider's own
    variable.
    """

    def __init__(self, address: JudgeAddress, *, temperature: float, timeout: float) -> None:
        self._address, self._temperature, self._timeout = address, temperature, timeout

    async def send(
        self, messages: Sequence[dict[str, str]], schema: dict[str, Any], max_tokens: int
    ) -> Answer:
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        import litellm
        from litellm.exceptions import ContextWindowExceededError
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        key = self._address.key.get_secret_value()
        try:
            async with asyncio.timeout(self._timeout):
                response = await litellm.acompletion(
                    model=self._address.model,
                    messages=list(messages),
                    temperature=self._temperature,
                    max_tokens=max_tokens,
                    response_format={
                        "type": "json_schema",
                        "json_schema": {"name": "episode_scores", "strict": True, "schema": schema},
                    },
                    api_base=self._address.base_url,
                    api_key=None if key == NO_KEY else key,
                    timeout=self._timeout,
                    max_retries=0,
                    num_retries=0,
                    drop_params=True,
                )
        except ContextWindowExceededError:
            raise ContextOverflowError(
                f"the judge {self._address.name} cannot read a group of this size",
                "Lower JUDGE_EPISODE_TOKENS or JUDGE_CONTEXT_TOKENS, or use a judge with a larger context.",
            ) from None
        except (TimeoutError, APITimeoutError):
            raise RequestError(
                f"the judge {self._address.name} gave no answer in {self._timeout:g} s",
                "Raise JUDGE_TIMEOUT_SECONDS, or look whether it is overloaded.",
                kind="timeout",
                retry=True,
                charged=True,
            ) from None
        except APIStatusError as problem:
            # litellm makes 500 of some lost connections; its own message may quote keys, so it is not shown.
            raise failure(self._address, problem) from None
        except APIConnectionError as problem:
            raise RequestError(
                f"the judge {self._address.name} cannot be reached ({type(problem).__name__})",
                "Check the network and the provider's status.",
                kind="unreachable",
                retry=True,
                charged=True,
            ) from None
        except Exception as problem:
            raise JudgeSetupError(
                f"litellm cannot ask {self._address.name} ({type(problem).__name__})",
                "Check JUDGE_MODEL; litellm's documentation lists providers and their variables.",
            ) from None
        return read_answer(response.model_dump_json(warnings=False).encode())  # type: ignore[union-attr]

    async def close(self) -> None:
        """Nothing is open between requests."""
