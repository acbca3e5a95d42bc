// The charts over time, each with its words and its table. Only times and our own words go into Plotly,
// which reads marks of its own in every text; names of callers stay in the tables.

import { bar, count, day, dollars, duration, exactly, moment, money, nano, plural } from "./figures.js";
import { plainTable } from "./tables.js";

const HOUR_US = 3_600_000_000;
const SPANS = { [HOUR_US]: "an hour", [6 * HOUR_US]: "six hours", [24 * HOUR_US]: "a day" };
const CONFIG = { displaylogo: false, displayModeBar: false, responsive: true, showSendToCloud: false, plotlyServerURL: "" };

function colours() {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue(`--${name}`).trim();
}

// Each chart: the parts of a bar (name, colour, height, what hovering says), its words, and the columns of its table.
const CHARTS = {
  spend: {
    ticks: { tickprefix: "$" },
    parts: [
      ["Paid", "paid", (one) => dollars(nano(one.cost_nano)), (one) => exactly(nano(one.cost_nano))],
      ["Saved", "hit", (one) => dollars(nano(one.saved_nano)), (one) => exactly(nano(one.saved_nano))],
    ],
    words: (series) => {
      const paid = series.reduce((sum, one) => sum + nano(one.cost_nano), 0n);
      const saved = series.reduce((sum, one) => sum + nano(one.saved_nano), 0n);
      return `${money(paid)} paid, ${money(saved)} saved.`;
    },
  },
  requests: {
    counted: "requests",
    parts: [
      ["Provider", "paid", bought, (one) => count(bought(one))],
      ["Cache", "hit", (one) => one.hits, (one) => count(one.hits)],
      ["Shared", "shared", (one) => one.coalesced, (one) => count(one.coalesced)],
      ["Failed", "failed", (one) => one.failed, (one) => count(one.failed)],
    ],
    words: (series, span) => {
      const [most, at] = highest(series, (one) => one.requests);
      return `${plural(total(series, "requests"), "request")}; most in ${span}: ${count(most)}, from ${at}.`;
    },
  },
  latency: {
    lines: true,
    ticks: { ticksuffix: " s" },
    parts: [
      ["Average", "paid", (one) => (one.requests ? one.duration_us / one.requests / 1e6 : null), average],
      ["Slowest", "slowest", (one) => (one.requests ? one.slowest_us / 1e6 : null), (one) => duration(one.slowest_us)],
    ],
    words: (series) => {
      const mean = total(series, "duration_us") / (total(series, "requests") || 1);
      const [most, at] = highest(series, (one) => one.slowest_us);
      return `${duration(mean)} on average; the slowest took ${duration(most)}, after ${at}.`;
    },
  },
  errors: {
    counted: "failed",
    parts: [["Errors", "failed", (one) => one.failed, (one) => `${count(one.failed)} of ${count(one.requests)}`]],
    words: (series, span) => {
      const failed = total(series, "failed");
      const [most, at] = highest(series, (one) => one.failed);
      return failed ? `${plural(failed, "error")}; most in ${span}: ${count(most)}, from ${at}.` : "No errors.";
    },
  },
};

function bought(one) {
  return Math.max(0, one.requests - one.hits - one.coalesced - one.failed);
}

function average(one) {
  return duration(one.requests ? one.duration_us / one.requests : 0);
}

function total(series, name) {
  return series.reduce((sum, one) => sum + one[name], 0);
}

function highest(series, height) {
  const top = series.reduce((best, one) => (height(one) > height(best) ? one : best));
  return [height(top), `${day(top.start_us)} ${moment(top.start_us).slice(11, 16)} UTC`];
}

export function drawCharts(data) {
  for (const [name, chart] of Object.entries(CHARTS)) draw(document.getElementById(`chart-${name}`), chart, data);
}

function draw(figure, chart, { series, window: { step_us } }) {
  const empty = series.every((one) => one.requests === 0);
  const [words, plot] = [figure.querySelector(".beside"), figure.querySelector(".plot")];
  words.textContent = empty ? "Nothing in this window." : chart.words(series, SPANS[step_us]);
  for (const place of [plot, figure.querySelector("details")]) place.hidden = empty;
  figure.querySelector(".nothing").hidden = !empty;
  if (empty) return;
  tabulate(figure.querySelector("table"), chart, series, step_us);
  // The figures do not wait for Plotly's bundle; it draws once it has come.
  if (window.Plotly) window.Plotly.react(plot, traces(chart, series, step_us), layout(chart, series, step_us), CONFIG);
}

function tabulate(table, chart, series, stepUs) {
  const rows = series.map((one) => [bar(one.start_us, stepUs), ...chart.parts.map((part) => part[3](one))]);
  plainTable(table, ["From", ...chart.parts.map(([title]) => title)], rows.reverse());
}

function traces(chart, series, stepUs) {
  const colour = colours();
  const x = series.map((one) => moment(one.start_us));
  return chart.parts.map(([name, tint, height, words]) => ({
    name,
    x,
    y: series.map(height),
    customdata: series.map(words),
    hovertemplate: `%{customdata}<extra>${name}</extra>`,
    ...(chart.lines ? line(colour(tint)) : bars(colour(tint), stepUs)),
  }));
}

function bars(colour, stepUs) {
  return { type: "bar", marker: { color: colour }, xperiod: stepUs / 1000, xperiodalignment: "middle" };
}

function line(colour) {
  return { type: "scatter", mode: "lines+markers", line: { color: colour, width: 2 }, marker: { size: 4 } };
}

function layout(chart, series, stepUs) {
  const colour = colours();
  const range = [moment(series[0].start_us), moment(series.at(-1).start_us + stepUs)];
  const top = Math.max(...series.map((one) => one[chart.counted] ?? Infinity));
  const axis = { fixedrange: true, gridcolor: colour("line"), zeroline: false, automargin: true };
  return {
    barmode: "stack",
    bargap: 0.3,
    dragmode: false,
    hovermode: "x unified",
    hoverlabel: { bgcolor: colour("surface"), bordercolor: colour("line"), font: { color: colour("text") } },
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("muted") },
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    margin: { l: 8, r: 8, t: 8, b: 8 },
    showlegend: chart.parts.length > 1,
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", traceorder: "normal", itemclick: false, itemdoubleclick: false },
    xaxis: { ...axis, type: "date", range, spikecolor: colour("muted"), spikethickness: 1, tickformat: stepUs < 24 * HOUR_US ? "%H:%M\n%-d %b" : "%-d %b", showgrid: false, nticks: 7, hoverformat: "%-d %b %H:%M UTC" },
    yaxis: { ...axis, rangemode: "tozero", nticks: 5, separatethousands: true, ...(top < 5 ? { dtick: 1 } : {}), ...chart.ticks },
  };
}
