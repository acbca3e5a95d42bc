// How figures are written. Money comes as text of whole nano-dollars and is counted in BigInt: no digit is lost.

const NANO = 1_000_000_000n;
const shown = { exact: false };

export function showExactly(exact) {
  shown.exact = exact;
}

export function nano(text) {
  return BigInt(text ?? 0);
}

// Dollars with all nine decimals.
export function exactly(amount) {
  const size = amount < 0n ? -amount : amount;
  const whole = (size / NANO).toLocaleString("en-US");
  return `${amount < 0n ? "-" : ""}$${whole}.${String(size % NANO).padStart(9, "0")}`;
}

// Dollars as one reads them: cents from a dollar on, three digits that count below.
export function briefly(amount) {
  const size = amount < 0n ? -amount : amount;
  const digits = String(size).length;
  const places = size === 0n || digits > 9 ? 2 : Math.min(9, 12 - digits);
  const unit = 10n ** BigInt(9 - places);
  const rounded = ((size + unit / 2n) / unit) * unit;
  if (String(rounded).length > digits) return briefly(amount < 0n ? -rounded : rounded);
  const decimals = String(rounded % NANO).padStart(9, "0").slice(0, places);
  return `${amount < 0n ? "-" : ""}$${(rounded / NANO).toLocaleString("en-US")}.${decimals}`;
}

export function money(amount) {
  return shown.exact ? exactly(amount) : briefly(amount);
}

// For the height of a bar only: a float has digits enough for pixels.
export function dollars(amount) {
  return Number(amount) / 1e9;
}

export function count(number) {
  return number.toLocaleString("en-US");
}

export function compact(number) {
  return number.toLocaleString("en-US", { notation: "compact", maximumFractionDigits: 1 });
}

export function share(part, whole) {
  const percent = whole ? (100 * part) / whole : 0;
  if (percent > 0 && percent < 0.1) return "< 0.1 %";
  return `${percent.toFixed(percent === 0 || percent === 100 ? 0 : 1)} %`;
}

export function duration(us) {
  if (us < 1000) return us ? `${(us / 1000).toFixed(2)} ms` : "0 ms";
  if (us < 10_000) return `${(us / 1000).toFixed(1)} ms`;
  if (us < 1_000_000) return `${Math.round(us / 1000)} ms`;
  return `${(us / 1_000_000).toFixed(us < 10_000_000 ? 2 : 1)} s`;
}

export function plural(number, word) {
  return `${count(number)} ${word}${number === 1 ? "" : "s"}`;
}

// Moments come in microseconds since 1970 and are written in UTC: 2026-11-23 05:12:33.
export function moment(us) {
  return new Date(us / 1000).toISOString().slice(0, 19).replace("T", " ");
}

export function clock(us) {
  return moment(us).slice(11);
}

// The hour where bars are shorter than a day, else the day.
export function bar(us, stepUs) {
  return stepUs < 86_400_000_000 ? moment(us).slice(5, 16) : moment(us).slice(0, 10);
}

const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");

export function day(us) {
  const at = new Date(us / 1000);
  return `${at.getUTCDate()} ${MONTHS[at.getUTCMonth()]}`;
}
