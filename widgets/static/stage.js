// A picture whose objects can be moved. Every object is a button over its box: drag it, or focus it and use the arrows.

function render({ model, el }) {
  const root = make("div", "clipattr-stage", { parent: el });
  ownKeys(root);
  const board = make("div", "clipattr-stage-board", { parent: root });
  const image = make("img", "", { parent: board, draggable: "false" });
  make("div", "clipattr-note", { parent: root, text: "drag an object, or use Tab and arrow keys" });
  let handles = [];
  let drag = null;
  let waiting = null; // the newest move that has not been sent
  let sent = false;
  const shown = pictureOf(model, "picture", root);

  const pixel = () => model.get("meta").width / board.clientWidth; // pixels of the picture per CSS pixel

  function send(i, left, top) {
    waiting = { kind: "move", i, left: Math.round(left), top: Math.round(top) };
    if (sent) return;
    sent = true;
    model.send(waiting);
    waiting = null;
  }

  function answered() {
    sent = false;
    if (waiting) send(waiting.i, waiting.left, waiting.top);
  }

  function newHandle(i) {
    const handle = make("button", "clipattr-handle", { parent: board, type: "button", "data-i": i });
    make("bdi", "", { parent: handle, dir: "auto" });
    handle.addEventListener("pointerdown", (event) => {
      const [left, top] = model.get("meta").things[i].box;
      drag = { i, x: event.clientX, y: event.clientY, left, top };
      handle.setPointerCapture(event.pointerId);
    });
    handle.addEventListener("pointermove", (event) => {
      if (drag?.i !== i) return;
      send(i, drag.left + (event.clientX - drag.x) * pixel(), drag.top + (event.clientY - drag.y) * pixel());
    });
    for (const end of ["pointerup", "pointercancel"]) handle.addEventListener(end, () => (drag = null));
    handle.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!way || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      const [left, top] = model.get("meta").things[i].box;
      const by = event.shiftKey ? 8 : 2;
      send(i, left + by * way[0], top + by * way[1]);
    });
    return handle;
  }

  async function draw() {
    const meta = model.get("meta");
    const url = await shown.next();
    if (url === undefined) return;
    shown.keep(url);
    if (url) image.src = url;
    image.alt = meta.alt;
    board.style.width = `${meta.shown}px`;
    board.style.aspectRatio = `${meta.width} / ${meta.height}`;
    while (handles.length > meta.things.length) handles.pop().remove();
    while (handles.length < meta.things.length) handles.push(newHandle(handles.length));
    meta.things.forEach((thing, i) => {
      const [left, top, right, bottom] = thing.box;
      const style = handles[i].style;
      style.left = `${(100 * left) / meta.width}%`;
      style.top = `${(100 * top) / meta.height}%`;
      style.width = `${(100 * (right - left)) / meta.width}%`;
      style.height = `${(100 * (bottom - top)) / meta.height}%`;
      handles[i].firstChild.textContent = thing.name;
      handles[i].setAttribute("aria-label", `${thing.name}, ${left} from the left, ${top} from the top; arrow keys move it`);
    });
    root.dataset.gen = meta.gen;
    delete root.dataset.drawing;
    answered();
  }

  draw();
  const stop = listen(model, { "change:meta": draw });
  return () => {
    stop();
    shown.end();
  };
}

export default { render };
