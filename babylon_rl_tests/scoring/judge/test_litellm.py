"""Judges of other providers, through litellm 1.82.0 against the same server."""

import pytest
from pydantic import SecretStr

from babylon_rl.scoring.judge.address import JudgeAddress
from babylon_rl.scoring.judge.errors import ContextOverflowError, JudgeSetupError, RequestError
from babylon_rl.scoring.judge.litellm_transport import LiteLlmTransport
from babylon_rl.scoring.judge.prices import FREE
from babylon_rl.scoring.judge.prompt import build_prompt
from babylon_rl.scoring.judge.replies import parse_reply
from babylon_rl.scoring.judge.rubric import DEFAULT
from babylon_rl_tests.judge_reading import score_of
from babylon_rl_tests.judge_server import KEY, JudgeServer

pytestmark = [pytest.mark.anyio, pytest.mark.long]

BODIES = [{"profit_usd": 10.0, "steps": []}, {"profit_usd": -20.0, "steps": []}]


@pytest.fixture
def transport(judge: JudgeServer) -> LiteLlmTransport:
    address = JudgeAddress(
        name="hosted_vllm/test-judge",
        model="hosted_vllm/test-judge",
        client="litellm",
        base_url=judge.url,
        host="provider:hosted_vllm",
        key=SecretStr(KEY),
        price=FREE,
        context_tokens=32_000,
    )
    return LiteLlmTransport(address, temperature=0.0, timeout=5.0)


async def test_scores_come_back_by_name(judge: JudgeServer, transport: LiteLlmTransport):
    prompt = build_prompt(DEFAULT, {}, BODIES)
    answer = await transport.send(prompt.messages, prompt.schema, 500)
    scores = parse_reply(answer.text, prompt.ids, finish_reason=answer.finish_reason, refusal=answer.refusal)
    assert [scores[name].score for name in prompt.ids] == [score_of(10.0), score_of(-20.0)]
    assert answer.input_tokens and judge.seen[0].key == KEY and judge.calls == 1


@pytest.mark.parametrize(
    ("manner", "kind"),
    [
        ("wrong_key", JudgeSetupError),
        ("unknown_model", JudgeSetupError),
        ("rate_limited:1", RequestError),
        ("overloaded", RequestError),
        ("too_long", ContextOverflowError),
        ("hang", RequestError),
    ],
)
async def test_failures_mean_the_same(
    judge: JudgeServer, transport: LiteLlmTransport, manner: str, kind: type
):
    judge.manner = manner
    transport._timeout = 1.0
    prompt = build_prompt(DEFAULT, {}, BODIES)
    with pytest.raises(kind) as caught:
        await transport.send(prompt.messages, prompt.schema, 500)
    assert KEY not in str(caught.value)
    assert judge.calls == 1, "no retries of its own"
