// Charts as SVG: lines over time, a timeline of tasks, and the words, colours and numbers that all of the page shares.

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = ["#3b7dd8", "#e0772f", "#2b9a6b", "#c4477f", "#8862d4", "#b3941a", "#1b98b3", "#a85a3c", "#6f8a2a", "#d0566a"];

export const colour = (task) => (task == null ? "#8a8780" : COLOURS[(task - 1) % COLOURS.length]);

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "task") made.style.setProperty("--task", colour(value));
    else if (value !== undefined && value !== null && value !== false) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function shape(name, attributes = {}, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export function number(value, digits = 1) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return (value / 1e6).toFixed(2) + " M";
  if (size >= 1e4) return Math.round(value).toLocaleString("en-US").replaceAll(",", " ");
  return Number.isInteger(value) ? String(value) : value.toFixed(size >= 100 ? 0 : digits);
}

export const percent = (ratio) => (ratio === null || ratio === undefined ? "–" : Math.round(100 * ratio) + " %");

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  for (const unit of ["B", "KiB", "MiB", "GiB", "TiB"]) {
    if (value < 1000) return (value < 10 && unit !== "B" ? value.toFixed(1) : Math.round(value)) + " " + unit;
    value /= 1024;
  }
  return "–";
}

export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return whole + " s";
  if (whole < 3600) return Math.floor(whole / 60) + " min";
  if (whole < 86400) return Math.floor(whole / 3600) + " h " + Math.floor((whole % 3600) / 60) + " min";
  return Math.floor(whole / 86400) + " d " + Math.floor((whole % 86400) / 3600) + " h";
}

export const clock = (time) => new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

/** Round numbers from low to high, about `count` of them. */
function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const base = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * base).find((step) => step >= raw);
  const first = Math.ceil(low / step - 1e-9) * step;
  const found = [];
  for (let at = first; at <= high + step * 1e-6; at += step) found.push(at);
  return found;
}

/**
 * A line over time. `points`: [[milliseconds, value or null], ...]; `limits`: the same, of a threshold; `marks`: [{at, title}];
 * `title` stands above; `from`: the number that the axis must reach down to.
 */
export function lineChart(box, { points, limits = [], marks = [], title = "", unit = "", empty, from = null }) {
  const known = points.filter(([, value]) => value !== null && value !== undefined);
  if (known.length < 2) {
    box.replaceChildren(element("p", { class: "empty" }, empty || "Nothing to draw yet."));
    return;
  }
  const [width, height] = [Math.max(box.clientWidth, 160), Math.max(box.clientHeight, 60)];
  const pad = { left: 40, right: 12, top: title ? 22 : 10, bottom: 20 };
  const values = known.concat(limits.filter(([, value]) => value !== null)).map(([, value]) => value);
  let low = Math.min(...values, from ?? Infinity), high = Math.max(...values);
  if (high - low < 1e-9) { low -= from === null ? 0.5 : 0; high += 0.5; }
  high += (high - low) * 0.06;
  const [start, end] = [points[0][0], points[points.length - 1][0]];
  const x = (at) => pad.left + ((at - start) / Math.max(end - start, 1)) * (width - pad.left - pad.right);
  const y = (value) => height - pad.bottom - ((value - low) / (high - low)) * (height - pad.top - pad.bottom);
  const last = known[known.length - 1];
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title || "Chart"}: ${number(last[1], 2)}${unit} now` });
  if (title) svg.append(shape("text", { x: 0, y: 11, class: "title" }, title));
  for (const tick of ticks(low, high, height > 120 ? 4 : 2)) {
    svg.append(shape("line", { x1: pad.left, x2: width - pad.right, y1: y(tick), y2: y(tick), class: "gridline" }));
    svg.append(shape("text", { x: pad.left - 7, y: y(tick) + 4, "text-anchor": "end" }, number(+tick.toPrecision(6), high - low < 2 ? 2 : 1)));
  }
  for (const [at, anchor, text] of [[start, "start", duration((Date.now() - start) / 1000) + " ago"], [end, "end", "now"]]) {
    svg.append(shape("text", { x: x(at), y: height - 5, "text-anchor": anchor }, text));
  }
  for (const mark of marks.filter(({ at }) => at > start && at < end)) {
    const line = shape("line", { x1: x(mark.at), x2: x(mark.at), y1: pad.top, y2: height - pad.bottom, class: "boundary" });
    line.append(shape("title", {}, mark.title));
    svg.append(line);
  }
  const path = (line) => {
    let text = "", pen = "M";
    for (const [at, value] of line) {
      if (value === null || value === undefined) { pen = "M"; continue; }
      text += `${pen}${x(at).toFixed(1)},${y(value).toFixed(1)}`;
      pen = "L";
    }
    return text;
  };
  const area = known.length === points.length ? `${path(points)}L${x(end).toFixed(1)},${y(low)}L${x(start).toFixed(1)},${y(low)}Z` : "";
  if (area) svg.append(shape("path", { d: area, class: "area" }));
  svg.append(shape("path", { d: path(points), class: "line" }));
  const drawn = limits.filter(([, value]) => value !== null && value !== undefined);
  if (drawn.length) {
    svg.append(shape("path", { d: path(limits), class: "limit" }));
    const level = y(drawn[drawn.length - 1][1]);
    svg.append(shape("text", { x: width - pad.right, y: level - 5, "text-anchor": "end", class: "limit-label" }, "a task ends here"));
  }
  box.replaceChildren(svg);
  hover(box, svg, known, { x, y, unit, pad, height });
}

function hover(box, svg, known, { x, y, unit, pad, height }) {
  const cursor = shape("line", { y1: pad.top, y2: height - pad.bottom, class: "cursor", visibility: "hidden" });
  const dot = shape("circle", { r: 4.5, class: "dot", visibility: "hidden" });
  svg.append(cursor, dot);
  const tip = element("div", { class: "tip", hidden: "" });
  box.append(tip);
  svg.addEventListener("pointermove", (event) => {
    const place = event.clientX - svg.getBoundingClientRect().left;
    const [at, value] = known.reduce((best, point) => (Math.abs(x(point[0]) - place) < Math.abs(x(best[0]) - place) ? point : best));
    for (const [name, number] of [["x1", x(at)], ["x2", x(at)], ["visibility", "visible"]]) cursor.setAttribute(name, number);
    for (const [name, number] of [["cx", x(at)], ["cy", y(value)], ["visibility", "visible"]]) dot.setAttribute(name, number);
    tip.textContent = `${number(value, 3)}${unit} at ${clock(at)}`;
    tip.hidden = false;
    tip.style.left = Math.min(x(at) + 10, box.clientWidth - tip.offsetWidth - 4) + "px";
    tip.style.top = Math.max(0, y(value) - 34) + "px";
  });
  svg.addEventListener("pointerleave", () => {
    tip.hidden = true;
    cursor.setAttribute("visibility", "hidden");
    dot.setAttribute("visibility", "hidden");
  });
}

/** Every time that a task was current, as a bar over the frames of the stream. */
export function timeline(box, tasks) {
  const spans = tasks.flatMap((task) => task.spans.map((span) => ({ task, first: span.first_frame, last: span.last_frame ?? task.last_frame, span })));
  if (!spans.length) {
    box.replaceChildren(element("p", { class: "empty" }, "No task yet: the first one begins with the first frame."));
    return;
  }
  const [width, height] = [Math.max(box.clientWidth, 200), 58];
  const start = Math.min(...spans.map(({ first }) => first)), end = Math.max(...spans.map(({ last }) => last)) + 1;
  const x = (frame) => ((frame - start) / Math.max(end - start, 1)) * width;
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${tasks.length} tasks over ${number(end - start)} frames` });
  for (const { task, first, last, span } of spans) {
    const left = x(first), right = x(last + 1);
    const bar = shape("rect", { x: left, y: 4, width: Math.max(right - left - 1.5, 1), height: 30, rx: 5, fill: colour(task.id) });
    bar.append(shape("title", {}, `${task.name}: frames ${first} to ${last}${span.started_at ? ", since " + clock(span.started_at) : ""}`));
    svg.append(bar);
    if (right - left > 14 + 7 * task.name.length) {
      const label = shape("text", { x: left + 9, y: 23.5, fill: "#fff", "font-weight": 600 }, task.name);
      label.style.fill = "#fff";
      svg.append(label);
    }
  }
  svg.append(shape("text", { x: 0, y: 51 }, `frame ${number(start)}`));
  svg.append(shape("text", { x: width, y: 51, "text-anchor": "end" }, `frame ${number(end - 1)}, now`));
  box.replaceChildren(svg);
}
