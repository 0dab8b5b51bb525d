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
const edges = windows ? [...run.first, run.last[windows - 1] + 1].map((step) => step - 0.5) : [];
let sides = edges; // where the columns begin, and where the last one ends

// Plotly reads a few tags and formulas in its labels; a name from a file is neither.
const plain = (name) => name.replace(/[&<>$]/g, (sign) => `&#${sign.charCodeAt(0)};`);
const finite = (value) => (Number.isFinite(value) && value > 0 ? value : null);
const power = (level) => (level >= 0 && level <= 3 ? String(10 ** level) : `1e${level}`);

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
  const [low, high] = view.limits;
  const ticks = [];
  const apart = Math.ceil((high - low) / 8) || 1;
  for (let tick = Math.ceil(low); tick <= high; tick += apart) ticks.push(tick);
  return {
    type: "heatmap", x: sides, z, zmin: low, zmax: high, colorscale: "Viridis", hoverinfo: "none",
    colorbar: {
      title: { text: "norm (L2)" }, tickvals: ticks, ticktext: ticks.map(power), thickness: 14,
      lenmode: "pixels", len: 240, y: top, yanchor: "top",
    },
  };
}

// The state of each cell that is not coloured by its level, counted from 1, else 0.
function uncoloured() {
  const [weak, weakZero] = [run.states_known.length - 1, run.states_known.length];
  return view.rows.map((row, y) =>
    Array.from({ length: windows }, (_, column) => {
      const cell = row * windows + column;
      if (states[cell] === run.zero && view.weak[y]) return weakZero;
      if (states[cell]) return states[cell];
      return view.weak[y] && Math.log10(norms[cell]) < view.limits[0] ? weak : 0;
    })
  );
}

function withoutNorm() {
  const scale = run.states_known.flatMap(({ colour }, i, all) => [
    [i / all.length, colour],
    [(i + 1) / all.length, colour],
  ]);
  return {
    type: "heatmap", x: sides, z: uncoloured().map((row) => row.map((state) => state || null)), zmin: 0.5,
    zmax: run.states_known.length + 0.5, colorscale: scale, showscale: false, hoverinfo: "none",
  };
}

function total() {
  const rows = [0, 1, 2].map((row) => Array.from(totals.subarray(row * windows, (row + 1) * windows), finite));
  const line = (y, more) => ({
    type: "scatter", mode: "lines", x: sides, y: [...y, y[windows - 1]], yaxis: "y2", hoverinfo: "none",
    showlegend: false, line: { shape: "hv", width: 0 }, ...more,
  });
  return [
    line(rows[0]),
    line(rows[2], { fill: "tonexty", fillcolor: "#9ecae1" }),
    line(rows[1], { line: { shape: "hv", width: 1.2, color: "#08519c" } }),
    // Plotly draws the axis of the epochs only if something lies on it.
    { type: "scatter", x: [sides[0]], y: [null], xaxis: "x2", yaxis: "y2", hoverinfo: "skip", showlegend: false },
  ];
}

function marks() {
  const shapes = [];
  const annotations = [];
  for (const mark of view.marks) {
    const place = { x: sides[mark.first], xanchor: "left", font: { color: "#fff", size: 10 }, bgcolor: mark.colour, showarrow: false };
    const text = String(mark.number);
    if (mark.rows.length === 0) {
      const height = Math.log10(finite(totals[windows + mark.first]) || run.clip);
      annotations.push({ ...place, text, y: height, yref: "y2" });
      continue;
    }
    shapes.push({
      type: "rect", x0: sides[mark.first], x1: sides[mark.last + 1], y0: mark.rows[0] - 0.5, y1: mark.rows[0] + 0.5,
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

// The smallest of 1, 2 and 5 times a power of ten that is not below a number.
function round(number) {
  const power = 10 ** Math.floor(Math.log10(Math.max(number, 1)));
  return [1, 2, 5, 10].map((nice) => nice * power).find((nice) => nice >= number);
}

// Labels of both axes for what is in view: steps below, the epochs that begin there above.
function ticks(low, high) {
  const begin = Math.max(sides.findIndex((side) => side > low) - 1, 0);
  const beyond = sides.findIndex((side) => side >= high);
  const end = beyond < 0 ? windows : Math.max(beyond, 1);
  const found = { "xaxis.tickvals": [], "xaxis.ticktext": [], "xaxis2.tickvals": [], "xaxis2.ticktext": [] };
  const add = (axis, place, number) => {
    found[`${axis}.tickvals`].push(place);
    found[`${axis}.ticktext`].push(number.toLocaleString("en"));
  };
  if (sides === edges) {
    const apart = round((Math.min(high, edges[windows]) - Math.max(low, edges[0])) / 10);
    const first = Math.max(Math.ceil(Math.max(low, edges[0]) / apart) * apart, 1);
    for (let step = first; step <= Math.min(high, edges[windows]); step += apart) add("xaxis", step, step);
  } else {
    const apart = Math.max(Math.ceil((end - begin) / 10), 1);
    for (let column = begin; column < end; column += apart) add("xaxis", column + 0.5, run.first[column]);
  }
  const epochs = new Map();
  for (let column = begin; column < end; column += 1) {
    const epoch = run.epoch[column];
    if (column && run.epoch[column - 1] === epoch) continue;
    if (sides[column] >= low && !epochs.has(epoch)) epochs.set(epoch, sides[column]);
  }
  const numbers = [...epochs.keys()];
  const apart = round((Math.max(...numbers) - Math.min(...numbers) + 1) / 12);
  let before = -Infinity;
  for (const [epoch, place] of epochs) {
    if ((epoch % apart && epoch > 1) || place - before < (high - low) / 40) continue;
    add("xaxis2", place, epoch);
    before = place;
  }
  return found;
}

function axis(name, more) {
  const shown = ticks(sides[0], sides[windows]);
  return {
    title: { text: name === "xaxis" ? "optimizer step" : "epoch", standoff: 4 }, range: [sides[0], sides[windows]],
    tickvals: shown[`${name}.tickvals`], ticktext: shown[`${name}.ticktext`], zeroline: false, showgrid: false, ...more,
  };
}

// Labels of the whole model's norm, at every power of ten or some.
function powers() {
  const levels = [...Array.from(totals, finite).filter(Boolean), run.clip].map(Math.log10);
  const [low, high] = [Math.floor(Math.min(...levels)), Math.ceil(Math.max(...levels))];
  const apart = Math.ceil((high - low) / 4) || 1;
  const tickvals = [];
  for (let level = low; level <= high; level += apart) tickvals.push(10 ** level);
  return { tickvals, ticktext: tickvals.map((value) => power(Math.round(Math.log10(value)))) };
}

function draw() {
  const dense = view.rows.length > 60;
  const [above, gap, around] = [110, 30, 100];
  const below = Math.max(view.rows.length * (dense ? 12 : 22), 60);
  const height = above + gap + below;
  const layout = {
    height: height + around, margin: { l: 20, r: 20, t: 50, b: around - 50 }, ...marks(),
    xaxis: axis("xaxis"),
    xaxis2: axis("xaxis2", { side: "top", overlaying: "x", matches: "x", anchor: "y2", ticks: "outside" }),
    yaxis: {
      domain: [0, below / height], range: [view.rows.length - 0.5, -0.5], automargin: true, showgrid: false,
      tickvals: view.rows.map((_, row) => row), ticktext: view.labels.map(plain),
      tickfont: { size: dense ? 9 : 12 },
    },
    yaxis2: {
      domain: [1 - above / height, 1], type: "log", title: { text: "whole model", standoff: 4 }, automargin: true,
      ...powers(),
    },
  };
  const buttons = [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]];
  const config = { responsive: true, displaylogo: false, modeBarButtons: buttons };
  Plotly.react(plot, [heat(below / height), withoutNorm(), ...total()], layout, config);
  legend();
}

function words(point) {
  const isHeat = point.data.type === "heatmap";
  const [y, column] = isHeat ? point.pointNumber : [0, Math.min(point.pointNumber, windows - 1)];
  const when = `epoch ${run.epoch[column]}, ${steps(column)}`;
  if (!isHeat) {
    const row = [0, 1, 2].map((i) => totals[i * windows + column].toPrecision(3));
    return `whole model\n${when}\nnorm ${row[1]} (${row[0]} to ${row[2]})`;
  }
  const row = view.rows[y];
  const cell = row * windows + column;
  const norm = Number.isFinite(norms[cell]) ? `norm ${norms[cell].toPrecision(3)}` : "no norm";
  const state = states[cell] ? `, ${run.states_known[states[cell] - 1].word}` : "";
  const found = view.marks.filter((mark) => mark.rows.includes(y) && mark.first <= column && column <= mark.last);
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
  const there = new Set(uncoloured().flat());
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
    if (points[0].data.type === "heatmap") find(run.names[view.rows[points[0].pointNumber[0]]]);
  });
  plot.on("plotly_relayout", (change) => {
    if (!("xaxis.tickvals" in change) && Object.keys(change).some((key) => key.startsWith("xaxis"))) {
      Plotly.relayout(plot, ticks(...plot.layout.xaxis.range));
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
for (const choice of document.querySelectorAll("input[name=axis]")) {
  choice.addEventListener("change", () => {
    sides = choice.value === "steps" ? edges : Array.from(edges, (_, column) => column);
    if (windows) draw();
  });
}
filter.addEventListener("input", () => find(filter.value));
for (const head of document.querySelectorAll("#modules th")) head.addEventListener("click", () => sort(head));
find("");
