// Renders /openapi.json as a reference to read: routes on the left, what they take and answer in the middle,
// examples on the right. Every text goes in as text, never as markup.
"use strict";

const VERBS = ["get", "post", "put", "patch", "delete"];
const DEPTH_MAX = 6;
let doc;

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) node.append(child);
  }
  return node;
}

function resolve(schema) {
  let seen = 0;
  while (schema && schema.$ref && seen++ < 10) {
    schema = schema.$ref.slice(2).split("/").reduce((at, key) => at && at[decodeURIComponent(key)], doc);
  }
  return schema || {};
}

// One object schema out of allOf parts; anything else as it is.
function merged(schema) {
  schema = resolve(schema);
  if (!schema.allOf) return schema;
  const whole = { type: "object", properties: {}, required: [], description: schema.description };
  for (const part of schema.allOf.map(merged)) {
    Object.assign(whole.properties, part.properties);
    whole.required.push(...(part.required || []));
  }
  return whole;
}

// The schema that is not `null` of a nullable one.
function unwrapped(schema) {
  const choices = schema.oneOf || schema.anyOf;
  if (!choices) return schema;
  const real = choices.filter((choice) => choice.type !== "null");
  return real.length === 1 ? real[0] : schema;
}

function kind(schema) {
  const target = merged(unwrapped(merged(schema)));
  const types = [].concat(target.type || (target.properties ? "object" : "any"));
  let words = types.filter((type) => type !== "null").join(" or ");
  if (types[0] === "array") words = kind(target.items || {}) + " list";
  if (target.format) words += " (" + target.format + ")";
  if (target.enum) words += ": " + target.enum.join(", ");
  const nullable = types.includes("null") || (schema.oneOf || []).some((choice) => choice.type === "null");
  return words + (nullable ? " or null" : "");
}

function example(schema, depth) {
  if (depth > DEPTH_MAX) return null;
  const whole = merged(unwrapped(merged(schema)));
  if (whole.example !== undefined) return whole.example;
  if (whole.examples && whole.examples.length) return whole.examples[0];
  if (whole.default !== undefined) return whole.default;
  if (whole.enum) return whole.enum[0];
  const type = [].concat(whole.type || [])[0];
  if (whole.properties) {
    return Object.fromEntries(Object.entries(whole.properties).map(([name, part]) => [name, example(part, depth + 1)]));
  }
  if (type === "array") return [example(whole.items || {}, depth + 1)];
  if (type === "integer" || type === "number") return 0;
  if (type === "boolean") return false;
  if (type === "string") return whole.format === "uuid" ? "0193a5f2-7c4e-7b1a-9d3e-5f6a7b8c9d0e" : "string";
  return type === "object" ? {} : null;
}

function fields(schema, depth, prefix) {
  const whole = merged(unwrapped(merged(schema)));
  if (depth > DEPTH_MAX) return [];
  if (whole.items) return fields(whole.items, depth + 1, prefix.replace(/\.$/, "") + "[].");
  return Object.entries(whole.properties || {}).flatMap(([name, part]) => {
    const inner = merged(part);
    const needed = (whole.required || []).includes(name);
    return [
      el("tr", {},
        el("td", {}, el("code", {}, prefix + name), " ", needed ? el("span", { class: "needed" }, "required") : null),
        el("td", {}, el("span", { class: "kind" }, kind(part)), part.description || inner.description ? el("p", {}, part.description || inner.description) : null)),
      ...fields(part, depth + 1, prefix + name + "."),
    ];
  });
}

function body(content) {
  const [type, media] = Object.entries(content || {})[0] || [];
  return media && media.schema ? { type, schema: media.schema } : null;
}

function pretty(value) {
  return el("pre", {}, el("code", {}, typeof value === "string" ? value : JSON.stringify(value, null, 2)));
}

function curl(verb, path, request, secured) {
  const lines = ["curl" + (verb === "get" ? "" : " -X " + verb.toUpperCase()) + " " + location.origin + path];
  if (secured) lines.push('-H "authorization: Bearer $TOKEN"');
  if (request) {
    lines.push("-H 'content-type: application/json'");
    lines.push("-d '" + JSON.stringify(example(request.schema, 0)) + "'");
  }
  return lines.join(" \\\n  ");
}

function responses(operation) {
  return Object.entries(operation.responses || {}).map(([status, given]) => {
    const response = resolve(given);
    const content = body(response.content);
    const rows = status < "400" && content ? fields(content.schema, 0, "") : [];
    return el("details", {},
      el("summary", {}, el("code", {}, status), " ", response.description || "", content ? el("span", { class: "note" }, " " + content.type) : null),
      rows.length ? el("table", {}, rows) : null);
  });
}

function operationView(path, verb, operation) {
  const request = operation.requestBody && body(resolve(operation.requestBody).content);
  const secured = (operation.security || []).some((need) => "bearer" in need);
  const open = !secured || operation.security.some((need) => !Object.keys(need).length);
  const parameters = (operation.parameters || []).map(resolve);
  const success = Object.entries(operation.responses || {}).find(([status]) => status < "300");
  const answer = success && body(resolve(success[1]).content);
  const words = [operation.summary, operation.description].filter(Boolean);
  return el("section", { class: "operation", id: operation.operationId },
    el("header", {}, el("h2", {}, el("span", { class: "verb " + verb }, verb.toUpperCase()), " " + path),
      words.map((text) => el("p", {}, text)),
      el("p", { class: "note" }, open ? (secured ? "A token is optional." : "No token needed.") : "Needs a token.")),
    el("div", {},
      parameters.length ? [el("h3", {}, "Parameters"), el("table", {}, parameters.map((p) => el("tr", {},
        el("td", {}, el("code", {}, p.name), el("span", { class: "note" }, " in " + p.in), p.required ? el("span", { class: "needed" }, " required") : null),
        el("td", {}, el("span", { class: "kind" }, kind(p.schema || {})), p.description ? el("p", {}, p.description) : null))))] : null,
      request ? [el("h3", {}, "Body"), el("table", {}, fields(request.schema, 0, ""))] : null,
      el("h3", {}, "Answers"), responses(operation)),
    el("div", {},
      el("h3", {}, "Request"), pretty(curl(verb, path, request, secured)),
      answer && answer.type.includes("json") ? [el("h3", {}, "Answer"), pretty(example(answer.schema, 0))] : null));
}

function render() {
  const routes = document.getElementById("routes");
  const details = document.getElementById("details");
  details.replaceChildren(
    el("h1", {}, doc.info.title + " " + doc.info.version),
    (doc.info.description || "").split("\n\n").map((text) => el("p", {}, text)).reduce((all, p) => { all.append(p); return all; }, el("div")));
  const byTag = new Map((doc.tags || []).map((tag) => [tag.name, []]));
  for (const [path, item] of Object.entries(doc.paths)) {
    for (const verb of VERBS.filter((verb) => item[verb])) {
      const tag = (item[verb].tags || ["other"])[0];
      if (!byTag.has(tag)) byTag.set(tag, []);
      byTag.get(tag).push([path, verb, item[verb]]);
    }
  }
  for (const [tag, operations] of byTag) {
    if (!operations.length) continue;
    const about = (doc.tags || []).find((known) => known.name === tag);
    routes.append(el("h3", {}, tag));
    details.append(el("h2", {}, tag), el("p", {}, (about && about.description) || ""));
    for (const [path, verb, operation] of operations) {
      routes.append(el("a", { class: "route", href: "#" + operation.operationId, "data-text": (verb + " " + path + " " + (operation.summary || "")).toLowerCase() },
        el("span", { class: "verb " + verb }, verb.toUpperCase()), path));
      details.append(operationView(path, verb, operation));
    }
  }
  if (location.hash) {
    const target = document.getElementById(location.hash.slice(1));
    if (target) target.scrollIntoView();
  }
}

document.getElementById("filter").addEventListener("input", (event) => {
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const link of document.querySelectorAll("a.route")) {
    link.hidden = !words.every((word) => link.dataset.text.includes(word));
    link.style.display = link.hidden ? "none" : "";
  }
});

fetch("/openapi.json")
  .then((answer) => answer.json())
  .then((openapi) => { doc = openapi; render(); })
  .catch((error) => { document.getElementById("details").replaceChildren(el("p", {}, "Cannot read /openapi.json: " + error.message)); });
