// What a stage found, as pictures of cells: colours, edges between cells, cells under a point.

/**
 * An array over the image.
 * @typedef {object} Cells
 * @property {ArrayLike<number>} values (H, W), or (K, H, W)
 * @property {number} height @property {number} width of one map
 * @property {[number, number]} cover shares of the image, down and across, that the cells cover
 * @property {number | null} ignore the value that means nothing
 * @property {number} [drawings] how many there are of the same image
 */

/** @typedef {[number, number, number]} Color */

/** Of `drawing/overlays.py`. @type {Color[]} */
export const OBJECTS = [[0, 140, 220], [230, 130, 0], [0, 158, 115], [204, 121, 167], [160, 60, 20], [86, 180, 233], [90, 60, 160]]
/** @type {Color} */
export const TRUTH = [245, 225, 40]
/** Negative to positive. @type {Color[]} */
const DIVERGING = [[18, 63, 135], [120, 170, 215], [246, 246, 244], [240, 165, 95], [150, 65, 5]]
/** None to much, ever lighter. @type {Color[]} */
const RISING = [[10, 10, 30], [70, 20, 105], [160, 45, 95], [225, 100, 50], [250, 180, 60], [255, 250, 190]]
const STEPS = 256
const divergingColors = table(DIVERGING)
const risingColors = table(RISING)

/** @param {Color[]} stops */
function table(stops) {
  const found = new Uint8ClampedArray(STEPS * 3)
  for (let i = 0; i < STEPS; i++) {
    const at = i / (STEPS - 1) * (stops.length - 1)
    const low = Math.min(Math.floor(at), stops.length - 2)
    for (let c = 0; c < 3; c++) found[3 * i + c] = Math.round(stops[low][c] + (at - low) * (stops[low + 1][c] - stops[low][c]))
  }
  return found
}

/** An answer of `layers/...`. @param {{values: any, shape: number[], headers: Headers}} answer @returns {Cells} */
export function cellsOf({ values, shape, headers }) {
  const cover = (headers.get('X-Cover') ?? '1,1').split(',').map(Number)
  const ignore = headers.get('X-Ignore')
  return { values, height: shape[shape.length - 2], width: shape[shape.length - 1], cover: [cover[0], cover[1]], ignore: ignore === null ? null : Number(ignore), drawings: Number(headers.get('X-Drawings') ?? 1) }
}

/** The cell under a point of the image. @param {Cells} cells @param {number} x @param {number} y shares of its width and height */
export function cellAt({ height, width, cover }, x, y) {
  const down = Math.min(height - 1, Math.max(0, Math.floor(y / cover[0] * height)))
  const across = Math.min(width - 1, Math.max(0, Math.floor(x / cover[1] * width)))
  return down * width + across
}

/** The middle of a cell, as shares of the image. @param {Cells} cells @param {number} cell @returns {[number, number]} */
export function middleOf({ height, width, cover }, cell) {
  return [(cell % width + 0.5) / width * cover[1], (Math.floor(cell / width) + 0.5) / height * cover[0]]
}

/**
 * A picture of cells, one pixel each.
 * @param {number} width @param {number} height @param {(data: Uint8ClampedArray, i: number) => void} paint puts the four bytes at 4 i
 * @param {HTMLCanvasElement} [canvas] to be used again
 */
export function painted(width, height, paint, canvas = document.createElement('canvas')) {
  if (canvas.width !== width) canvas.width = width
  if (canvas.height !== height) canvas.height = height
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d', { willReadFrequently: true }))
  const image = context.createImageData(width, height)
  for (let i = 0; i < width * height; i++) paint(image.data, i)
  context.putImageData(image, 0, 0)
  return canvas
}

/** @param {Uint8ClampedArray} data @param {number} i @param {ArrayLike<number>} from @param {number} at */
function put(data, i, from, at) {
  data[4 * i] = from[at]
  data[4 * i + 1] = from[at + 1]
  data[4 * i + 2] = from[at + 2]
  data[4 * i + 3] = 255
}

/** Zero in the middle. @param {ArrayLike<number>} values @param {number} from the first one @param {number} limit of the scale @param {number} width @param {number} height @param {HTMLCanvasElement} [canvas] */
export function diverging(values, from, limit, width, height, canvas) {
  return painted(width, height, (data, i) =>
    put(data, i, divergingColors, 3 * Math.round((Math.max(-1, Math.min(1, values[from + i] / limit)) + 1) / 2 * (STEPS - 1))), canvas)
}

/** Zero at the dark end. @param {ArrayLike<number>} values @param {number} limit @param {number} width @param {number} height @param {HTMLCanvasElement} [canvas] */
export function rising(values, limit, width, height, canvas) {
  return painted(width, height, (data, i) => put(data, i, risingColors, 3 * Math.round(Math.min(1, values[i] / limit) * (STEPS - 1))), canvas)
}

/** Cells by the colour of their value; without one nothing is there. @param {Cells} cells @param {(value: number) => Color | null} color */
export function colored({ values, width, height, ignore }, color) {
  /** @type {Map<number, Color | null>} */
  const known = new Map()
  return painted(width, height, (data, i) => {
    const value = values[i]
    if (value === ignore) return
    let of = known.get(value)
    if (of === undefined) known.set(value, of = color(value))
    if (of) put(data, i, of, 0)
  })
}

/** A bar of the colours, for a legend. @param {'diverging' | 'rising'} which */
export function scaleBar(which) {
  return painted(STEPS, 1, (data, i) => put(data, i, which === 'rising' ? risingColors : divergingColors, 3 * i))
}

/**
 * Lines between cells of different kinds, and around the whole where a kind that counts ends, in units of cells.
 * @param {number} width @param {number} height @param {(i: number) => number} kind 0 is nothing
 */
export function edges(width, height, kind) {
  const path = new Path2D()
  const at = (/** @type {number} */ y, /** @type {number} */ x) => (y < 0 || x < 0 || y >= height || x >= width ? 0 : kind(y * width + x))
  for (let y = 0; y <= height; y++) {
    let begun = -1
    for (let x = 0; x <= width; x++) {
      const edge = x < width && at(y - 1, x) !== at(y, x)
      if (edge && begun < 0) begun = x
      if (!edge && begun >= 0) { path.moveTo(begun, y); path.lineTo(x, y); begun = -1 }
    }
  }
  for (let x = 0; x <= width; x++) {
    let begun = -1
    for (let y = 0; y <= height; y++) {
      const edge = y < height && at(y, x - 1) !== at(y, x)
      if (edge && begun < 0) begun = y
      if (!edge && begun >= 0) { path.moveTo(x, begun); path.lineTo(x, y); begun = -1 }
    }
  }
  return path
}

/** Strokes across cells that were left out. @param {Cells} cells */
export function hatching({ values, width, height }) {
  const path = new Path2D()
  for (let i = 0; i < width * height; i++) {
    if (!values[i]) continue
    const x = i % width, y = Math.floor(i / width)
    path.moveTo(x, y + 0.5); path.lineTo(x + 0.5, y)
    path.moveTo(x, y + 1); path.lineTo(x + 1, y)
    path.moveTo(x + 0.5, y + 1); path.lineTo(x + 1, y + 0.5)
  }
  return path
}

/** A colour that no list gives: of a number, far from its neighbours'. @param {number} number @returns {Color} */
export function anyColor(number) {
  const hue = (number * 137.508 + 30) % 360, light = 0.42 + 0.16 * (number % 3)
  const channel = (/** @type {number} */ n) => {
    const k = (n + hue / 30) % 12
    return Math.round(255 * (light - 0.6 * Math.min(light, 1 - light) * Math.max(-1, Math.min(k - 3, 9 - k, 1))))
  }
  return [channel(0), channel(8), channel(4)]
}

/** @param {string} text `#rrggbb` @returns {Color} */
export function colorOf(text) {
  return [parseInt(text.slice(1, 3), 16), parseInt(text.slice(3, 5), 16), parseInt(text.slice(5, 7), 16)]
}

/** @param {Color} color */
export function css([r, g, b]) {
  return `rgb(${r}, ${g}, ${b})`
}
