// One picture, large, with a heat map on top and a slider for its opacity.

const OVERLAY_TALL = 1.4; // greatest height, in widths of a landscape picture

function render({ model, el }) {
  const root = make("figure", "clipattr-overlay", { parent: el });
  ownKeys(root);
  const stage = make("div", "clipattr-overlay-stage", { parent: root });
  const image = make("img", "", { parent: stage });
  const canvas = make("canvas", "clipattr-heat", { parent: stage, "aria-hidden": "true" });
  const crop = make("div", "clipattr-crop", { parent: stage, "aria-hidden": "true" });
  const empty = make("div", "clipattr-empty", { parent: stage });
  const caption = make("figcaption", "", { parent: root });
  const text = make("bdi", "", { parent: caption, dir: "auto" });
  const seen = make("div", "clipattr-note clipattr-crop-note", { parent: root, text: "outlined: what the model sees" });
  const tools = heatSlider(model);
  root.append(tools.row);
  root.addEventListener("keydown", (event) => event.stopPropagation());
  const shown = pictureOf(model, "picture", root);
  let heated = false; // its slider keeps its room from the first heat map on: nothing below may jump

  async function draw() {
    const meta = model.get("meta");
    const heat = asBytes(model.get("heat"));
    const url = await shown.next();
    if (url === undefined) return;
    shown.keep(url);
    image.hidden = !url;
    if (url) image.src = url;
    image.alt = meta.alt;
    // What stands below stays in sight: an upright picture is drawn narrower.
    stage.style.maxWidth = `${meta.shown * Math.min(1, (OVERLAY_TALL * meta.width) / meta.height)}px`;
    stage.style.aspectRatio = `${meta.width} / ${meta.height}`;
    empty.textContent = url ? "" : model.get("empty_text");
    text.textContent = meta.caption;
    const [height, width] = meta.heat;
    canvas.hidden = !height || heat.length < height * width;
    stage.classList.toggle("clipattr-heated", !canvas.hidden);
    placeFrame(canvas, crop, meta.frame ?? [0, 0, 1, 1]);
    crop.hidden ||= !url;
    seen.hidden = crop.hidden;
    if (!canvas.hidden) drawHeat(canvas, heat, height, width);
    heated ||= !canvas.hidden;
    tools.row.hidden = !heated || !url;
    tools.row.style.visibility = canvas.hidden ? "hidden" : "";
    root.dataset.gen = meta.gen;
    delete root.dataset.drawing;
  }

  draw();
  const stop = listen(model, { "change:meta": draw, "change:heat_alpha": tools.show, "change:heat_scale": tools.show });
  tools.attach(root);
  return () => {
    stop();
    shown.end();
  };
}

export default { render };
