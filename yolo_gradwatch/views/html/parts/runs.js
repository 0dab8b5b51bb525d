"use strict";

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
  for (const other of heads) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", falls ? "descending" : "ascending");
  const isText = head.classList.contains("text");
  const keyed = [...body.rows].map((row) => {
    const text = row.cells[head.cellIndex].textContent;
    return { row, key: isText || text === "" ? text : parseFloat(text.replaceAll(",", "")) };
  });
  const sign = falls ? -1 : 1;
  keyed.sort((a, b) => {
    if (a.key === "" || b.key === "") return (a.key === "") - (b.key === "");
    return sign * (isText ? a.key.localeCompare(b.key, "en", { numeric: true }) : a.key - b.key);
  });
  body.append(...keyed.map(({ row }) => row));
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
