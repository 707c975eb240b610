// The canvas with the photo: everything is drawn in pixels of the photo, whatever the size on the screen.

export class Stage {
  /** `paint(context, px)` draws over the photo; px is the length of a screen pixel in pixels of the photo. */
  constructor(canvas, paint) {
    this.canvas = canvas;
    this.paint = paint;
    this.photo = null;
    this.view = null;
    new ResizeObserver(() => this.render()).observe(canvas);
  }

  setPhoto(photo, width, height) {
    Object.assign(this, { photo, width, height, view: null });
  }

  render() {
    const { canvas, photo } = this;
    if (!photo || !canvas.clientWidth) return;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    const view = this.view || { x: 0, y: 0, width: this.width, height: this.height };
    const margin = 14 * ratio;
    this.scale = Math.min((canvas.width - 2 * margin) / view.width, (canvas.height - 2 * margin) / view.height);
    this.left = (canvas.width - view.width * this.scale) / 2 - view.x * this.scale;
    this.top = (canvas.height - view.height * this.scale) / 2 - view.y * this.scale;
    const context = canvas.getContext("2d");
    context.setTransform(this.scale, 0, 0, this.scale, this.left, this.top);
    context.imageSmoothingEnabled = this.scale < 3;
    context.imageSmoothingQuality = "high";
    if (this.view) {
      context.fillStyle = "#3b4653";
      context.fillRect(view.x, view.y, view.width, view.height);
    }
    context.drawImage(photo, 0, 0, this.width, this.height);
    this.paint(context, ratio / this.scale);
  }

  /** Where a pointer is: [x, y] in pixels of the photo. */
  place(event) {
    const box = this.canvas.getBoundingClientRect(), ratio = this.canvas.width / box.width;
    return [
      ((event.clientX - box.left) * ratio - this.left) / this.scale,
      ((event.clientY - box.top) * ratio - this.top) / this.scale,
    ];
  }
}

/** A box (y1, x1, y2, x2) with a dark rim, which is legible on any photo. */
export function drawBox(context, [y1, x1, y2, x2], px, color, { dash = [], width = 2, rim = 2 } = {}) {
  context.save();
  if (rim) {
    context.strokeStyle = "rgb(0 0 0 / .55)";
    context.lineWidth = (width + rim) * px;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }
  context.strokeStyle = color;
  context.lineWidth = width * px;
  context.setLineDash(dash.map((length) => length * px));
  context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  context.restore();
}

/** A text on a tag of a color, above the point or below it at the upper edge, inside the width of the photo. */
export function drawTag(context, text, x, y, px, color, photoWidth) {
  context.save();
  const size = 13 * px, pad = 4 * px;
  context.font = `600 ${size}px system-ui, "DejaVu Sans", sans-serif`;
  const width = context.measureText(text).width + 2 * pad, height = size + 1.5 * pad;
  const left = Math.max(0, Math.min(x, photoWidth - width)), top = y >= height ? y - height : y;
  context.fillStyle = color;
  context.fillRect(left, top, width, height);
  context.fillStyle = isLight(color) ? "#000" : "#fff";
  context.textBaseline = "middle";
  context.fillText(text, left + pad, top + height / 2);
  context.restore();
}

function isLight(hex) {
  const [red, green, blue] = [1, 3, 5].map((i) => (parseInt(hex.slice(i, i + 2), 16) / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue >= 0.25;
}

/** Bytes [rows x columns] as a small canvas, colored by `color(value 0..1) -> [r, g, b, a]`. */
export function mapCanvas(bytes, [rows, columns], color) {
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  bytes.forEach((value, i) => image.data.set(color(value / 255), 4 * i));
  context.putImageData(image, 0, 0);
  return canvas;
}

const RAMP = [[20, 11, 53], [101, 21, 110], [187, 55, 84], [249, 142, 9], [252, 255, 164]];

/** Dark violet for 0 over red to light yellow for 1. */
export function heat(value) {
  const place = value * (RAMP.length - 1), i = Math.min(RAMP.length - 2, Math.floor(place));
  return RAMP[i].map((low, channel) => Math.round(low + (RAMP[i + 1][channel] - low) * (place - i)));
}
