// What each section of the dashboard shows.

import { bars, curve, interval, percent } from "./charts.js";
import { $, check, confirm, field, h, pill, table, when } from "./dom.js";

const KINDS = {
  succeeded: "good", done: "good", deployed: "good", promoted: "good", ready: "busy", running: "busy", queued: "busy",
  starting: "busy", training: "busy", pending: "busy", failed: "bad", rejected: "bad", in_doubt: "bad",
  cancelled: "warn", inconclusive: "warn", promote: "good", hold: "busy", roll_back: "bad",
};
const state = (word) => (word ? pill(word.replace("_", " "), KINDS[word] ?? "") : h("span", {}, "–"));
const count = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));
const figure = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 }));
const signed = (value) => (value > 0 ? "+" : "") + figure(value);
const named = (candidate) => (candidate.agents.length === 1 ? "one named agent" : `${candidate.agents.length} named agents`);
const STAGES = { training_batch: "freezing the batch", trained_checkpoint: "training", checkpoint_benchmark: "benchmark", deployed_model: "deployment" };

/** Long reasons take two lines; the whole text is the element's title. */
const clamped = (content) => h("span", { class: "clamp", title: content ?? "" }, content ?? "–");

const drawn = new Map();
let everyModel = false;
const FIRST_MODELS = 6;

/** Draws the sections whose part of the data changed; all of them after a resize or where times are told. */
export function drawAll(data, act, all = false) {
  const open = data.recentJobs.find((job) => ["starting", "queued", "running"].includes(job.status));
  const minute = Math.floor(Date.now() / 30000);
  const sections = {
    alerts: [data.alerts, () => alerts(data.alerts)],
    tiles: [[data.rollout, data.automation, data.readiness, minute], () => tiles(data)],
    readiness: [[data.readiness, open, data.dagsterUrl], () => readiness(data, open, act)],
    rollout: [[data.rollout, minute], () => rollout(data, act)],
    curve: [data.curve, (width) => learning(data.curve, width)],
    models: [[data.models, data.rollout, minute], (width) => models(data, width, act)],
    jobs: [[data.recentJobs, data.units, minute], () => jobs(data)],
    collection: [data.collection, (width) => bars(data.collection, width)],
    windows: [data.windows, () => windows(data)],
    traffic: [data.traffic, () => traffic(data.traffic)],
    history: [[data.deployments, minute], () => history(data.deployments)],
  };
  const health = $("health");
  health.textContent = data.status;
  health.className = `pill ${data.status === "healthy" ? "good" : "bad"}`;
  for (const [id, [part, draw]] of Object.entries(sections)) {
    const print = JSON.stringify(part);
    const target = $(id);
    if (!all && drawn.get(id) === print) continue;
    if (target.contains(document.activeElement) && document.activeElement.matches("input")) continue;
    drawn.set(id, print);
    target.replaceChildren(...[draw(target.clientWidth)].flat());
  }
}

function alerts(found) {
  const one = (alert) => h("div", { class: `alert ${alert.level}-level` },
    h("b", {}, alert.level === "error" ? "Failure" : "Notice"), h("span", {}, alert.text), when(alert.at));
  const shown = found.slice(0, 3).map(one);
  if (found.length > 3) {
    shown.push(h("details", { class: "more" }, h("summary", {}, `${found.length - 3} more`), found.slice(3).map(one)));
  }
  return shown;
}

function tiles(data) {
  const { automation, rollout, readiness } = data, active = rollout.active, candidate = rollout.candidate;
  const tile = (title, value, ...below) => h("div", { class: "tile" }, h("h2", {}, title), h("strong", {}, value), h("p", {}, below));
  const collection = automation.dataCollection;
  return [
    tile("Serving", active?.version ?? "base model", active ? "since " : "nothing was deployed yet", active ? when(active.startedAt) : ""),
    !candidate ? tile("Rollout", "none", "no candidate is on trial")
      : candidate.strategy === "test" ? tile("Rollout", "test", `${named(candidate)} get ${candidate.version}`)
        : tile("Rollout", `${candidate.percentage} %`, `of the agents get ${candidate.version}`),
    tile("Collected", `${collection.ratePerHour.toLocaleString("en")} / h`, `${count(collection.last24h)} trajectories in 24 h`),
    tile("Training", readiness.ready ? "ready" : automation.training.currentJob ? "running" : "waiting",
      automation.training.lastCompleted ? "last completed " : "never completed", automation.training.lastCompleted ? when(automation.training.lastCompleted) : ""),
  ];
}

function readiness(data, open, act) {
  const { readiness: ready, dagsterUrl } = data, stats = ready.stats, needed = ready.thresholds;
  const meter = (label, value, most, shown) => h("div", { class: "meter" },
    h("div", {}, h("span", {}, label), h("span", {}, shown)),
    h("progress", { value: Math.min(value, most), max: most, class: value >= most ? "done" : "", "aria-label": label }));
  const parts = [
    h("p", {}, pill(ready.ready ? "ready" : "not ready", ready.ready ? "good" : "warn"), " ", ready.day && ready.ready ? `Next day: ${ready.day}` : ""),
    meter("Trajectories not trained yet", stats.totalTrajectories, needed.trajectories, `${count(stats.totalTrajectories)} of ${count(needed.trajectories)}`),
    meter(`Windows with ${needed.agentsPerWindow}+ agents`, stats.scenarioGroups, needed.groups, `${count(stats.scenarioGroups)} of ${count(needed.groups)}`),
    meter("Data quality", stats.dataQuality, needed.quality, `${(stats.dataQuality * 100).toFixed(1)} % of ${(needed.quality * 100).toFixed(0)} %`),
  ];
  if (ready.reasons.length) parts.push(h("ul", { class: "reasons" }, ready.reasons.map((reason) => h("li", {}, reason))));
  if (open) parts.push(running(open, dagsterUrl, act));
  parts.push(h("div", { class: "actions" }, h("button", { class: "primary", id: "train", disabled: Boolean(open), onclick: () => askTrain(ready, act) }, "Train now…")));
  return parts;
}

function running(job, dagsterUrl, act) {
  const stop = () => confirm({
    title: "Cancel this training?", action: "Cancel training", danger: true,
    body: [h("p", {}, `The run that trains ${job.day} is stopped. What it has finished stays, and the day can be trained again.`)],
    act: () => act("POST", `jobs/${encodeURIComponent(job.jobId)}/cancel`, {}, () => "Asked the run to stop"),
  });
  const link = job.runId ? h("a", { href: `${dagsterUrl}/runs/${job.runId}`, rel: "noreferrer" }, job.runId.slice(0, 8)) : "starting";
  return h("div", { class: "job" },
    h("div", { class: "row" }, h("span", {}, h("b", {}, job.day), " · ", STAGES[job.stage] ?? job.status, " · ", link),
      h("button", { class: "small danger", onclick: stop }, "Cancel…")),
    h("progress", { value: job.progress, max: 1, "aria-label": `Progress of ${job.day}` }));
}

function askTrain(ready, act) {
  const size = h("input", { id: "batch-size", type: "number", min: 1, max: 1000000, inputmode: "numeric", placeholder: "all" });
  const force = h("input", { type: "checkbox", id: "force" });
  confirm({
    title: "Start a training?", action: "Start training",
    body: [
      h("p", {}, ready.ready ? `Trains ${ready.day}, benchmarks the checkpoint, and deploys it if the gate promotes it.` : `Not ready: ${ready.reasons[0]}.`),
      field("Episodes at most", size),
      check("Train although it is not ready (never without data)", force),
    ],
    act: () => act("POST", "trigger", { force: force.checked, batchSize: size.value ? Number(size.value) : null },
      (answer) => `Training of ${answer.day} started`),
  });
}

function rollout(data, act) {
  const { active, candidate, experiment } = data.rollout;
  const serving = h("dl", {}, h("dt", {}, "Active"), h("dd", {}, active ? h("b", {}, active.version) : "base model"),
    active ? [h("dt", {}, "Since"), h("dd", {}, when(active.startedAt)), h("dt", {}, "Reason"), h("dd", {}, clamped(active.reason))] : []);
  const parts = [serving];
  if (candidate) {
    parts.push(h("div", { class: "job" },
      h("div", { class: "row" }, h("span", {}, h("b", {}, candidate.version), ` on trial with ${candidate.strategy === "test" ? named(candidate) : `${candidate.percentage} % of the agents`}`), candidate.strategy ? pill(candidate.strategy, "busy") : ""),
      candidate.strategy === "test" ? h("p", { class: "meta" }, candidate.agents.join(", ")) : h("progress", { value: candidate.percentage, max: 100, "aria-label": "Percentage of the rollout" }),
      candidate.schedule.length > 1 ? h("p", { class: "meta" }, "Schedule: ", candidate.schedule.map((step) => `${step.percentage} %${step.windows ? ` for ${step.windows} h` : ""}`).join(", then ")) : "",
      candidate.measuredFrom ? h("p", { class: "meta" }, "First measured hour: ", when(candidate.measuredFrom), `, blocks of ${candidate.blockHours} h`) : "",
      h("p", { class: "meta" }, candidate.reason ?? "", " · ", when(candidate.startedAt))));
  }
  if (data.rollout.override) parts.push(h("p", { class: "hint" }, `The game's SystemSettings.wandbModel overrides this: ${data.rollout.override}`));
  if (data.rollout.pinned) parts.push(h("p", { class: "hint" }, `RL_MODEL_VERSION pins ${data.rollout.pinned}.`));
  if (!data.rollout.enabled) parts.push(h("p", { class: "hint" }, "USE_RL_MODEL is off: the base model answers."));
  else if (data.rollout.trainedShare < 100) parts.push(h("p", { class: "hint" }, `RL_ROLLOUT_PERCENTAGE: ${data.rollout.trainedShare} % of the agents get a trained model at all.`));
  if (experiment) parts.push(...comparison(experiment));
  else if (candidate) parts.push(h("p", { class: "hint" }, candidate.measuredFrom ? "Nothing has settled yet: the first figures come two hours after the first window." : "Nothing is measured: an operator decides."));
  else parts.push(h("p", { class: "empty" }, "No experiment is running."));
  const earlier = data.deployments.find((one) => one.endedAt);
  parts.push(h("div", { class: "actions" }, candidate ? h("button", { id: "promote", onclick: () => askPromote(candidate, act) }, "Promote…") : "", h("button", { class: "danger", id: "rollback", disabled: !earlier && !candidate, onclick: () => askRollback(data, act) }, "Roll back…")));
  return parts;
}

function comparison(experiment) {
  const left = Object.entries(experiment.leftOut).map(([reason, agents]) => `${agents} ${reason.replaceAll("_", " ")}`).join(", ");
  return [
    h("p", {}, state(experiment.decision), " ", experiment.reason),
    experiment.metrics.length ? table([
      ["Candidate less incumbent", "", (m) => [m.label]],
      ["Candidate", "n", (m) => figure(m.candidate)],
      ["Incumbent", "n", (m) => figure(m.incumbent)],
      ["Difference, at any look", "n", (m) => m.mean === null ? "–" : [signed(m.mean), h("span", { class: "sub" }, m.low === null ? (m.mean === 0 ? "no difference so far" : "too few pairs") : `${signed(m.low)} to ${signed(m.high)}`), h("span", { class: "sub" }, m.detectable === null ? "" : `detectable ${figure(m.detectable)}`)]],
    ], experiment.metrics, "") : "",
    h("p", { class: "meta" }, `${experiment.windows ?? 0} hours, ${experiment.pairs ?? 0} pairs of blocks, looked at `, when(experiment.checkedAt), left ? `; left out: ${left} agent-hours` : ""),
  ];
}

function askPromote(candidate, act) {
  const reason = h("input", { id: "reason", maxlength: 500, value: "promoted on the dashboard" });
  confirm({
    title: `Give ${candidate.version} to everybody?`, action: "Promote",
    body: [h("p", {}, "The trial ends; the version that serves now is archived and can be taken back to."), field("Reason", reason)],
    act: () => act("POST", "promote", { reason: reason.value }, (answer) => `${answer.modelVersion} serves everybody`),
  });
}

function askRollback(data, act) {
  const before = [...new Set(data.deployments.filter((one) => one.version !== data.rollout.active?.version).map((one) => one.version))];
  const target = h("select", { id: "target" }, h("option", { value: "" }, data.rollout.candidate ? "the one that serves now stays" : "the one that served before"), before.map((version) => h("option", { value: version }, version)));
  const reason = h("input", { id: "reason", maxlength: 500, value: "rolled back on the dashboard" });
  confirm({
    title: `Take ${(data.rollout.candidate ?? data.rollout.active)?.version ?? "the model"} back?`, action: "Roll back", danger: true,
    body: [h("p", {}, "The chosen version answers all agents at once. The present one is kept and can be deployed again."), field("Version", target), field("Reason", reason)],
    act: () => act("POST", "rollback", { targetVersion: target.value || null, reason: reason.value }, (answer) => `${answer.modelVersion ?? answer.version ?? "The earlier version"} serves again`),
  });
}

function learning(points, width) {
  const drawing = points.length ? curve(points, width) : null;
  if (!drawing) return h("p", { class: "empty" }, "No checkpoint was benchmarked yet.");
  return [drawing, h("div", { class: "legend" }, h("span", {}, h("i", { class: "model" }), "candidate"), h("span", {}, h("i", { class: "base" }), "base model on the same markets"),
    ["promoted", "inconclusive", "rejected"].map((word) => h("span", {}, h("i", { class: `dot ${word}` }), word)))];
}

function models(data, width, act) {
  const differences = data.models.map((model) => model.benchmark?.difference).filter((one) => one && one.low !== null);
  const reach = Math.max(0.001, ...differences.flatMap((one) => [Math.abs(one.low), Math.abs(one.high)]));
  const active = data.rollout.active?.version;
  const plot = (model) => {
    const one = model.benchmark?.difference;
    if (!one || one.low === null) return h("span", { class: "meta" }, "not benchmarked");
    return [interval(one, reach, Math.max(130, Math.min(300, width * 0.25))), h("span", { class: "sub" }, `${percent(one.mean)} [${percent(one.low)}, ${percent(one.high)}] over ${model.benchmark.incumbent}`)];
  };
  const shown = everyModel ? data.models : data.models.slice(0, FIRST_MODELS);
  const more = h("button", { class: "small", onclick: () => { everyModel = !everyModel; drawAll(data, act, true); } },
    everyModel ? "Show fewer" : `Show all ${data.models.length}`);
  return [table([
    ["Version", "", (m) => [h("b", {}, m.version), h("span", { class: "sub" }, m.parent ? `from ${m.parent}` : m.baseModel, m.branch ? ` · ${m.branch}` : "")]],
    ["Status", "full", (m) => [state(m.status), m.verdict && m.verdict !== m.status ? [" ", state(m.verdict)] : ""].flat()],
    ["Trained", "", (m) => [when(m.trainedAt), m.day ? h("span", { class: "sub" }, `day ${m.day}`) : ""]],
    ["Against its incumbent", "plot", plot],
    ["Agents", "n", (m) => count(m.agentsUsing)],
    ["Calls 24 h", "n", (m) => [count(m.calls24h), h("span", { class: "sub" }, `${count(m.totalInferences)} in all`)]],
    ["", "act", (m) => m.version === active || !["ready", "archived", "deployed"].includes(m.status) ? "" : h("button", { class: "small", onclick: () => askDeploy(m, data.rollout.strategies, act), "aria-label": `Deploy ${m.version}` }, "Deploy…")],
  ], shown, "No model is registered yet."), data.models.length > FIRST_MODELS ? h("div", { class: "actions" }, more) : ""];
}

function askDeploy(model, strategies, act) {
  const strategy = h("select", { id: "strategy" }, strategies.map((name) => h("option", { value: name }, { gradual: "Gradual: some agents first", immediate: "Immediate: all agents at once", test: "Test: named agents only" }[name])));
  const percentage = h("input", { id: "percentage", type: "number", min: 0, max: 100, step: "any", value: 10, required: true });
  const agents = h("input", { id: "agents", placeholder: "agent-1, agent-2" });
  const force = h("input", { type: "checkbox", id: "against" });
  const schedule = h("input", { id: "schedule", placeholder: "10:24,50:48,100", maxlength: 200 });
  const perField = field("Percentage of the agents", percentage), agentsField = field("Agents", agents), scheduleField = field("Or a schedule: percent and hours", schedule);
  const show = () => { perField.hidden = scheduleField.hidden = strategy.value !== "gradual"; agentsField.hidden = strategy.value !== "test"; };
  strategy.onchange = show;
  show();
  confirm({
    title: `Deploy ${model.version}?`, action: "Deploy",
    body: [h("p", {}, model.verdict === "promoted" ? "The gate has promoted it." : `The gate has not promoted it (${model.verdict ?? "not judged"}).`),
      field("Strategy", strategy), perField, scheduleField, agentsField, ...(model.verdict === "promoted" ? [] : [check("Deploy it against the gate", force)])],
    act: () => act("POST", "deploy", {
      modelVersion: model.version, strategy: strategy.value, rolloutPercentage: Number(percentage.value), schedule: strategy.value === "gradual" && schedule.value.trim() ? schedule.value.trim() : null, force: force.checked,
      testAgentIds: strategy.value === "test" ? agents.value.split(",").map((name) => name.trim()).filter(Boolean) : [], reason: "deployed on the dashboard",
    }, () => `${model.version} is being rolled out`),
  });
}

function jobs(data) {
  const asked = data.recentJobs.map((job) => ({ ...job, at: job.completedAt ?? job.createdAt, version: job.modelVersion }));
  const days = new Set(asked.map((job) => job.day));
  const units = data.units.filter((unit) => !days.has(unit.day)).map((unit) => ({ ...unit, source: unit.backend, at: unit.completedAt ?? unit.startedAt }));
  const rows = [...asked, ...units].sort((a, b) => Date.parse(b.at) - Date.parse(a.at)).slice(0, 8);
  return table([
    ["Day", "", (job) => [h("b", {}, job.day ?? "branch"), h("span", { class: "sub" }, job.source ?? "")]],
    ["Status", "", (job) => state(job.status)],
    ["Result", "full", (job) => job.error ? clamped(job.error) : (job.version ? `${job.version}${job.loss !== undefined && job.loss !== null ? `, loss ${job.loss.toFixed(4)}` : ""}` : STAGES[job.stage] ?? "")],
    ["When", "", (job) => when(job.at)],
  ], rows, "Nothing was trained yet.");
}

function windows(data) {
  const all = [...data.windows].reverse();
  if (!all.length) return h("p", { class: "empty" }, "Nothing is recorded yet.");
  const told = (w) => `${w.windowId}: ${w.rows} rows of ${w.agents} agents, ${w.status ?? "not scored"}${w.reason ? ` (${w.reason})` : ""}${w.stale ? ", stale" : ""}`;
  const counts = all.reduce((found, w) => ({ ...found, [w.status ?? "not scored"]: (found[w.status ?? "not scored"] ?? 0) + 1 }), {});
  const stale = data.staleWindows;
  return [
    h("div", { class: "strip", role: "list", "aria-label": "Windows, oldest first" }, all.map((w) => h("div", { class: `cell ${w.status ?? ""}${w.stale ? " stale" : ""}`, role: "listitem", title: told(w), "aria-label": told(w) }))),
    h("div", { class: "legend" }, Object.entries(counts).map(([word, number]) => h("span", {}, h("i", { class: `cell ${word}` }), `${word.replace("_", " ")} ${number}`)),
      stale.length ? h("span", {}, h("i", { class: "cell stale" }), `stale ${stale.length}`) : "", h("span", {}, `${all[0].windowId} to ${all.at(-1).windowId} UTC`)),
    stale.length ? table([
      ["Changed window", "", (w) => h("b", {}, w.windowId)],
      ["Group", "", (w) => w.status],
      ["What changed", "full", (w) => w.reason],
      ["Since", "", (w) => when(w.since)],
    ], stale.slice(0, 12), "") : "",
    data.changedDays.length ? table([
      ["Changed day", "", (day) => h("b", {}, day.day)],
      ["Trained to", "", (day) => day.version],
      ["Windows scored anew since", "n", (day) => count(day.windows)],
    ], data.changedDays, "") : "",
  ];
}

const traffic = (rows) => table([
  ["Version", "", (row) => [h("b", {}, row.version), h("span", { class: "sub" }, row.variant)]],
  ["Calls", "n", (row) => count(row.calls)],
  ["Agents", "n", (row) => count(row.agents)],
  ["Errors", "n", (row) => count(row.errors)],
  ["Fallback", "n", (row) => count(row.fallbacks)],
  ["p50 / p99 ms", "n", (row) => `${row.p50 ?? "–"} / ${row.p99 ?? "–"}`],
], rows, "The gateway answered nobody.");

const history = (rows) => table([
  ["Version", "", (row) => h("b", {}, row.version)],
  ["From", "", (row) => when(row.startedAt)],
  ["Until", "", (row) => (row.endedAt ? when(row.endedAt) : pill("serving", "good"))],
  ["Reason", "full", (row) => clamped(row.reason)],
], rows, "Nothing was deployed yet.");
