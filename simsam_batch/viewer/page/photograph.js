// The photograph below the layers, with as many pixels as are shown.

import { askPicture } from './asking.js'
import { fill, h } from './dom.js'
import { failed, loading } from './states.js'

const SIDES = [640, 1280, 2048]
const MOST = 2048
const SETTLED_MS = 160

export class Photograph {
  /**
   * @param {import('./canvas.js').LayerView} view that it is put into
   * @param {any} about of the row @param {string} run @param {AbortSignal} signal
   * @param {{what: string, query: import('./asking.js').Query}} [other] what it is in place of the photograph, and how that is asked for
   */
  constructor(view, about, run, signal, other) {
    this.view = view
    this.size = /** @type {[number, number]} */ (about.size)
    this.path = `images/${about.row}.jpg`
    this.query = { stage: about.stage, run, v: about.content, ...other?.query }
    this.what = other?.what ?? 'the photograph'
    this.signal = signal
    this.side = 0
    this.timer = 0
    this.asked = 0
    /** Where it is said that it is on its way, or why it is not there. */
    this.state = h('div', {})
  }

  /** Ask for as many pixels as are shown. @param {number} [after] milliseconds */
  sharper(after = SETTLED_MS) {
    clearTimeout(this.timer)
    this.timer = setTimeout(() => this.#ask(), after)
  }

  async #ask() {
    if (this.signal.aborted) return
    const mine = ++this.asked
    const longest = Math.max(...this.size)
    const wanted = Math.min(longest, longest / this.size[0] * (this.view.across || 640))
    // beyond the last side a part is asked for, and the whole only lies around it
    const side = SIDES.find((each) => each >= wanted) ?? SIDES[1]
    try {
      if (side > this.side) {
        if (!this.side) fill(this.state, loading(this.what))
        this.view.photo = await askPicture(this.path, { ...this.query, side }, this.signal)
        this.side = side
        fill(this.state)
        this.view.draw()
      }
      if (wanted <= MOST) { this.view.detail = null; return }
      const [left, top, right, bottom] = this.view.seen
      const [w, t] = this.size
      const box = [Math.floor(left * w), Math.floor(top * t), Math.min(w, Math.ceil(right * w)), Math.min(t, Math.ceil(bottom * t))]
      const picture = await askPicture(this.path, { ...this.query, side: MOST, box: box.join(',') }, this.signal)
      // who asked before may be answered later
      if (mine !== this.asked) return
      this.view.detail = { picture, box: [box[0] / w, box[1] / t, box[2] / w, box[3] / t] }
      this.view.draw()
    } catch (error) {
      if (/** @type {Error} */ (error).name === 'AbortError') return
      fill(this.state, failed(this.what, error, () => this.#ask()), this.side ? null : h('p', { class: 'note' }, 'What was found in it is drawn over grey.'))
    }
  }
}
