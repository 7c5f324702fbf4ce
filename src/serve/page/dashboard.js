// The page: what is asked how often, and what is said where something is missing, frozen or lost.

import { follow, get, send } from "./api.js";
import { bytes, clock, duration, element, lineChart, number, timeline } from "./charts.js";
import { draw, refreshMap } from "./map.js";
import { refreshForgetting, refreshMemory } from "./memory.js";
import { thumb } from "./query.js";

const at = (id) => document.getElementById(id);
const MINUTES = 15;
let status = null, tasks = [], samples = [], events = [], lost = null, error = null, newest = null;

/** Text of an element, changed only where it differs, so that a screen reader is not told the same again. */
function say(id, text) {
  if (at(id).textContent !== text) at(id).textContent = text;
}

function tile(name, value, unit, sub, alarm) {
  return element("div", { class: alarm ? "alarm" : "" }, element("dt", {}, name), element("dd", {}, value, unit ? element("small", {}, unit) : null, element("div", { class: "sub" }, sub || "")));
}

function showStatus() {
  const { stream, learn, buffer, segment, encoder, device, device_memory: graphics } = status;
  const dropped = samples.length ? samples[samples.length - 1].dropped : 0;
  const current = tasks.filter((task) => task.current).map((task) => task.name).join(", ");
  at("tiles").replaceChildren(
    tile("Frames in", number(stream.accepted_per_second), "a second", `${number(stream.accepted)} so far`),
    tile("Dropped", number(dropped), "", dropped ? "the queue was full" : "none", dropped > 0),
    tile("Task now", current || "–", "", segment.warning ? "a change is suspected" : segment.phase),
    tile("Training", learn.paused_since || learn.frozen ? "rests" : number(learn.images_per_second, 0), learn.paused_since || learn.frozen ? "" : "a second", `images; ${number(learn.steps)} steps${learn.idle ? ", rehearsing" : ""}`, !!learn.frozen),
    tile("Loss", number(learn.loss, 3), "", `${learn.objective}, ${learn.strategy}`),
    tile("Remembered", number(buffer.used), `of ${number(buffer.slots)}`, "images"),
    tile("Encoder", encoder ? "v" + encoder.version : "–", "", encoder ? `published ${duration((Date.now() - new Date(encoder.published_at)) / 1000)} ago` : "not published yet"),
    tile("Memory", bytes(status.resident_bytes), "", graphics ? `of this process; GPU ${bytes(graphics.total_bytes - graphics.free_bytes)} of ${bytes(graphics.total_bytes)}` : "of this process"),
  );
  say("about", `${device.taken} · preset ${status.preset} · up ${duration(status.uptime_seconds)}`);
  say("pause", learn.paused_since || learn.frozen ? "Resume" : "Pause");
  say("stream-note", stream.accepted ? (learn.idle ? "No frame has come for a while." : "") : "");
  say("learning-note", learn.skipped_for_training ? `${number(learn.skipped_for_training)} frames reached memory but not training, which was slower.` : "");
  say("drift-note", driftWords(segment));
}

function driftWords(segment) {
  if (segment.statistic === null) return segment.phase === "waiting" ? "Waiting for frames." : "Learning what is usual: the first frames of a task are the reference.";
  if (segment.warning) return "Unusual frames: a change is suspected, and not yet sure.";
  return "How unusual the newest frames are for the open task. Beyond the line a new task begins.";
}

function showNotices() {
  const notices = [];
  const notice = (kind, text, button) => notices.push(element("p", { class: "notice " + kind }, element("span", {}, text), button || null));
  if (lost) notice("bad", `The daemon has not answered for ${duration((Date.now() - lost) / 1000)}${error ? " (" + error + ")" : ""}. What is shown is from before. This page goes on by itself once it is back; \`systemctl status lumpd\` or the log say why it is away.`);
  if (status && !lost) {
    const { learn } = status;
    const resume = (text) => element("button", { type: "button", onclick: () => act("/v1/training/resume") }, text);
    if (status.state === "starting") notice("", "Starting: the state is restored and the first version of the encoder is being published.");
    if (status.state === "draining") notice("warn", "Stopping: the last batch is finished and a checkpoint is written.");
    if (learn.frozen) notice("bad", `Training was given up: ${learn.frozen}. Frames are still taken in, segmented and remembered, and queries answered, with the last good encoder.`, resume("Try again from the last checkpoint"));
    else if (learn.paused_since) notice("warn", `Training rests since ${clock(learn.paused_since)}, as somebody asked. Frames are still remembered.`, resume("Resume"));
    if (status.database.error) notice("bad", `The disk of the state folder takes no writes: ${status.database.error}. Queries and the memory go on; watched folders, labels and tasks wait. It goes on by itself once there is room.`);
    if (status.state === "running" && !status.stream.received && !status.buffer.used) {
      notice("", "Nothing has come in yet. Copy images into a watched folder, send some with `lumpd feed FOLDER`, or post one: curl --data-binary @image.jpg -H 'content-type: image/jpeg' " + location.origin + "/v1/images");
    }
  }
  const text = notices.map((made) => made.textContent).join("\n");
  if (at("notices").dataset.text !== text) {
    at("notices").dataset.text = text;
    at("notices").replaceChildren(...notices);
  }
  const [word, kind] = lost ? ["connection lost", "bad"] : !status ? ["connecting", ""] : status.learn.frozen ? ["training frozen", "bad"] : status.learn.paused_since ? ["training paused", "warn"] : status.state === "running" ? ["running", "good"] : [status.state, "warn"];
  say("state", word);
  at("state").className = "pill " + kind;
}

function showCharts() {
  const since = Date.now() - MINUTES * 60000;
  const recent = samples.filter((sample) => new Date(sample.at) > since);
  const over = (key) => recent.map((sample) => [+new Date(sample.at), sample[key]]);
  const marks = events.filter((event) => ["task-opened", "task-returned"].includes(event.kind)).map((event) => ({ at: +new Date(event.at), title: event.message }));
  lineChart(at("rate"), { points: over("accepted_per_second"), title: "Frames a second", from: 0, marks, empty: "Draws from the second sample on." });
  lineChart(at("drift"), { points: over("statistic"), limits: over("threshold"), from: 0, marks, empty: "The statistic is drawn once the detector has learnt what is usual." });
  lineChart(at("loss"), { points: over("loss"), title: "Loss, mean of the latest steps", marks, empty: "Drawn from the first gradient step on." });
  lineChart(at("throughput"), { points: over("images_per_second"), title: "Images through training a second", from: 0, marks, empty: "No training yet." });
}

function showTasks() {
  timeline(at("timeline"), tasks);
  // A name that is being typed stays.
  if (at("tasks").contains(document.activeElement) && document.activeElement.tagName === "INPUT") return;
  const signature = JSON.stringify(tasks.map(({ id, name, current, returns, exemplars, frames }) => [id, name, current, returns, exemplars, Math.floor(frames / 10)]));
  if (at("tasks").dataset.signature === signature) return;
  at("tasks").dataset.signature = signature;
  at("tasks").replaceChildren(...[...tasks].reverse().slice(0, 24).map(taskCard));
}

function taskCard(task) {
  const shots = task.exemplars.slice(0, 8).map((id) => thumb({ id, task: task.id }).firstChild);
  const name = element("div", { class: "name" });
  const rename = element("button", { type: "button", class: "link", title: "Give it another name", onclick: () => edit(task, name) }, task.name);
  name.append(rename, task.current ? element("span", { class: "now" }, "now") : "");
  const visits = task.returns ? `, came back ${task.returns === 1 ? "once" : task.returns + " times"}` : "";
  return element("li", { task: task.id }, name, element("p", { class: "note" }, `${number(task.frames)} frames${visits}`),
    shots.length ? element("div", { class: "shots" }, ...shots) : element("p", { class: "note" }, "No stored image stands for it yet."));
}

function edit(task, name) {
  const input = element("input", { value: task.name, maxlength: 64, "aria-label": "Name of the task" });
  const form = element("form", {}, input, element("button", { type: "submit" }, "Save"));
  const close = () => { at("tasks").dataset.signature = ""; document.activeElement.blur(); refreshTasks(); };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try { await send("PATCH", "/v1/tasks/" + task.id, { name: input.value.trim() }); } catch (problem) { input.setCustomValidity(problem.message); form.reportValidity(); return; }
    close();
  });
  input.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
  name.replaceChildren(form);
  input.select();
}

function showEvents() {
  const loud = (kind) => /frozen|failed|dropped|rolled-back|refused/.test(kind);
  at("events").replaceChildren(...events.slice(-60).reverse().map((event) =>
    element("li", { class: loud(event.kind) ? "loud" : /^task|drift/.test(event.kind) ? "task" : "" },
      element("time", { datetime: event.at }, clock(event.at)), element("span", { class: "kind" }, event.kind), element("span", {}, event.message))));
  if (!events.length) at("events").replaceChildren(element("p", { class: "empty" }, "Nothing yet."));
}

async function refreshTasks() {
  const list = [];
  for (let after = 0; after !== null;) {
    const page = await get(`/v1/tasks?limit=1000&after=${after}`);
    list.push(...page.tasks);
    after = page.next;
  }
  tasks = list;
  showTasks();
}

async function refreshNewest() {
  const page = await get("/v1/images?order=newest&limit=36");
  const signature = page.images.map(({ id, task }) => id + ":" + task).join();
  if (signature === newest) return;
  newest = signature;
  // Two whole rows, however wide they are.
  const columns = Math.max(3, Math.floor((at("newest").clientWidth + 7) / 74));
  // What is shown already stays as it is: a picture that is fetched again would flicker.
  const shown = new Map([...at("newest").children].map((item) => [item.dataset.key, item]));
  const items = page.images.slice(0, 2 * columns).map((image) => {
    const key = image.id + ":" + image.task + ":" + image.label;
    const item = shown.get(key) ?? thumb(image);
    item.dataset.key = key;
    return item;
  });
  at("newest").replaceChildren(...items);
  if (!page.images.length) at("newest").replaceChildren(element("p", { class: "empty" }, "No image is stored yet."));
}

async function refreshSources() {
  const list = await get("/v1/sources");
  at("sources").replaceChildren(...list.sources.map((source) => {
    const refused = Object.values(source.refused).reduce((sum, one) => sum + one, 0);
    const more = [source.duplicates ? number(source.duplicates) + " seen before" : "", refused ? number(refused) + " refused" : "", source.dropped ? number(source.dropped) + " dropped" : ""].filter(Boolean);
    const trouble = source.error ? element("span", { class: "bad" }, " " + source.error) : null;
    return element("li", {}, element("b", {}, source.name), ` ${source.kind}, ${number(source.accepted)} taken in${more.length ? ", " + more.join(", ") : ""}`, trouble);
  }));
}

async function refreshHistory() {
  const last = samples.length ? "?since=" + encodeURIComponent(samples[samples.length - 1].at) : "";
  const history = await get("/v1/history" + last);
  samples = samples.concat(history.samples).slice(-1800);
  showCharts();
}

async function refreshStatus() {
  try {
    const before = status;
    status = await get("/v1/status");
    if (before && status.uptime_seconds < before.uptime_seconds) { samples = []; newest = null; }
    lost = error = null;
    showStatus();
  } catch (problem) {
    lost ??= Date.now();
    error = problem.status ? problem.message : null;
  }
  showNotices();
}

async function act(path) {
  try { await send("POST", path); } catch (problem) { window.alert(problem.message); }
  await refreshStatus();
}

/** Does something every so many seconds while somebody looks; a failure waits for the next time. */
function every(seconds, refresh) {
  const run = async () => {
    if (!document.hidden && (refresh === refreshStatus || !lost)) await Promise.resolve(refresh()).catch(() => {});
    setTimeout(run, seconds * 1000);
  };
  run();
}

at("pause").addEventListener("click", () => act(status && (status.learn.paused_since || status.learn.frozen) ? "/v1/training/resume" : "/v1/training/pause"));
at("checkpoint").addEventListener("click", async (event) => {
  event.target.disabled = true;
  await act("/v1/checkpoints");
  event.target.disabled = false;
});
at("mark").addEventListener("click", async () => {
  try { await send("POST", "/v1/tasks", {}); } catch (problem) { window.alert(problem.message); }
  await refreshTasks().catch(() => {});
});

let resized = null;
window.addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => { showCharts(); timeline(at("timeline"), tasks); draw(); newest = null; }, 120); });

const soon = new Map();
function later(name, refresh) {
  clearTimeout(soon.get(name));
  soon.set(name, setTimeout(() => Promise.resolve(refresh()).catch(() => {}), 400));
}

every(1, refreshStatus);
every(2, refreshHistory);
every(2, refreshNewest);
every(3, refreshTasks);
every(3, refreshSources);
every(5, () => refreshMemory(tasks));
every(15, () => refreshForgetting(tasks));
every(15, () => refreshMap(tasks));
showEvents();
follow(0, (event) => {
  events.push(event);
  events = events.slice(-400);
  later("events", showEvents);
  if (event.kind.startsWith("task")) later("tasks", refreshTasks);
  if (event.kind === "version-published") { later("map", () => refreshMap(tasks)); later("forgetting", () => refreshForgetting(tasks)); }
}, () => {});
