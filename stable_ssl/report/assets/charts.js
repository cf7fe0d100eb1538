// Charts: axes, drawing, and reading of values by pointer or arrow keys.

function linearTicks(low, high, most) {
  const rough = (high - low) / most,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(n => n * power).find(step => step >= rough * 0.999);
  const decimals = Math.min(12, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i += 1)
    ticks.push(i * step);
  const large = Math.max(Math.abs(low), Math.abs(high)) >= 1e6 || decimals > 5;
  return ticks.map(at => [
    at,
    large
      ? general(at)
      : Number(at.toFixed(decimals)).toLocaleString("en", {
          minimumFractionDigits: decimals,
          maximumFractionDigits: decimals,
        }),
  ]);
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
function axis(values, log, from, to, ticks, margin) {
  // {at: value => pixel, ticks}
  let low = Infinity,
    high = -Infinity;
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
    ticks: (log ? logTicks : linearTicks)(...ends, ticks),
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
  const metric = metrics.get(panel.name);
  const { width, height } = panel.svg.getBoundingClientRect();
  if (!width) return;
  panel.words.textContent = metric.words === metric.name.split("/")[1] ? "" : metric.words;
  const usable = ([, y]) => y !== null && (!panel.log || y > 0);
  const lines = (panel.lines = series(metric).filter(line => line.curve.some(usable)));
  panel.svg.replaceChildren();
  panel.svg.setAttribute("viewBox", `0 0 ${width} ${height}`); // paper is narrower
  panel.svg.classList.toggle("many", lines.length > 12);
  read(panel, null);
  const ticked = state.ticked.size;
  panel.svg.setAttribute(
    "aria-label",
    `${metric.name} against ${state.x}, ${plural(lines.length, "line")}; arrow keys read the values`,
  );
  panel.said.textContent = !ticked
    ? "Tick a run in the table."
    : lines.length
      ? ""
      : `No ticked run has ${metric.name}.`;
  if (!lines.length) return;
  const below = panel.log
    ? lines.flatMap(line => line.curve).filter(([, y]) => y !== null && y <= 0).length
    : 0;
  if (below) panel.said.textContent = `${plural(below, "value")} at or below 0 left out.`;
  let xs = [...new Set(lines.flatMap(line => line.curve.map(([x]) => x)))].sort((a, b) => a - b);
  const [unit, per] =
    state.x === "time"
      ? [
          [86400 * 2, "d", 86400],
          [7200, "h", 3600],
          [120, "min", 60],
          [0, "s", 1],
        ]
          .find(([from]) => xs.at(-1) >= from)
          .slice(1)
      : ["", 1];
  panel.unit = unit;
  panel.per = per;
  panel.xs = xs;
  panel.metric = metric;
  const ys = lines.flatMap(line =>
    line.curve
      .concat(line.raw ?? [])
      .filter(usable)
      .flatMap(([, y, spread]) =>
        spread ? [y, ...[y - spread, y + spread].filter(v => !panel.log || v > 0)] : [y],
      ),
  );
  const box = { left: 50, right: width - 10, top: 10, bottom: height - 34 };
  const y = axis(
    ys,
    panel.log,
    box.bottom,
    box.top,
    Math.max(3, Math.floor((box.bottom - box.top) / 34)),
    0.04,
  );
  box.left = 14 + 6.7 * Math.max(...y.ticks.map(([, words]) => words.length));
  const x = axis(
    xs.map(value => value / per),
    state.logX,
    box.left,
    box.right,
    Math.max(3, Math.floor((box.right - box.left) / 75)),
    0.01,
  );
  Object.assign(panel, { box, height, width, x: value => x.at(value / per), y: y.at });
  const grid = draw("g", {});
  for (const [at, words] of y.ticks)
    grid.append(
      draw("line", { class: "grid", x1: box.left, x2: box.right, y1: y.at(at), y2: y.at(at) }),
      draw("text", { x: box.left - 7, y: y.at(at) + 4, "text-anchor": "end" }, words),
    );
  for (const [at, words] of x.ticks)
    grid.append(
      draw("line", {
        class: "axis",
        x1: x.at(at),
        x2: x.at(at),
        y1: box.bottom,
        y2: box.bottom + 4,
      }),
      draw("text", { x: x.at(at), y: box.bottom + 17, "text-anchor": "middle" }, words),
    );
  grid.append(
    draw("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
    draw(
      "text",
      { x: (box.left + box.right) / 2, y: height - 3, "text-anchor": "middle" },
      state.x + (unit && ` (${unit})`),
    ),
  );
  const bands = draw("g", {}),
    marks = draw("g", {});
  for (const line of lines) {
    if (line.band) {
      const whole = line.curve.filter(usable);
      const edge = sign =>
        whole.map(([at, value, spread]) => {
          const v = value + sign * spread;
          return `${panel.x(at).toFixed(1)} ${(panel.log && v <= 0 ? box.bottom : y.at(v)).toFixed(1)}`;
        });
      bands.append(
        draw("path", {
          class: "band",
          hue: line.hue,
          d: `M${edge(1).concat(edge(-1).reverse()).join("L")}Z`,
        }),
      );
    }
    if (line.raw)
      bands.append(
        draw("path", { class: "line raw", hue: line.hue, d: path(panel, line.raw, usable) }),
      );
    line.path = draw("path", {
      class: "line",
      hue: line.hue,
      d: path(panel, line.curve, usable),
      "stroke-dasharray": line.dash,
    });
    marks.append(line.path);
    const dots = line.curve.filter(usable);
    if (dots.length <= MARKED && lines.length <= 40)
      for (const [at, value] of dots)
        marks.append(
          draw("circle", {
            class: "dot",
            hue: line.hue,
            cx: panel.x(at).toFixed(1),
            cy: y.at(value).toFixed(1),
            r: 2.2,
          }),
        );
  }
  panel.cursor = draw("line", {
    class: "cursor",
    y1: box.top,
    y2: box.bottom,
    visibility: "hidden",
  });
  panel.svg.append(grid, bands, marks, panel.cursor);
}
function path(panel, curve, usable) {
  let open = false,
    d = "";
  for (const one of curve) {
    if (!usable(one)) {
      open = false;
      continue;
    }
    d += `${open ? "L" : "M"}${panel.x(one[0]).toFixed(1)} ${panel.y(one[1]).toFixed(1)}`;
    open = true;
  }
  return d;
}
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
  const last = panel.xs.length - 1,
    now = panel.at ?? (event.key === "ArrowLeft" ? last + 1 : -1);
  const next = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last }[event.key];
  if (event.key === "Escape") read(panel, null);
  if (next === undefined || !panel.lines.length) return;
  event.preventDefault();
  read(panel, Math.min(last, Math.max(0, next)));
}
function read(panel, i, height) {
  // show the values at a place; null: hide them
  panel.at = i;
  panel.reading.hidden = i === null;
  panel.cursor?.setAttribute("visibility", i === null ? "hidden" : "visible");
  panel.lines.forEach(line => line.path?.classList.remove("near"));
  if (i === null) return;
  const x = panel.xs[i],
    cursor = panel.x(x);
  panel.cursor.setAttribute("x1", cursor);
  panel.cursor.setAttribute("x2", cursor);
  const reach = 12; // pixels from the cursor to a point that is read
  let values = panel.lines.flatMap(line => {
    const one = line.curve[nearest(line.curve, x, ([at]) => at)];
    const near =
      Math.abs(panel.x(one[0]) - cursor) <= reach && one[1] !== null && (!panel.log || one[1] > 0);
    return near
      ? [
          {
            line,
            value: one[1],
            spread: line.band ? one[2] : null,
            far: Math.abs(panel.y(one[1]) - (height ?? panel.y(one[1]))),
          },
        ]
      : [];
  });
  const total = values.length;
  values.sort((a, b) => a.far - b.far || b.value - a.value);
  const close = height === undefined ? null : values[0]?.line;
  close?.path.classList.add("near");
  values = values.slice(0, READ).sort((a, b) => b.value - a.value);
  const number = value => (panel.metric.share ? value.toFixed(2) : general(value));
  panel.reading.replaceChildren(
    make("div", { className: "muted" }, `${state.x} ${general(x / panel.per)} ${panel.unit}`),
    ...values.map(({ line, value, spread }) =>
      make(
        "div",
        { className: line === close ? "near" : "" },
        swatch(line),
        make("span", {}, line.label),
        make("b", {}, number(value) + (spread === null ? "" : ` ± ${number(spread)}`)),
      ),
    ),
    total > READ ? make("div", { className: "muted" }, `and ${total - READ} more`) : "",
  );
  const left =
    cursor + 14 + panel.reading.offsetWidth > panel.width
      ? cursor - 14 - panel.reading.offsetWidth
      : cursor + 14;
  panel.reading.style.left = `${Math.max(0, left)}px`;
  panel.reading.style.top = `${panel.svg.getBoundingClientRect().top - panel.element.getBoundingClientRect().top + panel.box.top}px`;
}
function drawLegend() {
  const paint = painter();
  const key = keys.find(one => one.name === state.colour),
    told = telling();
  const items = key
    ? [...new Map(chosen().map(run => [text(key.values[run.index]), paint(run)])).values()]
        .sort((a, b) => inOrder(a.value, b.value))
        .map(look => make("span", {}, swatch(look), `${key.short} ${text(look.value) || "none"}`))
    : groups().map(group =>
        make(
          "span",
          {},
          swatch(paint(group[0])),
          label(group),
          state.mean ? null : make("span", { className: "muted" }, describe(group[0], told)),
          make(
            "button",
            {
              type: "button",
              title: "Untick",
              ariaLabel: `Untick ${label(group)}`,
              onclick: () => {
                group.forEach(run => setTick(run, false));
                changed();
              },
            },
            "×",
          ),
        ),
      );
  $("#legend").replaceChildren(...items);
}
