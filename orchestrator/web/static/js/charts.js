// Charts to zoom into: uPlot over the JSON of the page, with the moments of the training as lines.
"use strict";
(() => {
  const board = document.querySelector("[data-charts]");
  if (!board || typeof uPlot === "undefined") return;
  const REFRESH_MS = 2000;
  const DASHES = [[], [6, 3], [2, 2], [8, 3, 2, 3], [4, 2], [1, 2]];
  const TONES = { checkpoint: "--made", restart: "--lost", skip: "--warned" };
  const sync = uPlot.sync("steps");
  const plots = new Map();
  let view = null, timer = 0, range = null;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
  const large = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

  function short(value) {
    const size = Math.abs(value ?? 0);
    if (value == null) return "";
    if (value !== 0 && size < 1e-4) return value.toExponential(1);
    return size >= 1e6 ? large.format(value) : size >= 1000 ? whole.format(value) : String(Number(value.toPrecision(4)));
  }

  function columns(chart) {
    const steps = [...new Set(chart.curves.flatMap((curve) => curve.samples.steps))].sort((a, b) => a - b);
    const at = new Map(steps.map((step, index) => [step, index]));
    const data = [steps];
    for (const curve of chart.curves) {
      for (const part of ["means", "lows", "highs"]) {
        const column = new Array(steps.length).fill(undefined);
        curve.samples.steps.forEach((step, index) => { column[at.get(step)] = Number(curve.samples[part][index]); });
        data.push(column);
      }
    }
    return data;
  }

  function drawMarks(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    for (const mark of view.marks) {
      const x = Math.round(plot.valToPos(mark.step, "x", true)) + 0.5;
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = colour(TONES[mark.kind] || "--failed");
      ctx.lineWidth = devicePixelRatio;
      ctx.setLineDash(mark.kind === "checkpoint" ? [1, 4] : [4, 3]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  function options(chart, holder) {
    const line = colour("--line"), text = colour("--muted");
    const axis = { stroke: text, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "11px " + getComputedStyle(document.body).fontFamily };
    const series = [{}], bands = [];
    chart.curves.forEach((curve, index) => {
      const look = index % DASHES.length;
      const stroke = colour(`--series-${look + 1}`);
      series.push({ label: curve.metric, stroke, width: 1.5, dash: DASHES[look].length ? DASHES[look] : undefined, points: { show: curve.samples.steps.length === 1 }, spanGaps: true });
      series.push({ stroke: "transparent", points: { show: false }, spanGaps: true }, { stroke: "transparent", points: { show: false }, spanGaps: true });
      bands.push({ series: [3 * index + 3, 3 * index + 2], fill: stroke + "22" });
    });
    return {
      width: holder.clientWidth, height: holder.clientHeight || 200, padding: [8, 10, 0, 0],
      legend: { show: false }, series, bands,
      scales: { x: { time: false, range: (_plot, low, high) => range || [low, high === low ? low + 1 : high] }, y: { distr: chart.is_log ? 3 : 1 } },
      axes: [{ ...axis, size: 26, values: (_plot, values) => values.map((value) => value.toLocaleString("en")) }, { ...axis, size: 54, values: (_plot, values) => values.map(short) }],
      cursor: { sync: { key: sync.key }, drag: { x: true, y: false } },
      hooks: { draw: [drawMarks], setSelect: [zoomed], setCursor: [(plot) => values(plot, chart, holder)], ready: [(plot) => plot.over.addEventListener("click", () => opened(plot))] },
    };
  }

  function values(plot, chart, holder) {
    const index = plot.cursor.idx;
    chart.curves.forEach((curve, number) => {
      const target = holder.parentElement.querySelector(`[data-value="${CSS.escape(curve.metric)}"]`);
      if (target) target.textContent = short(index == null ? Number(curve.samples.last) : plot.data[3 * number + 1][index]);
    });
  }

  function zoomed(plot) {
    if (plot.select.width < 4) return;
    range = [plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x")];
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    redraw();
  }

  function opened(plot) {
    if (plot.cursor.idx == null || range?.justSet) return;
    location.assign(board.dataset.steps + plot.data[0][plot.cursor.idx]);
  }

  function redraw() {
    for (const { plot } of plots.values()) plot.setData(plot.data, true);
    const button = document.getElementById("zoom-out");
    if (button) button.disabled = !range;
  }

  function draw() {
    for (const chart of view.charts) {
      const holder = document.querySelector(`[data-chart="${CSS.escape(chart.title)}"] .plot`);
      if (!holder) continue;
      const known = plots.get(chart.title);
      const data = columns(chart);
      if (known && known.names === chart.curves.map((curve) => curve.metric).join() && known.holder === holder) {
        Object.assign(known.chart, chart);
        known.plot.setData(data, true);
        continue;
      }
      known?.plot.destroy();
      holder.replaceChildren();
      const plot = new uPlot(options(chart, holder), data, holder);
      plot.root.setAttribute("aria-hidden", "true"); // the legend and the table of moments say it in words
      plots.set(chart.title, { plot, holder, chart, names: chart.curves.map((curve) => curve.metric).join() });
    }
    board.dataset.drawn = String(plots.size);
  }

  async function load() {
    const answer = await fetch(board.dataset.charts, { headers: { Accept: "application/json" } }).catch(() => null);
    if (!answer?.ok) return;
    view = await answer.json();
    draw();
    if (!view.is_complete) later();
  }

  function later() {
    if (timer) return;
    timer = setTimeout(() => { timer = 0; load(); }, REFRESH_MS);
  }

  function restart() {
    for (const { plot, holder } of plots.values()) { plot.destroy(); holder.replaceChildren(); }
    plots.clear();
    if (view) draw();
  }

  document.addEventListener("click", (event) => {
    if (event.target.id !== "zoom-out") return;
    range = null;
    redraw();
  });
  new ResizeObserver(() => { for (const { plot, holder } of plots.values()) plot.setSize({ width: holder.clientWidth, height: holder.clientHeight || 200 }); }).observe(board);
  document.addEventListener("illume:theme", restart);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restart);
  document.addEventListener("illume:event", later);
  document.addEventListener("illume:refreshed", later);
  load();
})();
