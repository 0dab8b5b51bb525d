// What pages with a figure share: how Plotly draws it, and the numbers below the pointer. The
// script of the page has `words` for a point.

const plot = document.getElementById("plot");
const tip = document.getElementById("tip");

// An array as Plotly for Python packs it.
function unpacked({ dtype, bdata }) {
  const bytes = Uint8Array.from(atob(bdata), (letter) => letter.charCodeAt(0));
  return dtype === "u1" ? bytes : new Float32Array(bytes.buffer);
}

const buttons = [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]];
const options = { responsive: true, displaylogo: false, modeBarButtons: buttons };

// As one writes them: 0.00125, 1.00, 1,230, and 1.23e+7.
function threeDigits(number) {
  const digits = number.toPrecision(3);
  return number < 999.5 || number >= 1e7 ? digits : Number(digits).toLocaleString("en");
}

function hover({ points, event }) {
  tip.textContent = words(points[0]).join("\n");
  tip.hidden = false;
  const left = Math.min((event.clientX || 0) + 14, window.innerWidth - tip.offsetWidth - 8);
  const top = Math.min((event.clientY || 0) + 14, window.innerHeight - tip.offsetHeight - 8);
  tip.style.left = `${Math.max(left, 0)}px`;
  tip.style.top = `${Math.max(top, 0)}px`;
}
