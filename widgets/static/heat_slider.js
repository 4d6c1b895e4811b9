// Opacity of heat maps, moved in the browser alone: no message to Python until the slider is let go.

function heatSlider(model) {
  const row = make("label", "clipattr-heat-tools");
  make("span", "", { parent: row, text: "heat map" });
  const input = make("input", "", { parent: row, type: "range", min: "0", max: "1", step: "0.05" });
  input.setAttribute("aria-label", "opacity of the heat map");
  const legend = make("span", "clipattr-heat-legend", { parent: row });
  make("span", "", { parent: legend, text: "0" });
  make("span", "clipattr-heat-scale", { parent: legend, "aria-hidden": "true" });
  const high = make("span", "", { parent: legend });
  let root = row;
  const paint = () => root.style.setProperty("--clipattr-heat", input.value);
  const show = () => {
    input.value = model.get("heat_alpha");
    high.textContent = model.get("heat_scale");
    paint();
  };
  input.addEventListener("input", paint);
  input.addEventListener("change", () => {
    model.set("heat_alpha", Number(input.value));
    model.save_changes();
  });
  const attach = (node) => {
    root = node;
    show();
  };
  return { row, show, attach };
}
