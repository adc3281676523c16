/** The plot: bars of events received, by dialect, over the last two minutes. Hides uPlot. */

/** As much of uPlot, which has a script tag of its own, as is used here. */
interface Plot {
  setData(columns: number[][]): void;
  setSize(size: { width: number; height: number }): void;
  destroy(): void;
}
declare const uPlot: {
  new (options: object, columns: number[][], target: HTMLElement): Plot;
  paths: { bars(options: object): unknown };
};

const BIN_SECONDS = 2;
const BINS = 60;
const HEIGHT = 110;
const TICK_MS = 1_000;
/** For who wants less motion: what is there moves on by ten seconds at a time. */
const CALM_TICK_MS = 10_000;

interface Rates {
  /** Count events received at a time in ms; one out of sight counts as now. */
  count(dialect: string, atMs: number, number: number): void;
}

/** Draw into an element, one series for each dialect, in the colours `--dialect` of the style sheet. */
export function createPlot(target: HTMLElement, dialects: readonly string[]): Rates {
  // By dialect, by the number of its bin since the epoch.
  const bins = dialects.map(() => new Map<number, number>());
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  let plot = make();
  let due = false;
  let timer = 0;

  function make(): Plot {
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string): string => style.getPropertyValue(name).trim();
    const axis = {
      stroke: colour("--muted"),
      font: "12px " + getComputedStyle(document.body).fontFamily,
      ticks: { show: false },
    };
    const grid = { stroke: colour("--line"), width: 1 };
    return new uPlot(
      {
        width: target.clientWidth,
        height: HEIGHT,
        legend: { show: false },
        cursor: { show: false },
        padding: [8, 14, 0, 0],
        scales: {
          x: { time: false, range: [-BINS * BIN_SECONDS, BIN_SECONDS] },
          // One event alone is no peak.
          y: { range: (_: unknown, __: number, most: number) => [0, Math.max(4, most * 1.1)] },
        },
        axes: [
          {
            ...axis,
            grid: { show: false },
            size: 24,
            splits: () => [-120, -90, -60, -30, 0],
            values: () => ["", "90 s ago", "60 s", "30 s", "now"],
          },
          { ...axis, grid, space: 36, size: 28, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000] },
        ],
        series: [
          {},
          ...dialects.map((dialect) => ({
            fill: colour(`--${dialect}`),
            width: 0,
            points: { show: false },
            paths: uPlot.paths.bars({ size: [0.72], align: 1 }),
          })),
        ],
      },
      columns(),
      target,
    );
  }

  /** Seconds from now, and for each dialect what is to be drawn up to: its own events and those of all after it. */
  function columns(): number[][] {
    const last = Math.floor(Date.now() / 1000 / BIN_SECONDS);
    const numbers = Array.from({ length: BINS + 1 }, (_, index) => last - BINS + index);
    let above = numbers.map(() => 0);
    const stacked = [...bins]
      .reverse()
      .map((bin) => (above = numbers.map((number, index) => above[index]! + (bin.get(number) ?? 0))));
    return [numbers.map((number) => (number - last) * BIN_SECONDS), ...stacked.reverse()];
  }

  function draw(): void {
    clearTimeout(timer);
    timer = setTimeout(draw, calm.matches ? CALM_TICK_MS : TICK_MS);
    due = false;
    if (document.visibilityState === "hidden") return;
    const first = Math.floor(Date.now() / 1000 / BIN_SECONDS) - BINS;
    for (const bin of bins) for (const number of bin.keys()) if (number < first) bin.delete(number);
    plot.setData(columns());
  }

  function makeAnew(): void {
    plot.destroy();
    plot = make();
    draw();
  }

  dark.addEventListener("change", makeAnew);
  new ResizeObserver(() => plot.setSize({ width: target.clientWidth, height: HEIGHT })).observe(target);
  draw();

  return {
    count(dialect, atMs, number) {
      const now = Date.now();
      const seen = Math.abs(now - atMs) < BINS * BIN_SECONDS * 1000 ? Math.min(atMs, now) : now;
      const key = Math.floor(seen / 1000 / BIN_SECONDS);
      const bin = bins[dialects.indexOf(dialect)] ?? bins[bins.length - 1]!;
      bin.set(key, (bin.get(key) ?? 0) + number);
      if (!due) {
        due = true;
        requestAnimationFrame(draw);
      }
    },
  };
}
