// What depends on what a reader does: which rows are shown, and their order.

const body = document.querySelector("#runs tbody");
const heads = [...document.querySelectorAll("#runs thead th")];
const filter = document.getElementById("filter");
const unhealthy = document.getElementById("unhealthy");
const by = document.getElementById("by");
const newest = [...body.rows];

function narrow() {
  const wanted = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of body.rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !wanted.every((word) => text.includes(word)) || (unhealthy.checked && !row.classList.contains("unhealthy"));
  }
  document.getElementById("count").textContent = `${[...body.rows].filter((row) => !row.hidden).length} of ${body.rows.length} runs`;
}

// Numbers begin with the highest, texts with A; a second click turns them round.
function sort(head, falls) {
  sortRows(body, head, falls, (cell) => cell.textContent);
}

filter.addEventListener("input", narrow);
unhealthy.addEventListener("change", narrow);
by.append(new Option("as listed", ""), ...heads.map((head, i) => new Option(head.textContent, i)));
by.addEventListener("change", () => {
  if (by.value === "") body.append(...newest);
  else sort(heads[by.value], !heads[by.value].classList.contains("text"));
});
for (const head of heads) {
  head.addEventListener("click", () => {
    const before = head.getAttribute("aria-sort");
    sort(head, before ? before === "ascending" : !head.classList.contains("text"));
  });
}
narrow();
