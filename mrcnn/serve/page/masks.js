// Masks and NMS: what the server computes with NumPy, here for the sliders.

/** Decodes COCO's compressed run lengths: numbers, alternately of 0s and of 1s, column by column. */
export function decodeRuns(counts) {
  const runs = [];
  for (let i = 0; i < counts.length; ) {
    let value = 0, shift = 0, code;
    do {
      code = counts.charCodeAt(i++) - 48;
      value += (code & 31) * 2 ** shift;
      shift += 5;
    } while (code & 32);
    if (code & 16) value -= 2 ** shift;
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

/** The pixels of a mask inside its box: {x, y, width, height, data (1 inside), area}. */
export function cropMask({ size: [photoHeight], counts }, [boxX, boxY, boxWidth, boxHeight]) {
  const x = Math.floor(boxX), y = Math.floor(boxY);
  const width = Math.max(1, Math.ceil(boxX + boxWidth) - x), height = Math.max(1, Math.ceil(boxY + boxHeight) - y);
  const data = new Uint8Array(width * height);
  let position = 0, inside = false, area = 0;
  for (const run of decodeRuns(counts)) {
    if (inside) {
      area += run;
      for (let p = position; p < position + run; ) {
        const column = Math.floor(p / photoHeight), row = p - column * photoHeight;
        const length = Math.min(position + run - p, photoHeight - row);
        for (let r = Math.max(row, y); r < Math.min(row + length, y + height); r++) {
          if (column >= x && column < x + width) data[(r - y) * width + column - x] = 1;
        }
        p += length;
      }
    }
    position += run;
    inside = !inside;
  }
  return { x, y, width, height, data, area };
}

/** A canvas with the mask in a color, filled lightly and outlined, at `scale` pixels for each of the photo. */
export function paintMask(crop, [red, green, blue], scale, alpha, lineWidth = 1) {
  const width = Math.max(1, Math.round(crop.width * scale)), height = Math.max(1, Math.round(crop.height * scale));
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  const columns = Array.from({ length: width }, (_, i) => Math.min(crop.width - 1, Math.floor(((i + 0.5) * crop.width) / width)));
  const rows = Array.from({ length: height }, (_, i) => Math.min(crop.height - 1, Math.floor(((i + 0.5) * crop.height) / height)));
  const at = (r, c) => r >= 0 && c >= 0 && r < height && c < width && crop.data[rows[r] * crop.width + columns[c]];
  for (let r = 0; r < height; r++) {
    for (let c = 0; c < width; c++) {
      if (!at(r, c)) continue;
      const edge = !at(r - lineWidth, c) || !at(r + lineWidth, c) || !at(r, c - lineWidth) || !at(r, c + lineWidth);
      image.data.set([red, green, blue, edge ? 255 : alpha], 4 * (r * width + c));
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Intersection over union of two boxes (y1, x1, y2, x2), rounded as the network does, in float32. */
export function iou(a, b) {
  const f = Math.fround;
  const overlap = (i) => Math.max(f(Math.min(f(a[i + 2]), f(b[i + 2])) - Math.max(f(a[i]), f(b[i]))), 0);
  const area = (box) => f(f(f(box[2]) - f(box[0])) * f(f(box[3]) - f(box[1])));
  const shared = f(overlap(0) * overlap(1));
  const union = f(f(area(a) + area(b)) - shared);
  return union > 0 ? f(shared / union) : 0;
}

/** Greedy NMS over candidates, best first: a list of steps {picked, dropped: [{index, iou}]}, in order. */
export function nmsSteps(candidates, minScore, threshold) {
  const steps = [], gone = new Set();
  const left = candidates.map((_, i) => i).filter((i) => candidates[i].score >= Math.fround(minScore));
  for (const picked of left) {
    if (gone.has(picked)) continue;
    gone.add(picked);
    const dropped = [];
    for (const other of left) {
      if (gone.has(other) || candidates[other].group !== candidates[picked].group) continue;
      const overlap = iou(candidates[picked].nms_box, candidates[other].nms_box);
      if (overlap > Math.fround(threshold)) {
        gone.add(other);
        dropped.push({ index: other, iou: overlap });
      }
    }
    steps.push({ picked, dropped });
  }
  return steps;
}

/** Bytes from base64. */
export function bytesOf(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

export function rgbOf(hex) {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}
