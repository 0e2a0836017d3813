"""Where episodes may go: allowed hosts only, encrypted outside of private networks, priced before asked."""

import subprocess
import sys

import pytest
from pydantic import SecretStr

from babylon_rl.scoring.judge.address import judge_address
from babylon_rl.scoring.judge.errors import JudgeSetupError
from babylon_rl.scoring.judge.prices import known_context, known_price
from babylon_rl.scoring.judge.rubric import DEFAULT, load_rubric
from babylon_rl.settings import Settings, SettingsError


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    return Settings(_env_file=None).model_copy(update={"judge_api_key": SecretStr("key-1234567")})


def address(base: Settings, **changes):
    return judge_address(base.model_copy(update=changes))


def test_the_default_is_the_seeds_judge(base: Settings):
    found = address(base)
    assert (found.name, found.model, found.host) == ("openai/gpt-4o-mini", "gpt-4o-mini", "api.openai.com")
    assert found.base_url == "https://api.openai.com/v1" and found.client == "openai"
    assert found.price.cost(1_000_000, 0) == pytest.approx(0.15)
    assert found.context_tokens == 128_000


@pytest.mark.parametrize(
    ("model", "url", "sent"),
    [
        ("gpt-4o-mini", None, "gpt-4o-mini"),
        ("hosted_vllm/Qwen/Qwen3-8B", "http://localhost:8000/v1", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-8B", "http://localhost:8000/v1", "Qwen/Qwen3-8B"),
        ("anthropic/x", "http://127.0.0.1:1/v1", "anthropic/x"),
    ],
)
def test_model_names_as_the_server_knows_them(base: Settings, model: str, url: str | None, sent: str):
    assert address(base, judge_model=model, judge_base_url=url).model == sent


def test_the_seeds_endpoint_and_key_are_honoured(base: Settings):
    found = address(base, judge_api_key=None, ruler_endpoint="http://localhost:9/v1")
    assert (found.base_url, found.key.get_secret_value()) == ("http://localhost:9/v1", "none")
    assert found.price.cost(10**6, 10**6) == 0, "a judge of one's own is free unless a price is set"
    both = address(base, judge_base_url="http://127.0.0.1:1/v1", ruler_endpoint="http://localhost:9/v1")
    assert both.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://judge.example.com/v1", "may not be sent to judge.example.com"),
        ("http://169.254.169.254/v1", "without encryption"),
        ("https://api.openai.com.evil.example/v1", "may not be sent"),
        ("https://api.openai.com@evil.example/v1", "not a plain"),
        ("https://key:secret@api.openai.com/v1", "not a plain"),
        ("http://api.openai.com/v1", "without encryption"),
        ("https://api.openai.com/v1?to=evil", "not a plain"),
        ("https:///v1", "not a plain"),
    ],
)
def test_other_addresses_are_refused(base: Settings, url: str, message: str):
    with pytest.raises(JudgeSetupError, match=message):
        address(base, judge_base_url=url)


def test_other_hosts_can_be_allowed(base: Settings):
    found = address(
        base,
        judge_base_url="https://judge.example.com/v1",
        judge_allowed_hosts=("judge.example.com",),
        judge_input_price=1.0,
    )
    assert found.host == "judge.example.com" and found.price.output == pytest.approx(1e-6)


def test_other_providers_go_through_litellm_if_allowed(base: Settings):
    with pytest.raises(JudgeSetupError, match="provider:anthropic"):
        address(base, judge_model="anthropic/claude-sonnet-4-5")
    found = address(
        base, judge_model="anthropic/claude-sonnet-4-5", judge_allowed_hosts=("provider:anthropic",)
    )
    assert (found.client, found.model) == ("litellm", "anthropic/claude-sonnet-4-5")
    assert found.price.input > 0 and found.context_tokens == 200_000


def test_an_unknown_price_is_no_price(base: Settings):
    with pytest.raises(JudgeSetupError, match="JUDGE_INPUT_PRICE"):
        address(base, judge_model="openai/house-model")
    assert known_price("nobody/knows") is None and known_context("nobody/knows") is None


def test_hosts_are_a_list_of_names(base: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JUDGE_ALLOWED_HOSTS", "judge.example.com, provider:Anthropic")
    assert Settings(_env_file=None).judge_allowed_hosts == ("judge.example.com", "provider:anthropic")
    for wrong in ("https://judge.example.com", "*.example.com", "a,,b"):
        monkeypatch.setenv("JUDGE_ALLOWED_HOSTS", wrong)
        with pytest.raises(SettingsError, match="JUDGE_ALLOWED_HOSTS"):
            Settings(_env_file=None)


def test_dropout_above_the_seeds_is_refused(base: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MAX_DROPOUT", "0.5")
    with pytest.raises(SettingsError, match="MAX_DROPOUT"):
        Settings(_env_file=None)


def test_rubrics_are_read_or_refused(tmp_path):
    assert load_rubric(None) is DEFAULT and len(DEFAULT.sha256) == 64
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "long").write_text("x" * 30_000)
    for name, message in (
        ("none", "No such file"),
        ("empty", "is empty"),
        ("binary", "UTF-8"),
        ("long", "30000"),
    ):
        with pytest.raises(JudgeSetupError, match=message):
            load_rubric(tmp_path / name)


def test_nothing_heavy_is_imported_before_a_judge_is_asked():
    code = (
        "import sys; import babylon_rl.scoring.scorers, babylon_rl.scoring.judge.ruler,"
        " babylon_rl.scoring.judge.litellm_transport, babylon_rl.scoring.judge.transport;"
        "print([m for m in ('openai', 'litellm', 'art', 'torch', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
