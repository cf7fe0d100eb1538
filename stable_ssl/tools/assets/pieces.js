"use strict";
// Pieces of the page; the files after this one share its names.

const parsed = id => JSON.parse(document.getElementById(id).textContent);
const report = parsed("report");
const runs = report.runs.map((run, index) => ({ ...run, index }));
const $ = selector => document.querySelector(selector);
const SEED = "hardware.seed";
const TICKED = 6; // runs at the start

const state = {
  ticked: new Map(), // index of a run: place among the colours, kept while it is ticked
  filter: "",
  statuses: new Set(),
  sort: null,
  columns: new Set(),
  x: "epoch",
  logX: false,
  colour: "",
  smooth: 0,
  mean: false,
  panels: [],
  allKeys: false,
};

function put(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "hue") node.style.setProperty("--hue", value);
    else if (name in node && !(node instanceof SVGElement)) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.flat().filter(child => child !== null));
  return node;
}

const make = (tag, attributes, ...children) =>
  put(document.createElement(tag), attributes, children);
const draw = (tag, attributes, ...children) =>
  put(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

function folded(title, open, ...children) {
  return make("details", { open }, make("summary", {}, title), ...children);
}

const contents = new Map();
function contentOf(run) {
  if (!contents.has(run.index)) contents.set(run.index, parsed(`run-${run.index}`));
  return contents.get(run.index);
}

const chosen = () =>
  runs
    .filter(run => state.ticked.has(run.index))
    .sort((a, b) => state.ticked.get(a.index) - state.ticked.get(b.index));
const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

function text(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const [h, m] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  if (h) return `${h} h ${String(m).padStart(2, "0")} min`;
  return m
    ? `${m} min ${String(Math.floor(seconds % 60)).padStart(2, "0")} s`
    : `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}

function moment(seconds) {
  return new Date(1000 * seconds).toLocaleString("sv").slice(0, 16);
}

// four digits
function general(value) {
  if (!Number.isFinite(value)) return "nan";
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e6)) return value.toExponential(3).replace("e+", "e");
  return String(Number(value.toPrecision(size >= 1e4 ? 6 : 4)));
}

const inOrder = (a, b) =>
  typeof a === "number" && typeof b === "number"
    ? a - b
    : text(a).localeCompare(text(b), "en", { numeric: true });
// numbers before words; what is missing last, either way
function place(row, by) {
  const value = by.value(row);
  if (typeof value === "number") return [0, value];
  return value === null || value === undefined || value === "nan" ? [2, ""] : [1, text(value)];
}
