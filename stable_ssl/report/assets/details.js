// Of the ticked runs: differences, pictures, how to reproduce them; and of the page itself.

const heading = run => [swatch(painter()(run)), make("span", {}, run.name)];

function configOf(run) {
  const own = report.differing
    .filter(key => key.name !== "log.run" && key.values[run.index] !== null)
    .map(key => [key.name, key.values[run.index]]);
  return Object.fromEntries(
    [...Object.entries(report.same), ...own].sort(([a], [b]) => (a < b ? -1 : 1)),
  );
}
function environmentOf(run) {
  // of its last launch
  const launch = run.launches.at(-1);
  return launch
    ? { ...report.environments[launch.machine], packages: report.environments[launch.packages] }
    : {};
}
function flatEnvironment(run) {
  const { packages = {}, git = {}, ...facts } = environmentOf(run);
  const flat = Object.fromEntries(Object.entries(facts));
  if (git.commit) flat["git commit"] = git.commit.slice(0, 12);
  if (git.commit)
    flat["git diff"] = git.diff
      ? `${plural(git.diff.split("\n").length, "line")}, ${sum(git.diff)}`
      : "none";
  for (const [name, version] of Object.entries(packages).sort()) flat[name] = version;
  return flat;
}
function sum(words) {
  // tells two diffs apart at a glance
  let value = 7;
  for (const letter of words) value = (Math.imul(value, 31) + letter.codePointAt(0)) >>> 0;
  return value.toString(16).padStart(8, "0");
}
function drawDifferences() {
  const some = chosen().slice(0, COMPARED),
    more = state.ticked.size - some.length;
  const place = $("#differences > div:last-child");
  if (some.length < 2) {
    place.replaceChildren(make("p", { className: "muted" }, "Tick two runs or more."));
    return;
  }
  const parts = [
    ["Configuration", some.map(configOf)],
    ["Environment", some.map(flatEnvironment)],
  ];
  const bodies = parts.map(([name, facts]) => {
    const lines = [...new Set(facts.flatMap(Object.keys))].flatMap(key => {
      const values = facts.map(one => (key in one ? text(one[key]) : ""));
      const counts = new Map();
      values.forEach(value => counts.set(value, (counts.get(value) ?? 0) + 1));
      if (counts.size === 1 && !state.allKeys) return [];
      const [usual, often] = [...counts].sort((a, b) => b[1] - a[1])[0];
      const odd = value => value !== usual && often > 1 && often > values.length / 2;
      return [
        make(
          "tr",
          {},
          make("th", { scope: "row" }, key),
          values.map(value =>
            make("td", { title: value, className: odd(value) ? "other" : "" }, value),
          ),
        ),
      ];
    });
    const told = lines.length
      ? lines
      : [
          make(
            "tr",
            {},
            make("td", { className: "muted", colSpan: some.length + 1 }, "no difference"),
          ),
        ];
    return [name, told];
  });
  place.replaceChildren(
    ...bodies.flatMap(([name, lines], i) => [
      make("h3", {}, name),
      make(
        "div",
        { className: "scroll", tabIndex: 0, role: "region", ariaLabel: name },
        make(
          "table",
          {},
          make(
            "thead",
            {},
            make(
              "tr",
              {},
              make("th", {}),
              some.map(run => make("th", { scope: "col" }, heading(run))),
            ),
          ),
          make("tbody", {}, lines),
        ),
      ),
    ]),
    more > 0
      ? make(
          "p",
          { className: "muted" },
          `The first ${COMPARED} of ${state.ticked.size} ticked runs.`,
        )
      : "",
  );
}
function drawPictures() {
  const some = chosen().slice(0, CARDS);
  const all = some.flatMap(run => contentOf(run).pictures.map(picture => ({ run, ...picture })));
  $("#pictures").hidden = !report.pictured;
  const names = [...new Set(all.map(picture => picture.name))];
  const none = make(
    "p",
    { className: "muted" },
    "None of the ticked runs has pictures in this page.",
  );
  $("#pictures > div").replaceChildren(
    ...(names.length
      ? names.flatMap(name => [
          make("h3", {}, name.replaceAll("_", " ")),
          make(
            "div",
            { className: "pictures" },
            all
              .filter(picture => picture.name === name)
              .map(({ run, epoch, source }) => {
                const words = `${name} of ${run.name}${epoch === null ? "" : `, epoch ${epoch}`}`;
                return make(
                  "figure",
                  {},
                  make(
                    "button",
                    {
                      type: "button",
                      ariaLabel: `Enlarge ${words}`,
                      onclick: () => enlarge(source, words),
                    },
                    make("img", { src: source, alt: words }),
                  ),
                  make("figcaption", {}, heading(run), epoch === null ? "" : `epoch ${epoch}`),
                );
              }),
          ),
        ])
      : [none]),
  );
}
function enlarge(source, words) {
  Object.assign($("#large img"), { src: source, alt: words });
  $("#large").showModal();
}
function drawCards() {
  const some = chosen().slice(0, CARDS),
    more = state.ticked.size - some.length;
  const cards = some.map(run => {
    const inside = make(
      "details",
      { ontoggle: () => inside.childElementCount === 1 && inside.append(...facts(run)) },
      make("summary", {}, "command, environment and configuration"),
    );
    const reason = run.reason ? `${run.status}: ${run.reason}` : run.status;
    return make(
      "article",
      { className: "card" },
      make("h3", {}, heading(run), make("small", { className: run.status }, reason)),
      make("code", { className: "command" }, run.rerun),
      inside,
    );
  });
  const note =
    more > 0
      ? [
          make(
            "p",
            { className: "muted" },
            `The first ${CARDS} of ${state.ticked.size} ticked runs.`,
          ),
        ]
      : [];
  const none = make("p", { className: "muted" }, "Tick a run in the table.");
  $("#reproduce > div").replaceChildren(...(cards.length ? [...cards, ...note] : [none]));
}
function facts(run) {
  const launch = run.launches.at(-1),
    { packages, git, ...machine } = environmentOf(run);
  const list = [["folder", make("code", {}, run.folder)]];
  if (launch) {
    const sweep = launch.sweep
      ? make("p", { className: "muted" }, "The command of a whole sweep, of which this run is one.")
      : null;
    list.push(
      [
        "started as",
        make("div", {}, make("code", { className: "command" }, launch.command), sweep),
      ],
      ["in", make("code", {}, launch.cwd)],
      ["at", launch.time + (run.launches.length > 1 ? `, launch ${run.launches.length}` : "")],
    );
  }
  if (run.overrides.length) list.push(["overrides", make("code", {}, run.overrides.join(" "))]);
  list.push([
    "came to",
    [
      run.step === null ? "" : `step ${run.step}`,
      run.epoch === null ? "" : `epoch ${run.epoch}`,
      duration(run.seconds),
    ]
      .filter(Boolean)
      .join(", ") || "no row",
  ]);
  for (const [name, value] of Object.entries(machine))
    list.push([name.replaceAll("_", " "), text(value)]);
  for (const [name, value] of Object.entries(launch?.slurm ?? {})) list.push([name, text(value)]);
  for (const name of ["torch", "torchvision", "stable-ssl"])
    if (packages?.[name]) list.push([name, packages[name]]);
  if (git?.commit) list.push(["git commit", make("code", {}, git.commit)]);
  const long = (name, words) =>
    words
      ? [make("details", {}, make("summary", {}, name), make("pre", { tabIndex: 0 }, words))]
      : [];
  const lines = pairs =>
    Object.entries(pairs ?? {})
      .map(([name, value]) => `${name}: ${value === null ? "null" : text(value)}`)
      .join("\n");
  return [
    make(
      "dl",
      {},
      list.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]),
    ),
    ...long("configuration", lines(configOf(run))),
    ...long("git diff", git?.diff),
    ...long("packages", lines(packages && Object.fromEntries(Object.entries(packages).sort()))),
  ];
}
function drawAbout() {
  const words = [
    `Written on ${report.made} by stable-SSL ${report.version}, from ${report.roots.slice(0, 6).join(", ")}${report.roots.length > 6 ? ` and ${report.roots.length - 6} more` : ""}.`,
    "The table shows the last value of each metric after the first step" +
      (COLUMNS.some(column => column.id.startsWith("best "))
        ? `, and the best ${report.main}`
        : "") +
      ".",
    "Time begins with the first row of a run; what a resumed run waited is part of it. Smoothing is an exponential mean over the points shown.",
    ...(report.thinned
      ? [
          `A curve of more than ${report.points} points is thinned to as many, the least and the greatest of each part among them; all rows are in metrics.jsonl.`,
        ]
      : []),
    "Bands are one standard deviation (n - 1) around the mean of runs that differ in the seed alone.",
    ...report.notes,
  ];
  $("#about ul").replaceChildren(...words.map(line => make("li", {}, line)));
  if (report.said.length)
    $("#about").append(
      make(
        "details",
        { open: report.said.length <= 5 },
        make("summary", {}, `${plural(report.said.length, "warning")} on reading`),
        make(
          "ul",
          {},
          report.said.map(line => make("li", {}, line)),
        ),
      ),
    );
}
