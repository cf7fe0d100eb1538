// Of the ticked runs: differences, pictures, how to reproduce them; and of the page itself.

const COMPARED = 12; // runs side by side in the differences
const PICTURE = 224; // pixels of a picture and the gap beside it, at least
const CARDS = 30; // runs with pictures and commands
const VERSIONS = ["torch", "torchvision", "stable-ssl"]; // shown first of the packages

const muted = words => make("p", { className: "muted" }, words);
const heading = run => [swatch(painter()(run)), make("span", { title: run.name }, run.label)];

function onlyFirst(most) {
  const all = state.ticked.size;
  return all > most ? [muted(`The first ${most} of ${all} ticked runs.`)] : [];
}

// --- differences ----------------------------------------------------------------------------------

function configOf(run) {
  const own = report.differing
    .filter(key => key.name !== "log.run" && key.values[run.index] !== null)
    .map(key => [key.name, key.values[run.index]]);
  const all = [...Object.entries(report.same), ...own];
  return Object.fromEntries(all.sort(([a], [b]) => (a < b ? -1 : 1)));
}

// of its last launch
function environmentOf(run) {
  const launch = run.launches.at(-1);
  if (!launch) return {};
  const [machine, packages] = [launch.machine, launch.packages].map(i => report.environments[i]);
  return { ...machine, packages };
}

function flatEnvironment(run) {
  const { packages = {}, git, ...flat } = environmentOf(run);
  if (git?.commit) {
    flat["git commit"] = git.commit.slice(0, 12);
    flat["git diff"] = git.diff
      ? `${plural(git.diff.split("\n").length, "line")}, ${sum(git.diff)}`
      : "none";
  }
  return { ...flat, ...Object.fromEntries(Object.entries(packages).sort()) };
}

// tells two diffs apart at a glance
function sum(words) {
  let value = 7;
  for (const letter of words) value = (Math.imul(value, 31) + letter.codePointAt(0)) >>> 0;
  return value.toString(16).padStart(8, "0");
}

function drawDifferences() {
  const some = chosen().slice(0, COMPARED);
  const parts =
    some.length < 2
      ? [muted("Tick two runs or more.")]
      : [
          make("h3", {}, "Configuration"),
          comparison("Configuration", some, some.map(configOf)),
          make("h3", {}, "Environment"),
          comparison("Environment", some, some.map(flatEnvironment)),
          ...onlyFirst(COMPARED),
        ];
  $("#differences > div:last-child").replaceChildren(...parts);
}

function comparison(name, some, facts) {
  const lines = [...new Set(facts.flatMap(Object.keys))]
    .map(key => [key, facts.map(one => (key in one ? text(one[key]) : ""))])
    .filter(([, values]) => state.allKeys || new Set(values).size > 1)
    .map(([key, values]) => [key, values.map(value => valueCell(value, values))]);
  if (!lines.length) return muted("no difference");
  const names = lines.map(([key]) => key);
  const cells = lines.map(([, values]) => values);
  const upright = lines.length < some.length; // whichever are fewer stand side by side
  const [across, down] = upright ? [names, some.map(heading)] : [some.map(heading), names];
  const cell = (row, column) => (upright ? cells[column][row] : cells[row][column]);
  const rows = down.map((side, row) =>
    make("tr", {}, make("th", { scope: "row" }, side), across.map((_, at) => cell(row, at))),
  );
  const heads = across.map(head => make("th", { scope: "col" }, head));
  const table = make(
    "table",
    {},
    make("thead", {}, make("tr", {}, make("th", {}), heads)),
    make("tbody", {}, rows),
  );
  return make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: name }, table);
}

// set apart from what most runs have
function valueCell(value, values) {
  const usual = values.find(one => values.filter(x => x === one).length > values.length / 2);
  const className = usual === undefined || value === usual ? "" : "other";
  return make("td", { title: value, className }, value);
}

// --- pictures -------------------------------------------------------------------------------------

function drawPictures() {
  const some = chosen().slice(0, CARDS);
  const all = some.flatMap(run => contentOf(run).pictures.map(picture => ({ run, ...picture })));
  const parts = [...new Set(all.map(picture => picture.name))].flatMap(name => [
    make("h3", {}, name.replaceAll("_", " ")),
    make("div", { className: "pictures" }, all.filter(one => one.name === name).map(framed)),
  ]);
  const none = muted("None of the ticked runs has pictures in this page.");
  $("#pictures").hidden = !report.pictured;
  $("#pictures > div").replaceChildren(
    ...(parts.length ? [...parts, ...onlyFirst(CARDS)] : [none]),
  );
  setColumns();
}

// as many pictures in the last row as in the others, or nearly
function setColumns() {
  for (const grid of document.querySelectorAll(".pictures")) {
    const most = Math.max(2, Math.floor(grid.clientWidth / PICTURE));
    const rows = Math.ceil(grid.childElementCount / most);
    const columns = Math.max(most > 2 ? 3 : 2, Math.ceil(grid.childElementCount / rows));
    grid.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  }
}

function framed({ run, name, epoch, source }) {
  const when = epoch === null ? "" : `epoch ${epoch}`;
  const words = [name, run.label, when].filter(Boolean).join(", ");
  const enlarge = () => {
    Object.assign($("#large img"), { src: source, alt: words });
    $("#large").showModal();
  };
  const picture = make("img", { src: source, alt: words });
  const button = make(
    "button",
    { type: "button", ariaLabel: `Enlarge ${words}`, onclick: enlarge },
    picture,
  );
  return make("figure", {}, button, make("figcaption", {}, heading(run), when));
}

// --- how to reproduce -----------------------------------------------------------------------------

function drawCards() {
  const cards = chosen()
    .slice(0, CARDS)
    .map(run => {
      const inside = folded("command, environment and configuration", false);
      inside.addEventListener("toggle", () => inside.append(...facts(run)), { once: true });
      const reason = run.reason ? `${run.status}: ${run.reason}` : run.status;
      return make(
        "article",
        { className: "card" },
        make("h3", {}, heading(run), make("small", { className: run.status }, reason)),
        make("code", { className: "command" }, run.rerun),
        inside,
      );
    });
  const parts = cards.length
    ? [...cards, ...onlyFirst(CARDS)]
    : [muted("Tick a run in the table.")];
  $("#reproduce > div").replaceChildren(...parts);
}

function facts(run) {
  const launch = run.launches.at(-1);
  const { packages = {}, git, ...machine } = environmentOf(run);
  const code = words => make("code", {}, words);
  const reached = [
    run.step === null ? "no row" : `step ${run.step}`,
    run.epoch === null ? "" : `epoch ${run.epoch}`,
    duration(run.seconds),
  ];
  const list = [
    ["folder", code(run.folder)],
    ...(launch ? started(launch, run.launches.length) : []),
    ["overrides", code(run.overrides.join(" "))],
    ["came to", reached.filter(Boolean).join(", ")],
    ...Object.entries({ ...machine, ...launch?.slurm }).map(([name, value]) => [
      name.replaceAll("_", " "),
      text(value),
    ]),
    ...VERSIONS.map(name => [name, packages[name] ?? ""]),
    ["git commit", code(git?.commit ?? "")],
  ].filter(([, value]) => (value.textContent ?? value) !== "");
  const listed = pairs =>
    pairs.map(([name, value]) => `${name}: ${text(value) || "null"}`).join("\n");
  const long = [
    ["configuration", listed(Object.entries(configOf(run)))],
    ["git diff", git?.diff ?? ""],
    ["packages", listed(Object.entries(packages).sort())],
  ].filter(([, words]) => words);
  return [
    make(
      "dl",
      {},
      list.map(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]).flat(),
    ),
    ...long.map(([name, words]) => folded(name, false, make("pre", { tabIndex: 0 }, words))),
  ];
}

function started({ command, sweep, cwd, time }, launches) {
  const words = make("code", { className: "command" }, command);
  const remark = sweep ? muted("The command of a whole sweep, of which this run is one.") : null;
  return [
    [launches > 1 ? "last started as" : "started as", make("div", {}, words, remark)],
    ["in", make("code", {}, cwd)],
    ["at", time + (launches > 1 ? `, launch ${launches}` : "")],
  ];
}

// --- the page itself ------------------------------------------------------------------------------

function drawAbout() {
  const { roots, points } = report;
  const places = [...roots.slice(0, 6), ...(roots.length > 6 ? [`${roots.length - 6} more`] : [])];
  const best = COLUMNS.some(column => column.id.startsWith("best "))
    ? `, and the best ${report.main}`
    : "";
  const words = [
    `Written on ${report.made} by stable-SSL ${report.version}, from ${places.join(", ")}.`,
    `The table shows the last value of each metric after the first step${best}.`,
    "Time begins with the first row of a run; what a resumed run waited is part of it.",
    "Smoothing is an exponential mean over the points shown.",
    "Bands are one standard deviation (n - 1) around the mean of runs that differ in the seed alone, as far as all of them reach.",
  ];
  if (report.thinned)
    words.push(
      `A curve of more than ${points} points is thinned to as many, the least and the greatest of each part among them; all rows are in metrics.jsonl.`,
    );
  const items = [...words, ...report.notes].map(line => make("li", {}, line));
  $("#about ul").replaceChildren(...items);
  const { said } = report;
  const warnings = make(
    "ul",
    {},
    said.map(line => make("li", {}, line)),
  );
  if (said.length)
    $("#about").append(
      folded(`${plural(said.length, "warning")} on reading`, said.length <= 5, warnings),
    );
}
