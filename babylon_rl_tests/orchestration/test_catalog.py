"""What the UI shows of an asset before anything was made."""

from pathlib import Path

import asyncpg
import dagster as dg
import pytest

from babylon_rl.database.connection import connect
from babylon_rl.orchestration import assets
from babylon_rl.orchestration.catalog import COLUMNS, TABLES, described
from babylon_rl.settings import Settings

SOURCE = "https://example.org/babylon_rl/blob/main"
ROOT = Path(__file__).resolve().parents[2]


def metadata(settings: Settings) -> dict[str, dict]:
    specs = [
        spec
        for asset in described(assets.ALL, settings)
        for spec in ([asset] if isinstance(asset, dg.AssetSpec) else asset.specs)
    ]
    return {spec.key.to_user_string(): dict(spec.metadata) for spec in specs}


def test_every_asset_has_columns_a_document_and_the_dashboard(settings: Settings):
    for name, shown in metadata(settings).items():
        assert shown["dagster/column_schema"] == COLUMNS[name]
        assert all(column.description for column in COLUMNS[name].columns)
        assert (ROOT / shown["docs"]).is_file()
        assert shown["dashboard"].url.endswith("/admin/training")


def test_links_lead_to_where_people_open_the_pages(settings: Settings):
    here = metadata(settings)["deployed_model"]
    assert here["dashboard"].url == f"http://127.0.0.1:{settings.admin_port}/admin/training"
    assert here["gateway"].url == f"http://127.0.0.1:{settings.port}/v1/models"
    given = {
        "admin_public_url": "https://ops.example.org/babylon",
        "gateway_public_url": "https://llm.example.org",
    }
    public = metadata(settings.model_copy(update=given))
    assert public["deployed_model"]["gateway"].url == "https://llm.example.org/v1/models"
    assert {shown["dashboard"].url for shown in public.values()} == {
        "https://ops.example.org/babylon/admin/training"
    }
    assert "127.0.0.1" not in repr(public)


def test_code_links_lead_to_the_repository_and_show_no_path_of_this_machine(settings: Settings):
    assert not any("dagster/code_references" in shown for shown in metadata(settings).values())
    linked = metadata(settings.model_copy(update={"source_url": SOURCE}))
    for name, shown in linked.items():
        assert shown["docs"].url.startswith(f"{SOURCE}/docs/")
        if name == "recorded_rows":  # not made here
            continue
        (reference,) = shown["dagster/code_references"].code_references
        path, _, line = reference.url.removeprefix(f"{SOURCE}/").partition("#L")
        text = (ROOT / path).read_text().splitlines()
        assert any(f"def {name}(" in code for code in text[int(line) - 1 :][:15])
    assert str(ROOT) not in repr(linked)


@pytest.mark.anyio
@pytest.mark.parametrize("name", TABLES)
async def test_columns_are_those_of_the_table(name: str, dsn: str):
    rl: asyncpg.Connection = await connect(dsn)
    schema, table = TABLES[name].split(".")
    found = await rl.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = $1 AND table_name = $2",
        schema,
        table,
    )
    await rl.close()
    assert {column.name for column in COLUMNS[name].columns} <= {row["column_name"] for row in found}
