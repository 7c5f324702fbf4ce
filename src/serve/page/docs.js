// The API's documentation, from its own description.

import { get } from "./api.js";
import { element } from "./charts.js";

const main = document.getElementById("main");

function named(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.oneOf || schema.anyOf) return (schema.oneOf || schema.anyOf).map(named).filter((name) => name !== "null").join(" or ");
  const type = [].concat(schema.type ?? []).filter((type) => type !== "null").join(" or ");
  if (type === "array") return "list of " + named(schema.items);
  return (schema.enum ? schema.enum.join(" | ") : type) + (schema.format && !/^u?int/.test(schema.format) ? ` (${schema.format})` : "");
}

function range(schema = {}) {
  const parts = [];
  if (schema.minimum !== undefined) parts.push("from " + schema.minimum);
  if (schema.maximum !== undefined) parts.push("to " + schema.maximum);
  return parts.length ? " " + parts.join(" ") : "";
}

/** The schema whose fields a reader wants: what a reference names, what may be null beside it, what a list is of. */
function meant(schema, all) {
  if (schema?.$ref) return meant(all[schema.$ref.split("/").pop()], all);
  const choice = (schema?.oneOf ?? []).filter((one) => one.type !== "null");
  if (schema?.oneOf && choice.length === 1) return meant(choice[0], all);
  return schema?.type === "array" || schema?.type?.includes?.("array") ? meant(schema.items, all) : schema;
}

function fields(schema, all) {
  const found = meant(schema, all);
  if (!found) return null;
  const parts = found.allOf ? found.allOf.map((part) => (part.$ref ? all[part.$ref.split("/").pop()] : part)) : [found];
  const rows = parts.flatMap((part) => Object.entries(part.properties ?? {}).map(([name, field]) =>
    element("tr", {}, element("td", {}, name + ((part.required ?? []).includes(name) ? "" : "?")), element("td", {}, named(field) + range(field)), element("td", {}, field.description ?? ""))));
  return rows.length ? element("table", {}, element("tbody", {}, ...rows)) : null;
}

/** What the tables above name: every type with its fields. */
function types(all) {
  const described = Object.entries(all).sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, schema]) =>
    element("details", { id: "type-" + name }, element("summary", {}, element("code", {}, name), element("span", { class: "note" }, schema.description ?? "")),
      element("div", { class: "inner" }, fields(schema, all) ?? element("p", { class: "note" }, named(schema)))));
  return element("section", {}, element("h2", {}, "types"), element("p", { class: "note" }, "What bodies and answers are made of. A field with ? may be missing; times are RFC 3339."), ...described);
}

function example(method, path, operation) {
  const body = operation.requestBody && Object.keys(operation.requestBody.content);
  const parts = ["curl", "-s"];
  if (method !== "get") parts.push("-X", method.toUpperCase());
  if (body && body.includes("image/jpeg")) parts.push("--data-binary @image.jpg -H 'content-type: image/jpeg'");
  else if (body) parts.push("-d '{ … }' -H 'content-type: application/json'");
  parts.push(`'${location.origin}${path.replace(/\{(\w+)\}/g, (_, name) => (name === "id" ? "1" : name.toUpperCase()))}'`);
  return parts.join(" ");
}

function operation(method, path, described, all) {
  const inner = [];
  if (described.description) inner.push(element("p", {}, described.description));
  if (described.parameters?.length) {
    inner.push(element("h3", {}, "Parameters"), element("table", {}, element("tbody", {}, ...described.parameters.map((one) =>
      element("tr", {}, element("td", {}, one.name + (one.required ? "" : "?")), element("td", {}, named(one.schema) + range(one.schema)), element("td", {}, one.description ?? ""))))));
  }
  for (const [kind, content] of Object.entries(described.requestBody?.content ?? {})) {
    inner.push(element("h3", {}, "Body, " + kind));
    if (kind === "application/json") inner.push(fields(content.schema, all) ?? named(content.schema));
  }
  for (const [code, response] of Object.entries(described.responses)) {
    if (code === "default") continue;
    inner.push(element("h3", {}, `Answer ${code}: ${response.description}`));
    for (const [kind, content] of Object.entries(response.content ?? {})) {
      const shown = kind === "application/json" ? fields(content.schema, all) : null;
      inner.push(shown ?? element("p", { class: "note" }, `${kind} ${named(content.schema)}`));
    }
  }
  inner.push(element("h3", {}, "Example"), element("pre", {}, example(method, path, described)));
  return element("details", {}, element("summary", {}, element("span", { class: "verb " + method }, method.toUpperCase()), element("code", {}, path), element("span", { class: "note" }, described.summary ?? "")),
    element("div", { class: "inner" }, ...inner));
}

try {
  const api = await get("/openapi.json");
  document.getElementById("about").textContent = "version " + api.info.version;
  const sections = api.tags.map((tag) => {
    const operations = Object.entries(api.paths).flatMap(([path, methods]) => Object.entries(methods)
      .filter(([, described]) => described.tags?.includes(tag.name))
      .map(([method, described]) => operation(method, path, described, api.components.schemas)));
    return element("section", {}, element("h2", {}, tag.name), element("p", { class: "note" }, tag.description ?? ""), ...operations);
  });
  main.replaceChildren(element("p", {}, api.info.description), element("p", { class: "note" },
    "Errors are problems (RFC 9457, application/problem+json): `code` is stable, `field` names what is at fault, `remedy` says what to do."), ...sections, types(api.components.schemas));
} catch (problem) {
  main.replaceChildren(element("p", { class: "notice bad" }, "The description could not be read: " + problem.message));
}
