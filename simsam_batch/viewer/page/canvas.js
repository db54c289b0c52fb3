// A picture with layers on a canvas: zoomed to its pixels, moved, pointed at, and read out.

import { h } from './dom.js'
import { gestures } from './gestures.js'

/**
 * One layer, drawn from the first to the last.
 * @typedef {object} Layer
 * @property {HTMLCanvasElement} [cells] a pixel for each cell
 * @property {Path2D} [lines] in units of cells
 * @property {[number, number]} grid cells down and across
 * @property {[number, number]} cover shares of the image that they cover, down and across; the last cell goes on beyond
 * @property {number} [alpha]
 * @property {string} [color] of lines
 * @property {number} [thick] of lines, in pixels of the screen
 * @property {boolean} [dashed]
 * @property {boolean} [cut] what the cells do not cover is taken away
 * @property {boolean} [smooth] cells run into each other
 */

const MOST_SCALE = 64
const RIM = 'rgb(20, 24, 30)'

export class LayerView {
  /**
   * @param {string} label what the picture is, for those who do not see it
   * @param {object} on
   * @param {(x: number, y: number) => void} [on.point] the pointer is over a point of the image, shares of its width and height
   * @param {() => void} [on.leave] it is over none any more
   * @param {(x: number, y: number) => void} [on.pick] a point was clicked
   * @param {(event: KeyboardEvent) => void} [on.key] pressed while the picture has the focus
   * @param {() => void} [on.moved] zoomed or moved
   */
  constructor(label, on = {}) {
    this.on = on
    /** @type {Layer[]} */
    this.layers = []
    /** @type {ImageBitmap | null} */
    this.photo = null
    /** A part of the photograph with more pixels. @type {{picture: ImageBitmap, box: [number, number, number, number]} | null} */
    this.detail = null
    this.size = [4, 3]
    this.scale = 1
    this.left = 0
    this.top = 0
    /** @type {[number, number] | null} */
    this.cross = null
    this.frame = 0
    this.canvas = h('canvas', { class: 'layers', tabindex: 0, role: 'application', 'aria-label': label, 'aria-roledescription': 'picture' })
    this.element = h('div', { class: 'layer-view' }, this.canvas)
    this.canvas.addEventListener('keydown', (event) => on.key?.(event))
    gestures(this)
    new ResizeObserver(() => this.draw()).observe(this.element)
  }

  /** @param {number} width @param {number} height of the image, in its pixels */
  sized(width, height) {
    this.size = [width, height]
    this.canvas.style.setProperty('aspect-ratio', `${width} / ${height}`)
    this.canvas.style.setProperty('--aspect', String(width / height))
  }

  /** Pixels of the screen that the whole image has across at this zoom. */
  get across() {
    return this.canvas.clientWidth * devicePixelRatio * this.scale
  }

  /** What is seen of the image, as shares: left, top, right, bottom. @returns {[number, number, number, number]} */
  get seen() {
    return [this.left, this.top, this.left + 1 / this.scale, this.top + 1 / this.scale]
  }

  /** @param {number} factor @param {number} [x] @param {number} [y] what stays in its place, shares of the canvas */
  zoom(factor, x = 0.5, y = 0.5) {
    const most = Math.max(1, MOST_SCALE * this.size[0] / Math.max(1, this.canvas.clientWidth))
    const scale = Math.min(most, Math.max(1, this.scale * factor))
    this.left += x / this.scale - x / scale
    this.top += y / this.scale - y / scale
    this.scale = scale
    this.#kept()
  }

  fit() {
    this.scale = 1
    this.#kept()
  }

  /** @param {number} x @param {number} y shares of the canvas */
  pan(x, y) {
    this.left += x / this.scale
    this.top += y / this.scale
    this.#kept()
  }

  /** Show the same part as another view. @param {LayerView} other */
  follow(other) {
    Object.assign(this, { scale: other.scale, left: other.left, top: other.top })
    this.canvas.classList.toggle('zoomed', this.scale > 1)
    this.draw()
  }

  #kept() {
    const most = 1 - 1 / this.scale
    this.left = Math.min(most, Math.max(0, this.left))
    this.top = Math.min(most, Math.max(0, this.top))
    this.canvas.classList.toggle('zoomed', this.scale > 1)
    this.draw()
    this.on.moved?.()
  }

  /** Draw with the next frame. */
  draw() {
    this.frame ||= requestAnimationFrame(() => { this.frame = 0; this.drawNow() })
  }

  drawNow() {
    const { canvas } = this
    const width = Math.round(canvas.clientWidth * devicePixelRatio), height = Math.round(canvas.clientHeight * devicePixelRatio)
    if (!width || !height) return
    if (canvas.width !== width) canvas.width = width
    if (canvas.height !== height) canvas.height = height
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'))
    context.setTransform(1, 0, 0, 1, 0, 0)
    context.globalAlpha = 1
    context.clearRect(0, 0, width, height)
    const across = width * this.scale, down = height * this.scale, x = -this.left * across, y = -this.top * down
    if (this.photo) {
      context.imageSmoothingEnabled = across < 2 * this.size[0]
      context.imageSmoothingQuality = 'high'
      context.drawImage(this.photo, x, y, across, down)
      if (this.detail) {
        const [left, top, right, bottom] = this.detail.box
        context.drawImage(this.detail.picture, x + left * across, y + top * down, (right - left) * across, (bottom - top) * down)
      }
    } else {
      context.fillStyle = '#8a9099'
      context.fillRect(x, y, across, down)
    }
    for (const layer of this.layers) this.#layer(context, layer, x, y, across, down)
    if (this.cross) this.#cross(context, x + this.cross[0] * across, y + this.cross[1] * down)
  }

  /** @param {CanvasRenderingContext2D} context @param {Layer} layer @param {number} x @param {number} y @param {number} across @param {number} down */
  #layer(context, layer, x, y, across, down) {
    const [high, wide] = layer.grid, w = across * layer.cover[1], t = down * layer.cover[0]
    if (layer.cells) {
      context.globalAlpha = layer.alpha ?? 1
      context.globalCompositeOperation = layer.cut ? 'destination-in' : 'source-over'
      context.imageSmoothingEnabled = Boolean(layer.smooth)
      context.imageSmoothingQuality = 'medium'
      context.drawImage(layer.cells, x, y, w, t)
      if (!layer.cut) {
        // what lies under no whole patch goes on with the nearest
        if (w < across - 0.5) context.drawImage(layer.cells, wide - 1, 0, 1, high, x + w, y, across - w, t)
        if (t < down - 0.5) context.drawImage(layer.cells, 0, high - 1, wide, 1, x, y + t, w, down - t)
        if (w < across - 0.5 && t < down - 0.5) context.drawImage(layer.cells, wide - 1, high - 1, 1, 1, x + w, y + t, across - w, down - t)
      }
      context.globalAlpha = 1
      context.globalCompositeOperation = 'source-over'
    }
    if (layer.lines) {
      const path = new Path2D()
      path.addPath(layer.lines, new DOMMatrix([w / wide, 0, 0, t / high, x, y]))
      const thick = (layer.thick ?? 2) * devicePixelRatio
      context.setLineDash(layer.dashed ? [4 * thick, 3 * thick] : [])
      context.lineCap = layer.dashed ? 'butt' : 'square'
      context.strokeStyle = RIM
      context.lineWidth = thick * 2
      context.stroke(path)
      context.strokeStyle = layer.color ?? '#ffffff'
      context.lineWidth = thick
      context.stroke(path)
      context.setLineDash([])
    }
  }

  /** @param {CanvasRenderingContext2D} context @param {number} x @param {number} y */
  #cross(context, x, y) {
    const arm = 9 * devicePixelRatio, gap = 3 * devicePixelRatio
    for (const [color, thick] of /** @type {[string, number][]} */ ([[RIM, 5], ['#ffffff', 2]])) {
      context.strokeStyle = color
      context.lineWidth = thick * devicePixelRatio
      context.beginPath()
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + dx * gap, y + dy * gap)
        context.lineTo(x + dx * arm, y + dy * arm)
      }
      context.stroke()
    }
  }
}
