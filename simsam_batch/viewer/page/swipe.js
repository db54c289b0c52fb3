// Two pictures of one image: side by side with one zoom, or one over the other up to an edge that is moved.

import { LayerView } from './canvas.js'
import { h, say } from './dom.js'

const STEP = 5

export class Swipe {
  /**
   * @param {object} given
   * @param {[string, string]} given.names of the two, short
   * @param {[string, string]} given.labels what each picture is, for those who do not see it
   * @param {boolean} given.over whether the second lies over the first
   * @param {() => void} given.changed they lie in another way
   * @param {(x: number, y: number) => void} [given.point] the pointer is over a point of either, shares of its width and height
   * @param {() => void} [given.leave] it is over none any more
   * @param {() => void} [given.moved] zoomed or moved
   */
  constructor({ names, labels, over, changed, point, leave, moved }) {
    this.names = names
    this.over = over
    this.changed = changed
    this.at = 50
    this.views = /** @type {[LayerView, LayerView]} */ (labels.map((label, i) => new LayerView(label, {
      moved: () => { this.views[1 - i].follow(this.views[i]); moved?.() }, point, leave,
      key: (event) => { if (this.over && ['ArrowLeft', 'ArrowRight'].includes(event.key)) { this.move(event.key === 'ArrowRight' ? STEP : -STEP); event.preventDefault(); event.stopPropagation() } },
    })))
    /** Where it is said of each that it is on its way, or why it is not there: below both, which may lie over each other. */
    this.states = [h('div', {}), h('div', {})]
    this.slider = h('input', { type: 'range', id: 'swipe', min: 0, max: 100, value: this.at, oninput: () => { this.at = Number(this.slider.value); this.#turn() } })
    this.line = h('p', { class: 'slider' }, h('label', { for: 'swipe' }, `${names[0]} up to here, ${names[1]} beyond`), this.slider)
    this.figures = h('div', { class: 'twice' }, this.views.map((view, i) => h('figure', {}, view.element, h('figcaption', {}, names[i]))))
    this.button = h('button', { type: 'button', onclick: () => this.turn() }, 'Swipe ', h('kbd', {}, 's'))
    const zoom = (/** @type {string} */ text, /** @type {string | null} */ label, /** @type {() => void} */ does) => h('button', { type: 'button', 'aria-label': label, onclick: does }, text)
    this.zooming = [zoom('+', 'Zoom in', () => this.views[0].zoom(1.5)), zoom('−', 'Zoom out', () => this.views[0].zoom(1 / 1.5)), zoom('All', null, () => this.views[0].fit())]
    this.#dress()
  }

  /** One over the other, or side by side. */
  turn() {
    this.over = !this.over
    this.#dress()
    this.changed()
    const [first, second] = this.names
    say(this.over ? `${second} lies over ${first}` : `${first} and ${second} side by side`)
  }

  /** Move the edge. @param {number} by */
  move(by) {
    if (!this.over) this.turn()
    this.at = Math.max(0, Math.min(100, this.at + by))
    this.#turn()
    say(`${this.names[0]} up to ${this.at} %`)
  }

  /** @returns {import('./keys.js').Keys} */
  keys() {
    return {
      s: { does: 'swipe, or side by side', run: () => this.turn() },
      'ArrowLeft ArrowRight': { does: 'swipe to the left, to the right', run: (event) => this.move(event.key === 'ArrowRight' ? STEP : -STEP) },
      '+ =': { does: 'zoom in', run: () => this.views[0].zoom(1.5) },
      '-': { does: 'zoom out', run: () => this.views[0].zoom(1 / 1.5) },
      0: { does: 'whole image', run: () => this.views[0].fit() },
    }
  }

  #dress() {
    this.figures.classList.toggle('over', this.over)
    this.button.setAttribute('aria-pressed', String(this.over))
    this.line.hidden = !this.over
    this.#turn()
  }

  #turn() {
    this.slider.value = String(this.at)
    this.views[1].canvas.style.setProperty('clip-path', this.over ? `inset(0 0 0 ${this.at}%)` : 'none')
  }
}
