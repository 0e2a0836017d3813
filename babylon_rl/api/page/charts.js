// Small charts as SVG, drawn at the width that there is.

const NS = "http://www.w3.org/2000/svg";

/** An SVG element with attributes and children. */
function s(name, attributes = {}, ...children) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

const text = (x, y, content, attributes = {}) => s("text", { x, y, ...attributes }, content);
const titled = (element, content) => { element.append(s("title", {}, content)); return element; };

export const percent = (value, digits = 2) =>
  value === null || value === undefined ? "–" : `${value >= 0 ? "+" : "−"}${Math.abs(value * 100).toFixed(digits)} %`;

/** Round steps that cover a range. */
function ticks(low, high, wanted = 4) {
  const raw = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) found.push(tick);
  return found;
}

/** Bars per hour. */
export function bars(hours, width) {
  const height = 150, left = 34, bottom = 22, top = 8;
  const most = Math.max(1, ...hours.map((hour) => hour.rows));
  const each = (width - left) / hours.length;
  const y = (rows) => height - bottom - (rows / most) * (height - bottom - top);
  const total = hours.reduce((sum, hour) => sum + hour.rows, 0);
  const label = `${total} trajectories in ${hours.length} hours, at most ${most} in one`;
  const svg = s("svg", { height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const tick of ticks(0, most, 3).filter(Number.isInteger)) {
    svg.append(s("line", { x1: left, x2: width, y1: y(tick), y2: y(tick), class: "axis" }));
    svg.append(text(left - 6, y(tick) + 4, String(tick), { "text-anchor": "end" }));
  }
  hours.forEach((hour, index) => {
    const at = hour.hour.slice(5, 16).replace("T", " ");
    const tall = Math.max(hour.rows ? 2 : 1, height - bottom - y(hour.rows));
    const bar = s("rect", {
      x: left + index * each + 1, y: height - bottom - tall, width: Math.max(1, each - 2), height: tall,
      rx: 1.5, class: hour.rows ? "bar" : "bar none",
    });
    svg.append(titled(bar, `${at} UTC: ${hour.rows}`));
    if (new Date(hour.hour).getUTCHours() % 12 === 0) {
      const x = Math.min(left + index * each, width - 30);
      svg.append(text(x, height - 5, hour.hour.slice(11, 16) === "00:00" ? hour.hour.slice(5, 10) : "12:00"));
    }
  });
  return svg;
}

/** Return of each candidate with its interval, and of the base model on the same markets. */
export function curve(points, width) {
  const height = 230, left = 58, right = 14, bottom = 26, top = 10;
  const values = points.flatMap((p) => [p.model?.mean, p.model?.low, p.model?.high, p.base?.mean, p.base?.low, p.base?.high])
    .filter((value) => value !== null && value !== undefined);
  if (!values.length) return null;
  let low = Math.min(0, ...values), high = Math.max(0, ...values);
  const room = (high - low || 0.01) * 0.08;
  low -= room; high += room;
  const x = (index) => points.length === 1 ? (left + width - right) / 2 : left + (index / (points.length - 1)) * (width - left - right);
  const y = (value) => top + ((high - value) / (high - low)) * (height - top - bottom);
  const last = points.at(-1);
  const label = `${points.length} candidates; the newest, ${last.version}, returned ${percent(last.model?.mean)}, the base model ${percent(last.base?.mean)}`;
  const svg = s("svg", { height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const tick of ticks(low, high, 6)) {
    svg.append(s("line", { x1: left, x2: width, y1: y(tick), y2: y(tick), class: Math.abs(tick) < 1e-9 ? "zero" : "axis" }));
    svg.append(text(left - 8, y(tick) + 4, Math.abs(tick) < 1e-9 ? "0" : percent(tick, 1), { "text-anchor": "end" }));
  }
  const known = points.map((point, index) => ({ ...point, x: x(index) })).filter((point) => point.model);
  const banded = known.filter((point) => point.model.low !== null && point.model.high !== null);
  if (banded.length > 1) {
    const upper = banded.map((point) => `${point.x},${y(point.model.high)}`);
    const lower = banded.map((point) => `${point.x},${y(point.model.low)}`).reverse();
    svg.append(s("polygon", { points: [...upper, ...lower].join(" "), class: "band" }));
  }
  const base = known.filter((point) => point.base && point.base.mean !== null);
  svg.append(s("polyline", { points: base.map((point) => `${point.x},${y(point.base.mean)}`).join(" "), class: "line base" }));
  svg.append(s("polyline", { points: known.map((point) => `${point.x},${y(point.model.mean)}`).join(" "), class: "line" }));
  const every = Math.ceil(known.length / Math.max(2, Math.floor(width / 76)));
  known.forEach((point, index) => {
    if (point.model.low !== null) {
      svg.append(s("line", { x1: point.x, x2: point.x, y1: y(point.model.low), y2: y(point.model.high), class: "interval" }));
    }
    const dot = s("circle", { cx: point.x, cy: y(point.model.mean), r: 5, class: `point ${point.verdict ?? ""}` });
    const told = `${point.version} (${point.day ?? "no day"}): ${percent(point.model.mean)} [${percent(point.model.low)}, ${percent(point.model.high)}], base ${percent(point.base?.mean)}; ${point.verdict ?? "no verdict"}`;
    svg.append(titled(dot, told));
    if (index % every === 0) {
      const anchor = known.length === 1 ? "middle" : index === 0 ? "start" : index === known.length - 1 ? "end" : "middle";
      svg.append(text(point.x, height - 6, point.version, { "text-anchor": anchor }));
    }
  });
  return svg;
}

/** One interval on a scale that all rows share; beyond `reach` it is cut. */
export function interval(value, reach, width) {
  const height = 22, middle = height / 2;
  const x = (number) => width / 2 + (Math.max(-reach, Math.min(reach, number)) / reach) * (width / 2 - 4);
  const label = `${percent(value.mean)}, from ${percent(value.low)} to ${percent(value.high)}`;
  const svg = s("svg", { height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  svg.append(s("line", { x1: width / 2, x2: width / 2, y1: 2, y2: height - 2, class: "zero" }));
  const side = value.low > 0 ? "up" : value.high < 0 ? "down" : "";
  svg.append(s("line", { x1: x(value.low), x2: x(value.high), y1: middle, y2: middle, class: `interval ${side}` }));
  svg.append(s("circle", { cx: x(value.mean), cy: middle, r: 3.5, class: "mark" }));
  return titled(svg, label);
}
