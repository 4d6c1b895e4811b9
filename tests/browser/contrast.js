// Every visible text of every panel against what lies behind it, by the formula of WCAG 2.1; returns what is too weak.
() => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const rgba = (css) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = css;
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, ground, alpha = top[3]) => [0, 1, 2].map((i) => alpha * top[i] + (1 - alpha) * ground[i]);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => {
    const [high, low] = [light(a), light(b)].sort((x, y) => y - x);
    return (high + 0.05) / (low + 0.05);
  };
  const weak = [];
  let seen = 0;
  for (const panel of document.querySelectorAll(".clipattr-panel")) {
    const walker = document.createTreeWalker(panel, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement;
      if (!walker.currentNode.data.trim() || element.closest("[disabled], .jupyter-button[disabled], option, style, datalist")) continue;
      const style = getComputedStyle(element);
      if (!element.getClientRects().length || style.visibility === "hidden") continue;
      const chain = [];
      for (let node = element; node; node = node.parentElement) chain.unshift(node);
      let ground = [255, 255, 255];
      let opacity = 1;
      for (const node of chain) {
        const at = getComputedStyle(node);
        opacity *= Number(at.opacity);
        const fill = rgba(at.backgroundColor);
        if (fill[3]) ground = over(fill, ground);
      }
      const colour = rgba(element.closest("svg") ? style.fill : style.color);
      if (!colour[3]) continue; // written for screen readers alone
      const size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      const found = ratio(over(colour, ground, colour[3] * opacity), ground);
      seen += 1;
      if (found < (large ? 3 : 4.5)) weak.push(`${found.toFixed(2)}: ${element.className} “${walker.currentNode.data.trim().slice(0, 40)}”`);
    }
  }
  return { seen, weak: [...new Set(weak)] };
}
