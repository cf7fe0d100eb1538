// The table of runs: what is ticked here is what every section below shows.

const metrics = new Map(report.metrics.map(metric => [metric.name, metric]));
const keys = report.differing.filter(key => !key.named);

function columns() {
  const some = [{ id: "status", head: "status", group: "Run", value: run => run.status }];
  const given = keys.filter(key => key.given);
  const short = key => key.values.every(value => text(value).length <= 24);
  const shown = given.length ? given : keys.filter(short);
  for (const key of [...given, ...keys.filter(key => !key.given)])
    some.push({
      id: key.name,
      head: key.short,
      title: key.name,
      group: "Keys that differ",
      value: run => key.values[run.index],
      shown: shown.includes(key),
    });
  const watched = new Set([report.main, "val/knn_acc1", "val/acc1", "train/loss"]);
  for (const metric of report.metrics) {
    const column = {
      id: metric.name,
      head: metric.name + (metric.share ? " %" : ""),
      metric,
      title: [metric.words, "last value"].filter(Boolean).join(", "),
      group: "Metrics",
      value: run => run.last[metric.name],
      shown: watched.has(metric.name) || /^test\/.*acc1$/.test(metric.name),
    };
    const best = {
      ...column,
      id: `best ${metric.name}`,
      head: `best ${column.head}`,
      title: `${metric.words}, at its best (log.monitor)`,
      value: run => run.best,
    };
    const known = metric.name === report.main && runs.some(run => run.best !== null);
    some.push(column, ...(known ? [best] : []));
  }
  some.push(
    { id: "epoch", head: "epoch", group: "Run", value: run => run.epoch },
    { id: "step", head: "step", group: "Run", value: run => run.step },
    {
      id: "duration",
      head: "duration",
      group: "Run",
      value: run => run.seconds,
      format: duration,
      shown: true,
    },
    {
      id: "started",
      head: "started",
      group: "Run",
      value: run => run.start,
      format: seconds => new Date(1000 * seconds).toLocaleString("sv").slice(0, 16),
    },
  );
  some[0].shown = true;
  for (const column of some) {
    const values = runs.map(column.value).filter(value => value !== null && value !== undefined);
    column.numeric =
      values.length > 0 && values.every(value => typeof value === "number" || value === "nan");
    column.format ??= formatter(
      column,
      values.filter(value => typeof value === "number"),
    );
  }
  return some.filter(
    column => column.id === "status" || runs.some(run => text(column.value(run)) !== ""),
  );
}
function formatter(column, numbers) {
  // one number of decimals a column of metrics
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
  const all = make("input", {
    type: "checkbox",
    id: "all",
    title: "Tick all runs shown",
    ariaLabel: "Tick all runs shown",
    onclick: () => {
      rows.filter(({ row }) => !row.hidden).forEach(({ run }) => setTick(run, all.checked));
      changed();
    },
  });
  const name = { id: "run", head: "run", value: run => run.name };
  const heads = [name, ...shown].map(column => {
    const sorted = state.sort?.id === column.id ? state.sort : null;
    const arrow = sorted
      ? [make("span", { className: "arrow", ariaHidden: "true" }, sorted.down ? "↓" : "↑")]
      : [];
    const words = column.numeric ? [...arrow, column.head] : [column.head, ...arrow];
    const button = make(
      "button",
      { type: "button", title: column.title ?? "", onclick: () => sortBy(column) },
      words,
    );
    const head = make("th", { scope: "col", className: column.numeric ? "number" : "" }, button);
    if (column === name) {
      head.className = "name";
      head.replaceChildren(make("label", {}, all, button));
    }
    if (sorted) head.ariaSort = sorted.down ? "descending" : "ascending";
    head.dataset.column = column.id;
    return head;
  });
  $("#table thead").replaceChildren(make("tr", {}, heads));
  for (const { run, box, swatch, row } of rows) {
    const cells = shown.map(column => {
      const value = column.value(run);
      const cell = make(
        "td",
        { className: column.numeric ? "number" : "long" },
        text(value) === "" ? "" : column.format(value),
      );
      if (column.id === "status") {
        cell.className = run.status;
        cell.title = run.reason;
      } else if (!column.numeric) cell.title = text(value);
      return cell;
    });
    const label = make("label", {}, box, swatch, make("span", {}, run.name));
    row.replaceChildren(
      make("th", { scope: "row", className: "name", title: run.folder }, label),
      ...cells,
    );
  }
  arrange();
}
function sortBy(column) {
  const first = column.metric?.better === "high"; // the best on top
  const again = state.sort?.id === column.id;
  state.sort = { id: column.id, down: again ? !state.sort.down : first };
  drawTable();
  const head = [...document.querySelectorAll("#table thead th")].find(
    one => one.dataset.column === column.id,
  );
  head.querySelector("button").focus();
}
function arrange() {
  // sort, filter
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
function test(term) {
  // "lr>0.1", "name=simclr", or a word anywhere
  const [, name, sign, wanted] = term.match(/^([^<>=!]+)(<=|>=|!=|=|<|>)(.+)$/) ?? [];
  const ends = id => id === name || id.endsWith(`.${name}`) || id.endsWith(`/${name}`);
  const column =
    name &&
    (COLUMNS.find(one => one.id === name || one.head === name) ??
      COLUMNS.find(one => ends(one.id)));
  if (!column) return run => words[run.index].includes(term.toLowerCase());
  const share = column.metric?.share && Number(wanted) > 1 ? 100 : 1; // 90 is 90 %
  return run => {
    const value = column.value(run);
    if (value === null || value === undefined) return sign === "!=";
    const numeric = typeof value === "number" && wanted !== "" && !Number.isNaN(Number(wanted));
    const [a, b] = numeric
      ? [value, Number(wanted) / share]
      : [text(value).toLowerCase(), wanted.toLowerCase()];
    return { "=": a === b, "!=": a !== b, "<": a < b, ">": a > b, "<=": a <= b, ">=": a >= b }[
      sign
    ];
  };
}
function said() {
  const visible = rows.filter(({ row }) => !row.hidden);
  const all = $("#all"),
    on = visible.filter(({ run }) => state.ticked.has(run.index)).length;
  all.checked = on > 0 && on === visible.length;
  all.indeterminate = on > 0 && on < visible.length;
  $("#shown").textContent =
    `${visible.length} of ${plural(runs.length, "run")} shown, ${state.ticked.size} ticked`;
}
function drawControls() {
  const counts = new Map();
  runs.forEach(run => counts.set(run.status, (counts.get(run.status) ?? 0) + 1));
  const told = [...counts].sort((a, b) => b[1] - a[1]);
  const place = report.roots.length === 1 ? ` in ${report.roots[0]}` : "";
  $("#title").textContent = plural(runs.length, "run") + place;
  $("#counts").textContent =
    [...told.map(([status, n]) => `${n} ${status}`)].join(", ") + ` · ${report.made}`;
  if (counts.size > 1)
    $("#statuses").replaceChildren(
      ...told.map(([status, n]) => {
        const chip = make(
          "button",
          {
            type: "button",
            ariaPressed: "false",
            onclick: () => {
              const on = !state.statuses.delete(status);
              if (on) state.statuses.add(status);
              chip.ariaPressed = String(on);
              arrange();
            },
          },
          `${status} ${n}`,
        );
        return chip;
      }),
    );
  const groups = ["Keys that differ", "Metrics", "Run"].map(group => {
    const boxes = COLUMNS.filter(column => column.group === group).map(column => {
      const box = make("input", {
        type: "checkbox",
        checked: state.columns.has(column.id),
        onchange: () => {
          if (box.checked) state.columns.add(column.id);
          else state.columns.delete(column.id);
          drawTable();
        },
      });
      return make("label", {}, box, column.title && group !== "Metrics" ? column.title : column.id);
    });
    return boxes.length ? [make("h3", {}, group), ...boxes] : [];
  });
  $("#columns > div").replaceChildren(...groups.flat());
  const troubled = runs.filter(run => run.reason && run.status !== "finished");
  if (troubled.length) {
    const list = make(
      "ul",
      {},
      troubled.map(run =>
        make(
          "li",
          {},
          `${run.name}: `,
          make("span", { className: run.status }, run.status),
          `, ${run.reason}`,
        ),
      ),
    );
    $("#reasons").replaceChildren(
      make(
        "details",
        { open: troubled.length <= 5 },
        make("summary", {}, `${plural(troubled.length, "run")} did not finish`),
        list,
      ),
    );
  }
}
