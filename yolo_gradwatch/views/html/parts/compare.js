"use strict";

// The figure comes from Python. Here is what depends on the reader: the rows that are chosen, the
// layout for the width of the window, and the numbers below the pointer.

const runs = JSON.parse(document.getElementById("runs").textContent);
const plot = document.getElementById("plot");
const tip = document.getElementById("tip");
const NARROW = 760; // pixels
let view, levels, covers, isNarrow;

// An array as Plotly for Python packs it.
function unpacked({ dtype, bdata }) {
  const bytes = Uint8Array.from(atob(bdata), (letter) => letter.charCodeAt(0));
  return dtype === "u1" ? bytes : new Float32Array(bytes.buffer);
}

const buttons = [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]];
const options = { responsive: true, displaylogo: false, modeBarButtons: buttons };

function draw() {
  const rows = document.querySelector("input[name=rows]:checked").value;
  for (const legend of document.querySelectorAll("#states p")) legend.hidden = legend.dataset.rows !== rows;
  view = runs.views[rows];
  isNarrow = window.innerWidth < NARROW;
  const { data, ...layouts } = structuredClone(view.figure); // Plotly changes what it draws
  [levels, covers] = [data.slice(0, 3), data.slice(3)].map((traces) => traces.map(({ z }) => unpacked(z)));
  const { bars, ...layout } = layouts[isNarrow ? "narrow" : "wide"];
  for (const [trace, [x, y, len]] of Object.entries(bars)) Object.assign(data[trace].colorbar, { x, y, len, xanchor: "left", yanchor: "top" });
  Plotly.react(plot, data, layout, { ...options, displayModeBar: !isNarrow });
}

// As one writes them: 0.00125, 1.00, 1,230, and 1.23e+7.
function threeDigits(number) {
  const digits = number.toPrecision(3);
  return number < 999.5 || number >= 1e7 ? digits : Number(digits).toLocaleString("en");
}

function words({ pointNumber: [row, column] }) {
  const cell = row * runs.columns + column;
  const share = (column + 0.5) / runs.columns;
  const lines = runs.sides.map(({ letter, planned, begin, end }, side) => {
    const epoch = planned && begin <= share && share <= end ? `, epoch ${Math.ceil(share * planned)} of ${planned}` : "";
    const level = levels[side][cell];
    const cover = runs.covers[covers[side][cell]];
    return `${letter}: ${Number.isNaN(level) ? cover || "no norm" : `norm ${threeDigits(10 ** level)}`}${epoch}`;
  });
  const apart = levels[2][cell];
  const times = threeDigits(10 ** Math.abs(apart));
  const far = Number.isNaN(apart) ? [] : [`B is ${times} times ${apart < 0 ? "weaker" : "stronger"}`];
  const found = view.marks.filter((mark) => mark.rows.includes(row) && mark.begin <= share && share <= mark.end);
  return [view.labels[row], `at ${(100 * share).toFixed(1)}% of the training`, ...lines, ...far, ...found.map(({ text }) => text)];
}

function hover({ points, event }) {
  tip.textContent = words(points[0]).join("\n");
  tip.hidden = false;
  const left = Math.min((event.clientX || 0) + 14, window.innerWidth - tip.offsetWidth - 8);
  const top = Math.min((event.clientY || 0) + 14, window.innerHeight - tip.offsetHeight - 8);
  tip.style.left = `${Math.max(left, 0)}px`;
  tip.style.top = `${Math.max(top, 0)}px`;
}

if (runs.isTrained) {
  draw();
  plot.on("plotly_hover", hover);
  plot.on("plotly_unhover", () => { tip.hidden = true; });
  for (const choice of document.querySelectorAll("input[name=rows]")) choice.addEventListener("change", draw);
  window.addEventListener("resize", () => { if (isNarrow !== window.innerWidth < NARROW) draw(); });
} else {
  plot.textContent = "no optimizer step was watched";
}
