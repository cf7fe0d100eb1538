"""The page as its reader meets it, in a headless Chromium without a network."""

import json
import shutil
import threading
import time
from functools import partial
from http.server import ThreadingHTTPServer

import pytest

from stable_ssl import SimCLR, report
from stable_ssl.tools.serve import Handler

webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
Select = pytest.importorskip("selenium.webdriver.support.select").Select
METRIC = "val/knn_acc1"


@pytest.fixture(scope="module")
def chromium():
    names = ("chromium", "chromium-browser", "google-chrome")
    binary = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for option in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{option}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.add_argument("--window-size=1400,1000")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    browser = webdriver.Chrome(options=options, service=service)
    yield browser
    browser.quit()


@pytest.fixture
def visit(chromium, tmp_path):
    """Return a maker of the page of tmp_path, opened; its console must stay empty."""

    def opened():
        path = report.page(tmp_path, out=tmp_path / "page.html")
        chromium.get_log("browser")
        chromium.get(path.as_uri())
        page = Page(chromium)
        page.settle()
        return page

    yield opened
    assert chromium.get_log("browser") == []
    names = "performance.getEntriesByType('resource').map(entry => entry.name)"
    loaded = chromium.execute_script(f"return {names}")
    assert [name for name in loaded if not name.startswith("data:")] == []


class Page:
    """What a reader sees and does."""

    def __init__(self, browser):
        self.browser = browser

    def js(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def one(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def settle(self):
        """Wait until what was asked for is drawn."""
        self.browser.execute_async_script(
            "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
        )

    def shown(self):
        """Return the names of the rows that are shown, in order."""
        return self.js(
            "return [...document.querySelectorAll('#table tbody tr')]"
            ".filter(row => row.offsetParent).map(row => row.dataset.run)"
        )

    def column(self, name):
        """Return the cells of a column that are shown."""
        return self.js(
            "const heads = [...document.querySelectorAll('#table thead th')];"
            "const i = heads.findIndex(head => head.dataset.column === arguments[0]);"
            "return [...document.querySelectorAll('#table tbody tr')]"
            ".filter(row => row.offsetParent).map(row => row.children[i].innerText)",
            name,
        )

    def sort(self, name):
        self.one(f"#table th[data-column='{name}'] button:last-child").click()

    def filter(self, text):
        box = self.one("#filter")
        box.clear()
        box.send_keys(text, " ")

    def tick(self, *names):
        """Tick these runs and no others."""
        self.one("#untick").click()
        for name in names:
            self.one(f"tr[data-run='{name}'] input").click()
        self.settle()

    def choose(self, selector, value):
        Select(self.one(selector)).select_by_value(value)
        self.settle()

    def lines(self, panel=0):
        return self.all("#panels .panel")[panel].find_elements(
            By.CSS_SELECTOR, "path.line:not(.raw)"
        )

    def read(self, panel, *keys):
        """Return what a chart says after these keys: x, then {name of a run: value}."""
        names = dict(self.js("return runs.map(run => [run.label, run.name])"))
        chart = self.all("#panels .panel")[panel]
        svg = chart.find_element(By.CSS_SELECTOR, "svg.chart")
        self.js("arguments[0].focus()", svg)
        svg.send_keys(*keys)
        x, *values = chart.find_elements(By.CSS_SELECTOR, ".reading > div")
        pairs = [value.text.split("\n") for value in values]
        return x.text, {names.get(pair[0], pair[0]): pair[-1] for pair in pairs}


def make_runs(make_run, n, rows=20):
    """Write n runs: five learning rates, four seeds each, and accuracies that rise."""
    for i in range(n):
        lr, seed = (0.03, 0.1, 0.3, 1.0, 3.0)[i // 4 % 5], i % 4
        written = []
        for k in range(1, rows + 1):
            row = {"step": 10 * k, "epoch": k / 2, "time": 1.8e9 + 60 * k}
            row |= {"train/loss": 5 / k + i / n, "train/lr": lr / k}
            written.append(row | ({} if k % 2 else {METRIC: accuracy(i, k, n, rows)}))
        make_run(f"r{i:03d}", rows=written, lr=lr, seed=seed)


def accuracy(i, k, n, rows):
    return 0.5 + 0.3 * i / n + 0.1 * k / rows


# --- at 2, 20 and 300 runs ------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 20, 300])
def test_all_runs_are_sorted_filtered_ticked_and_drawn(make_run, visit, n):
    make_runs(make_run, n)
    page = visit()
    best_first = [f"r{i:03d}" for i in reversed(range(n))]
    assert page.shown() == best_first
    assert page.column(METRIC)[0] == f"{100 * accuracy(n - 1, 20, n, 20):.2f}"
    page.sort("run")
    assert page.shown() == best_first[::-1]
    page.sort("run")
    assert page.shown() == best_first
    page.sort("train/loss")  # the best first is the least
    assert page.shown()[0] == "r000"
    page.filter("seed=1")
    assert page.shown() == [f"r{i:03d}" for i in range(n) if i % 4 == 1]
    page.filter("")
    page.one("#all").click()
    page.settle()
    if page.one("#shown").text.endswith(" 0 ticked"):  # where all were ticked before
        page.one("#all").click()
        page.settle()
    assert [len(page.lines(panel)) for panel in (0, 1)] == [n, n]
    x, values = page.read(1, Keys.END)
    assert x == "epoch 10"
    assert values[f"r{n - 1:03d}"] == f"{100 * accuracy(n - 1, 20, n, 20):.2f}"
    assert len(values) == min(n, 9)  # eight, and how many more
    assert page.js("return document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
def test_three_hundred_runs_of_a_thousand_rows(make_run, visit, tmp_path):
    make_runs(make_run, 300, rows=1000)
    start = time.monotonic()
    page = visit()
    page.settle()
    seconds = time.monotonic() - start
    size = (tmp_path / "page.html").stat().st_size
    page.one("#all").click()
    page.settle()
    start = time.monotonic()
    page.choose("#x", "step")
    drawn = time.monotonic() - start
    print(f"{size / 1e6:.1f} MB, {seconds:.1f} s, drawn again in {drawn:.2f} s")
    assert len(page.lines(0)) == 300
    assert size < 20e6 and seconds < 60 and drawn < 10
    assert "thinned" in page.one("#about").text


# --- table ----------------------------------------------------------------------------


def test_filters_know_columns_words_statuses_and_per_cent(make_run, visit):
    make_runs(make_run, 20)
    make_run("broken", status="failed", rows=[], lr=7, seed=9)
    page = visit()
    for text, wanted in [
        ("lr>=1 seed=0", ["r012", "r016"]),
        ("optim.lr=0.03 seed!=0", ["r001", "r002", "r003"]),
        ("knn_acc1>88", ["r019"]),
        ("knn_acc1>0.88", ["r019"]),
        ("BROKEN", ["broken"]),
        ("status=failed", ["broken"]),
        ("model.name=simclr seed=9", ["broken"]),  # a key that all runs share
        ("name=byol", []),
        ("lr>2 nonsense", []),
    ]:
        page.filter(text)
        assert sorted(page.shown()) == wanted, text
    assert page.one("#shown").text.startswith("0 of 21 runs shown")
    page.filter("")
    (failed,) = [chip for chip in page.all("#statuses button") if "failed" in chip.text]
    failed.click()
    assert page.shown() == ["broken"]


def test_sorting_is_by_value_and_the_missing_come_last(make_run, visit):
    for name, lr in [("a", 1e-4), ("b", 30), ("c", 0.5), ("d", None)]:
        make_run(name, lr=lr)
    page = visit()
    page.sort("optim.lr")
    assert page.shown() == ["a", "c", "b", "d"]
    page.sort("optim.lr")
    assert page.shown() == ["b", "c", "a", "d"]
    head = page.one("#table th[data-column='optim.lr']")
    assert head.get_attribute("aria-sort") == "descending"


def test_columns_are_chosen_and_only_keys_that_differ_are_offered(make_run, visit):
    make_runs(make_run, 8)
    page = visit()
    page.one("#columns summary").click()
    offered = [label.text for label in page.all("#columns label")]
    assert {"optim.lr", "hardware.seed", METRIC} <= set(offered)
    assert not {"model.name", "log.run"} & set(offered)
    assert page.column("optim.lr") == ["0.1"] * 4 + ["0.03"] * 4
    assert not page.all("#table th[data-column='train/lr']")
    box = next(
        label for label in page.all("#columns label") if label.text == "train/lr"
    )
    box.click()
    assert page.all("#table th[data-column='train/lr']")


def test_shift_ticks_a_range(make_run, visit):
    make_runs(make_run, 20)
    page = visit()
    page.tick("r015")
    page.js(
        "document.querySelector(\"tr[data-run='r005'] input\").dispatchEvent("
        "new MouseEvent('click', {shiftKey: true, bubbles: true, cancelable: true}))"
    )
    assert page.one("#shown").text.endswith("11 ticked")


# --- curves ---------------------------------------------------------------------------


def test_curves_have_the_values_of_the_rows(make_run, visit):
    make_runs(make_run, 20)
    page = visit()
    page.tick("r003", "r007")
    assert page.read(1, Keys.HOME) == ("epoch 1", {"r007": "61.50", "r003": "55.50"})
    assert page.read(0, Keys.HOME) == ("epoch 0.5", {"r007": "5.35", "r003": "5.15"})
    assert page.read(0, Keys.ARROW_RIGHT)[0] == "epoch 1"
    page.choose("#x", "step")
    assert page.read(0, Keys.END)[0] == "step 200"
    page.choose("#x", "time")
    assert page.read(0, Keys.END)[0] == "time 19 min"
    page.choose("#panels .panel select", "train/lr")
    assert page.read(0, Keys.HOME)[1] == {"r003": "0.03", "r007": "0.1"}


def test_lines_are_drawn_where_their_values_are(make_run, visit):
    rows = [{"step": k, "epoch": k, "time": k, "train/loss": 10.0**k} for k in range(4)]
    make_run(rows=rows)
    page = visit()

    def heights():
        dots = page.all("#panels .dot")
        return [float(dot.get_attribute("cy")) for dot in dots]

    first, second, third, last = heights()
    assert (first - second) / (first - last) == pytest.approx(9 / 999, abs=0.002)
    page.one(".panel label input").click()  # log
    page.settle()
    first, second, third, last = heights()
    assert first - second == pytest.approx(third - last, abs=0.2)
    assert first - second == pytest.approx(second - third, abs=0.2)


def test_a_gap_is_not_drawn_over(make_run, visit):
    losses = [3.0, 2.0, None, None, 1.0, 0.5]
    rows = [
        {"step": k, "epoch": k, "time": k, "train/loss": loss}
        for k, loss in enumerate(losses, 1)
    ]
    make_run(rows=rows)
    (line,) = visit().lines()
    assert [part.count("L") for part in line.get_attribute("d").split("M")[1:]] == [
        1,
        1,
    ]


def test_smoothing_is_an_exponential_mean(make_run, visit):
    rows = [
        {"step": k, "epoch": k, "time": k, "train/loss": v}
        for k, v in [(1, 4.0), (2, 0.0), (3, 2.0)]
    ]
    make_run(rows=rows)
    page = visit()
    page.js(
        "const range = document.querySelector('#smooth'); range.value = 0.5;"
        "range.dispatchEvent(new Event('input'))"
    )
    page.settle()
    weights = 0.25, 0.5, 1.0
    mean = (4 * weights[0] + 2 * weights[2]) / sum(weights)
    assert page.read(0, Keys.END)[1] == {"a": f"{mean:.4g}"}
    assert len(page.all("#panels .raw")) == 1


def test_bands_are_mean_and_deviation_over_seeds(make_run, visit):
    losses = {("a", 0.1, 0): 1.0, ("b", 0.1, 1): 2.0, ("c", 0.1, 2): 6.0}
    for (name, lr, seed), loss in ({**losses, ("d", 0.3, 0): 5.0}).items():
        rows = [
            {"step": k, "epoch": k, "time": k, "train/loss": loss * k} for k in (1, 2)
        ]
        make_run(name, rows=rows, lr=lr, seed=seed)
    page = visit()
    page.one("#mean").click()
    page.settle()
    x, values = page.read(0, Keys.END)
    spread = (2 * (4 + 1 + 9) / 1) ** 0.5  # of 2, 4, 12 with n - 1
    assert values == {
        "optim.lr 0.1 (n=3)": f"6 ± {spread:.4g}",
        "optim.lr 0.3 (n=1)": "10",
    }
    assert len(page.all("#panels .band")) == 1


def test_colours_follow_a_key(make_run, visit):
    make_runs(make_run, 20)
    page = visit()
    page.one("#all").click()
    page.choose("#colour", "optim.lr")
    hue = "return arguments[0].style.getPropertyValue('--hue')"
    hues = {page.js(hue, line) for line in page.lines(0)}
    assert len(hues) == 5
    legend = [item.text for item in page.all("#legend > span")]
    assert legend == [f"optim.lr {lr}" for lr in ("0.03", "0.1", "0.3", "1", "3")]


def test_the_legend_names_few_keys_that_tell_the_runs_apart(make_run, visit):
    long = ["crop", "flip", "colour jitter", "blur", "noise"]
    for name, lr, seed, views in [
        ("a", 0.1, 0, 1),
        ("b", 0.1, 1, long),
        ("c", 0.3, 0, 1),
    ]:
        make_run(name, lr=lr, seed=seed, views=views, twin_of_lr=2 * lr)
    page = visit()
    legend = {item.text.splitlines()[0] for item in page.all("#legend > span")}
    assert legend == {
        "optim.lr=0.1 seed=0",
        "optim.lr=0.1 seed=1",
        "optim.lr=0.3 seed=0",
    }
    shown = [head.text for head in page.all("#table thead th")]
    assert shown[:4] == ["run", "status", "optim.lr", "seed"]
    assert "twin_of_lr" not in shown


# --- differences, pictures, reproduce -------------------------------------------------


def test_differences_of_ticked_runs(make_run, visit):
    for name, lr, torch in [("a", 0.1, "2.14"), ("b", 0.3, "2.15"), ("c", 0.3, "2.15")]:
        launch = {"argv": ["main.py"], "host": "h", "packages": {"torch": torch}}
        folder = make_run(name, lr=lr)
        (folder / "environment.json").write_text(json.dumps([launch]))
    page = visit()

    def rows():
        found = page.all("#differences tbody tr, #differences .muted")
        return [row.text for row in found]

    page.tick("a", "b")  # one key: the runs stand below one another
    assert rows() == ["a 0.1", "b 0.3", "a 2.14", "b 2.15"]
    page.tick("b", "c")
    assert rows() == ["no difference", "no difference"]
    page.one("#all-keys").click()
    assert "model.name simclr simclr" in rows()
    assert "host h h" in rows()
    page.tick("a")
    assert "Tick two runs" in page.one("#differences").text


def test_hostile_words_are_shown_as_they_are(make_run, visit):
    evil = '</script><img src=x onerror="document.title=1"> & "quotes"'
    folder = make_run("a", evil=evil)
    (folder / "status.json").write_text(
        json.dumps({"status": "failed", "reason": evil})
    )
    make_run("<b>bold<b>")
    page = visit()
    assert page.browser.title == "2 runs, stable-SSL"
    assert evil in page.one("#reasons").text
    said = page.one("#differences").text
    assert "log.eval.evil" in said and evil in said
    assert "<b>bold<b>" in page.shown()
    assert not page.all("img[src=x], #table b")


def test_a_real_run_is_shown_with_its_values_pictures_and_command(
    config, visit, tmp_path
):
    small = ["optim.epochs=1", "optim.steps_per_epoch=4", "data.batch_size=32"]
    small += ["log.every_n_steps=1", "log.pictures.every_n_epochs=1"]
    trainer = SimCLR(config("simclr", *small))
    trainer.run()
    folder = trainer.run_dir
    rows = report.read_rows(folder)
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    (val,) = [row["val/acc1"] for row in rows if "val/acc1" in row]
    page = visit()
    assert page.shown() == ["run"]
    assert page.column("val/acc1") == [f"{100 * val:.2f}"]
    assert len(losses) == 4
    for key, loss in [(Keys.HOME, losses[0]), (Keys.END, losses[-1])]:
        (value,) = page.read(0, key)[1].values()
        assert float(value) == pytest.approx(loss, rel=1e-3)
    names = [head.text for head in page.all("#pictures h3")]
    assert names == ["features", "neighbours", "views"]
    assert page.js("return document.querySelector('.pictures img').naturalWidth") > 0
    page.one(".pictures button").click()
    assert page.js("return document.querySelector('#large').open")
    page.one("#large").send_keys(Keys.ESCAPE)
    page.one(".card summary").click()
    card = page.one(".card").text
    assert f"stable-ssl rerun {folder.resolve()}" in card
    environment = json.loads((folder / "environment.json").read_text())[-1]
    assert environment["packages"]["torch"] in card
    assert environment["host"] in card


def test_a_served_page_goes_on_as_it_was_left(chromium, make_run, tmp_path):
    make_run("a", lr=0.1), make_run("b", lr=0.3)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, [tmp_path]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        chromium.get(f"http://127.0.0.1:{server.server_port}/")
        page = Page(chromium)
        page.settle()
        chromium.find_element(By.ID, "untick").click()
        box = chromium.find_element(By.ID, "filter")
        box.send_keys("lr=0.3")
        make_run("c", lr=0.5)
        chromium.refresh()
        page.settle()
        ticked = "return [...state.ticked.keys()].length"
        assert chromium.execute_script(ticked) == 0
        assert chromium.find_element(By.ID, "filter").get_attribute("value") == "lr=0.3"
        assert "3 runs" in chromium.title
    finally:
        server.shutdown()
        server.server_close()
