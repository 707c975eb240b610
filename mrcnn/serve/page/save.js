// What can be saved: the picture with masks, and COCO JSON.

import { paintMask, rgbOf } from "./masks.js";
import { drawBox, drawTag } from "./stage.js";

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const stem = (name) => name.replace(/\.[^.]+$/, "") || "photo";

/** The photo in its own size with the objects drawn on it. */
export async function savePng(state) {
  const { width, height } = state.data.image;
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.drawImage(state.photo, 0, 0, width, height);
  const px = Math.max(1, Math.min(width, height) / 600), found = [...state.detections()].reverse();
  for (const index of found) {
    const { class_id } = state.data.candidates[index], crop = state.cropOf(index);
    const color = state.model.colorOf(class_id);
    context.drawImage(paintMask(crop, rgbOf(color), 1, 115, Math.max(1, Math.round(px))), crop.x, crop.y);
  }
  for (const index of found) {
    const { class_id, score, bbox: [x, y, w, h] } = state.data.candidates[index], color = state.model.colorOf(class_id);
    drawBox(context, [y, x, y + h, x + w], px, color, { width: 1 });
    drawTag(context, `${state.model.nameOf(class_id)} ${score.toFixed(2)}`, x, y, px, color, width);
  }
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  download(blob, `${stem(state.name)}_objects.png`);
}

/** The objects as a COCO file: image, categories, and annotations with run lengths and scores. */
export function saveJson(state) {
  const { width, height } = state.data.image;
  const annotations = state.detections().map((index, i) => {
    const { class_id, score, bbox, segmentation } = state.data.candidates[index];
    return { id: i + 1, image_id: 1, category_id: class_id, bbox, area: state.areaOf(index), iscrowd: 0, score, segmentation };
  });
  const file = {
    images: [{ id: 1, file_name: state.name, width, height }],
    categories: state.model.classes.map(({ id, name }) => ({ id, name })),
    annotations,
  };
  download(new Blob([JSON.stringify(file)], { type: "application/json" }), `${stem(state.name)}_coco.json`);
}
