// The page: opens photos, sends them to the server, and shows what it found.

import { bytesOf, cropMask, nmsSteps, paintMask, rgbOf } from "./masks.js";
import { saveJson, savePng } from "./save.js";
import { Stage, drawBox, drawTag } from "./stage.js";
import { FIRST_SETTINGS, STEPS } from "./steps.js";

const LAYER_SIDE = 1400; // pixels of the longer side of masks on the screen
const $ = (id) => document.getElementById(id);

/** All that the page shows. `data` is the answer of /inspect. */
const state = {
  model: null, data: null, photo: null, name: "photo", minScore: 0, nms: 0, selected: null,
  tab: "objects", at: 0, step: { ...FIRST_SETTINGS }, crops: new Map(), layers: new Map(),

  /** Indices of the candidates that are objects at the sliders' thresholds, best first. */
  detections() {
    if (!this.data) return [];
    const steps = nmsSteps(this.data.candidates, this.minScore, this.nms);
    return steps.slice(0, this.data.thresholds.max_objects).map((step) => step.picked);
  },
  cropOf(index) {
    if (!this.crops.has(index)) {
      const { segmentation, bbox } = this.data.candidates[index];
      this.crops.set(index, cropMask(segmentation, bbox));
    }
    return this.crops.get(index);
  },
  areaOf(index) {
    return this.cropOf(index).area;
  },
  /** The best object whose mask has a pixel at this place, or null. */
  objectAt([x, y]) {
    for (const index of this.detections()) {
      const crop = this.cropOf(index), column = Math.floor(x) - crop.x, row = Math.floor(y) - crop.y;
      const inside = column >= 0 && row >= 0 && column < crop.width && row < crop.height;
      if (inside && crop.data[row * crop.width + column]) return index;
    }
    return null;
  },
  paintObject(context, px, index, strong) {
    const { class_id, bbox: [x, y, w, h] } = this.data.candidates[index];
    const color = this.model.colorOf(class_id), key = `${index} ${strong}`, crop = this.cropOf(index);
    if (!this.layers.has(key)) {
      const scale = Math.min(8, LAYER_SIDE / Math.max(this.data.image.width, this.data.image.height));
      this.layers.set(key, paintMask(crop, rgbOf(color), scale, strong ? 165 : 100, strong ? 4 : 3));
    }
    context.drawImage(this.layers.get(key), crop.x, crop.y, crop.width, crop.height);
    if (strong) drawBox(context, [y, x, y + h, x + w], px, color);
  },
  paintTag(context, px, index) {
    const { class_id, score, bbox: [x, y] } = this.data.candidates[index], color = this.model.colorOf(class_id);
    drawTag(context, `${this.model.nameOf(class_id)} ${score.toFixed(2)}`, x, y, px, color, this.data.image.width);
  },
  /** Changes settings of the steps (or `selected`); rebuilds the controls, unless a slider that is held says not to. */
  set({ selected, ...settings }, controls = true) {
    if (selected !== undefined) this.selected = selected;
    Object.assign(this.step, settings);
    if (controls !== false) showControls(controls === true ? null : controls);
    showList();
    stage.render();
  },
};

const stage = new Stage($("canvas"), (context, px) => {
  if (state.tab === "steps") return STEPS[state.at].paint(context, px, state);
  const found = state.detections().reverse(), chosen = found.filter((index) => index === state.selected);
  const order = [...found.filter((index) => index !== state.selected), ...chosen]; // the best and the chosen one on top
  order.forEach((index) => state.paintObject(context, px, index, index === state.selected));
  order.forEach((index) => state.paintTag(context, px, index));
});

// ---- The server -------------------------------------------------------------------------------------------------------
async function ask(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (answer.status === 401) {
    await askForToken();
    return ask(path, options);
  }
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error || `The server answered with status ${answer.status}.`);
  return content;
}

function askForToken() {
  const dialog = $("token-dialog");
  return new Promise((done, fail) => {
    dialog.addEventListener("close", () => {
      if (dialog.returnValue !== "ok") return fail(new Error("A token is needed; reload the page to enter one."));
      sessionStorage.setItem("token", $("token").value.trim());
      done();
    }, { once: true });
    dialog.showModal();
  });
}

async function loadModel() {
  const model = await ask("/model");
  const byId = new Map(model.classes.map((c) => [c.id, c]));
  model.nameOf = (id) => byId.get(id)?.name ?? "background";
  model.colorOf = (id) => byId.get(id)?.color ?? "#c3ccd6";
  state.model = model;
  const count = model.classes.length;
  $("model").textContent = `${model.name} · ${count === 1 ? "1 class" : `${count} classes`}`;
}

// ---- A photo -----------------------------------------------------------------------------------------------------------
let newest = 0;

async function openPhoto(file) {
  const turn = ++newest;
  showMessage(null);
  showBusy("Finding objects…");
  try {
    if (!state.model) await loadModel();
    let photo = await createImageBitmap(file).catch(() => null); // TIFF and other files that browsers don't show
    const type = file.type || "application/octet-stream";
    const body = { method: "POST", body: file, headers: { "Content-Type": type } };
    const data = await ask(photo ? "/inspect" : "/inspect?photo=1", body);
    if (!photo) photo = await createImageBitmap(await (await fetch(data.photo)).blob());
    if (turn === newest) showPhoto(photo, data, file.name || "photo.png");
  } catch (error) {
    if (turn === newest) showMessage(error.message);
  } finally {
    if (turn === newest) showBusy(null);
  }
}

function showPhoto(photo, data, name) {
  Object.assign(state, { photo, data, name, selected: null, crops: new Map(), layers: new Map() });
  const best = data.levels.map((level) => Math.max(...bytesOf(level.heat)));
  Object.assign(state.step, FIRST_SETTINGS, { level: best.indexOf(Math.max(...best)) });
  stage.setPhoto(photo, data.image.width, data.image.height);
  $("stage").style.setProperty("--ratio", data.image.width / data.image.height);
  $("drop").hidden = true;
  $("canvas").hidden = false;
  for (const id of ["score", "nms", "save-png", "save-json", "reset", "next"]) $(id).disabled = false;
  $("score").min = Math.min(data.thresholds.lowest_score, data.thresholds.min_score);
  resetSliders();
  showStep();
}

function resetSliders() {
  $("score").value = state.data.thresholds.min_score;
  $("nms").value = state.data.thresholds.nms;
  readSliders();
}

function readSliders() {
  state.minScore = Number($("score").value);
  state.nms = Number($("nms").value);
  $("score-value").textContent = state.minScore.toFixed(2);
  $("nms-value").textContent = state.nms.toFixed(2);
  if (!state.detections().includes(state.selected)) state.selected = null;
  showList();
  if (state.tab === "steps") showControls(null);
  stage.render();
}

// ---- Showing -----------------------------------------------------------------------------------------------------------
function showMessage(text) {
  $("message").hidden = !text;
  $("message").textContent = text || "";
}

function showBusy(text) {
  $("busy").hidden = !text;
  $("busy-text").textContent = text || "";
}

function showList() {
  if (!state.data) return;
  const found = state.detections(), held = document.activeElement?.dataset?.index;
  const what = found.length === 1 ? "1 object" : `${found.length} objects`;
  $("summary").textContent = found.length ? `${what}. Choose one here or in the photo.` : "No object with this score. Lower the minimum.";
  $("canvas").setAttribute("aria-label", `Photo with ${what}`);
  $("list").replaceChildren(...found.map((index) => {
    const { class_id, score, bbox } = state.data.candidates[index];
    const button = document.createElement("button");
    button.type = "button";
    button.className = "object";
    button.dataset.index = index;
    button.setAttribute("aria-pressed", index === state.selected);
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = state.model.colorOf(class_id);
    const name = document.createElement("strong"), value = document.createElement("span"), more = document.createElement("small");
    name.textContent = state.model.nameOf(class_id);
    value.className = "number";
    value.textContent = score.toFixed(3);
    const area = state.areaOf(index), share = (100 * area) / (state.data.image.width * state.data.image.height);
    more.textContent = `${Math.round(bbox[2])} × ${Math.round(bbox[3])} px · area ${area.toLocaleString("en-US")} px, ${share.toFixed(1)} %`;
    button.append(swatch, name, value, more);
    button.addEventListener("click", () => select(index === state.selected ? null : index));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
  if (held !== undefined) $("list").querySelector(`[data-index="${held}"]`)?.focus();
}

function select(index) {
  state.selected = index;
  showList();
  $("list").querySelector('[aria-pressed="true"]')?.scrollIntoView({ block: "nearest" });
  stage.render();
}

function showStep() {
  const step = STEPS[state.at];
  if (!state.data) return;
  $("step-title").textContent = `${state.at + 1}. ${step.title}`;
  [...$("step-dots").querySelectorAll("button")].forEach((dot, i) => {
    dot.disabled = false;
    i === state.at ? dot.setAttribute("aria-current", "step") : dot.removeAttribute("aria-current");
  });
  $("previous").disabled = state.at === 0;
  $("next").disabled = state.at === STEPS.length - 1;
  stage.view = state.tab === "steps" && step.view ? step.view(state) : null;
  showControls(null);
  stage.render();
}

/** Rebuilds the text and the controls of a step; `held` is the id of a slider that keeps the focus. */
function showControls(held) {
  const step = STEPS[state.at];
  $("step-text").textContent = step.text(state);
  const focus = held || document.activeElement?.id;
  const radio = document.activeElement?.name && `[name="${document.activeElement.name}"]:checked`;
  const controls = step.controls ? step.controls(state) : [];
  const slider = held && $(held);
  if (slider) {
    // The slider that is being dragged stays, or the browser would end the drag.
    const fresh = controls.find((control) => control.querySelector?.(`#${held}`));
    const kept = slider.parentElement;
    [...$("step-controls").children].forEach((child) => child !== kept && child.remove());
    const before = controls.slice(0, controls.indexOf(fresh)), after = controls.slice(controls.indexOf(fresh) + 1);
    kept.before(...before);
    kept.after(...after);
    return;
  }
  $("step-controls").replaceChildren(...controls);
  const again = radio || (focus && `#${focus}`);
  if (again) $("step-controls").querySelector(again)?.focus();
}

function goTo(index, focusTitle = false) {
  state.at = Math.max(0, Math.min(STEPS.length - 1, index));
  showStep();
  if (focusTitle) $("step-title").focus();
}

function showTab(name) {
  state.tab = name;
  for (const id of ["objects", "steps"]) {
    $(id).hidden = id !== name;
    $(`tab-${id}`).setAttribute("aria-selected", id === name);
    $(`tab-${id}`).tabIndex = id === name ? 0 : -1;
  }
  if (state.data) showStep();
}

// ---- Events ------------------------------------------------------------------------------------------------------------
for (const id of ["file", "shot"]) {
  $(id).addEventListener("change", () => {
    if ($(id).files[0]) openPhoto($(id).files[0]);
    $(id).value = "";
  });
}
$("open").addEventListener("click", () => $("file").click());
$("drop").addEventListener("click", () => $("file").click());
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
}
document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dragging"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  const file = event.dataTransfer.files[0];
  file ? openPhoto(file) : showMessage("That was not a file. Drop a photo, or open one.");
});
document.addEventListener("paste", (event) => {
  const file = event.clipboardData.files[0];
  if (file) openPhoto(file);
});

for (const id of ["score", "nms"]) $(id).addEventListener("input", readSliders);
$("reset").addEventListener("click", resetSliders);
$("save-png").addEventListener("click", () => savePng(state));
$("save-json").addEventListener("click", () => saveJson(state));

for (const name of ["objects", "steps"]) {
  $(`tab-${name}`).addEventListener("click", () => showTab(name));
  $(`tab-${name}`).addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const other = name === "objects" ? "steps" : "objects";
    showTab(other);
    $(`tab-${other}`).focus();
  });
}
STEPS.forEach((step, i) => {
  const item = document.createElement("li"), dot = document.createElement("button");
  dot.type = "button";
  dot.textContent = i + 1;
  dot.disabled = true;
  dot.title = step.title;
  dot.setAttribute("aria-label", `Step ${i + 1}: ${step.title}`);
  dot.addEventListener("click", () => goTo(i));
  item.append(dot);
  $("step-dots").append(item);
});
$("previous").addEventListener("click", () => goTo(state.at - 1, true));
$("next").addEventListener("click", () => goTo(state.at + 1, true));

$("canvas").addEventListener("click", (event) => {
  const place = stage.place(event);
  if (state.tab === "objects") return select(state.objectAt(place));
  STEPS[state.at].point?.(place, state);
});
$("canvas").addEventListener("keydown", (event) => {
  if (state.tab === "steps" && STEPS[state.at].key?.(event, state)) event.preventDefault();
});
$("list").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const buttons = [...$("list").querySelectorAll("button")];
  buttons[buttons.indexOf(document.activeElement) + step]?.focus();
  event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.tab === "objects" && state.data) select(null);
});

// ---- The camera --------------------------------------------------------------------------------------------------------
$("camera").addEventListener("click", async () => {
  if (!navigator.mediaDevices?.getUserMedia) return $("shot").click(); // without https, phones open their camera instead
  try {
    $("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    $("camera-dialog").showModal();
  } catch {
    showMessage("The camera can't be used. Allow it in the browser, or open a photo.");
  }
});
$("take").addEventListener("click", () => {
  const video = $("video"), canvas = document.createElement("canvas");
  Object.assign(canvas, { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => openPhoto(new File([blob], "camera.png", { type: "image/png" })), "image/png");
  $("camera-dialog").close();
});
$("camera-cancel").addEventListener("click", () => $("camera-dialog").close());
$("camera-dialog").addEventListener("close", () => {
  $("video").srcObject?.getTracks().forEach((track) => track.stop());
  $("video").srcObject = null;
});

$("address").textContent = location.origin;
loadModel().catch((error) => showMessage(error.message));
