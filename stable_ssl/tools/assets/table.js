// The table of runs: what is ticked here is what every section below shows.

const metrics = new Map(report.metrics.map(metric => [metric.name, metric]));
const keys = report.differing.filter(key => !key.named);
const WATCHED = ["val/knn_acc1", "val/acc1", "train/loss"]; // metrics shown at the start
const SHORT = 24; // characters of a value that nobody asked to see
const isShort = key => key.values.every(value => text(value).length <= SHORT);

// [{id, head, title, group, value: run => value, format: value => words, numeric, shown}]
function columns() {
  const told = telling(runs);
  const all = [
    { id: "status", group: "Run", value: run => run.status, shown: true },
    ...keys.map(key => columnOfKey(key, key.given || told.includes(key))),
    ...report.metrics.flatMap(columnsOfMetric),
    { id: "epoch", group: "Run", value: run => run.epoch },
    { id: "step", group: "Run", value: run => run.step },
    { id: "duration", group: "Run", value: run => run.seconds, format: duration, shown: true },
    { id: "started", group: "Run", value: run => run.start, format: moment },
  ];
  for (const column of all) {
    const values = runs.map(column.value).filter(value => text(value) !== "");
    const numbers = values.filter(value => typeof value === "number");
    column.numeric =
      numbers.length > 0 && values.every(value => typeof value === "number" || value === "nan");
    column.head ??= column.id;
    column.format ??= formatter(column, numbers);
    column.empty = !values.length;
  }
  return all.filter(column => !column.empty);
}

function columnOfKey(key, shown) {
  const value = run => key.values[run.index];
  const group = "Keys that differ";
  return { id: key.name, head: key.short, title: key.name, group, value, shown };
}

function columnsOfMetric(metric) {
  const last = {
    id: metric.name,
    head: metric.name + (metric.share ? " %" : ""),
    title: [metric.words, "last value"].filter(Boolean).join(", "),
    group: "Metrics",
    metric,
    value: run => run.last[metric.name],
    shown: [report.main, ...WATCHED].includes(metric.name) || /^test\/.*acc1$/.test(metric.name),
  };
  if (metric.name !== report.main) return [last];
  const title = [metric.words, "at its best (log.monitor)"].filter(Boolean).join(", ");
  const best = { id: `best ${last.id}`, head: `best ${last.head}`, title, value: run => run.best };
  return [last, { ...last, ...best }];
}

// one number of decimals a column of metrics
function formatter(column, numbers) {
  if (!column.metric || !numbers.length) return text;
  if (column.metric.share)
    return value => (typeof value === "number" ? (100 * value).toFixed(2) : text(value));
  const sizes = numbers.map(Math.abs).filter(Boolean);
  const [least, most] = [Math.min(...sizes), Math.max(...sizes)];
  const decimals = Math.max(0, 3 - Math.floor(Math.log10(most)));
  const even = sizes.length && decimals <= 7 && least > 10 ** (1 - decimals);
  return value =>
    typeof value !== "number" ? text(value) : even ? value.toFixed(decimals) : general(value);
}

const COLUMNS = columns();
state.columns = new Set(COLUMNS.filter(column => column.shown).map(column => column.id));

// --- table ----------------------------------------------------------------------------------------

const rows = runs.map(run => {
  const box = make("input", {
    type: "checkbox",
    onclick: event => tick(run, box.checked, event.shiftKey),
  });
  const swatch = make("span", { className: "place" });
  const row = make("tr", {
    onclick: event => {
      if (!event.target.closest("label, input, a, button") && !getSelection().toString())
        box.click();
    },
  });
  row.dataset.run = run.name;
  return { run, box, swatch, row };
});

const words = runs.map(run =>
  [run.name, run.status, run.reason, ...report.differing.map(key => text(key.values[run.index]))]
    .join(" ")
    .toLowerCase(),
);

let latest = null; // the run ticked before, where a range begins

function tick(run, on, range) {
  const visible = rows
    .filter(({ row }) => !row.hidden)
    .sort((a, b) => a.row.rowIndex - b.row.rowIndex)
    .map(({ run }) => run);
  const ends = [visible.indexOf(run), range ? visible.indexOf(latest) : -1];
  const some = ends[1] < 0 ? [run] : visible.slice(Math.min(...ends), Math.max(...ends) + 1);
  some.forEach(one => setTick(one, on));
  latest = run;
  changed();
}

function setTick(run, on) {
  if (!on) state.ticked.delete(run.index);
  else if (!state.ticked.has(run.index)) {
    const taken = new Set(state.ticked.values());
    let slot = 0;
    while (taken.has(slot)) slot += 1;
    state.ticked.set(run.index, slot);
  }
}

function drawTable() {
  const shown = COLUMNS.filter(column => state.columns.has(column.id));
  const heads = [{ id: "run", head: "run" }, ...shown].map(headOf);
  $("#table thead").replaceChildren(make("tr", {}, heads));
  for (const { run, box, swatch, row } of rows) {
    const label = make("label", {}, box, swatch, make("span", {}, run.name));
    const name = make("th", { scope: "row", className: "name", title: run.folder }, label);
    row.replaceChildren(name, ...shown.map(column => cellOf(run, column)));
  }
  arrange();
}

function headOf(column) {
  const sorted = state.sort?.id === column.id ? state.sort : null;
  const sign = sorted?.down ? "↓" : "↑";
  const arrow = sorted ? [make("span", { className: "arrow", ariaHidden: "true" }, sign)] : [];
  const words = column.numeric ? [...arrow, column.head] : [column.head, ...arrow];
  const sort = { type: "button", title: column.title ?? "", onclick: () => sortBy(column) };
  const head = make("th", { scope: "col" }, make("button", sort, words));
  head.className = column.id === "run" ? "name" : column.numeric ? "number" : "";
  head.dataset.column = column.id;
  if (sorted) head.ariaSort = sorted.down ? "descending" : "ascending";
  if (column.id === "run") head.replaceChildren(make("label", {}, tickAll(), ...head.childNodes));
  return head;
}

function tickAll() {
  const title = "Tick all runs shown";
  const onclick = () => {
    rows.filter(({ row }) => !row.hidden).forEach(({ run }) => setTick(run, all.checked));
    changed();
  };
  const all = make("input", { type: "checkbox", id: "all", title, ariaLabel: title, onclick });
  return all;
}

function cellOf(run, column) {
  const value = column.value(run);
  const words = text(value) === "" ? "" : column.format(value);
  if (column.id === "status") return make("td", { className: value, title: run.reason }, words);
  if (column.numeric) return make("td", { className: "number" }, words);
  return make("td", { className: "long", title: text(value) }, words);
}

function sortBy(column) {
  const first = column.metric?.better === "high"; // the best on top
  const again = state.sort?.id === column.id;
  state.sort = { id: column.id, down: again ? !state.sort.down : first };
  drawTable();
  const heads = [...document.querySelectorAll("#table thead th")];
  heads
    .find(head => head.dataset.column === column.id)
    .querySelector("button")
    .focus();
}

// sort and filter
function arrange() {
  const by = COLUMNS.find(column => column.id === state.sort?.id) ?? { value: run => run.name };
  const placed = rows.map(one => ({ one, at: place(one.run, by) }));
  const sign = state.sort?.down ? -1 : 1;
  if (state.sort) placed.sort(({ at: [a, x] }, { at: [b, y] }) => a - b || sign * inOrder(x, y));
  $("#table tbody").replaceChildren(...placed.map(({ one }) => one.row));
  const tests = state.filter.split(/\s+/).filter(Boolean).map(test);
  for (const { run, row } of rows) {
    const wanted = !state.statuses.size || state.statuses.has(run.status);
    row.hidden = !wanted || !tests.every(holds => holds(run));
  }
  said();
}

// the column of a name or of its end, or a key that all runs share
function named(name) {
  const ends = id => id === name || id.endsWith(`.${name}`) || id.endsWith(`/${name}`);
  const exact = COLUMNS.find(column => column.id === name);
  const shared = Object.keys(report.same).find(ends);
  const same = shared && { value: () => report.same[shared] };
  return exact ?? COLUMNS.find(column => ends(column.id)) ?? same;
}

// "lr>0.1", "name=simclr", or a word anywhere
function test(term) {
  const [, name, sign, wanted] = term.match(/^([^<>=!]+)(<=|>=|!=|=|<|>)(.+)$/) ?? [];
  const column = name && named(name);
  if (!column) return run => words[run.index].includes(term.toLowerCase());
  const share = column.metric?.share && Number(wanted) > 1 ? 100 : 1; // 90 is 90 %
  return run => {
    const value = column.value(run);
    if (value === null || value === undefined) return sign === "!=";
    const numeric = typeof value === "number" && !Number.isNaN(Number(wanted));
    const a = numeric ? value : text(value).toLowerCase();
    const b = numeric ? Number(wanted) / share : wanted.toLowerCase();
    const holds = { "=": a === b, "!=": a !== b, "<": a < b, ">": a > b, "<=": a <= b };
    return holds[sign] ?? a >= b;
  };
}

function said() {
  const visible = rows.filter(({ row }) => !row.hidden);
  const all = $("#all");
  const on = visible.filter(({ run }) => state.ticked.has(run.index)).length;
  all.checked = on > 0 && on === visible.length;
  all.indeterminate = on > 0 && on < visible.length;
  $("#shown").textContent =
    `${visible.length} of ${plural(runs.length, "run")} shown, ${state.ticked.size} ticked`;
}

// --- controls -------------------------------------------------------------------------------------

function drawControls() {
  const counts = new Map();
  runs.forEach(run => counts.set(run.status, (counts.get(run.status) ?? 0) + 1));
  const statuses = [...counts].sort((a, b) => b[1] - a[1]);
  const place = report.roots.length === 1 ? ` in ${report.roots[0]}` : "";
  const told = statuses.map(([status, n]) => `${n} ${status}`).join(", ");
  $("#title").textContent = plural(runs.length, "run") + place;
  $("#counts").textContent = `${told} · ${report.made}`;
  if (counts.size > 1) $("#statuses").replaceChildren(...statuses.map(chipOf));
  const groups = ["Keys that differ", "Metrics", "Run"].map(choices);
  $("#columns > div").replaceChildren(...groups.flat());
  const troubled = runs.filter(run => run.reason && run.status !== "finished");
  if (troubled.length) $("#reasons").replaceChildren(reasons(troubled));
}

function chipOf([status, n]) {
  const toggle = () => {
    const on = !state.statuses.delete(status);
    if (on) state.statuses.add(status);
    chip.ariaPressed = String(on);
    arrange();
  };
  const attributes = { type: "button", ariaPressed: "false", onclick: toggle };
  const chip = make("button", attributes, `${status} ${n}`);
  return chip;
}

function choices(group) {
  const boxes = COLUMNS.filter(column => column.group === group).map(column => {
    const checked = state.columns.has(column.id);
    const choose = () => {
      if (box.checked) state.columns.add(column.id);
      else state.columns.delete(column.id);
      drawTable();
    };
    const box = make("input", { type: "checkbox", checked, onchange: choose });
    return make("label", {}, box, column.id);
  });
  return boxes.length ? [make("h3", {}, group), ...boxes] : [];
}

function reasons(troubled) {
  const items = troubled.map(run => {
    const status = make("span", { className: run.status }, run.status);
    return make("li", {}, `${run.name}: `, status, `, ${run.reason}`);
  });
  const title = `${plural(troubled.length, "run")} did not finish`;
  return folded(title, troubled.length <= 5, make("ul", {}, items));
}
