// The steps of the network on the visitor's photo. Each step draws over the photo and has its own controls.
//
// A step: {title, text(state), view(state)?, controls(state)?, paint(context, px, state), point(place, state)?}
// state: {data: the answer of /inspect, model, detections(), selected, set(changes), step: settings of the steps}

import { bytesOf, nmsSteps } from "./masks.js";
import { drawBox, drawTag, heat, mapCanvas } from "./stage.js";

const AMBER = "#ffb000", CYAN = "#35d0ff", RED = "#ff5a4d", GRAY = "#c3ccd6", GREEN = "#42e07c";
const number = (value) => value.toLocaleString("en-US");
const percent = (value) => `${(100 * value).toFixed(1)} %`;

// ---- Controls ---------------------------------------------------------------------------------------------------------
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function slider(id, label, min, max, value, change) {
  const output = element("output", { for: id }, number(value));
  const input = element("input", { id, type: "range", min, max, step: 1, value });
  input.addEventListener("input", () => {
    output.textContent = number(Number(input.value));
    change(Number(input.value));
  });
  return element("div", {}, element("label", { for: id }, label, output), input);
}

function choices(name, legend, labels, chosen, change) {
  const options = labels.map((label, i) => {
    const input = element("input", { type: "radio", name, value: i });
    input.checked = i === chosen;
    input.addEventListener("change", () => change(i));
    return element("label", { class: "choice" }, input, element("span", {}, label));
  });
  return element("fieldset", {}, element("legend", {}, legend), ...options);
}

function facts(pairs) {
  const list = element("dl", { class: "facts" });
  for (const [name, value] of pairs) list.append(element("dt", {}, name), element("dd", {}, value));
  return list;
}

const levelNames = (data) => data.levels.map((_, i) => (data.levels.length > 1 ? `P${i + 2}` : "C4"));
const levelChoice = (state) =>
  choices("level", "Level of the pyramid", levelNames(state.data), state.step.level, (level) => state.set({ level, cell: null }));

function clipToPhoto(context, { data: { image } }) {
  context.beginPath();
  context.rect(0, 0, image.width, image.height);
  context.clip();
}

// ---- Places of anchors -------------------------------------------------------------------------------------------------
function centerOf(level) {
  const [y1, x1, y2, x2] = level.cell[0];
  return [(y1 + y2) / 2, (x1 + x2) / 2];
}

/** The cell of a level that is shown: the chosen one, or the one at the middle of the photo. */
function shownCell(state) {
  const level = state.data.levels[state.step.level], [y, x] = centerOf(level), { height, width } = state.data.image;
  const [row, column] = state.step.cell || [(height / 2 - y) / level.step[0], (width / 2 - x) / level.step[1]];
  const inside = (value, count) => Math.max(0, Math.min(count - 1, Math.round(value)));
  return [inside(row, level.shape[0]), inside(column, level.shape[1])];
}

function moveCell(state, rows, columns) {
  const [row, column] = shownCell(state);
  state.set({ cell: [row + rows, column + columns] });
}

// ---- The steps ---------------------------------------------------------------------------------------------------------
const molded = {
  title: "The photo, resized and padded",
  text: ({ data }) =>
    `The network takes images of one size. Your photo of ${data.image.width} × ${data.image.height} pixels becomes a part of ` +
    `${data.molded.width} × ${data.molded.height}. What it does not fill is padding (gray), in which nothing is found.`,
  view({ data }) {
    const [y1, x1, y2, x2] = data.molded.window;
    const sy = data.image.height / Math.max(1, y2 - y1), sx = data.image.width / Math.max(1, x2 - x1);
    return { x: -x1 * sx, y: -y1 * sy, width: data.molded.width * sx, height: data.molded.height * sy };
  },
  controls: ({ data }) => [facts([
    ["photo", `${data.image.width} × ${data.image.height} px`],
    ["network's image", `${data.molded.width} × ${data.molded.height} px`],
    ["levels of features", number(data.levels.length)],
  ])],
  paint(context, px, { data }) {
    drawBox(context, [0, 0, data.image.height, data.image.width], px, CYAN, { dash: [6, 4] });
  },
};

const anchors = {
  title: "Anchors: boxes to start from",
  text: ({ data }) =>
    `Every cell of every level has boxes of fixed shapes, ${number(data.anchors.total)} in all. Levels with small cells have ` +
    "small anchors. Tap the photo, or use the arrow keys on it, to see those of another cell.",
  controls(state) {
    const level = state.data.levels[state.step.level];
    return [levelChoice(state), facts([
      ["cells", `${level.shape[1]} × ${level.shape[0]}`],
      ["anchors in a cell", number(level.cell.length)],
      ["anchors on this level", number(level.anchors)],
    ])];
  },
  paint(context, px, state) {
    const level = state.data.levels[state.step.level], [y, x] = centerOf(level), [stepY, stepX] = level.step;
    context.fillStyle = "rgb(255 255 255 / .7)";
    if (stepX > 5 * px) {
      for (let row = 0; row < level.shape[0]; row++) {
        for (let column = 0; column < level.shape[1]; column++) {
          context.fillRect(x + column * stepX - px, y + row * stepY - px, 2 * px, 2 * px);
        }
      }
    }
    const [row, column] = shownCell(state);
    for (const [y1, x1, y2, x2] of level.cell) {
      const dy = row * stepY, dx = column * stepX;
      drawBox(context, [y1 + dy, x1 + dx, y2 + dy, x2 + dx], px, AMBER);
    }
  },
  point([x, y], state) {
    const level = state.data.levels[state.step.level], [cy, cx] = centerOf(level);
    state.set({ cell: [(y - cy) / level.step[0], (x - cx) / level.step[1]] });
  },
  key(event, state) {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (move) moveCell(state, ...move);
    return Boolean(move);
  },
};

const objectness = {
  title: "The RPN looks for objects",
  text: () =>
    "A small network slides over each level and says for every anchor how likely it holds an object, of whatever class. " +
    "Each cell shows its best anchor: dark is background, yellow an object.",
  controls(state) {
    const level = state.data.levels[state.step.level], best = Math.max(...bytesOf(level.heat)) / 255;
    return [levelChoice(state), facts([["best probability on this level", percent(best)]])];
  },
  paint(context, px, state) {
    const level = state.data.levels[state.step.level], [y, x] = centerOf(level), [stepY, stepX] = level.step;
    const map = mapCanvas(bytesOf(level.heat), level.shape, (value) => [...heat(value), Math.round(235 * value ** 0.7)]);
    const { width, height } = state.data.image;
    context.save();
    clipToPhoto(context, state);
    context.fillStyle = "rgb(20 11 53 / .5)";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingEnabled = false;
    context.drawImage(map, x - stepX / 2, y - stepY / 2, stepX * level.shape[1], stepY * level.shape[0]);
    context.restore();
  },
};

const refined = {
  title: "Anchors move onto the objects",
  text: ({ data }) =>
    `The RPN also says how to shift and stretch each anchor. The best ${number(data.anchors.before_nms)} go on. ` +
    "Move the slider from the anchors to the boxes that they become.",
  controls: (state) => [
    slider("moved", "From anchor to box, %", 0, 100, state.step.moved, (moved) => state.set({ moved }, false)),
    slider("count", "Boxes shown", 1, state.data.anchors.shown.length, countOf(state), (count) => state.set({ count }, false)),
  ],
  paint(context, px, state) {
    const t = state.step.moved / 100;
    for (const { anchor, box } of state.data.anchors.shown.slice(0, countOf(state))) {
      drawBox(context, anchor.map((value, i) => value + t * (box[i] - value)), px, t < 0.5 ? AMBER : CYAN, { width: 1.5, rim: 1 });
    }
  },
};

function countOf(state) {
  return Math.min(state.step.count, state.data.anchors.shown.length);
}

const proposals = {
  title: "NMS leaves the proposals",
  text: ({ data }) =>
    "Many boxes show the same thing. Non-maximum suppression keeps the best of those that overlap (blue) and drops the " +
    `rest (red): of ${number(data.anchors.before_nms)} boxes, ${number(data.proposals.total)} proposals are left.`,
  controls: (state) => [
    choices("kept", "Show", ["kept", "dropped", "both"], state.step.kept, (kept) => state.set({ kept })),
    slider("shown", "Of each, the best", 1, 75, state.step.shown, (shown) => state.set({ shown }, false)),
  ],
  paint(context, px, state) {
    const { kept: which, shown: most } = state.step, shown = state.data.anchors.shown;
    context.save();
    clipToPhoto(context, state);
    if (which !== 0) {
      for (const { box } of shown.filter((a) => !a.kept).slice(0, most)) drawBox(context, box, px, RED, { dash: [5, 4], width: 1.5, rim: 0 });
    }
    if (which !== 1) {
      for (const { box } of shown.filter((a) => a.kept).slice(0, most)) drawBox(context, box, px, CYAN, { rim: 1 });
    }
    context.restore();
  },
};

const classes = {
  title: "What is in each proposal?",
  text: () =>
    "The features inside each proposal are cut out (RoIAlign) and classified. The class head gives a probability for every " +
    "class, and moves the box once more: dashed is the proposal, solid the result.",
  controls(state) {
    const shown = state.data.proposals.shown, index = Math.min(state.step.proposal, shown.length - 1);
    if (index < 0) return [element("p", {}, "There is no proposal in this photo.")];
    const bars = element("div", { class: "bars" });
    for (const [id, probability] of shown[index].classes) {
      const fill = element("i");
      fill.style.width = `${100 * probability}%`;
      bars.append(
        element("span", {}, id ? state.model.nameOf(id) : "background"),
        element("span", { class: "bar", "aria-hidden": "true" }, fill),
        element("span", { class: "number" }, percent(probability)),
      );
    }
    return [slider("proposal", "Proposal", 1, shown.length, index + 1, (value) => state.set({ proposal: value - 1 }, "proposal")), bars];
  },
  paint(context, px, state) {
    const shown = state.data.proposals.shown;
    context.save();
    clipToPhoto(context, state);
    shown.forEach((p) => drawBox(context, p.box, px, "rgb(255 255 255 / .45)", { width: 1, rim: 0 }));
    context.restore();
    const chosen = shown[Math.min(state.step.proposal, shown.length - 1)];
    if (!chosen) return;
    const best = chosen.classes.find(([id]) => id) || [0, 0];
    const color = best[0] ? state.model.colorOf(best[0]) : GRAY;
    drawBox(context, chosen.box, px, "#ffffff", { dash: [6, 4] });
    drawBox(context, chosen.refined, px, color, { width: 2.5 });
    drawTag(context, `${state.model.nameOf(best[0])} ${percent(best[1])}`, chosen.refined[1], chosen.refined[0], px, color, state.data.image.width);
  },
  point([x, y], state) {
    const inside = state.data.proposals.shown
      .map((p, i) => [i, p.box])
      .filter(([, [y1, x1, y2, x2]]) => x >= x1 && x < x2 && y >= y1 && y < y2);
    if (inside.length) state.set({ proposal: inside[0][0] });
  },
};

const suppression = {
  title: "NMS, step by step",
  text: (state) =>
    "Boxes with a high enough score compete: the best one (green) is kept and drops those of its class that overlap it more " +
    `than ${state.nms.toFixed(2)} (red). Then the next best one, until none is left. The sliders of the first tab apply here.`,
  controls(state) {
    const steps = nmsOf(state), index = Math.min(state.step.nms, steps.length);
    const candidates = state.data.candidates, at = steps[index - 1];
    const line = at
      ? `Kept: ${state.model.nameOf(candidates[at.picked].class_id)} ${candidates[at.picked].score.toFixed(3)}. ` +
        (at.dropped.length
          ? `Dropped: ${at.dropped.length}, with an overlap of ${at.dropped.slice(0, 3).map((d) => d.iou.toFixed(2)).join(", ")}${at.dropped.length > 3 ? " …" : "."}`
          : "It drops none.")
      : steps.length ? "Nothing is decided yet." : "No box has the minimum score.";
    return [
      slider("nms-step", "Step", 0, steps.length, index, (nms) => state.set({ nms }, "nms-step")),
      element("p", { role: "status" }, line),
      facts([
        ["boxes with the minimum score", number(steps.reduce((sum, s) => sum + 1 + s.dropped.length, 0))],
        ["left at the end", number(steps.length)],
      ]),
    ];
  },
  paint(context, px, state) {
    const steps = nmsOf(state), index = Math.min(state.step.nms, steps.length), candidates = state.data.candidates;
    const box = (i) => {
      const [x, y, width, height] = candidates[i].bbox;
      return [y, x, y + height, x + width];
    };
    steps.slice(index).forEach((s) => [s.picked, ...s.dropped.map((d) => d.index)].forEach((i) => drawBox(context, box(i), px, "#ffffff", { width: 1.5, rim: 1 })));
    steps.slice(0, Math.max(0, index - 1)).forEach((s) => drawBox(context, box(s.picked), px, GREEN, { width: 2 }));
    const at = steps[index - 1];
    if (!at) return;
    at.dropped.forEach((d) => drawBox(context, box(d.index), px, RED, { dash: [5, 4], width: 2 }));
    drawBox(context, box(at.picked), px, GREEN, { width: 3.5 });
    const { class_id, score } = candidates[at.picked];
    drawTag(context, `${state.model.nameOf(class_id)} ${score.toFixed(2)}`, box(at.picked)[1], box(at.picked)[0], px, GREEN, state.data.image.width);
  },
};

function nmsOf(state) {
  return nmsSteps(state.data.candidates, state.minScore, state.nms);
}

/** The candidate whose mask is shown: the selected object, or the best one. */
function shownObject(state) {
  const found = state.detections();
  const index = found.includes(state.selected) ? state.selected : found[0];
  return index === undefined ? null : { index, ...state.data.candidates[index] };
}

function objectControls(state, ...more) {
  const found = state.detections();
  if (!found.length) return [element("p", {}, "No object has the minimum score. Lower it in the first tab.")];
  const place = Math.max(0, found.indexOf(state.selected));
  const pick = slider("object", "Object", 1, found.length, place + 1, (value) => state.set({ selected: found[value - 1] }, "object"));
  return found.length > 1 ? [pick, ...more] : more;
}

function pointObject(place, state) {
  const index = state.objectAt(place);
  if (index !== null) state.set({ selected: index });
}

const softMask = {
  title: "A small mask for each object",
  text(state) {
    const object = shownObject(state), [rows, columns] = object ? object.mask_shape : [28, 28];
    return `For each box that is left, the mask head draws ${rows} × ${columns} probabilities: how likely each cell belongs to the object.`;
  },
  controls(state) {
    const object = shownObject(state);
    if (!object) return objectControls(state);
    const canvas = mapCanvas(bytesOf(object.mask), object.mask_shape, (value) => [...heat(value), 255]);
    canvas.className = "soft-mask";
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Mask of ${state.model.nameOf(object.class_id)}, ${object.mask_shape.join(" by ")} cells`);
    return objectControls(state, canvas);
  },
  paint(context, px, state) {
    const object = shownObject(state);
    if (!object) return;
    const [x, y, width, height] = object.bbox;
    const map = mapCanvas(bytesOf(object.mask), object.mask_shape, (value) => [...heat(value), 215]);
    context.save();
    context.imageSmoothingEnabled = false;
    context.drawImage(map, x, y, width, height);
    context.restore();
    drawBox(context, [y, x, y + height, x + width], px, state.model.colorOf(object.class_id));
  },
  point: pointObject,
};

const pasted = {
  title: "Pasted onto the photo",
  text: () =>
    "The small mask is stretched to the size of its box; pixels of at least one half belong to the object. This is what " +
    "the first tab shows and what you can save.",
  controls(state) {
    const object = shownObject(state);
    if (!object) return objectControls(state);
    const area = state.areaOf(object.index), { width, height } = state.data.image;
    return objectControls(state, facts([
      ["class", state.model.nameOf(object.class_id)],
      ["score", object.score.toFixed(3)],
      ["box", `${object.bbox.slice(2).map(Math.round).join(" × ")} px`],
      ["area", `${number(area)} px, ${percent(area / (width * height))}`],
    ]));
  },
  paint(context, px, state) {
    const object = shownObject(state);
    if (!object) return;
    state.paintObject(context, px, object.index, true);
    state.paintTag(context, px, object.index);
  },
  point: pointObject,
};

export const STEPS = [molded, anchors, objectness, refined, proposals, classes, suppression, softMask, pasted];
export const FIRST_SETTINGS = { level: 0, cell: null, moved: 0, count: 30, kept: 2, shown: 12, proposal: 0, nms: 1 };
