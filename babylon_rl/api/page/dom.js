// Making elements, formatting values, asking for confirmation. Text is always set as text, never as HTML.

/** An element: `h("p", {class: "hint"}, "text", child)`. */
export function h(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if ((key === "value" && name !== "progress") || key === "checked") made[key] = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined).map((child) =>
    child instanceof Node ? child : document.createTextNode(String(child))));
  return made;
}

export const $ = (id) => document.getElementById(id);

/** "5 min ago", "in 2 h"; the exact time is the element's title. */
export function when(iso) {
  if (!iso) return h("span", {}, "–");
  const seconds = (Date.now() - Date.parse(iso)) / 1000, away = Math.abs(seconds);
  const [amount, unit] = away < 90 ? [away, "s"] : away < 5400 ? [away / 60, "min"] : away < 172800 ? [away / 3600, "h"] : [away / 86400, "days"];
  const told = `${Math.round(amount)} ${unit}`;
  const exact = iso.replace("T", " ").replace("Z", " UTC");
  return h("time", { datetime: iso, title: exact }, seconds >= 0 ? `${told} ago` : `in ${told}`);
}

export const pill = (content, kind = "") => h("span", { class: `pill ${kind}` }, content);

/** A table whose rows become cards on a phone; a column is [title, class, cell of row]. */
export function table(columns, rows, none) {
  if (!rows.length) return h("p", { class: "empty" }, none);
  const head = h("tr", {}, columns.map(([title, kind]) => h("th", { class: kind, scope: "col" }, title)));
  const body = rows.map((row) => h("tr", {}, columns.map(([title, kind, cell], index) => {
    const content = cell(row);
    return h("td", { class: kind, "data-label": index && title && !/act|plot/.test(kind) ? title : null }, content);
  })));
  return h("div", { class: "scroll" }, h("table", { class: "stack" }, h("thead", {}, head), h("tbody", {}, body)));
}

/** A field with its label; `field.value` is read later. */
export function field(label, input) {
  input.id ||= `f-${label.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  return h("div", {}, h("label", { for: input.id }, label), input);
}

export const check = (label, input) => h("label", { class: "check" }, input, h("span", {}, label));

/** Asks before something is done; `act` may throw, and its message is shown in the dialog. */
export function confirm({ title, body, action, danger = false, act }) {
  const dialog = $("dialog"), ok = $("dialog-ok");
  $("dialog-title").textContent = title;
  $("dialog-body").replaceChildren(...body);
  $("dialog-error").textContent = "";
  ok.textContent = action;
  ok.classList.toggle("danger", danger);
  ok.disabled = false;
  ok.onclick = async (event) => {
    event.preventDefault();
    const form = dialog.querySelector("form");
    if (!form.reportValidity()) return;
    ok.disabled = true;
    try {
      await act();
      dialog.close();
    } catch (problem) {
      $("dialog-error").textContent = problem.message;
    } finally {
      ok.disabled = false;
    }
  };
  $("dialog-cancel").onclick = () => dialog.close();
  dialog.showModal();
  $("dialog-cancel").focus();
}

let hiding = 0;
export function toast(message) {
  $("toast").textContent = message;
  $("toast").hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => { $("toast").hidden = true; }, 6000);
}
