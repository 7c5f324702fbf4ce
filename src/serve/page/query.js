// Asking about an image: dropped, chosen, or one of the stored ones; and the dialog that shows one stored image.

import { ask, get, picture, send, sendImage } from "./api.js";
import { clock, element } from "./charts.js";

const at = (id) => document.getElementById(id);
const drop = at("drop");
let open_id = null, object_url = null;

/** A stored image as a button that opens it. */
export function thumb(image, caption) {
  const img = element("img", { alt: "", width: 64, height: 64 });
  img.addEventListener("error", () => { img.hidden = true; });
  picture(img, image.id);
  const words = `Image ${image.id}` + (image.task ? `, task ${image.task}` : "") + (image.label ? `, ${image.label}` : "") + `, from ${image.source ?? "the stream"}`;
  const button = element("button", { class: "thumb", type: "button", task: image.task, "aria-label": words, title: words, onclick: () => open(image.id) }, img);
  return element("li", {}, button, caption ? element("small", {}, caption) : null);
}

function show(answer, what) {
  at("answer").replaceChildren(...answer.neighbours.map((near) => thumb(near, `${near.score.toFixed(3)}${near.label ? " · " + near.label : near.task ? " · task " + near.task : ""}`)));
  at("answer-note").textContent = answer.neighbours.length
    ? `The ${answer.neighbours.length} stored images nearest to ${what}, by version ${answer.encoder_version} of the encoder. The number is the cosine: 1 is the same direction.`
    : `No image is stored yet that could be near to ${what}.`;
}

async function query(file) {
  if (object_url) URL.revokeObjectURL(object_url);
  object_url = URL.createObjectURL(file);
  at("asked").src = object_url;
  at("asked").alt = "The image asked about: " + file.name;
  at("asked").hidden = false;
  at("answer-note").textContent = "Asking…";
  try {
    show(await sendImage("/v1/query?k=18", file), "yours");
  } catch (problem) {
    at("answer").replaceChildren();
    at("answer-note").textContent = "No answer: " + problem.message + ".";
  }
}

for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file) query(file);
});
// A picture that misses the box must not replace the page.
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
at("file").addEventListener("change", () => {
  const [file] = at("file").files;
  if (file) query(file);
  at("file").value = "";
});

/** Shows one stored image. */
export async function open(id) {
  const dialog = at("detail");
  open_id = id;
  at("d-note").textContent = "";
  at("d-title").textContent = "Image " + id;
  picture(at("d-picture"), id);
  at("d-picture").alt = "Stored image " + id;
  at("d-facts").replaceChildren();
  if (!dialog.open) dialog.showModal();
  try {
    const image = await get("/v1/images/" + id);
    const facts = [["Captured", `${new Date(image.captured_at).toLocaleDateString()} ${clock(image.captured_at)}`], ["Source", image.source], ["Task", image.task ?? "–"], ["Label", image.label ?? "–"]];
    at("d-facts").replaceChildren(...facts.flatMap(([what, value]) => [element("dt", {}, what), element("dd", {}, String(value))]));
    at("d-name").value = image.label ?? "";
    at("d-unlabel").hidden = image.label === null;
  } catch (problem) {
    at("d-note").textContent = problem.message;
  }
}

async function change(action, words) {
  try {
    await action();
    at("d-note").textContent = words;
  } catch (problem) {
    at("d-note").textContent = problem.message;
    return false;
  }
  return true;
}

at("d-label").addEventListener("submit", async (event) => {
  event.preventDefault();
  const label = at("d-name").value.trim();
  if (label && await change(() => send("PUT", "/v1/labels", { label, ids: [open_id] }), "")) { await open(open_id); at("d-note").textContent = "Saved."; }
});
at("d-unlabel").addEventListener("click", async () => {
  if (await change(() => send("DELETE", "/v1/labels?ids=" + open_id), "")) { await open(open_id); at("d-note").textContent = "The label is gone."; }
});
at("d-near").addEventListener("click", async () => {
  const id = open_id;
  try {
    const answer = await send("POST", "/v1/query", { id, k: 18 });
    at("detail").close();
    at("asked").hidden = true;
    show(answer, "image " + id);
    at("h-ask").scrollIntoView({ block: "start" });
  } catch (problem) {
    at("d-note").textContent = problem.message;
  }
});
at("d-forget").addEventListener("click", async () => {
  const id = open_id;
  if (!window.confirm(`Image ${id} will be erased from the disk and from the bank. It cannot be brought back.`)) return;
  if (await change(() => ask("/v1/images/" + id, { method: "DELETE" }), `Image ${id} is gone.`)) at("d-picture").removeAttribute("src");
});
