// The page's life: asks for the figures every fifteen seconds while it is looked at, and says how fresh they are.

import { drawCharts } from "./charts.js";
import { showExactly } from "./figures.js";
import { fillEvents, fillLanguages, fillList, fillRequests } from "./tables.js";
import { fillCards } from "./cards.js";

const EVERY_MS = 15_000;
const FORECAST_EVERY_MS = 300_000;
const PATIENCE_MS = 10_000;
const at = (id) => document.getElementById(id);
const page = { data: null, forecast: null, forecastAt: 0, hours: "24", timer: 0, asked: 0, paused: false };

function show() {
  const { data } = page;
  if (data === null) return;
  fillCards(data, page.forecast);
  for (const name of ["models", "providers", "keys", "endpoints"]) fillList(name, data[name]);
  fillRequests(data.requests, data.now_us);
  fillLanguages(data.languages);
  fillEvents(data.events, data.now_us);
  drawCharts(data);
}

function tell(state, text) {
  at("state").dataset.state = state;
  at("state").textContent = text;
}

function updated() {
  return page.data ? `Updated ${new Date(page.data.now_us / 1000).toISOString().slice(11, 19)} UTC` : "Not loaded yet";
}

// What is wrong, in words of ours; an error of the platform brings its own sentence.
class Refused extends Error {
  constructor(sentence, seconds) {
    super(sentence);
    this.seconds = seconds;
  }
}

async function ask(address) {
  let reply;
  try {
    reply = await fetch(address, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  } catch {
    throw new Refused("The platform cannot be reached.", 0);
  }
  const body = await reply.json().catch(() => null);
  if (reply.ok && body) return body;
  throw new Refused(body?.error ?? `The platform answered with status ${reply.status}.`, Number(reply.headers.get("Retry-After")));
}

async function refresh() {
  clearTimeout(page.timer);
  const asked = ++page.asked;
  let wait = EVERY_MS;
  try {
    const data = await ask(`data?hours=${page.hours}`);
    if (asked !== page.asked) return; // another window was chosen meanwhile
    page.data = data;
    arrived();
  } catch (failure) {
    if (!(failure instanceof Refused)) throw failure;
    if (asked !== page.asked) return;
    wait = Math.max(EVERY_MS, failure.seconds * 1000);
    failed(failure.message);
  }
  plan(wait);
}

function arrived() {
  at("main").setAttribute("aria-busy", "false");
  at("main").classList.remove("stale");
  at("away").hidden = true;
  tell("live", updated());
  show();
  lookAhead();
}

// After the figures, which it would hold up: a forecast takes its time.
async function lookAhead() {
  if (Date.now() < page.forecastAt) return;
  page.forecastAt = Date.now() + FORECAST_EVERY_MS;
  try {
    page.forecast = await ask("forecast");
  } catch (failure) {
    if (!(failure instanceof Refused)) throw failure;
    page.forecastAt = 0; // with the next figures
  }
  show();
}

function failed(sentence) {
  at("main").classList.toggle("stale", page.data !== null);
  at("away").textContent = `${sentence} ${page.data ? "The figures below are old." : ""} It is asked again every 15 seconds.`;
  at("away").hidden = false;
  tell("away", updated());
}

function plan(wait) {
  clearTimeout(page.timer);
  if (page.paused) tell("paused", `Paused · ${updated()}`);
  else if (!document.hidden) page.timer = setTimeout(refresh, wait);
}

function chooseWindow(hours) {
  page.hours = hours;
  history.replaceState(null, "", `?hours=${hours}`);
  refresh();
}

function pause() {
  page.paused = !page.paused;
  at("pause").setAttribute("aria-pressed", String(page.paused));
  at("pause").textContent = page.paused ? "Resume" : "Pause";
  if (page.paused) plan(EVERY_MS);
  else refresh();
}

function begin() {
  const wanted = new URLSearchParams(location.search).get("hours");
  const radios = at("controls").elements.hours;
  if ([...radios].some((radio) => radio.value === wanted)) page.hours = wanted;
  radios.value = page.hours;
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const radio of radios) radio.addEventListener("change", () => chooseWindow(radio.value));
  at("exact").addEventListener("change", () => {
    document.body.classList.toggle("exactly", at("exact").checked);
    showExactly(at("exact").checked);
    show();
  });
  at("pause").addEventListener("click", pause);
  at("plotly").addEventListener("load", show);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(page.timer);
    else if (!page.paused) refresh();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  refresh();
}

begin();
