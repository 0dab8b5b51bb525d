// The figure comes from Python. Here is what depends on the reader: the rows that are chosen, the
// layout for the width of the window, and the numbers below the pointer.

const runs = JSON.parse(document.getElementById("runs").textContent);
const NARROW = 760; // pixels
let view, levels, covers, isNarrow;

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

if (runs.isTrained) {
  draw();
  plot.on("plotly_hover", hover);
  plot.on("plotly_unhover", () => { tip.hidden = true; });
  for (const choice of document.querySelectorAll("input[name=rows]")) choice.addEventListener("change", draw);
  window.addEventListener("resize", () => { if (isNarrow !== window.innerWidth < NARROW) draw(); });
} else {
  plot.textContent = "no optimizer step was watched";
}
