// What is remembered: the replay buffer by task, and what is still there of each task, with labels or without.

import { get } from "./api.js";
import { bytes, element, number, percent } from "./charts.js";

export async function refreshMemory(tasks) {
  const buffer = await get("/v1/buffer");
  const names = new Map(tasks.map((task) => [task.id, task.name]));
  const name = (task) => names.get(task) ?? (task === null ? "no task" : "task " + task);
  const full = buffer.used >= buffer.slots ? "full" : percent(buffer.used / buffer.slots) + " full";
  document.getElementById("memory-note").textContent =
    `${number(buffer.used)} of ${number(buffer.slots)} images (${full}) out of ${number(buffer.seen)} seen; ${bytes(buffer.bytes)} on the disk; ${number(buffer.labelled)} labelled.`;
  const bars = buffer.composition.map(({ task, images }) => {
    const bar = element("div", { task, title: `${name(task)}: ${images} images` });
    bar.style.flexGrow = images;
    return bar;
  });
  const room = element("div", { title: `${buffer.slots - buffer.used} free` });
  room.style.flexGrow = buffer.slots - buffer.used;
  room.style.background = "transparent";
  const stack = document.getElementById("composition");
  stack.replaceChildren(...bars, room);
  stack.setAttribute("role", "img");
  stack.setAttribute("aria-label", "Images by task: " + buffer.composition.map(({ task, images }) => `${name(task)} ${images}`).join(", "));
  const legend = buffer.composition.map(({ task, images }) => element("li", { task }, element("i"), name(task), element("span", {}, number(images))));
  document.getElementById("memory-legend").replaceChildren(...legend);
}

/** From red through sand to green. */
function shade(ratio) {
  return ratio < 0.5
    ? `color-mix(in oklab, var(--heat-1) ${Math.round(200 * ratio)}%, var(--heat-0))`
    : `color-mix(in oklab, var(--heat-2) ${Math.round(200 * (ratio - 0.5))}%, var(--heat-1))`;
}

function cell(ratio, title) {
  if (ratio === null || ratio === undefined) return element("td", { title }, "·");
  const made = element("td", { class: "on" + (ratio > 0.3 && ratio < 0.7 ? " mid" : ""), title }, String(Math.round(100 * ratio)));
  made.style.background = shade(ratio);
  return made;
}

const COLUMNS = 12;

export async function refreshForgetting(tasks) {
  const [report, history, accuracy] = await Promise.all([get("/v1/forgetting"), get("/v1/forgetting/history"), get("/v1/accuracy")]);
  const names = new Map(tasks.map((task) => [task.id, task.name]));
  const name = (task) => names.get(task) ?? "task " + task;
  const labelled = accuracy && accuracy.rows && accuracy.rows.some((row) => Object.keys(row.accuracies).length);
  const [box, note, help] = ["forgetting", "forgetting-note", "forgetting-help"].map((id) => document.getElementById(id));
  help.hidden = labelled;
  if (labelled) {
    note.textContent = `Accuracy on each task (in %) after each task's end, from labels. Now ${percent(accuracy.summary.average_accuracy)} on average; forgotten ${percent(accuracy.summary.forgetting_max)}.`;
    box.replaceChildren(matrix(accuracy.rows, name));
  } else {
    note.textContent = report && report.mean_retained !== null && report.mean_retained !== undefined
      ? `${percent(report.mean_retained)} of what was known is still there, mean of the tasks that have ended.`
      : "Measured from the end of the first task on, without labels.";
    box.replaceChildren(heatMap(history ?? [], name));
  }
  const words = ((report && report.tasks) || []).map((task) => element("li", {}, element("b", {}, name(task.task) + ": "), task.summary.replace(/^not defined: /, "")));
  document.getElementById("forgetting-words").replaceChildren(...words);
}

function heatMap(history, name) {
  const measured = history.filter((task) => task.measurements.some((one) => one.retained !== null));
  if (!measured.length) {
    return element("p", { class: "empty" }, "Empty until a task has ended and a version of the encoder was measured after it.");
  }
  // Versions that any task was measured at, the latest last; where there are many, evenly spread over time.
  const all = [...new Set(measured.flatMap((task) => task.measurements.map((one) => one.version.step)))].sort((a, b) => a - b);
  const stride = Math.max(1, (all.length - 1) / (COLUMNS - 1));
  const steps = all.length <= COLUMNS ? all : [...new Set(Array.from({ length: COLUMNS }, (_, i) => all[Math.min(all.length - 1, Math.round(i * stride))]))];
  const rows = measured.map((task) => {
    const of = new Map(task.measurements.map((one) => [one.version.step, one.retained]));
    const cells = steps.map((step) => cell(of.get(step), of.has(step) ? `${name(task.task)} at step ${step}: ${percent(of.get(step))} is still there` : `not measured at step ${step}`));
    return element("tr", {}, element("th", { scope: "row" }, name(task.task)), ...cells);
  });
  const heads = steps.map((step, at) => element("th", { scope: "col" }, at === 0 || at === steps.length - 1 ? number(step) : ""));
  return element("table", {}, element("caption", { class: "note" }, "Rows: tasks. Columns: versions of the encoder, by gradient step. In %."),
    element("thead", {}, element("tr", {}, element("td", { hidden: "" }), element("th", {}), ...heads)), element("tbody", {}, ...rows));
}

function matrix(rows, name) {
  const shown = rows.slice(-COLUMNS);
  const tasks = [...new Set(shown.flatMap((row) => Object.keys(row.accuracies)))].map(Number).sort((a, b) => a - b);
  const body = shown.map((row) => element("tr", {}, element("th", { scope: "row" }, row.trained === null ? "later" : "after " + name(row.trained)),
    ...tasks.map((task) => cell(row.accuracies[task], `accuracy on ${name(task)}`))));
  return element("table", {}, element("thead", {}, element("tr", {}, element("th", {}), ...tasks.map((task) => element("th", { scope: "col" }, name(task))))), element("tbody", {}, ...body));
}
