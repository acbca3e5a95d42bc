// Tables. Every text goes in as textContent: names come from callers, and nothing of theirs becomes markup.

import { clock, compact, count, day, duration, exactly, moment, money, nano, share } from "./figures.js";

export function cell(text, kind = "", tag = "td") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

export function setMoney(place, amount) {
  place.textContent = money(amount);
  place.title = exactly(amount);
}

function moneyCell(text, kind = "") {
  const made = cell("", kind);
  setMoney(made, nano(text));
  return made;
}

function head(text, scope) {
  const made = cell(text, "", "th");
  made.scope = scope;
  made.title = text;
  return made;
}

function chip(text, kind) {
  const made = cell("", "word");
  made.append(cell(text, `chip ${kind}`, "span"));
  return made;
}

// Rows into a table; the sentence beside it where there are none.
export function fill(table, rows) {
  table.tBodies[0].replaceChildren(...rows);
  const scroll = table.closest(".scroll");
  scroll.hidden = rows.length === 0;
  scroll.parentElement.querySelector(":scope > .nothing").hidden = rows.length > 0;
}

function row(...cells) {
  const made = document.createElement("tr");
  made.append(...cells);
  return made;
}

export function plainTable(place, titles, rows) {
  const titled = titles.map((title) => head(title, "col"));
  place.tHead.replaceChildren(row(...titled));
  place.tBodies[0].replaceChildren(
    ...rows.map(([name, ...texts]) => row(head(name, "row"), ...texts.map((text) => cell(text)))),
  );
}

const UNNAMED = { models: "no model", providers: "no provider", keys: "no key", endpoints: "no endpoint" };

export function fillList(name, entries) {
  const whole = entries.reduce((sum, entry) => sum + nano(entry.cost_nano), 0n);
  const rows = entries.map((entry) => listed(entry, entry.name || UNNAMED[name], whole));
  fill(document.getElementById(name), rows);
}

function listed(entry, name, whole) {
  const title = entry.name === null ? `${count(entry.names)} others` : name;
  const made = row(
    head(title, "row"),
    spent(entry, whole),
    cell(count(entry.requests)),
    cell(share(entry.hits, entry.requests)),
    cell(count(entry.failed)),
    tokens(entry),
    cell(duration(entry.requests ? entry.duration_us / entry.requests : 0)),
  );
  if (entry.name === null) made.className = "others";
  return made;
}

function spent(entry, whole) {
  const amount = nano(entry.cost_nano);
  const made = moneyCell(entry.cost_nano);
  if (entry.unpriced) {
    made.textContent = amount ? `${money(amount)} + ?` : "no price";
    made.title = `${exactly(amount)}, and ${count(entry.unpriced)} without a price`;
  }
  made.append(part(amount, whole));
  return made;
}

function tokens(entry) {
  const made = cell(compact(entry.input_tokens + entry.output_tokens));
  made.title = `${count(entry.input_tokens)} in, ${count(entry.output_tokens)} out`;
  return made;
}

function part(amount, whole) {
  const made = cell("", "share", "span");
  made.style.setProperty("--part", whole ? `${Number((amount * 1000n) / whole) / 10}%` : "0%");
  return made;
}

export function fillRequests(rows, nowUs) {
  fill(document.getElementById("requests"), rows.map((entry) => request(entry, nowUs)));
}

function request(entry, nowUs) {
  const model = cell(entry.model || "–", "name word");
  model.title = entry.provider ? `${entry.model} at ${entry.provider}` : entry.model;
  const id = cell(entry.request_id, "id word");
  id.title = entry.request_id;
  return row(
    time(entry.at_us, nowUs),
    cell(entry.route, "name word"),
    status(entry),
    cell(entry.cache_status || "–", "word"),
    cost(entry),
    cell(entry.duration_us ? duration(entry.duration_us) : "–"),
    model,
    id,
  );
}

function time(us, nowUs) {
  const today = moment(us).slice(0, 10) === moment(nowUs).slice(0, 10);
  const made = head(today ? clock(us) : `${day(us)} ${clock(us)}`, "row");
  made.title = `${moment(us)} UTC`;
  return made;
}

function status(entry) {
  if (entry.state === "open") return chip("open", "");
  if (entry.state === "unknown") return chip("unknown", "warn");
  return chip(String(entry.status), entry.status >= 500 ? "bad" : entry.status >= 400 ? "warn" : "good");
}

function cost(entry) {
  if (entry.state === "open") return bound("at most", entry.reserved_nano);
  if (nano(entry.unknown_nano) > 0n && !nano(entry.cost_nano)) return bound("unknown, at most", entry.unknown_nano);
  return entry.cost_nano === null ? cell("no price") : moneyCell(entry.cost_nano);
}

function bound(words, text) {
  if (text === null) return cell("unknown");
  const made = cell(`${words} ${money(nano(text))}`);
  made.title = `${words} ${exactly(nano(text))}`;
  return made;
}

export function fillLanguages(languages) {
  const rows = languages.rows.map((entry) =>
    row(head(entry.language, "row"), cell(count(entry.answers)), cell(count(entry.lines))),
  );
  fill(document.getElementById("languages"), rows);
}

const SEVERITIES = { LOW: "", MEDIUM: "warn", HIGH: "bad", CRITICAL: "bad" };

export function fillEvents(events, nowUs) {
  const rows = events.map((entry) =>
    row(time(entry.at_us, nowUs), cell(entry.event, "word"), chip(entry.severity, SEVERITIES[entry.severity] ?? "")),
  );
  fill(document.getElementById("events"), rows);
}
