// Draws the table of periods, which says the same without a script.
"use strict";

const chart = document.getElementById("chart");
const rows = Array.from(document.querySelectorAll("#periods tbody tr"));
const series = JSON.parse(chart.dataset.series);
const style = getComputedStyle(document.documentElement);
const ink = style.getPropertyValue("--soft").trim();
const line = style.getPropertyValue("--line").trim();
const colours = ["--accent", "--fulfillment", "--payment", "--return", "--notification"].map((name) => style.getPropertyValue(name).trim());

function day(seconds) {
  return new Date(seconds * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
}

function drawn(width) {
  const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line }, font: "12px system-ui" };
  return {
    width,
    height: 260,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
    cursor: { drag: { x: false, y: false } },
    scales: { y: { range: (_, __, highest) => [0, Math.max(highest, series[0].least) * 1.08] } },
    axes: [{ ...axis, values: (_, ticks) => ticks.map(day) }, { ...axis, size: 64, values: (_, ticks) => ticks.map((tick) => `${tick}${series[0].unit}`) }],
    series: [
      { label: "From", value: (_, seconds) => (seconds ? day(seconds) : "–") },
      ...series.map(({ label, unit }, n) => ({
        label,
        stroke: colours[n],
        width: 2,
        points: { show: true, size: 7, fill: colours[n] },
        value: (_, value) => (value === null ? "–" : `${Number(value.toFixed(2))}${unit}`),
      })),
    ],
  };
}

const data = [rows.map((row) => Number(row.dataset.at)), ...series.map(({ values }) => values)];
chart.hidden = false;
const plot = new uPlot(drawn(chart.clientWidth), data, chart);
new ResizeObserver(() => plot.setSize({ width: chart.clientWidth, height: 260 })).observe(chart);
