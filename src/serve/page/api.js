// Asking the daemon: with a token where it needs one, and problems as errors that say what to do.

const KEY = "lumpd-token";
let token = sessionStorage.getItem(KEY) || "";
let asking = null;

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ? body.detail + (body.remedy ? "; " + body.remedy : "") : "the daemon answered with status " + status);
    this.status = status;
    this.code = body.code;
  }
}

function headers(more) {
  return token ? { ...more, Authorization: "Bearer " + token } : more || {};
}

/** Asks; returns the response, whatever its type. */
export async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers: headers(options.headers), cache: "no-store" });
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  if (response.status === 401) await askForToken();
  throw new Problem(response.status, body);
}

export const get = async (path) => (await ask(path)).json();

export async function send(method, path, body) {
  const options = { method };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  return (await ask(path, options)).json();
}

export async function sendImage(path, file) {
  return (await ask(path, { method: "POST", body: file, headers: { "Content-Type": file.type.startsWith("image/") ? file.type : "application/octet-stream" } })).json();
}

/** One dialog, however many requests wait for it. */
function askForToken() {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("token");
    if (!dialog) return resolve();
    document.getElementById("t-note").textContent = token ? "The last one was not accepted." : "";
    document.getElementById("t-form").onsubmit = (event) => {
      event.preventDefault();
      token = document.getElementById("t-value").value.trim();
      sessionStorage.setItem(KEY, token);
      dialog.close();
    };
    dialog.onclose = () => { asking = null; resolve(); };
    dialog.showModal();
  });
  return asking;
}

const pictures = new Map();

/** Shows a stored image's picture in an <img>; without a token the browser fetches it by itself. */
export async function picture(img, id) {
  const path = `/v1/images/${id}/thumbnail?absent=blank`;
  if (!token) { img.src = path; return; }
  if (!pictures.has(id)) {
    if (pictures.size > 400) {
      const [oldest, url] = pictures.entries().next().value;
      url.then((url) => URL.revokeObjectURL(url), () => {});
      pictures.delete(oldest);
    }
    pictures.set(id, ask(path).then((response) => response.blob()).then((blob) => URL.createObjectURL(blob)));
  }
  try { img.src = await pictures.get(id); } catch { pictures.delete(id); }
}

/** Follows the events; calls back with each, and comes back by itself after a break. */
export async function follow(after, onEvent, onState) {
  let last = after, pause = 1000;
  for (;;) {
    try {
      const response = await ask(`/v1/events?after=${last}`, { headers: { Accept: "text/event-stream" } });
      onState(true);
      pause = 1000;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        for (const part of parts) {
          const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
          if (!data) continue;
          const event = JSON.parse(data);
          last = event.sequence;
          onEvent(event);
        }
      }
    } catch { /* the pause below, then again */ }
    onState(false);
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 1.6, 15000);
    // A daemon that was started anew counts from 1 again.
    try { const seen = await get("/v1/events?limit=1"); if (seen.oldest !== null && last > 0 && seen.oldest <= 1) last = Math.min(last, (await get("/v1/events?limit=1000")).next); } catch { /* still away */ }
  }
}
