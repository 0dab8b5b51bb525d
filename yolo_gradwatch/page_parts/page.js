"use strict";

const run = JSON.parse(document.getElementById("run").textContent);
const windows = run.first.length;
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
const norms = new Float32Array(bytes(run.norms));
const states = new Uint8Array(bytes(run.states));
const totals = new Float32Array(bytes(run.totals));
const plot = document.getElementById("plot");
const filter = document.getElementById("filter");
let view = run.views.blocks;

// Plotly reads a few tags and formulas in its labels; a name from a file is neither.
const plain = (name) => name.replace(/[&<>$]/g, (sign) => `&#${sign.charCodeAt(0)};`);
const finite = (value) => (Number.isFinite(value) && value > 0 ? value : null);
const power = (level) => `1e${level < 0 ? "-" : "+"}${Math.abs(level)}`;

function steps(column) {
  const [first, last] = [run.first[column], run.last[column]];
  return first === last ? `step ${first}` : `steps ${first} to ${last}`;
}

function cells(value) {
  return view.rows.map((row) =>
    Array.from({ length: windows }, (_, column) => value(row * windows + column))
  );
}

function heat(top) {
  const z = cells((cell) => (states[cell] === 0 ? Math.log10(norms[cell]) : null));
  let low = Infinity;
  let high = -Infinity;
  for (const level of z.flat()) {
    if (!Number.isFinite(level)) continue;
    low = Math.min(low, level);
    high = Math.max(high, level);
  }
  if (low > high) [low, high] = [-1, 1];
  const spare = Math.max(2 - (high - low), 0) / 2;
  const ticks = [];
  const apart = Math.ceil((high - low) / 8) || 1;
  for (let tick = Math.ceil(low); tick <= high; tick += apart) ticks.push(tick);
  return {
    type: "heatmap", z, zmin: low - spare, zmax: high + spare, colorscale: "Viridis", hoverinfo: "none",
    colorbar: {
      title: { text: "norm (L2)" }, tickvals: ticks, ticktext: ticks.map(power), thickness: 14,
      lenmode: "pixels", len: 240, y: top, yanchor: "top",
    },
  };
}

function withoutNorm() {
  const scale = run.states_known.flatMap(({ colour }, i, all) => [
    [i / all.length, colour],
    [(i + 1) / all.length, colour],
  ]);
  return {
    type: "heatmap", z: cells((cell) => states[cell] || null), zmin: 0.5,
    zmax: run.states_known.length + 0.5, colorscale: scale, showscale: false, hoverinfo: "none",
  };
}

function total() {
  const rows = [0, 1, 2].map((row) => Array.from(totals.subarray(row * windows, (row + 1) * windows), finite));
  const line = (y, more) => ({
    type: "scatter", mode: windows > 1 ? "lines" : "markers", y, yaxis: "y2", hoverinfo: "none",
    showlegend: false, line: { shape: "hvh", width: 0 }, ...more,
  });
  return [
    line(rows[0]),
    line(rows[2], { fill: "tonexty", fillcolor: "#9ecae1" }),
    line(rows[1], { line: { shape: "hvh", width: 1.2, color: "#08519c" }, marker: { color: "#08519c" } }),
  ];
}

function marks() {
  const shapes = [];
  const annotations = [];
  for (const mark of view.marks) {
    const place = { x: mark.first, font: { color: "#fff", size: 10 }, bgcolor: mark.colour, showarrow: false };
    const text = String(mark.number);
    if (mark.rows.length === 0) {
      const height = Math.log10(finite(totals[windows + mark.first]) || run.clip);
      annotations.push({ ...place, text, y: height, yref: "y2" });
      continue;
    }
    shapes.push({
      type: "rect", x0: mark.first - 0.5, x1: mark.last + 0.5, y0: mark.rows[0] - 0.5, y1: mark.rows[0] + 0.5,
      line: { color: mark.colour, width: 2 },
    });
    annotations.push({ ...place, text, y: mark.rows[0] });
    for (const row of mark.rows.slice(1)) annotations.push({ ...place, text: "\u25b9", y: row });
  }
  const clip = {
    type: "line", xref: "paper", x0: 0, x1: 1, yref: "y2", y0: run.clip, y1: run.clip,
    line: { color: "#444", dash: "dash", width: 1 },
  };
  const word = {
    xref: "paper", x: 1, xanchor: "left", yref: "y2", y: Math.log10(run.clip), showarrow: false,
    text: ` clipped above ${run.clip}`, font: { size: 11 },
  };
  return { shapes: [...shapes, clip], annotations: [...annotations, word] };
}

function stepTicks(low, high) {
  const begin = Math.max(Math.ceil(low), 0);
  const end = Math.min(Math.floor(high), windows - 1);
  const apart = Math.max(Math.ceil((end - begin + 1) / 10), 1);
  const tickvals = [];
  for (let column = begin; column <= end; column += apart) tickvals.push(column);
  return { tickvals, ticktext: tickvals.map((column) => String(run.first[column])) };
}

function draw() {
  const dense = view.rows.length > 60;
  const [above, gap, around] = [110, 30, 70];
  const below = Math.max(view.rows.length * (dense ? 12 : 22), 60);
  const height = above + gap + below;
  const layout = {
    height: height + around, margin: { l: 20, r: 20, t: 20, b: around - 20 }, ...marks(),
    xaxis: { title: { text: "optimizer step" }, range: [-0.5, windows - 0.5], ...stepTicks(0, windows), zeroline: false },
    yaxis: {
      domain: [0, below / height], range: [view.rows.length - 0.5, -0.5], automargin: true, showgrid: false,
      tickvals: view.rows.map((_, row) => row), ticktext: view.labels.map(plain),
      tickfont: { size: dense ? 9 : 12 },
    },
    yaxis2: {
      domain: [1 - above / height, 1], type: "log", title: { text: "whole model", standoff: 4 }, automargin: true,
      tickformat: ".0e", dtick: 1,
    },
  };
  const buttons = [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]];
  const config = { responsive: true, displaylogo: false, modeBarButtons: buttons };
  Plotly.react(plot, [heat(below / height), withoutNorm(), ...total()], layout, config);
  legend();
}

function words(point) {
  const column = point.x;
  const when = `epoch ${run.epoch[column]}, ${steps(column)}`;
  if (point.data.type !== "heatmap") {
    const row = [0, 1, 2].map((i) => totals[i * windows + column].toPrecision(3));
    return `whole model\n${when}\nnorm ${row[1]} (${row[0]} to ${row[2]})`;
  }
  const row = view.rows[point.y];
  const cell = row * windows + column;
  const norm = Number.isFinite(norms[cell]) ? `norm ${norms[cell].toPrecision(3)}` : "no norm";
  const state = states[cell] ? `, ${run.states_known[states[cell] - 1].word}` : "";
  const found = view.marks.filter((mark) => mark.rows.includes(point.y) && mark.first <= column && column <= mark.last);
  const lines = [`${run.names[row]} (${run.types[row]})`, when, norm + state];
  return [...lines, ...found.map((mark) => `finding ${mark.number}: ${mark.rule}`)].join("\n");
}

function hover({ points, event }) {
  const tip = document.getElementById("tip");
  tip.textContent = words(points[0]);
  tip.hidden = false;
  const left = Math.min((event.clientX || 0) + 14, window.innerWidth - tip.offsetWidth - 8);
  const top = Math.min((event.clientY || 0) + 14, window.innerHeight - tip.offsetHeight - 8);
  tip.style.left = `${Math.max(left, 0)}px`;
  tip.style.top = `${Math.max(top, 0)}px`;
}

function find(text) {
  filter.value = text;
  const wanted = text.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...document.querySelectorAll("#modules tbody tr")];
  for (const row of rows) row.hidden = !wanted.every((word) => row.dataset.words.toLowerCase().includes(word));
  const shown = rows.filter((row) => !row.hidden).length;
  document.getElementById("count").textContent = `${shown} of ${rows.length} modules`;
}

function sort(head) {
  const falls = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", falls ? "descending" : "ascending");
  const isText = head.classList.contains("text");
  const body = document.querySelector("#modules tbody");
  const keyed = [...body.rows].map((row) => {
    const text = row.cells[head.cellIndex].dataset.value;
    return { row, key: isText || text === "" ? text : Number(text) };
  });
  const sign = falls ? -1 : 1;
  keyed.sort((a, b) => {
    if (a.key === "" || b.key === "") return (a.key === "") - (b.key === "");
    return sign * (isText ? a.key.localeCompare(b.key, "en", { numeric: true }) : a.key - b.key);
  });
  body.append(...keyed.map(({ row }) => row));
}

function legend() {
  const there = new Set(cells((cell) => states[cell]).flat());
  const items = run.states_known.filter((_, i) => there.has(i + 1)).map(({ word, colour }) => {
    const item = document.createElement("span");
    const box = document.createElement("i");
    box.style.background = colour;
    item.append(box, word);
    return item;
  });
  document.getElementById("states").replaceChildren(...items);
}

if (windows) {
  draw();
  plot.on("plotly_hover", hover);
  plot.on("plotly_unhover", () => { document.getElementById("tip").hidden = true; });
  plot.on("plotly_click", ({ points }) => {
    if (points[0].data.type === "heatmap") find(run.names[view.rows[points[0].y]]);
  });
  plot.on("plotly_relayout", (change) => {
    if (!("xaxis.tickvals" in change) && Object.keys(change).some((key) => key.startsWith("xaxis"))) {
      const { tickvals, ticktext } = stepTicks(...plot.layout.xaxis.range);
      Plotly.relayout(plot, { "xaxis.tickvals": tickvals, "xaxis.ticktext": ticktext });
    }
  });
} else {
  plot.textContent = "no optimizer step was watched";
}
for (const choice of document.querySelectorAll("input[name=rows]")) {
  choice.addEventListener("change", () => {
    view = run.views[choice.value];
    if (windows) draw();
  });
}
filter.addEventListener("input", () => find(filter.value));
for (const head of document.querySelectorAll("#modules th")) head.addEventListener("click", () => sort(head));
find("");
