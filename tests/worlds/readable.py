"""Whether a page can be read: contrast as WCAG 2.1 has it, from computed styles, and words for pictures."""

from __future__ import annotations

# Text whose contrast with what lies behind it is below 4.5, or 3 where it is large (24 px, or bold from 18.66 px).
FAINT = """(() => {
  const parse = text => {
    const found = text.match(/[\\d.]+/g)?.map(Number);
    return !found || text === "none" || text === "transparent" ? [0, 0, 0, 0] : [...found.slice(0, 3), found[3] ?? 1];
  };
  const over = (top, below) => [0, 1, 2].map(at => top[at] * top[3] + below[at] * (1 - top[3])).concat(1);
  const light = colour => {
    const [red, green, blue] = colour.slice(0, 3).map(value => value / 255)
      .map(value => value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4);
    return .2126 * red + .7152 * green + .0722 * blue;
  };
  const behind = element => {
    const layers = [];
    for (let own = element; own; own = own.parentElement) layers.push(parse(getComputedStyle(own).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const faint = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement, style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    if (!node.data.trim() || !box.width || !box.height || style.visibility === "hidden") continue;
    if (["SCRIPT", "STYLE", "TITLE"].includes(element.tagName.toUpperCase())) continue;
    const drawn = element.namespaceURI.endsWith("svg");
    const ground = behind(drawn ? element.closest("svg").parentElement : element);
    const ink = over(parse(drawn ? style.fill : style.color), ground);
    const [high, low] = [light(ink), light(ground)].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
    const wanted = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    const ratio = (high + .05) / (low + .05);
    if (ratio < wanted) faint.add(`${ratio.toFixed(2)} ${element.tagName}.${element.getAttribute("class") ?? ""} ` +
      `${style.color} ${node.data.trim().slice(0, 30)}`);
  }
  return [...faint];
})()"""
# Pictures and drawings that say nothing to who does not see them, and fields without a label.
WORDLESS = """[...document.querySelectorAll("img, svg, input, button")].filter(one => {
  if (one.tagName === "IMG") return !one.alt;
  if (one.tagName === "INPUT") return !one.labels.length;
  if (one.tagName === "BUTTON") return !one.textContent.trim() && !one.ariaLabel;
  const named = one.getAttribute("aria-label") || one.getAttribute("aria-labelledby") || one.querySelector("title");
  return one.getAttribute("aria-hidden") !== "true" && !named && !one.closest("figure")?.textContent.trim();
}).map(one => one.outerHTML.slice(0, 120))"""
