// What happens when something is ticked, and at the start.

let waiting = false;
// at most once a frame
function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    drawLegend();
    state.panels.forEach(drawPanel);
  });
}

// what is ticked, or its colours
function changed() {
  const paint = painter();
  for (const { run, box, swatch: place } of rows) {
    const on = (box.checked = state.ticked.has(run.index));
    place.replaceChildren(...(on ? [swatch(paint(run))] : []));
  }
  said();
  redraw();
  drawDifferences();
  drawPictures();
  drawCards();
}

// A page that is served reloads itself, and goes on as it was left.

const CONTROLS = ["#filter", "#x", "#log-x", "#colour", "#smooth", "#mean", "#all-keys"];
const served = location.protocol === "http:";

function keep() {
  const ticked = runs.filter(run => state.ticked.has(run.index)).map(run => run.folder);
  const panels = state.panels.map(panel => panel.name);
  const controls = CONTROLS.map(id => [id, $(id).value, $(id).checked]);
  const left = { ticked, panels, controls, y: scrollY };
  sessionStorage.setItem("stable-ssl", JSON.stringify(left));
}

function goOn({ ticked, controls, y }) {
  runs.forEach(run => setTick(run, ticked.includes(run.folder)));
  for (const [id, value, checked] of controls) {
    Object.assign($(id), { value, checked });
    for (const kind of ["input", "change"]) $(id).dispatchEvent(new Event(kind));
  }
  requestAnimationFrame(() => scrollTo(0, y));
}

function start() {
  const main = COLUMNS.find(column => column.id === report.main);
  if (main) state.sort = { id: main.id, down: report.mode === "max" };
  runs.slice(0, TICKED).forEach(run => setTick(run, true));
  drawControls();
  drawTable();
  drawAbout();
  $("#colour").append(
    make("option", { value: "" }, "run"),
    ...keys.map(key => make("option", { value: key.name }, key.name)),
  );
  $("#mean-label").hidden = !keys.some(key => key.name === SEED);
  const on = (id, event, act) => $(id).addEventListener(event, () => act($(id)));
  on("#filter", "input", input => {
    state.filter = input.value;
    arrange();
  });
  on("#untick", "click", () => {
    state.ticked.clear();
    changed();
  });
  on("#x", "change", input => {
    state.x = input.value;
    redraw();
  });
  on("#log-x", "change", input => {
    state.logX = input.checked;
    redraw();
  });
  on("#colour", "change", input => {
    state.colour = input.value;
    changed();
  });
  on("#smooth", "input", input => {
    state.smooth = Number(input.value);
    $("#smoothed").textContent = input.value;
    redraw();
  });
  on("#mean", "change", input => {
    state.mean = input.checked;
    changed();
  });
  on("#all-keys", "change", input => {
    state.allKeys = input.checked;
    drawDifferences();
  });
  on("#large", "click", dialog => dialog.close());
  on("#add", "click", () =>
    addPanel(
      report.metrics
        .map(one => one.name)
        .find(name => !state.panels.some(panel => panel.name === name)) ?? report.main,
    ),
  );
  document.addEventListener("click", event => {
    if (!event.target.closest(".menu")) $("#columns").open = false;
  });
  document.addEventListener("keydown", event => {
    if (event.key === "Escape") $("#columns").open = false;
  });
  $("#curves").hidden = !report.metrics.length;
  const losses = ["train/loss", "val/loss"].filter(name => metrics.has(name)).slice(0, 1);
  const first = [...new Set([...losses, ...(metrics.has(report.main) ? [report.main] : [])])];
  const left = served && JSON.parse(sessionStorage.getItem("stable-ssl"));
  const usual = first.length || !report.metrics.length ? first : [report.metrics[0].name];
  (left ? left.panels.filter(name => metrics.has(name)) : usual).forEach(addPanel);
  new ResizeObserver(redraw).observe($("#panels"));
  new ResizeObserver(setColumns).observe($("#pictures"));
  if (left) goOn(left);
  if (served) addEventListener("pagehide", keep);
  changed();
}

start();
