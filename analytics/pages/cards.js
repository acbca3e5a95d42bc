// The cards and the lists of facts: spend, the window's figures, savings, open questions.

import { count, day, duration, exactly, money, moment, nano, plural, share } from "./figures.js";
import { setMoney } from "./tables.js";

const NAMES = { 24: "Last 24 hours", 168: "Last 7 days", 720: "Last 30 days" };
const at = (id) => document.getElementById(id);

function say(id, text) {
  at(id).textContent = text;
}

function sayMoney(id, before, amount, after = "") {
  at(id).textContent = `${before}${money(amount)}${after}`;
  at(id).title = exactly(amount);
}

export function fillCards(data, forecast) {
  fillSpend(data.spend);
  fillForecast(forecast ?? { state: "coming", words: "being made" });
  fillWindow(data);
  fillSavings(data.sums);
  fillQuestions(data);
  welcome(data);
}

function fillSpend(spend) {
  const before = { month: "in all of last month", today: "yesterday", hour: "in the hour before" };
  for (const [name, words] of Object.entries(before)) {
    setMoney(at(`spend-${name}`), nano(spend[name].cost_nano));
    sayMoney(`spend-${name}-before`, "", nano(spend[name].before_nano), ` ${words}`);
  }
}

function fillForecast(forecast) {
  const ready = forecast.state === "ready";
  at("forecast").classList.toggle("later", !ready);
  if (!ready) {
    at("forecast").removeAttribute("title");
    say("forecast", forecast.state === "short" ? "Not yet" : "…");
    at("forecast-range").removeAttribute("title");
    say("forecast-range", forecast.words);
    return;
  }
  const [low, high] = [nano(forecast.low_nano), nano(forecast.high_nano)];
  setMoney(at("forecast"), nano(forecast.cost_nano));
  say("forecast-range", `${money(low)} to ${money(high)} (${forecast.percent} % interval)`);
  at("forecast-range").title = `${exactly(low)} to ${exactly(high)}`;
}

function fillWindow({ sums, window: { hours, since_us }, spend }) {
  say("window-name", NAMES[hours]);
  say("window-since", `since ${day(since_us)} ${moment(since_us).slice(11, 16)} UTC`);
  setMoney(at("window-spend"), nano(sums.cost_nano));
  sayMoney("window-spend-beside", "", nano(spend.overall_nano), " since the ledger began");
  say("window-requests", count(sums.requests));
  say("window-requests-beside", `${count(sums.input_tokens)} tokens in, ${count(sums.output_tokens)} out`);
  say("window-hits", sums.requests ? share(sums.hits, sums.requests) : "–");
  say("window-hits-beside", `${plural(sums.hits, "hit")}, ${count(sums.coalesced)} shared a call`);
  say("window-errors", count(sums.failed));
  say("window-errors-beside", `${share(sums.failed, sums.requests)} of requests`);
  at("window-errors").closest(".card").classList.toggle("bad", sums.failed > 0);
  say("window-latency", sums.requests ? duration(sums.duration_us / sums.requests) : "–");
  say("window-latency-beside", `slowest ${duration(sums.slowest_us)}`);
}

function fillSavings(sums) {
  const [hit, shared, paid] = [sums.saved_hit_nano, sums.saved_coalesced_nano, sums.cost_nano].map(nano);
  const without = hit + shared + paid;
  setMoney(at("window-saved"), hit + shared);
  say("window-saved-beside", `${share(Number(hit + shared), Number(without))} of the cost without cache`);
  setMoney(at("savings-without"), without);
  setMoney(at("savings-hit"), hit);
  setMoney(at("savings-coalesced"), shared);
  setMoney(at("savings-paid"), paid);
  setMoney(at("savings-discount"), nano(sums.discount_nano));
}

function question(name, number, text, beside) {
  at(`attention-${name}`).querySelector("dd").textContent = text;
  at(`attention-${name}`).classList.toggle("look", number > 0);
  say(`attention-${name}-beside`, beside);
}

function fillQuestions({ sums, open, unpriced_models: models }) {
  const bound = nano(sums.unknown_nano);
  question(
    "unknown",
    sums.unknown_attempts,
    count(sums.unknown_attempts),
    sums.unknown_attempts
      ? `may have been billed, at most ${money(bound)}; ${plural(sums.unknown, "request")} ended so`
      : "may have been billed; none in this window",
  );
  at("attention-unknown-beside").title = exactly(bound);
  const words = open.requests ? `being answered, at most ${money(nano(open.reserved_nano))}` : "being answered";
  question("open", 0, count(open.requests), words);
  const named = models.length ? `no price for ${models.map((name) => name || "no model").join(", ")}` : "each model has a price";
  question("unpriced", sums.unpriced, count(sums.unpriced), named);
}

// Where nothing was ever asked, how to begin.
function welcome({ requests, sums }) {
  const empty = requests.length === 0 && sums.requests === 0;
  at("welcome").hidden = !empty;
  for (const place of document.querySelectorAll(".filled")) place.hidden = empty;
  const address = new URL("../api/v1/generate/text", location.href).href;
  say("first-call", `curl -i -H 'Content-Type: application/json' ${address} -d '{"prompt": "Say hello."}'`);
}
