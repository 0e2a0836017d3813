"""What the tests and benchmarks ask the webserver by GraphQL, as its pages do."""

LOADED = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"
BACKFILL = """
mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }
"""
RUN = """
mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }
"""
STATE = """
query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status
  error { message }
  assetBackfillData { assetBackfillStatuses { ... on AssetPartitionsStatusCounts { assetKey { path }
    numPartitionsTargeted numPartitionsMaterialized numPartitionsFailed numPartitionsInProgress } } } } } }
"""
RUNS = """
query ($tags: [ExecutionTag!]) { runsOrError(filter: { tags: $tags }) { ... on Runs { results {
  runId status tags { key value } } } } }
"""
EVENTS = """
query ($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
  ... on MessageEvent { message level } ... on ErrorEvent { error { message } } } } } }
"""
PARTITIONS = """
query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  partitionStats { numMaterialized numFailed numMaterializing } } } }
"""


STATUS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
STALENESS = """
query ($key: AssetKeyInput!, $partitions: [String!]) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  status: staleStatusByPartition(partitions: $partitions)
  version: dataVersionByPartition(partitions: $partitions)
  causes: staleCausesByPartition(partitions: $partitions) {
    category reason partitionKey key { path } } } } }
"""
