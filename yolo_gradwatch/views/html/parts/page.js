// The figure comes from Python. Here is what depends on what a reader does: which rows and axis
// are chosen, labels for what is in view, the numbers below the pointer, and the table.

const run = JSON.parse(document.getElementById("run").textContent);
const windows = run.first.length;
const depth = document.getElementById("depth");
const filter = document.getElementById("filter");
const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;
const edges = windows ? [...run.first, run.last[windows - 1] + 1].map((step) => step - 0.5) : [];
const beside = run.quantities.map(({ heading, steps, columns, values }) => ({
  heading, steps, size: columns.length, values: unpacked(values),
  place: new Map(columns.map((column, i) => [column, i])),
}));
let view, sides, levels, covers; // of what is drawn

function draw() {
  const isDeep = chosen("rows") === "depth";
  plot.hidden = isDeep;
  depth.hidden = !isDeep;
  for (const legend of document.querySelectorAll("#states p")) legend.hidden = legend.dataset.rows !== chosen("rows");
  if (isDeep) {
    const { data, layout } = structuredClone(run.depth);
    Plotly.react(depth, data, layout, options);
    return;
  }
  view = run.views[chosen("rows")];
  const { data, layout } = structuredClone(view.figure); // Plotly changes what it draws
  [levels, covers] = [unpacked(data[0].z), unpacked(data[1].z)];
  sides = edges;
  if (chosen("axis") === "windows") {
    const { x, layout: changes } = structuredClone(view.even);
    data.forEach((trace, i) => { trace.x = x[i]; });
    Object.assign(layout, changes);
    sides = Array.from(edges, (_, column) => column);
  }
  for (const [name, labels] of Object.entries(ticks(...layout.xaxis.range))) Object.assign(layout[name], labels);
  Plotly.react(plot, data, layout, options);
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
  const steps = sides === edges ? roundSteps(Math.max(low, edges[0]), Math.min(high, edges[windows])) : someColumns(begin, end);
  const epochs = new Map();
  for (let column = begin; column < end; column += 1) {
    const isNew = column === 0 || run.epoch[column - 1] !== run.epoch[column];
    if (isNew && sides[column] >= low && !epochs.has(run.epoch[column])) epochs.set(run.epoch[column], sides[column]);
  }
  return { xaxis: labelled(steps), xaxis2: labelled(thinned(epochs, (high - low) / 40)) };
}

function labelled(places) {
  return { tickvals: places.map(([place]) => place), ticktext: places.map(([, number]) => number.toLocaleString("en")) };
}

function roundSteps(low, high) {
  const apart = round((high - low) / 10);
  const found = [];
  for (let step = Math.max(Math.ceil(low / apart) * apart, 1); step <= high; step += apart) found.push([step, step]);
  return found;
}

function someColumns(begin, end) {
  const apart = Math.max(Math.ceil((end - begin) / 10), 1);
  const found = [];
  for (let column = begin; column < end; column += apart) found.push([column + 0.5, run.first[column]]);
  return found;
}

function thinned(epochs, distance) {
  const numbers = [...epochs.keys()];
  const apart = round((Math.max(...numbers) - Math.min(...numbers) + 1) / 12);
  const found = [];
  for (const [epoch, place] of epochs) {
    const isNear = found.length && place - found[found.length - 1][0] < distance;
    if ((epoch % apart === 0 || epoch <= 1) && !isNear) found.push([place, epoch]);
  }
  return found;
}

// What was measured of a module in a window beside its norm; a row of the layout.
function measured(row, column) {
  const found = beside.flatMap(({ heading, steps, size, values, place }) => {
    const number = place.has(column) ? values[row * size + place.get(column)] : NaN;
    if (Number.isNaN(number)) return [];
    if (steps) return [`${heading} in ${number.toLocaleString("en")} ${number === 1 ? "step" : "steps"}`];
    return [`${heading} ${Number.isFinite(number) ? threeDigits(number) : "Inf"}`];
  });
  return found.length ? [found.join(", ")] : [];
}

function words({ data, pointNumber }) {
  const isHeat = data.type === "heatmap";
  const [row, column] = isHeat ? pointNumber : [0, Math.min(pointNumber, windows - 1)];
  const [first, last] = [run.first[column], run.last[column]].map((step) => step.toLocaleString("en"));
  const when = `epoch ${run.epoch[column]}, ${first === last ? `step ${first}` : `steps ${first} to ${last}`}`;
  if (!isHeat) return ["whole model", when, run.total[column], ...measured(0, column)];
  const cell = row * windows + column;
  const norm = Number.isNaN(levels[cell]) ? "no norm" : `norm ${threeDigits(10 ** levels[cell])}`;
  const cover = covers[cell] ? `, ${run.covers[covers[cell]]}` : "";
  const found = view.marks.filter((mark) => mark.rows.includes(row) && mark.first <= column && column <= mark.last);
  return [`${view.names[row]} (${view.types[row]})`, when, norm + cover, ...measured(view.rows[row], column), ...found.map(({ text }) => text)];
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
  sortRows(document.querySelector("#modules tbody"), head, falls, (cell) => cell.dataset.value);
}

if (windows) {
  draw();
  plot.on("plotly_hover", hover);
  plot.on("plotly_unhover", () => { tip.hidden = true; });
  plot.on("plotly_click", ({ points }) => {
    if (points[0].data.type === "heatmap") find(view.names[points[0].pointNumber[0]]);
  });
  plot.on("plotly_relayout", (change) => {
    if ("xaxis.tickvals" in change || !Object.keys(change).some((key) => key.startsWith("xaxis"))) return;
    const found = ticks(...plot.layout.xaxis.range);
    const parts = Object.entries(found).flatMap(([axis, labels]) => Object.entries(labels).map(([key, value]) => [`${axis}.${key}`, value]));
    Plotly.relayout(plot, Object.fromEntries(parts));
  });
  for (const choice of document.querySelectorAll("input[name=rows], input[name=axis]")) choice.addEventListener("change", draw);
} else {
  plot.textContent = "no optimizer step was watched";
}
filter.addEventListener("input", () => find(filter.value));
for (const head of document.querySelectorAll("#modules th")) head.addEventListener("click", () => sort(head));
find("");
