// Lines of the ticked runs: their colours, and values smoothed or averaged over seeds.

const DASHES = ["", "6 3", "2 3", "8 3 2 3"]; // once the colours are used up
const GRID = 400; // points of a mean over seeds
const RAMP = [
  [68, 1, 84],
  [59, 82, 139],
  [33, 145, 140],
  [70, 178, 105],
  [163, 190, 40],
];

// dark to light with rising values, told apart without colour
function ramp(share) {
  const at = share * (RAMP.length - 1);
  const i = Math.min(Math.floor(at), RAMP.length - 2);
  const mixed = RAMP[i].map((low, c) => Math.round(low + (at - i) * (RAMP[i + 1][c] - low)));
  return `rgb(${mixed.join(" ")})`;
}

function nth(slot) {
  const n = report.colours.length;
  return { hue: report.colours[slot % n], dash: DASHES[Math.floor(slot / n) % DASHES.length] };
}

// returns run => {hue, dash, value}
function painter() {
  const key = keys.find(one => one.name === state.colour);
  if (!key) {
    const places = new Map(groups().flatMap((group, i) => group.map(run => [run.index, i])));
    return run => nth((state.mean ? places : state.ticked).get(run.index));
  }
  const present = chosen().map(run => key.values[run.index]);
  const values = [...new Map(present.map(value => [text(value), value])).values()];
  if (values.length > 2 && values.every(value => typeof value === "number")) {
    values.sort((a, b) => a - b);
    const log = values[0] > 0 && values.at(-1) / values[0] >= 20;
    const scale = value => (log ? Math.log(value) : value);
    const [low, high] = [scale(values[0]), scale(values.at(-1))];
    return run => {
      const value = key.values[run.index];
      return { hue: ramp((scale(value) - low) / (high - low)), dash: "", value };
    };
  }
  values.sort(inOrder);
  const order = values.map(text);
  return run => ({
    ...nth(order.indexOf(text(key.values[run.index]))),
    value: key.values[run.index],
  });
}

function swatch({ hue, dash }) {
  return draw(
    "svg",
    { class: "swatch", viewBox: "0 0 22 12", "aria-hidden": "true" },
    draw("path", { class: "line", hue, d: "M1 6H21", "stroke-dasharray": dash }),
  );
}

// few keys that tell runs apart, in the order of the keys; none with long values
function telling(some) {
  const told = [];
  let groups = some.map(() => "");
  for (const key of keys.filter(isShort)) {
    const finer = some.map((run, i) => `${groups[i]}\n${text(key.values[run.index])}`);
    if (new Set(finer).size > new Set(groups).size) {
      told.push(key);
      groups = finer;
    }
  }
  return told;
}

const describe = (run, told) =>
  told
    .filter(key => text(key.values[run.index]) !== "")
    .map(key => `${key.short} ${text(key.values[run.index])}`)
    .join(", ");
// [[run, ...]]: one line each
function groups() {
  if (!state.mean) return chosen().map(run => [run]);
  const same = new Map();
  for (const run of chosen()) {
    const id = JSON.stringify(
      keys.filter(key => key.name !== SEED).map(key => key.values[run.index]),
    );
    same.set(id, [...(same.get(id) ?? []), run]);
  }
  return [...same.values()];
}

function label(group, told, n = group.length) {
  if (!state.mean) return group[0].label;
  const shared = told.filter(key => key.name !== SEED);
  return `${describe(group[0], shared) || group[0].label} (n=${n})`;
}

function points(run, metric) {
  const content = contentOf(run);
  const [places, values] = content.of[metric.name] ?? [[], []];
  const scale = metric.share ? 100 : 1;
  return places
    .map((row, i) => [content[state.x][row], values[i] === null ? null : scale * values[i]])
    .filter(([x]) => x !== null && (!state.logX || x > 0));
}

// exponential mean, without the bias of its start
function smoothed(curve) {
  const keep = state.smooth;
  let sum = 0;
  let weight = 0;
  return curve.map(([x, y]) => {
    if (y === null) return [x, y];
    sum = keep * sum + (1 - keep) * y;
    weight = keep * weight + (1 - keep);
    return [x, keep ? sum / weight : y];
  });
}

// linear; null outside of the curve and in a gap
function between(curve, x) {
  const i = curve.findIndex(([at]) => at >= x);
  if (i < 0) return null;
  const [x1, y1] = curve[i];
  if (x1 === x) return y1;
  if (i === 0 || y1 === null || curve[i - 1][1] === null) return null;
  const [x0, y0] = curve[i - 1];
  return y0 + ((y1 - y0) * (x - x0)) / (x1 - x0);
}

// [[x, mean, deviation]], where all curves reach
function averaged(curves) {
  const from = Math.max(...curves.map(curve => curve[0][0]));
  const to = Math.min(...curves.map(curve => curve.at(-1)[0]));
  let grid = [...new Set(curves.flat().map(([x]) => x))]
    .filter(x => x >= from && x <= to)
    .sort((a, b) => a - b);
  const step = Math.ceil(grid.length / GRID);
  grid = grid.filter((_, i) => i % step === 0 || i === grid.length - 1);
  return grid.map(x => {
    const values = curves.map(curve => between(curve, x));
    if (values.includes(null)) return [x, null, 0];
    const mean = values.reduce((a, b) => a + b) / values.length;
    const squares = values.reduce((sum, y) => sum + (y - mean) ** 2, 0);
    return [x, mean, Math.sqrt(squares / Math.max(1, values.length - 1))];
  });
}

// [{curve, band, raw, label, hue, dash}]: the lines of a chart
function series(metric) {
  const paint = painter();
  const told = telling(chosen());
  const lines = groups().map(group => {
    const raw = group.map(run => points(run, metric)).filter(curve => curve.length);
    const band = raw.length > 1;
    return {
      ...paint(group[0]),
      label: label(group, told, raw.length),
      band,
      curve: band ? averaged(raw.map(smoothed)) : smoothed(raw[0] ?? []),
      raw: state.smooth && !band ? raw[0] : null,
    };
  });
  return lines.filter(line => line.curve.length);
}
