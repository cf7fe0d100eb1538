// Charts: axes, drawing, and reading of values by pointer or arrow keys.

const MARKED = 30; // points up to which a curve marks each of them
const MANY = 12; // lines from which on they are thin
const READ = 8; // values in a reading
const REACH = 12; // pixels from the cursor to a point that is read
const UNITS = [
  [172800, "d", 86400],
  [7200, "h", 3600],
  [120, "min", 60],
  [0, "s", 1],
]; // of time: from so many seconds on, a unit, its seconds

function linearTicks(low, high, most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(n => n * power).find(step => step >= rough * 0.999);
  const decimals = Math.min(12, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i += 1)
    ticks.push(i * step);
  const large = Math.max(Math.abs(low), Math.abs(high)) >= 1e6 || decimals > 5;
  const digits = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
  const write = at => Number(at.toFixed(decimals)).toLocaleString("en", digits);
  return ticks.map(at => [at, large ? general(at) : write(at)]);
}

function logTicks(low, high, most) {
  const [from, to] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const decades = Array.from({ length: to - from + 1 }, (_, i) => from + i);
  const fine = decades.length <= 3 ? [1, 2, 5] : [1];
  const skip = Math.ceil(decades.length / most);
  const ticks = decades
    .filter((_, i) => i % skip === 0)
    .flatMap(d => fine.map(n => n * 10 ** d))
    .filter(at => at >= low * 0.9999 && at <= high * 1.0001);
  return ticks.length > 2
    ? ticks.map(at => [at, general(Number(at.toPrecision(3))).replace(".000e", "e")])
    : linearTicks(low, high, most);
}

// {at: value => pixel, ticks: [[value, words]]}, the ticks some pixels apart
function axis(values, log, from, to, apart, margin) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low === high)
    [low, high] = log
      ? [low / 2, high * 2]
      : [low - (Math.abs(low) / 10 || 1), high + (Math.abs(high) / 10 || 1)];
  const scale = log ? Math.log10 : value => value;
  const room = margin * (scale(high) - scale(low));
  const [a, b] = [scale(low) - room, scale(high) + room];
  const ends = log ? [10 ** a, 10 ** b] : [a, b];
  return {
    at: value => from + ((scale(value) - a) / (b - a)) * (to - from),
    ticks: (log ? logTicks : linearTicks)(...ends, Math.max(3, Math.abs(to - from) / apart)),
  };
}

// --- panels ---------------------------------------------------------------------------------------

function addPanel(name) {
  const panel = { name, log: false, lines: [], xs: [], at: null };
  const choose = make(
    "select",
    {
      ariaLabel: "Metric",
      onchange: () => {
        panel.name = choose.value;
        drawPanel(panel);
      },
    },
    report.metrics.map(metric =>
      make("option", { value: metric.name }, metric.name + (metric.share ? " (%)" : "")),
    ),
  );
  choose.value = name;
  const log = make("input", {
    type: "checkbox",
    onchange: () => {
      panel.log = log.checked;
      drawPanel(panel);
    },
  });
  const close = make(
    "button",
    {
      type: "button",
      className: "close",
      title: "Remove this chart",
      ariaLabel: "Remove this chart",
      onclick: () => {
        panel.element.remove();
        state.panels.splice(state.panels.indexOf(panel), 1);
        $("#add").focus();
      },
    },
    "×",
  );
  panel.words = make("span", { className: "muted said" });
  panel.svg = draw("svg", { class: "chart", tabindex: 0, role: "img" });
  panel.said = make("div", { className: "said" });
  panel.reading = make("div", { className: "reading", hidden: true, role: "status" });
  panel.element = make(
    "figure",
    { className: "panel" },
    make("div", { className: "bar" }, choose, panel.words, make("label", {}, log, "log"), close),
    panel.svg,
    panel.said,
    panel.reading,
  );
  panel.svg.addEventListener("pointermove", event => point(panel, event));
  panel.svg.addEventListener("pointerdown", event => point(panel, event));
  panel.svg.addEventListener("pointerleave", () => read(panel, null));
  panel.svg.addEventListener("blur", () => read(panel, null));
  panel.svg.addEventListener("keydown", event => step(panel, event));
  state.panels.push(panel);
  $("#panels").append(panel.element);
  drawPanel(panel);
}

function drawPanel(panel) {
  const { width, height } = panel.svg.getBoundingClientRect();
  if (!width) return;
  const metric = (panel.metric = metrics.get(panel.name));
  panel.usable = ([, y]) => y !== null && (!panel.log || y > 0);
  panel.lines = series(metric).filter(line => line.curve.some(panel.usable));
  panel.width = width;
  panel.box = { left: 50, right: width - 10, top: 10, bottom: height - 34 };
  panel.svg.replaceChildren();
  panel.svg.setAttribute("viewBox", `0 0 ${width} ${height}`); // paper is narrower
  panel.svg.setAttribute("aria-label", `${metric.name} against ${state.x}; arrow keys read it`);
  panel.svg.classList.toggle("many", panel.lines.length > MANY);
  panel.words.textContent = metric.words === metric.name.split("/")[1] ? "" : metric.words;
  panel.said.textContent = remark(panel);
  read(panel, null);
  if (panel.lines.length) panel.svg.append(axes(panel), ...marks(panel), cursorOf(panel));
}

function remark({ metric, lines, log }) {
  if (!state.ticked.size) return "Tick a run in the table.";
  if (!lines.length) return `No ticked run has ${metric.name}.`;
  const values = lines.flatMap(line => line.curve.map(([, y]) => y));
  const below = log ? values.filter(y => y !== null && y <= 0).length : 0;
  return below ? `${plural(below, "value")} at or below 0 left out.` : "";
}

function axes(panel) {
  const { lines, box, usable, log } = panel;
  const xs = new Set(lines.flatMap(line => line.curve.map(([x]) => x)));
  panel.xs = [...xs].sort((a, b) => a - b);
  const [, unit, per] =
    state.x === "time" ? UNITS.find(([from]) => panel.xs.at(-1) >= from) : [0, "", 1];
  const ys = lines
    .flatMap(line => [...line.curve, ...(line.raw ?? [])].filter(usable))
    .flatMap(([, y, spread = 0]) => [y, y - spread, y + spread])
    .filter(y => !log || y > 0);
  const y = axis(ys, log, box.bottom, box.top, 34, 0.04);
  box.left = 14 + 6.7 * Math.max(...y.ticks.map(([, words]) => words.length));
  const inUnits = panel.xs.map(x => x / per);
  const x = axis(inUnits, state.logX, box.left, box.right, 75, 0.01);
  Object.assign(panel, { unit, per, x: value => x.at(value / per), y: y.at });

  const { left, right, bottom } = box;
  const line = (kind, x1, x2, y1, y2) => draw("line", { class: kind, x1, x2, y1, y2 });
  const write = (x, y, anchor, words) => draw("text", { x, y, "text-anchor": anchor }, words);
  const across = y.ticks.flatMap(([at, words]) => [
    line("grid", left, right, y.at(at), y.at(at)),
    write(left - 7, y.at(at) + 4, "end", words),
  ]);
  const along = x.ticks.flatMap(([at, words]) => [
    line("axis", x.at(at), x.at(at), bottom, bottom + 4),
    write(x.at(at), bottom + 17, "middle", words),
  ]);
  const title = state.x + (unit && ` (${unit})`);
  const below = write((left + right) / 2, bottom + 31, "middle", title);
  return draw("g", {}, across, along, line("axis", left, right, bottom, bottom), below);
}

function marks(panel) {
  const { lines, usable } = panel;
  const behind = lines.map(({ band, curve, raw, hue }) => {
    if (band) return draw("path", { class: "band", hue, d: area(panel, curve) });
    return raw ? draw("path", { class: "line raw", hue, d: path(panel, raw) }) : "";
  });
  const front = lines.map(line => {
    const { curve, hue, dash } = line;
    const d = path(panel, curve);
    return (line.path = draw("path", { class: "line", hue, d, "stroke-dasharray": dash }));
  });
  const few = lines.length > MANY ? [] : lines.filter(line => line.curve.length <= MARKED);
  const dots = few.flatMap(({ curve, hue }) =>
    curve
      .filter(usable)
      .map(([x, y]) =>
        draw("circle", { class: "dot", hue, cx: panel.x(x), cy: panel.y(y), r: 2.2 }),
      ),
  );
  return [...behind, ...front, ...dots];
}

function path(panel, curve) {
  let open = false;
  const parts = curve.map(one => {
    const sign = open ? "L" : "M";
    open = panel.usable(one);
    return open ? `${sign}${panel.x(one[0]).toFixed(1)} ${panel.y(one[1]).toFixed(1)}` : "";
  });
  return parts.join("");
}

// the outline of one deviation up and down
function area(panel, curve) {
  const whole = curve.filter(panel.usable);
  const edge = sign =>
    whole.map(([x, y, spread]) => {
      const to = y + sign * spread;
      const height = panel.log && to <= 0 ? panel.box.bottom : panel.y(to);
      return `${panel.x(x).toFixed(1)} ${height.toFixed(1)}`;
    });
  return `M${[...edge(1), ...edge(-1).reverse()].join("L")}Z`;
}

function cursorOf(panel) {
  const { top, bottom } = panel.box;
  const place = { y1: top, y2: bottom, visibility: "hidden" };
  return (panel.cursor = draw("line", { class: "cursor", ...place }));
}

// --- reading --------------------------------------------------------------------------------------

const nearest = (sorted, x, of = one => one) => {
  let [low, high] = [0, sorted.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (of(sorted[middle]) < x) low = middle;
    else high = middle;
  }
  return Math.abs(of(sorted[low]) - x) <= Math.abs(of(sorted[high]) - x) ? low : high;
};

function point(panel, event) {
  if (!panel.lines.length) return;
  const frame = panel.svg.getBoundingClientRect();
  read(panel, nearest(panel.xs, event.clientX - frame.left, panel.x), event.clientY - frame.top);
}

function step(panel, event) {
  const last = panel.xs.length - 1;
  const now = panel.at ?? (event.key === "ArrowLeft" ? last + 1 : -1);
  const next = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last }[event.key];
  if (event.key === "Escape") read(panel, null);
  if (next === undefined || !panel.lines.length) return;
  event.preventDefault();
  read(panel, Math.min(last, Math.max(0, next)));
}

// show the values at a place, those nearest to the pointer's height; null: hide them
function read(panel, i, height) {
  panel.at = i;
  panel.reading.hidden = i === null;
  panel.cursor?.setAttribute("visibility", i === null ? "hidden" : "visible");
  panel.lines.forEach(line => line.path?.classList.remove("near"));
  if (i === null) return;
  const at = panel.x(panel.xs[i]);
  panel.cursor.setAttribute("x1", at);
  panel.cursor.setAttribute("x2", at);
  const all = valuesAt(panel, panel.xs[i]);
  const distance = one => Math.abs(panel.y(one.value) - height);
  all.sort((a, b) => (height === undefined ? 0 : distance(a) - distance(b)) || b.value - a.value);
  const near = height === undefined ? null : all[0]?.line;
  near?.path.classList.add("near");
  const some = all.slice(0, READ).sort((a, b) => b.value - a.value);
  const number = value => (panel.metric.share ? value.toFixed(2) : general(value));
  const lines = some.map(({ line, value, spread }) => {
    const words = number(value) + (line.band ? ` ± ${number(spread)}` : "");
    const kind = line === near ? "near" : "";
    const name = make("span", {}, line.label);
    return make("div", { className: kind }, swatch(line), name, make("b", {}, words));
  });
  const faint = words => make("div", { className: "muted" }, words);
  const head = faint(`${state.x} ${general(panel.xs[i] / panel.per)} ${panel.unit}`);
  const more = all.length > READ ? [faint(`and ${all.length - READ} more`)] : [];
  panel.reading.replaceChildren(head, ...lines, ...more);
  const room = panel.reading.offsetWidth + 14;
  const left = at + room > panel.width ? at - room : at + 14;
  panel.reading.style.left = `${Math.max(0, left)}px`;
  panel.reading.style.top = `${panel.svg.parentNode.querySelector(".bar").offsetHeight + 12}px`;
}

// [{line, value, spread}] of the lines with a point within a few pixels of x
function valuesAt(panel, x) {
  return panel.lines.flatMap(line => {
    const one = line.curve[nearest(line.curve, x, ([at]) => at)];
    const close = Math.abs(panel.x(one[0]) - panel.x(x)) <= REACH;
    return close && panel.usable(one) ? [{ line, value: one[1], spread: one[2] }] : [];
  });
}

function drawLegend() {
  const paint = painter();
  const key = keys.find(one => one.name === state.colour);
  $("#legend").replaceChildren(...(key ? legendOfKey(key, paint) : legendOfLines(paint)));
}

function legendOfKey(key, paint) {
  const looks = new Map(chosen().map(run => [text(key.values[run.index]), paint(run)]));
  return [...looks.values()]
    .sort((a, b) => inOrder(a.value, b.value))
    .map(look => make("span", {}, swatch(look), `${key.short} ${text(look.value) || "none"}`));
}

function legendOfLines(paint) {
  const told = telling(chosen());
  return groups().map(group => {
    const name = label(group, told);
    const { label: own, name: folder } = group[0];
    const words = state.mean || own !== folder ? "" : describe(group[0], told);
    const what = make("span", { className: "muted" }, words);
    const untick = () => {
      group.forEach(run => setTick(run, false));
      changed();
    };
    const close = { type: "button", title: "Untick", ariaLabel: `Untick ${name}`, onclick: untick };
    return make("span", {}, swatch(paint(group[0])), name, what, make("button", close, "×"));
  });
}
