// Order the rows of a table by a column of texts or of numbers; empty cells come last.
function sortRows(body, head, falls, textOf) {
  const isText = head.classList.contains("text");
  const keyed = [...body.rows].map((row) => {
    const text = textOf(row.cells[head.cellIndex]);
    return { row, key: isText || text === "" ? text : parseFloat(text.replaceAll(",", "")) };
  });
  const sign = falls ? -1 : 1;
  keyed.sort((a, b) => {
    if (a.key === "" || b.key === "") return (a.key === "") - (b.key === "");
    return sign * (isText ? a.key.localeCompare(b.key, "en", { numeric: true }) : a.key - b.key);
  });
  body.append(...keyed.map(({ row }) => row));
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", falls ? "descending" : "ascending");
}
