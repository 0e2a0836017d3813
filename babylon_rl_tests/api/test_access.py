"""Who is let in: nobody without a token, and nobody at all where none is configured."""

import httpx
import pytest

from babylon_rl.api.access import FREE_FAILURES
from babylon_rl.api.openapi import describe
from babylon_rl.settings import Settings, SettingsError
from babylon_rl_tests.api.conftest import CRON, TOKEN, Admin, admin_settings

GUARDED = [
    (path.replace("{job}", "x"), method.upper())
    for path, item in describe()["paths"].items()
    for method, operation in item.items()
    if operation.get("security")
]


def test_every_path_of_the_contract_is_there() -> None:
    training = "/api/admin/training"
    wanted = {f"{training}/{name}" for name in ("status", "trigger", "models", "deploy", "rollback")}
    wanted |= {f"{training}/upload-model", "/api/admin/training-data", "/api/admin/ai-models"}
    wanted |= {"/api/cron/training-check", "/health", "/train"}
    assert wanted <= set(describe()["paths"])


def test_no_path_answers_without_its_token(admin: Admin) -> None:
    for path, method in GUARDED:
        answer = admin.ask(method, path, token=None)
        assert answer.status_code in (401, 429), (path, method)
        assert answer.json()["success"] is False and "set-cookie" not in answer.headers
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("token", ["admin-token-012345678", TOKEN.upper(), "x" * 5000, "é", CRON])
def test_a_wrong_token_is_refused(admin: Admin, token: str) -> None:
    header = {"authorization": b"Bearer " + token.encode()}
    answer = httpx.get(f"{admin.url}/api/admin/training/status", headers=header)  # type: ignore[arg-type]
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"


def test_the_scheme_matters_and_its_case_does_not(admin: Admin) -> None:
    path = "/api/admin/training/trigger"
    assert admin.get(path, token=None, headers={"authorization": f"bearer {TOKEN}"}).status_code == 200
    assert admin.get(path, token=None, headers={"authorization": f"Basic {TOKEN}"}).status_code == 401
    assert admin.get(f"{path}?token={TOKEN}", token=None).status_code == 401


def test_the_cron_has_a_secret_of_its_own(admin: Admin) -> None:
    assert admin.get("/api/cron/training-check", token=CRON).status_code == 200
    assert admin.get("/api/cron/training-check").status_code == 401, "the admin token is another one"
    assert admin.get("/api/admin/training/status", token=CRON).status_code == 401


def test_many_wrong_tokens_have_to_wait_and_right_ones_do_not(admin: Admin) -> None:
    answers = [admin.get("/api/admin/training/models", token=f"guess-{n}") for n in range(FREE_FAILURES + 1)]
    assert answers[-1].status_code == 429 and answers[-1].headers["retry-after"] == "60"
    assert admin.get("/api/admin/training/models").status_code == 200


def test_without_configured_secrets_nobody_gets_in(settings: Settings) -> None:
    with Admin(admin_settings(settings, admin_token=None, cron_secret=None)) as closed:
        for token in (None, "", "None", TOKEN):
            answer = closed.get("/api/admin/training/status", token=token)
            assert answer.status_code == 503 and "ADMIN_TOKEN is not set" in answer.json()["error"]
        assert closed.get("/api/cron/training-check", token="").status_code == 503
        assert closed.post("/train", {"batchId": "b"}, token="").status_code == 503


def test_short_secrets_are_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", "short")
    with pytest.raises(SettingsError, match="ADMIN_TOKEN: should have at least 16") as problem:
        Settings(_env_file=None)
    assert "short" not in str(problem.value).replace("shorter", "")


def test_unknown_paths_and_methods(admin: Admin) -> None:
    assert admin.get("/api/admin/training/run-cycle").status_code == 404
    answer = admin.ask("DELETE", "/api/admin/training/models")
    assert answer.status_code == 405 and answer.json()["success"] is False


def test_the_page_allows_nothing_from_elsewhere(admin: Admin) -> None:
    page = admin.get("/admin/training", token=None)
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert page.headers["x-frame-options"] == "DENY"
    for name in ("dashboard.css", "dashboard.js", "charts.js", "dom.js", "sections.js", "icon.svg"):
        file = admin.get(f"/admin/training/{name}", token=None)
        assert file.status_code == 200
        assert "//" not in file.text.replace("//www.w3.org", "").replace("// ", "").replace("://", ""), name
    for name in ("..%2f__init__.py", "__init__.py", "index.html%00"):
        assert admin.get(f"/admin/training/{name}", token=None).status_code == 404
