"""The README's table and figure of what the benchmarks measured."""

from stable_ssl.tools.style import COLOURS, GREY, styled

BEGIN, END = ".. benchmarks: begin\n", ".. benchmarks: end\n"  # in the README


def headlines(found):
    """Return the figures that lead, of all benchmarks."""
    parts = found["benchmarks"].values()
    return [
        figure for part in parts for figure in part["figures"] if figure["headline"]
    ]


def redrawn(readme, found):
    """Return the README's text with the table of these figures."""
    rows = {}
    for figure in headlines(found):
        value = figure["value"]
        digits = 0 if value >= 100 else 1 if value >= 10 else 2
        ours = f"{value:,.{digits}f} {figure['unit']}"
        beside = f"{figure['ahead']:.2f} {figure['beside']}"
        rows.setdefault((figure["what"], ours), []).append(beside)
    lines = [".. list-table::", "   :header-rows: 1", ""]
    lines += ["   * - work", "     - ours", "     - times as fast as"]
    for (what, ours), beside in rows.items():
        lines += [f"   * - {what}", f"     - {ours}", f"     - {'; '.join(beside)}"]
    head = f"On {found['machine']}, ``python -m benchmarks``:"
    before, _, rest = readme.partition(BEGIN)
    table = "\n".join([head, "", *lines, ""])
    return f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}"


def draw_figure(found, path):
    """Draw how many times as fast ours is: a line a piece of work, a mark another."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator

    figures = headlines(found)
    works = list(dict.fromkeys(figure["what"] for figure in figures))[::-1]
    with styled():
        canvas = Figure((7, 0.6 + 0.34 * len(works)), layout="constrained")
        axes = canvas.subplots()
        axes.axvline(1, color=GREY, linewidth=0.8)
        for line, work in enumerate(works):
            of = [figure for figure in figures if figure["what"] == work]
            of.sort(key=lambda figure: figure["ahead"])
            ahead = [figure["ahead"] for figure in of]
            axes.plot(ahead, [line] * len(of), "o", color=COLOURS[0], markersize=4)
            for number, figure in enumerate(of):  # above and below by turns
                side = {"va": "top", "xytext": (0, -4)}
                if number % 2 == 0:
                    side = {"va": "bottom", "xytext": (0, 3)}
                look = {"textcoords": "offset points", "ha": "center", "fontsize": 6}
                axes.annotate(figure["beside"], (figure["ahead"], line), **side, **look)
        axes.set_xscale("log")
        ticks = (0.25, 0.5, 1, 2, 4, 8)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xlim(0.38, 9)
        axes.set_xlabel("times as fast as the other")
        axes.set_yticks(range(len(works)), works)
        canvas.savefig(path, dpi=200)
