// The map of the embedding: every point a stored image, coloured by its task. Works with a mouse, a finger and the arrow keys.

import { get, picture } from "./api.js";
import { colour, element, number, percent } from "./charts.js";
import { open } from "./query.js";

const canvas = document.getElementById("map");
const tip = document.getElementById("map-tip");
let shown = { points: [] }, places = [], chosen = -1;

export async function refreshMap(tasks) {
  const note = document.getElementById("map-note");
  try {
    shown = await get("/v1/map?limit=1500");
  } catch (problem) {
    note.textContent = problem.code === "no-encoder-yet" ? "Drawn once the first version of the encoder is published." : problem.message;
    return;
  }
  const [first, second] = shown.explained;
  const both = first === null ? null : first + (second ?? 0);
  note.textContent = shown.points.length
    ? `${number(shown.points.length)} of ${number(shown.rows)} stored images by version ${shown.encoder_version}, on the two directions that show most (${percent(both)} of the differences).`
    : "Drawn once images are stored.";
  const names = new Map(tasks.map((task) => [task.id, task.name]));
  const counts = new Map();
  for (const point of shown.points) counts.set(point.task, (counts.get(point.task) ?? 0) + 1);
  const legend = [...counts].sort((a, b) => (a[0] ?? 0) - (b[0] ?? 0)).map(([task, count]) =>
    element("li", { task }, element("i"), names.get(task) ?? "no task", element("span", {}, number(count))));
  document.getElementById("map-legend").replaceChildren(...legend);
  draw();
}

export function draw() {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.clearRect(0, 0, width, height);
  const xs = shown.points.map((point) => point.x), ys = shown.points.map((point) => point.y);
  const spread = (values) => { const [low, high] = [Math.min(...values), Math.max(...values)]; return [low, high - low || 1]; };
  const [left, across] = spread(xs), [bottom, up] = spread(ys);
  const pad = 16;
  places = shown.points.map((point) => [pad + ((point.x - left) / across) * (width - 2 * pad), height - pad - ((point.y - bottom) / up) * (height - 2 * pad)]);
  pen.globalAlpha = 0.75;
  shown.points.forEach((point, at) => {
    pen.fillStyle = colour(point.task);
    pen.beginPath();
    pen.arc(places[at][0], places[at][1], 3.2, 0, 7);
    pen.fill();
  });
  if (places[chosen]) {
    pen.globalAlpha = 1;
    pen.lineWidth = 2;
    pen.strokeStyle = getComputedStyle(canvas).color;
    pen.beginPath();
    pen.arc(places[chosen][0], places[chosen][1], 7, 0, 7);
    pen.stroke();
  }
}

function choose(at) {
  if (at === chosen) return;
  chosen = at;
  draw();
  const point = shown.points[at];
  tip.hidden = !point;
  if (!point) return;
  const img = element("img", { alt: "" });
  picture(img, point.id);
  tip.replaceChildren(img, `image ${point.id}`, element("br"), point.task ? `task ${point.task}` : "no task", point.label ? ` · ${point.label}` : "");
  const [x, y] = places[at];
  tip.style.left = Math.max(4, Math.min(x + 12, canvas.clientWidth - 130)) + "px";
  tip.style.top = Math.max(4, Math.min(y - 50, canvas.clientHeight - 130)) + "px";
}

function nearest(x, y, reach) {
  let best = -1, least = reach;
  places.forEach(([px, py], at) => {
    const away = Math.hypot(px - x, py - y);
    if (away < least) [best, least] = [at, away];
  });
  return best;
}

/** The nearest point in a direction: among those within 45 degrees of it. */
function step(dx, dy) {
  if (chosen < 0) return choose(nearest(canvas.clientWidth / 2, canvas.clientHeight / 2, Infinity));
  const [x, y] = places[chosen];
  let best = -1, least = Infinity;
  places.forEach(([px, py], at) => {
    const [ax, ay] = [px - x, py - y], along = ax * dx + ay * dy, away = Math.hypot(ax, ay);
    if (at !== chosen && along > 0.7 * away && away > 0.5 && away < least) [best, least] = [at, away];
  });
  if (best >= 0) choose(best);
}

canvas.addEventListener("pointermove", (event) => choose(nearest(event.offsetX, event.offsetY, 18)));
canvas.addEventListener("pointerleave", () => choose(-1));
canvas.addEventListener("click", (event) => {
  const at = nearest(event.offsetX, event.offsetY, 24);
  if (at >= 0) open(shown.points[at].id);
});
canvas.addEventListener("keydown", (event) => {
  const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (direction) { step(...direction); event.preventDefault(); }
  if (event.key === "Enter" && shown.points[chosen]) {
    // Else the same key would press the dialog's first button, which closes it.
    event.preventDefault();
    open(shown.points[chosen].id);
  }
  if (event.key === "Escape") choose(-1);
});
canvas.addEventListener("blur", () => choose(-1));
