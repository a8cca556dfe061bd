// Draws the charts in the colours of the page, and again when the reader changes the scheme.
const narrow = window.matchMedia("(max-width: 600px)");
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const touch = window.matchMedia("(pointer: coarse)").matches;

function layoutOf(chart) {
  const style = getComputedStyle(document.documentElement);
  const [text, faint, line, back] = ["--text", "--faint", "--line", "--card"].map((name) => style.getPropertyValue(name).trim());
  const layout = JSON.parse(JSON.stringify(chart.layout));
  layout.font = { family: "system-ui, sans-serif", size: narrow.matches ? 11 : 13, color: text };
  layout.hoverlabel = { ...layout.hoverlabel, bgcolor: back, bordercolor: line, font: { color: text } };
  for (const key of Object.keys(layout).filter((name) => /^[xy]axis/.test(name))) {
    layout[key] = { gridcolor: line, linecolor: line, tickcolor: line, zerolinecolor: line, tickfont: { color: faint }, ...layout[key] };
  }
  layout.dragmode = touch ? false : "zoom"; // a finger scrolls the page
  return layout;
}

async function draw() {
  delete document.body.dataset.drawn;
  const places = Object.entries(charts).map(([key, chart]) => [document.getElementById("chart-" + key), chart]);
  await Promise.all(places.map(([place, chart]) =>
    Plotly.react(place, chart.data, layoutOf(chart), { responsive: true, displayModeBar: false })));
  document.body.dataset.drawn = "all";
}

draw();
dark.addEventListener("change", draw);
narrow.addEventListener("change", draw);
